"""Simulated hospitals with switchable faults, one module per protocol around one small hospital model."""
