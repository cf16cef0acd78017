"""Moves data between connectors and booking: pull, outbox, inbox."""
