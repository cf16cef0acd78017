"""The release peak as an experiment: the service, its hospitals and a crowd, faults on time, and everything written down."""
