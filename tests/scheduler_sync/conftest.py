from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from booking.settings import Hospital
from booking.store.engine import Store
from scheduler_sync.inbox import Inbox
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
    "database", "engine", "messages", "postgres_originals", "postgres_pool", "spoilt", "sqlite_originals", "store", "wall",
]  # fmt: skip


@pytest.fixture
def hospital() -> Hospital:
    """A live hospital that locks and then registers."""
    return make_hospital()


@pytest.fixture
async def inbox(store: Store, messages: Store, hospital: Hospital) -> AsyncIterator[Inbox]:
    """A hospital's inbox, healed, as its process has it."""
    it = Inbox(store, messages, hospital)
    await it.heal()
    yield it
    await it.close()
