"""Canonical records and the mapping engine: the language that connectors and booking share."""
