from __future__ import annotations

from tests.booking.conftest import hospital
from tests.stores import (
    database,
    engine,
    messages,
    postgres_originals,
    postgres_pool,
    spoilt,
    sqlite_originals,
    store,
    wall,
)

__all__ = [
    "database", "engine", "hospital", "messages", "postgres_originals", "postgres_pool", "spoilt", "sqlite_originals",
    "store", "wall",
]  # fmt: skip
