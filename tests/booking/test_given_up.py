"""Writes of a SQLite store whose caller goes away in the middle of a statement: they keep nobody else from writing."""

from __future__ import annotations

import asyncio
from typing import Any

import aiosqlite
import pytest

from booking.store.engine import Store
from tests.booking.world import HOSPITAL
from tests.stores import BEGIN_MS


class Halfway:
    """Stops the first statement that has these words, when it has been executed and its rows are not yet fetched."""

    def __init__(self, patched: pytest.MonkeyPatch, words: str) -> None:
        self.reached = asyncio.Event()
        execute = aiosqlite.Cursor.execute

        async def stopping(cursor: aiosqlite.Cursor, sql: str, *args: Any) -> aiosqlite.Cursor:
            done = await execute(cursor, sql, *args)
            if words in sql.lower() and not self.reached.is_set():
                self.reached.set()
                await asyncio.Event().wait()
            return done

        patched.setattr(aiosqlite.Cursor, "execute", stopping)


async def give_up(caller: asyncio.Task[None], halfway: Halfway) -> None:
    """`caller` still has its cursor afterwards: whoever keeps it keeps the garbage collector from it."""
    await halfway.reached.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
async def test_next_can_write_when_a_caller_gives_up_within_a_write(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    halfway = Halfway(monkeypatch, "returning")

    async def write() -> None:
        async with store.write(HOSPITAL):
            raise AssertionError("it was stopped before")

    caller = asyncio.create_task(write())
    await give_up(caller, halfway)
    async with store.write(HOSPITAL) as tx:
        assert (tx.now_ms, tx.seq) == (BEGIN_MS, 1)
    assert caller.cancelled()
