"""The databases of PostgreSQL for the tests of runbooks."""

from tests.stores import postgres_originals

__all__ = ["postgres_originals"]
