from __future__ import annotations

import pytest

from booking.settings import Hospital
from tests.booking.world import make_hospital
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


@pytest.fixture
def hospital() -> Hospital:
    """A live hospital that locks and then registers."""
    return make_hospital()
