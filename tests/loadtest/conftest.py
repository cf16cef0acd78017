"""The stores of both engines for the tests of the filler."""

from tests.stores import (
    database,
    engine,
    postgres_originals,
    postgres_pool,
    spoilt,
    sqlite_originals,
)

__all__ = ["database", "engine", "postgres_originals", "postgres_pool", "spoilt", "sqlite_originals"]
