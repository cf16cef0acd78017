"""Fills a migrated store with a hospital's year, so that what is measured is measured beside a full house."""
