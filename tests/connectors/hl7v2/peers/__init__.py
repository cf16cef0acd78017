"""MLLP peers that nobody here wrote: they send to our listener and answer our requests, and read with their own parsers."""
