"""Figures that anybody can get again with `make bench`."""
