"""The message store: every message a HIS sent us, encrypted, in a database of its own, so that a large one holds nothing up."""
