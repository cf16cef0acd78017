"""Transactions of PostgreSQL in few messages: nothing of what is for later is lost, the dead are passed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import bindparam, select, text, update
from sqlalchemy.exc import IntegrityError

from booking.store.direct import direct_of
from booking.store.engine import Store, StoreUnavailable, begin_under_lock
from booking.store.fixed import Fixed, is_one_of
from booking.store.tables import idempotency_keys, store_clock
from tests.booking.world import HOSPITAL
from tests.postgres import PostgresServer
from tests.stores import opened

_COLUMNS = ("hospital_id", "client_id", "key", "body_digest", "status", "sealed_body", "created_ms")
_PUT = Fixed(idempotency_keys.insert(), _COLUMNS)
_RENAME = Fixed(
    update(idempotency_keys)
    .where(idempotency_keys.c.key == bindparam("of_key"))
    .values(body_digest=bindparam("digest"))
)
_KEYS = Fixed(
    select(idempotency_keys.c.key)
    .where(idempotency_keys.c.hospital_id == bindparam("of_hospital"), is_one_of(idempotency_keys.c.key, "keys"))
    .order_by(idempotency_keys.c.key)
)
HARD = ["", "'", "''; drop table bookings; --", "\\", "\\'", "$1", "$$", "%s", ":name", "张伟\n", "a" * 200]
"""Texts that a careless quoting would take for something else."""


def key(name: str, **more: Any) -> dict[str, Any]:
    """A row of `idempotency_keys`."""
    values = (HOSPITAL, "c", name, "d", 201, b"\x00'\\\xff", 1)
    return dict(zip(_COLUMNS, values, strict=True)) | more


async def keys(store: Store) -> list[str]:
    async with store.read(HOSPITAL) as tx:
        return sorted(r["key"] for r in await tx.all(select(idempotency_keys.c.key)))


@pytest.fixture
async def apart(
    postgres_server: PostgresServer, postgres_originals: dict[str, str]
) -> AsyncIterator[tuple[Store, str]]:
    """A store on a PostgreSQL of its own, and the SQL that cuts all its connections."""
    name = postgres_server.create_database(template=postgres_originals["store"])
    try:
        async with opened(postgres_server.url(name)) as store:
            yield store, f"select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = '{name}'"
    finally:
        postgres_server.drop_database(name)


# --- what is for later ------------------------------------------------------------------------------------------------


async def test_values_are_kept_as_they_are_when_they_are_written_later(store: Store) -> None:
    async with store.write(HOSPITAL) as tx:
        await tx.later(_PUT, [key(name, created_ms=-7, sealed_body=name.encode() + b"\x00\xff") for name in HARD])
    async with store.read(HOSPITAL) as tx:
        rows = {r["key"]: r for r in await tx.all(select(idempotency_keys))}
    assert sorted(rows) == sorted(HARD)
    assert all(rows[name]["sealed_body"] == name.encode() + b"\x00\xff" for name in HARD)
    assert {row["created_ms"] for row in rows.values()} == {-7}


async def test_next_statement_sees_what_was_for_later(store: Store) -> None:
    async with store.write(HOSPITAL) as tx:
        await tx.later(_PUT, key("a"))
        assert [r["key"] for r in await tx.all(_KEYS, {"of_hospital": HOSPITAL, "keys": ["a"]})] == ["a"]
        await tx.later(_PUT, key("b"))
        assert await tx.run(_RENAME, {"of_key": "b", "digest": "new"}) == 1
        await tx.later(_PUT, key("c"))
        found = await tx.all(select(idempotency_keys.c.key).where(idempotency_keys.c.key == "c"))
        assert len(found) == 1


async def test_nothing_is_kept_when_what_was_for_later_is_refused(store: Store) -> None:
    async def write() -> None:
        async with store.write(HOSPITAL) as tx:
            await tx.later(_PUT, key("new"))
            await tx.later(_PUT, key("known"))

    async with store.write(HOSPITAL) as tx:
        await tx.later(_PUT, key("known"))
    with pytest.raises(IntegrityError):
        await write()
    assert await keys(store) == ["known"]


async def test_text_with_a_nul_is_our_fault_and_not_the_server_away(store: Store) -> None:
    """A HIS can send one: what it belongs to fails, and nothing else. (SQLite takes it.)"""

    async def write() -> None:
        async with store.write(HOSPITAL) as tx:
            await tx.later(_PUT, key("a\0b"))

    if store.dialect == "sqlite":
        await write()
        return
    with pytest.raises(ValueError, match=r"U\+0000"):
        await write()
    assert await store.check() is None
    assert await keys(store) == []


async def test_list_of_any_length_is_one_value(store: Store) -> None:
    async with store.write(HOSPITAL) as tx:
        await tx.later(_PUT, [key(name) for name in HARD])
    for wanted in ([], HARD[:1], HARD, [*HARD, "unknown"]):
        async with store.read(HOSPITAL) as tx:
            found = [r["key"] for r in await tx.all(_KEYS, {"of_hospital": HOSPITAL, "keys": wanted})]
        assert sorted(found) == sorted(set(wanted) - {"unknown"})
    async with store.read(HOSPITAL, here=True) as tx:
        assert len(await tx.all(_KEYS, {"of_hospital": HOSPITAL, "keys": HARD})) == len(HARD)


async def test_key_finds_the_rows_when_a_list_is_asked_for(store: Store) -> None:
    async with store.read(HOSPITAL) as tx:
        direct = direct_of(tx.conn)
        if direct is not None:
            sql, _, _ = _KEYS.for_postgresql
            await direct.raw.execute("set enable_seqscan to off")
            plan = str(await direct.raw.fetch(f"explain {sql}", HOSPITAL, ["a"]))
            await direct.raw.execute("reset enable_seqscan")
            assert "Index" in plan, plan
        else:
            sql, _, _ = _KEYS._text
            asked = {"of_hospital": HOSPITAL, "keys": '["a"]'}
            plan = str((await tx.conn.exec_driver_sql(f"explain query plan {sql}", asked)).fetchall())
            assert "SEARCH idempotency_keys" in plan, plan


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def test_nobody_notices_when_connections_have_died_in_the_pool(
    apart: tuple[Store, str], postgres_server: PostgresServer
) -> None:
    store, cut = apart

    async def at_once(begun: asyncio.Barrier, number: int) -> None:
        async with store.write(f"h{number}") as tx, store.read(f"h{number}") as seen:
            await tx.all(text("select 1"))
            await seen.all(text("select 1"))
            await begun.wait()

    async def use_all() -> None:
        begun = asyncio.Barrier(4)
        await asyncio.gather(*(at_once(begun, n) for n in range(4)))

    await use_all()
    # The call blocks the loop, so that the driver has not heard of the cut when the next transactions begin.
    assert int(postgres_server.run_sql(cut)) >= 8
    await use_all()
    assert int(await asyncio.to_thread(postgres_server.run_sql, cut)) >= 8
    await use_all()


@pytest.mark.parametrize("engine", ["postgresql"])
async def test_nothing_is_committed_when_a_failed_statement_was_passed_over(store: Store) -> None:
    async def write() -> None:
        async with store.write(HOSPITAL) as tx:
            await tx.run(_PUT, key("a"))
            with pytest.raises(IntegrityError):
                await tx.run(_PUT, key("a"))

    with pytest.raises(Exception, match="nothing could be committed"):
        await write()
    assert await keys(store) == []


async def test_lock_is_free_and_the_connection_usable_when_a_waiting_write_was_cancelled(
    apart: tuple[Store, str], postgres_server: PostgresServer
) -> None:
    store, _ = apart

    async def write() -> None:
        async with store.write(HOSPITAL) as tx:
            await tx.run(_PUT, key("never"))

    async with opened(store.url.render_as_string(hide_password=False)) as other, other.write(HOSPITAL):
        waiting = asyncio.create_task(write())
        query = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        while int(await asyncio.to_thread(postgres_server.run_sql, query)) == 0:
            assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with asyncio.timeout(10):
        async with store.write(HOSPITAL) as tx:
            await tx.run(_PUT, key("a"))
    assert await keys(store) == ["a"]
    assert (
        int(
            await asyncio.to_thread(
                postgres_server.run_sql, "select count(*) from pg_locks where locktype = 'advisory'"
            )
        )
        == 0
    )


async def test_write_fails_at_once_when_it_loses_its_connection_in_the_middle(
    apart: tuple[Store, str], postgres_server: PostgresServer
) -> None:
    """Only what has not begun is begun again: the rest would be done twice, or half."""
    store, cut = apart
    attempts = 0

    async def write() -> None:
        nonlocal attempts
        async with store.write(HOSPITAL) as tx:
            attempts += 1
            await tx.later(_PUT, key("a"))
            postgres_server.run_sql(cut)

    with pytest.raises(StoreUnavailable):
        await write()
    assert attempts == 1
    assert await keys(store) == []


def test_lock_is_that_of_the_hospital_when_its_name_has_a_quote() -> None:
    assert begin_under_lock("o'h") == "begin; select pg_advisory_xact_lock(hashtextextended('o''h', 0))"


async def test_clock_runs_on_from_the_last_commit_when_a_read_begins(store: Store) -> None:
    async with store.write(HOSPITAL) as tx:
        await tx.run(update(store_clock).where(store_clock.c.hospital_id == HOSPITAL).values(last_ms=tx.now_ms + 1_000))
        written_ms = tx.now_ms
    async with store.read(HOSPITAL) as seen:
        expected = written_ms + (
            0 if store.dialect == "sqlite" else 1_000
        )  # one process remembers what it has committed
        assert seen.now_ms == expected
