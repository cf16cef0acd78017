"""Ways round the line that there once were. On both engines."""

from __future__ import annotations

import msgspec

from booking.store.engine import Store
from tests.booking.waiting_room.site import ROOM, Site, put_patients, serve
from tests.booking.waiting_room.test_waiting_room import (
    HOUR_S,
    RULE,
    gather,
    hospital_with,
    released_slot,
    states,
)
from tests.stores import Wall

SLOW = msgspec.structs.replace(RULE, rate_per_s=1, most_per_s=1)


async def room(site: Site) -> tuple[str, str | None]:
    """Its state, and what has opened it."""
    seen = (await site.ask("GET", ROOM)).json
    return seen["state"], seen["opened_by"]


async def test_line_goes_on_when_only_the_first_department_is_sold_out(store: Store, wall: Wall) -> None:
    first, _ = await released_slot(store, 1), await released_slot(store, 0, schedule_id="S2")
    patients, (stranger,) = await put_patients(store, 10), await put_patients(store, 1, first=50)
    async with serve(store, hospital_with(SLOW), wall) as site:
        await site.turn(HOUR_S - 300)
        tickets = await gather(site, patients)
        await site.turn(300)
        one = (await states(site, tickets)).index("admitted")
        assert (await site.hold(first, patients[one], tickets[one])).status == 201
        for _ in range(4):
            await site.turn(1)
        second = await released_slot(store, 5, schedule_id="S2")  # the hospital opens it later
        assert (await room(site))[0] == "open"
        refused = await site.hold(second, stranger)
        assert (refused.status, refused.json["code"]) == (429, "waiting_room")


async def test_room_closes_when_every_department_is_sold_out(store: Store, wall: Wall) -> None:
    slots = [await released_slot(store, 1), await released_slot(store, 1, schedule_id="S2")]
    patients = await put_patients(store, 3)
    async with serve(store, hospital_with(), wall) as site:
        await site.turn(HOUR_S - 300)
        tickets = await gather(site, patients)
        await site.turn(300)
        await site.turn(1)
        for slot, patient, ticket in zip(slots, patients, tickets, strict=False):
            assert (await site.hold(slot, patient, ticket)).status == 201
        for _ in range(2):
            await site.turn(1)
        assert (await site.ask("GET", ROOM)).json["closed_because"] == "sold_out"


async def test_all_who_come_before_a_release_are_drawn_when_a_room_was_open_by_load(store: Store, wall: Wall) -> None:
    slot = await released_slot(store, 2)
    crowd, robots = await put_patients(store, 20), await put_patients(store, 2, first=100)
    async with serve(store, hospital_with(msgspec.structs.replace(SLOW, opens_by_load=True)), wall) as site:
        await site.turn(HOUR_S - 700)
        for _ in range(3):
            site.delay_s = 0.5
            site.keeper.sample()
            site.delay_s = 0.0
            await site.turn(1)
        assert await room(site) == ("open", "load")
        early = await gather(site, robots)
        await site.turn(2)
        assert set(await states(site, early)) == {"admitted"}
        await site.turn(100)
        assert await room(site) == ("gathering", "release")
        assert set(await states(site, early)) == {"closed"}
        await gather(site, crowd)
        await site.turn(595)
        assert await room(site) == ("open", "release")
        for patient, ticket in zip(robots, early, strict=True):
            refused = await site.hold(slot, patient, ticket)
            assert (refused.status, refused.json["code"]) == (429, "waiting_room")


async def test_room_opens_after_a_release_that_nobody_was_there_for(store: Store, wall: Wall) -> None:
    slot, (patient,) = await released_slot(store), await put_patients(store, 1)
    wall.turn(HOUR_S + 60)
    async with serve(store, hospital_with(), wall) as site:
        await site.turn(1)
        assert await room(site) == ("open", "release")
        assert (await site.hold(slot, patient)).json["code"] == "waiting_room"
        for _ in range(4):  # nobody waits, and it does not open again for the same release
            await site.turn(30)
        assert (await room(site))[0] == "closed"
        assert (await site.hold(slot, patient)).status == 201
