"""Grafana dashboards, generated. A tool of its own: the program never imports it, and its libraries are for tools only."""
