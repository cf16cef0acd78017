"""Adapters to hospital information systems: one folder per protocol, one port for all of them."""
