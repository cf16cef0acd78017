"""An offer of the waitlist while a waiting room is open: it is a hold as any other, and needs a ticket that was let in."""

from __future__ import annotations

import msgspec

from booking.rules.settings import BookingRules
from booking.store.engine import Store
from tests.booking.waiting_room.site import BOOKINGS, Answered, Site, put_patients, serve
from tests.booking.waiting_room.test_waiting_room import HOUR_S, gather, hospital_with, released_slot, states
from tests.booking.waitlist.lines import join_line, look, sweep
from tests.booking.waitlist.lines import states as states_of_entries
from tests.booking.world import cancel, hold, put_slot
from tests.stores import Wall


async def accept(site: Site, slot_id: str, patient_id: str, entry_id: str, ticket: str | None = None) -> Answered:
    body = {"user_ref": "u", "slot_id": slot_id, "patient_id": patient_id, "waitlist_entry_id": entry_id}
    headers = {"Idempotency_Key": f"accept-{entry_id}-{ticket is None}"}
    if ticket is not None:
        headers["Waiting_Room_Ticket"] = ticket
    return await site.ask("POST", BOOKINGS, body, **headers)


async def test_offer_is_kept_until_its_patient_is_let_in_when_a_room_is_open(store: Store, wall: Wall) -> None:
    waitlist = msgspec.convert({"waitlist": {"accept_s": 36_000}}, BookingRules)
    hospital = msgspec.structs.replace(hospital_with(), rules=waitlist)
    slot_id = await put_slot(store, 1)
    released = await released_slot(store, 5, schedule_id="S2")
    booker, patient, other = await put_patients(store, 3)
    taken = await hold(store, hospital, slot_id, booker)
    entry = await join_line(store, hospital, patient)  # joining a line asks for no ticket
    async with serve(store, hospital, wall) as site:
        await site.turn(HOUR_S - 300)
        (ticket,) = await gather(site, [patient])
        await site.turn(300)
        await site.turn(1)
        await cancel(store, hospital, taken.id)
        await sweep(store, hospital)
        assert await states_of_entries(store, entry) == ["offered"]
        entry = await look(store, entry)
        refused = await accept(site, slot_id, patient, entry.id)
        assert (refused.status, refused.json["code"]) == (429, "waiting_room")
        assert await states_of_entries(store, entry) == ["offered"]
        # The seat is nobody else's meanwhile, and an offer is no way round the line for what is released.
        assert await states(site, [ticket]) == ["admitted"]
        stranger = await site.hold(slot_id, other, ticket)
        assert stranger.status == 429
        past = await accept(site, released, patient, entry.id)
        assert (past.status, past.json["code"]) == (429, "waiting_room")
        assert (await accept(site, slot_id, patient, entry.id, ticket)).status == 201
        assert await states_of_entries(store, entry) == ["accepted"]
