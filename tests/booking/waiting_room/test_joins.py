"""Many who join at once, and what is kept of a room."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import func, select

from booking.retention import KEEP_ROOMS_DAYS, forget_rooms
from booking.store.engine import Store, StoreUnavailable
from booking.store.tables import waiting_rooms, waiting_steps, waiting_tickets
from booking.waiting_room import records
from booking.waiting_room.joins import Joins
from booking.waiting_room.ranks import FIRST_LATE, late_rank
from booking.waiting_room.records import Joined, JoinRequest, NotJoined
from booking.waiting_room.rules import ClosedBecause, OpenedBy, WaitingRoomRule
from tests.booking.waiting_room.site import put_patients
from tests.booking.world import CLIENT, HOSPITAL, make_hospital
from tests.stores import BEGIN_MS, Wall, unreachable

RULE = WaitingRoomRule(opens_before_s=600)
LATER_MS = BEGIN_MS + 600_000


async def opened_room(store: Store, release_ms: int = LATER_MS) -> None:
    async with store.write(HOSPITAL) as tx:
        assert await records.open_room(tx, release_ms, OpenedBy.RELEASE, RULE)


async def join_all(store: Store, patients: list[str], client: str = CLIENT) -> list[Joined | NotJoined]:
    """All of them in the same turn of the loop."""
    joins, hospital = Joins(store), make_hospital(waiting_room=RULE)
    found = await asyncio.gather(*(joins.ask(hospital, JoinRequest(client, patient)) for patient in patients))
    await joins.close()
    return found


def ranks_of(places: list[Joined | NotJoined]) -> list[int]:
    return [place.rank for place in places if isinstance(place, Joined)]


async def test_everybody_has_one_place_when_many_join_twice_at_once(store: Store) -> None:
    patients = await put_patients(store, 300)
    await opened_room(store)
    places = await join_all(store, [*patients, *patients])
    ranks = ranks_of(places)
    assert ranks[:300] == ranks[300:]
    assert len(set(ranks)) == 300
    assert max(ranks) < FIRST_LATE
    assert sum(place.is_new for place in places if isinstance(place, Joined)) == 300
    async with store.read(HOSPITAL) as tx:
        (stored,) = await tx.all(select(func.count().label("n")).select_from(waiting_tickets))
    assert stored["n"] == 300


async def test_late_ones_are_numbered_without_a_gap_in_the_order_of_arrival(store: Store, wall: Wall) -> None:
    patients = await put_patients(store, 30)
    await opened_room(store)
    wall.turn(600)
    assert ranks_of(await join_all(store, patients[:20])) == [late_rank(n) for n in range(1, 21)]
    assert ranks_of(await join_all(store, patients[10:])) == [late_rank(n) for n in range(11, 31)]


async def test_last_moment_before_the_release_still_draws(store: Store, wall: Wall) -> None:
    first, second = await put_patients(store, 2)
    await opened_room(store)
    wall.turn(599.999)
    assert ranks_of(await join_all(store, [first]))[0] < FIRST_LATE
    wall.turn(0.001)
    assert ranks_of(await join_all(store, [second])) == [late_rank(1)]


async def test_stranger_is_turned_away_and_the_others_are_not(store: Store) -> None:
    patients = await put_patients(store, 2)
    await opened_room(store)
    mine, unknown = await join_all(store, [patients[0], "nobody"])
    (foreign,) = await join_all(store, [patients[1]], client="other")
    assert isinstance(mine, Joined)
    assert [type(place) for place in (unknown, foreign)] == [NotJoined, NotJoined]
    assert {place.code for place in (unknown, foreign) if isinstance(place, NotJoined)} == {"patient_unknown"}


async def test_nobody_is_let_in_before_the_release_or_after_the_room_has_closed(store: Store, wall: Wall) -> None:
    await opened_room(store)
    await join_all(store, await put_patients(store, 5))

    async def admit(count: int) -> int:
        async with store.write(HOSPITAL) as tx:
            return await records.admit(tx, LATER_MS, count)

    assert await admit(3) == 0
    wall.turn(600)
    assert [await admit(3), await admit(3), await admit(3)] == [3, 2, 0]
    async with store.write(HOSPITAL) as tx:
        assert await records.close_room(tx, LATER_MS, ClosedBecause.OVER)
        assert not await records.close_room(tx, LATER_MS, ClosedBecause.OVER)
    assert await admit(3) == 0


async def test_a_second_room_does_not_open_while_one_is_open(store: Store) -> None:
    await opened_room(store)
    async with store.write(HOSPITAL) as tx:
        assert not await records.open_room(tx, LATER_MS, OpenedBy.LOAD, RULE)
        assert not await records.open_room(tx, LATER_MS + 1, OpenedBy.LOAD, RULE)


async def test_closed_rooms_go_whole_when_their_days_are_over_and_open_ones_stay(store: Store, wall: Wall) -> None:
    await opened_room(store)
    await join_all(store, await put_patients(store, 5))
    wall.turn(600)
    async with store.write(HOSPITAL) as tx:
        await records.admit(tx, LATER_MS, 3)
    wall.turn(KEEP_ROOMS_DAYS * 24 * 3600 + 1)
    assert await forget_rooms(store, HOSPITAL) == 0  # it is still open
    async with store.write(HOSPITAL) as tx:
        await records.close_room(tx, LATER_MS, ClosedBecause.OVER)
    assert await forget_rooms(store, "another") == 0
    found = []
    while gone := await forget_rooms(store, HOSPITAL, limit=2):
        found.append(gone)
    assert found == [2, 2, 1, 1, 1]  # five places, a step, the room
    async with store.read(HOSPITAL) as tx:
        for table in (waiting_rooms, waiting_tickets, waiting_steps):
            assert await tx.all(select(table)) == []


async def test_who_finds_the_store_away_is_told_to_come_again(engine: str, tmp_path: Path) -> None:
    async with unreachable(engine, tmp_path) as store:
        joins = Joins(store)
        with pytest.raises(StoreUnavailable):
            await joins.ask(make_hospital(waiting_room=RULE), JoinRequest(CLIENT, "p1"))
        await joins.close()
