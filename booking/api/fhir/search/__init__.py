"""Searches: how they are read (`criteria`, `requests`), which there are (`tables`), and how each kind is found and paged."""
