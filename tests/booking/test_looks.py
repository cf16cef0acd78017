"""Looks at bookings, together and alone: fresh, complete, and each with its own trouble only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import update

from booking.looks import CROWD_PACE_S, Look, Looks
from booking.settings import Hospital
from booking.store.crypto import SealBroken
from booking.store.engine import Store, StoreUnavailable
from booking.store.tables import bookings
from mappings.canonical import Patient
from tests.booking.world import FEE_FEN, HOSPITAL, cancel, get, hold, locked, make_payment, pay, put_patient, put_slot
from tests.stores import UrlOf, make_vault

PATIENCE_S = 15.0


async def held(store: Store, hospital: Hospital, n: int) -> list[str]:
    slot_id = await put_slot(store, n)
    people = [await put_patient(store, Patient(name=f"张{i}", id_type="other", id_number=f"X{i}")) for i in range(n)]
    return [(await hold(store, hospital, slot_id, person)).id for person in people]


class Counting(Looks):
    """How many bookings were read in each reading."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.readings: list[int] = []

    async def _read(self, hospital_id: str, booking_ids):  # type: ignore[no-untyped-def]
        self.readings.append(len(booking_ids))
        return await super()._read(hospital_id, booking_ids)


class Hanging(Looks):
    """Its first reading takes until the gate is opened, as on a connection whose other end is gone."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.gate = asyncio.Event()
        self._is_first = True

    async def _read(self, hospital_id: str, booking_ids):  # type: ignore[no-untyped-def]
        if self._is_first:
            self._is_first = False
            await self.gate.wait()
        return await super()._read(hospital_id, booking_ids)


@asynccontextmanager
async def bookings_locked(store: Store) -> AsyncIterator[None]:
    """Nobody reads a booking of a PostgreSQL store until the end of the block."""
    connection = await asyncpg.connect(store.url.render_as_string(hide_password=False))
    try:
        async with connection.transaction():
            await connection.execute("lock table bookings in access exclusive mode")
            yield
    finally:
        await connection.close()


async def all_of(asked: list[asyncio.Task[Look | None]]) -> list[Look | None]:
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.gather(*asked)


async def test_look_shows_the_booking_and_its_money(store: Store, hospital: Hospital) -> None:
    booking_id = await locked(store, hospital, await put_slot(store, 1), await put_patient(store))
    first, second = make_payment(), make_payment()
    await pay(store, hospital, booking_id, first)
    await pay(store, hospital, booking_id, second)
    look = await Looks(store).look(HOSPITAL, booking_id)
    assert look is not None
    payments, refunds = look.purse
    assert look.booking == await get(store, booking_id)
    assert [(p.amount_fen, p.kept, p.unusable) for p in payments] == [
        (FEE_FEN, True, None),
        (FEE_FEN, False, "second_payment"),
    ]
    assert [(r["trade_no"], r["amount_fen"], r["status"]) for r in refunds] == [
        (second.trade_no, FEE_FEN, "refund_due")
    ]


async def test_there_is_nothing_to_see_of_a_booking_that_does_not_exist(store: Store, hospital: Hospital) -> None:
    looks = Looks(store)
    [booking_id] = await held(store, hospital, 1)
    missing, found, elsewhere = await asyncio.gather(
        looks.look(HOSPITAL, "bk_none"), looks.look(HOSPITAL, booking_id), looks.look("h2", booking_id)
    )
    assert missing is None
    assert elsewhere is None
    assert found is not None
    assert found.booking.id == booking_id


async def test_look_shows_what_was_committed_before_it_was_asked_for(store: Store, hospital: Hospital) -> None:
    looks, over = Looks(store), asyncio.Event()
    ids = await held(store, hospital, 12)

    async def look_on(booking_id: str) -> None:
        seen = 0
        while not over.is_set():
            look = await looks.look(HOSPITAL, booking_id)
            assert look is not None
            assert look.booking.version >= seen
            seen = look.booking.version
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as crowd:
        for booking_id in ids * 2:
            crowd.create_task(look_on(booking_id))
        for booking_id in ids:
            await cancel(store, hospital, booking_id)
            look = await looks.look(HOSPITAL, booking_id)
            assert look is not None
            assert look.booking.state == "cancelled"
        over.set()


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_those_who_ask_while_others_are_answered_are_answered_together(store: Store, hospital: Hospital) -> None:
    looks, ids = Counting(store), await held(store, hospital, 12)
    async with bookings_locked(store):
        first = asyncio.create_task(looks.look(HOSPITAL, ids[0]))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(looks.look(HOSPITAL, booking_id)) for booking_id in ids * 3]
        await asyncio.sleep(0.05)
        assert looks.readings == [1]
    answers = await all_of([first, *others])
    assert [a.booking.id for a in answers if a is not None] == [ids[0], *ids * 3]
    assert looks.readings == [1, 12]


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_crowd_that_keeps_coming_shares_readings(store: Store, hospital: Hospital) -> None:
    looks, ids = Counting(store), await held(store, hospital, 4)
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    asked = []
    while loop.time() < begun_s + 10 * CROWD_PACE_S:
        asked += [asyncio.create_task(looks.look(HOSPITAL, booking_id)) for booking_id in ids[:2]]
        await asyncio.sleep(0.001)
    answers = await all_of(asked)
    took_s = loop.time() - begun_s
    assert all(answers)
    # One more at its beginning, and one for each 50 that wait.
    assert len(looks.readings) <= 2 + took_s / CROWD_PACE_S + len(asked) / 50


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_whoever_looks_alone_waits_for_no_pace(store: Store, hospital: Hospital, monkeypatch: Any) -> None:
    monkeypatch.setattr("booking.looks.CROWD_PACE_S", 3600.0)
    looks, ids = Looks(store), await held(store, hospital, 1)
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(5):
            assert await looks.look(HOSPITAL, ids[0]) is not None


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_no_reading_is_without_bound(store: Store, hospital: Hospital) -> None:
    looks, ids = Counting(store), await held(store, hospital, 1)
    async with bookings_locked(store):
        first = asyncio.create_task(looks.look(HOSPITAL, ids[0]))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(looks.look(HOSPITAL, f"bk_{n}")) for n in range(120)]
        await asyncio.sleep(0.05)
    await all_of([first, *others])
    assert looks.readings == [1, 50, 50, 20]


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_others_are_answered_when_whoever_asked_first_goes_away(store: Store, hospital: Hospital) -> None:
    looks, ids = Looks(store), await held(store, hospital, 2)
    async with bookings_locked(store):
        first, second = (asyncio.create_task(looks.look(HOSPITAL, booking_id)) for booking_id in ids)
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.sleep(0.05)
        assert first.cancelled()
        assert not second.done()
    [found] = await all_of([second])
    assert found is not None
    assert found.booking.id == ids[1]
    assert await looks.look(HOSPITAL, ids[0]) is not None


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_reading_that_hangs_holds_up_nobody_else(store: Store, hospital: Hospital) -> None:
    looks, ids = Hanging(store), await held(store, hospital, 3)
    hung = asyncio.create_task(looks.look(HOSPITAL, ids[0]))
    await asyncio.sleep(0.05)
    others = [asyncio.create_task(looks.look(HOSPITAL, booking_id)) for booking_id in ids]
    assert [a.booking.id for a in await all_of(others) if a is not None] == ids
    assert not hung.done()
    looks.gate.set()
    await all_of([hung])


async def test_booking_that_cannot_be_opened_is_told_to_whoever_asks_for_it_only(
    store: Store, hospital: Hospital
) -> None:
    looks, ids = Looks(store), await held(store, hospital, 3)
    async with store.write(HOSPITAL) as tx:
        await tx.run(update(bookings).where(bookings.c.id == ids[1]).values(sealed_his_refs=b"not sealed at all"))
    found = await asyncio.gather(*(looks.look(HOSPITAL, i) for i in ids), return_exceptions=True)
    assert isinstance(found[1], SealBroken)
    assert [f.booking.id for f in (found[0], found[2]) if isinstance(f, Look)] == [ids[0], ids[2]]


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
async def test_everybody_is_told_when_the_store_is_away(database: UrlOf) -> None:
    store = Store(database("store") + "_gone", make_vault())
    try:
        looks = Looks(store)
        found = await asyncio.gather(*(looks.look(HOSPITAL, f"bk_{n}") for n in range(3)), return_exceptions=True)
        assert [type(f) for f in found] == [StoreUnavailable] * 3
        with pytest.raises(StoreUnavailable):
            await looks.look(HOSPITAL, "bk_later")  # it is asked anew, not remembered
    finally:
        await store.close()
