"""Crash rounds: the service, its sync process or its database killed under load, again and again."""
