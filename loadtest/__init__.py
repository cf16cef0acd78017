"""Simulated hospitals, load and benchmarks. Speaks to hisbridge over the wire only and imports nothing of it."""
