"""Metrics, logs and health. Imports nothing of ours."""
