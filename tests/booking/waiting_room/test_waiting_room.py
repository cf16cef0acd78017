"""A release with a waiting room, as a portal and its patients see it. On both engines."""

from __future__ import annotations

import asyncio
import datetime as dt

import msgspec
from sqlalchemy import text

from booking.release import ReleaseRule
from booking.settings import Hospital
from booking.store.engine import Store
from booking.waiting_room.rules import WaitingRoomRule
from tests.booking.waiting_room.site import ROOM, Site, put_patients, serve
from tests.booking.waiting_room.test_ranks import correlation
from tests.booking.world import HOSPITAL, ZHANG, ZONE, make_hospital, make_schedule, put_patient, put_slot
from tests.stores import Wall, opened

# The clock of the store begins at 06:00; visits of the day after open at 07:00.
OPENS_AT = dt.datetime(2031, 3, 3, 7, 0, tzinfo=ZONE)
HOUR_S = 3_600.0
RULE = WaitingRoomRule(
    opens_before_s=600, rate_per_s=10, most_per_s=10, admitted_s=300, holds=2, quiet_s=60, lasts_s=3_600
)


def hospital_with(rule: WaitingRoomRule = RULE) -> Hospital:
    return make_hospital(release=ReleaseRule(time="07:00", days_ahead=1), waiting_room=rule)


async def released_slot(store: Store, seats: int = 100, *, schedule_id: str = "S1") -> str:
    """A slot that opens with the release."""
    schedule = msgspec.structs.replace(make_schedule(schedule_id), opens_at=OPENS_AT)
    return await put_slot(store, seats, schedule=schedule)


async def gather(site: Site, patients: list[str]) -> list[str]:
    """The tickets of these patients, who join one after the other."""
    answers = [await site.join(patient) for patient in patients]
    assert {answer.status for answer in answers} == {201}
    return [answer.json["ticket"] for answer in answers]


async def positions(site: Site, tickets: list[str]) -> list[int | None]:
    return [(await site.ticket(ticket)).json["position"] for ticket in tickets]


async def states(site: Site, tickets: list[str]) -> list[str]:
    return [(await site.ticket(ticket)).json["state"] for ticket in tickets]


async def test_room_goes_from_closed_to_gathering_to_open_by_the_clock_alone(store: Store, wall: Wall) -> None:
    async with serve(store, hospital_with(), wall) as site:
        await site.turn(HOUR_S - 601)
        assert (await site.ask("GET", ROOM)).json["state"] == "closed"
        await site.turn(1)
        seen = (await site.ask("GET", ROOM)).json
        assert (seen["state"], seen["opened_by"], seen["opens_at"]) == ("gathering", "release", OPENS_AT.isoformat())
        assert seen["poll_after_s"] >= 30
        wall.turn(600)  # nobody has to write anything, or to look
        assert (await site.ask("GET", ROOM)).json["state"] == "open"


async def test_fifty_are_let_in_in_random_order_and_late_ones_after_them(store: Store, wall: Wall) -> None:
    slot, early, late = (
        await released_slot(store),
        await put_patients(store, 50),
        await put_patients(store, 5, first=50),
    )
    async with serve(store, hospital_with(), wall) as site:
        await site.turn(HOUR_S - 300)
        tickets = await gather(site, early)
        seen = [(await site.ticket(ticket)).json for ticket in tickets]
        assert {(t["state"], t["position"], t["estimated_wait_s"]) for t in seen} == {("gathering", None, None)}
        assert (await site.ask("GET", ROOM)).json["waiting"] == 0  # not looked since

        wall.turn(300)
        late_tickets = await gather(site, late)
        await site.keeper.look()
        drawn = await positions(site, tickets)
        assert sorted(p for p in drawn if p is not None) == list(range(50))
        # Spearman's correlation of independent orders of 50 has a deviation of 1/7: one run in a million is beyond 0.7.
        assert abs(correlation([p for p in drawn if p is not None])) < 0.7
        assert await positions(site, late_tickets) == [50, 51, 52, 53, 54]

        for second in range(1, 6):
            await site.turn(1)
            admitted = [state == "admitted" for state in await states(site, tickets)]
            assert admitted == [p is not None and p < 10 * second for p in drawn]
        assert set(await states(site, late_tickets)) == {"waiting"}
        await site.turn(1)
        assert set(await states(site, late_tickets)) == {"admitted"}
        assert (await site.hold(slot, late[0], late_tickets[0])).status == 201


async def test_hold_needs_an_admitted_ticket_of_that_very_patient(store: Store, wall: Wall) -> None:
    slot, patients = await released_slot(store), await put_patients(store, 30)
    stranger = await put_patient(store, ZHANG, client="other")
    async with serve(store, hospital_with(), wall) as site:
        await site.turn(HOUR_S - 300)
        tickets = await gather(site, patients)
        await site.turn(300)  # the first two seconds' worth are let in at once
        by_state = dict(zip(await states(site, tickets), zip(patients, tickets, strict=True), strict=True))
        (patient, admitted), (other, waiting) = by_state["admitted"], by_state["waiting"]

        refused = await site.hold(slot, patient)
        assert (refused.status, refused.json["code"]) == (429, "waiting_room")
        assert int(refused.headers["Retry-After"]) > 0
        assert refused.json["extra"] == {"join": f"{ROOM}/tickets", "ticket": "none"}
        assert f'<{ROOM}/tickets>; rel="create-form"' in refused.headers["Link"]

        assert (await site.hold(slot, other, waiting)).json["extra"]["ticket"] == "waiting"
        assert (await site.hold(slot, other, admitted)).json["extra"]["ticket"] == "none"  # another's
        assert (await site.hold(slot, patient, admitted[:-1] + ("1" if admitted.endswith("0") else "0"))).status == 429
        assert (await site.hold(slot, patient, "w1.1.2.3.4.5")).status == 429
        assert (await site.hold(slot, stranger, admitted, by="other")).status == 429
        assert (await site.ticket(admitted, by="other")).json["code"] == "ticket_unknown"
        assert (await site.hold(slot, patient, admitted)).status == 201


async def test_facade_sends_to_the_room_as_v1_does(store: Store, wall: Wall) -> None:
    """`$hold` answers the OperationOutcome alone, `$book` in a Bundle (ITI-116, ITI-117); the ticket is that of `/v1`."""
    slot, patients = await released_slot(store), await put_patients(store, 30)
    async with serve(store, hospital_with(), wall) as site:
        await site.turn(HOUR_S - 300)
        tickets = await gather(site, patients)
        await site.turn(300)
        by_state = dict(zip(await states(site, tickets), zip(patients, tickets, strict=True), strict=True))
        (patient, admitted), (other, waiting) = by_state["admitted"], by_state["waiting"]
        for operation in ("hold", "book"):
            for headers in ({}, {"Waiting_Room_Ticket": waiting}):
                refused = await site.operate(operation, slot, other, **headers)
                outcome = refused.json["entry"][0]["resource"] if operation == "book" else refused.json
                [issue] = outcome["issue"]
                assert (refused.status, issue["code"]) == (429, "throttled")
                assert issue["details"]["coding"][0]["code"] == "waiting_room"
                assert int(refused.headers["Retry-After"]) > 0
                assert f'<{ROOM}/tickets>; rel="create-form"' in refused.headers["Link"]
        held = await site.operate("hold", slot, patient, Waiting_Room_Ticket=admitted)
        assert held.status == 200
        assert held.json["entry"][0]["resource"]["status"] == "pending"


async def test_joining_again_changes_nothing_whichever_way_it_is_done(store: Store, wall: Wall) -> None:
    """The same person as another user's patient, and as another portal's, has the same place."""
    slot, (patient,) = await released_slot(store), await put_patients(store, 1)
    same = await put_patients(store, 1)
    others = await put_patients(store, 20, first=10)
    record = msgspec.structs.replace(ZHANG, id_type="passport", id_number="E00000000", name="甲0", phone="")
    second = await put_patient(store, record, user="somebody-else")
    elsewhere = await put_patient(store, record, client="other")
    assert same == [patient]
    assert len({patient, second, elsewhere}) == 3
    async with serve(store, hospital_with(), wall) as site:
        await site.turn(HOUR_S - 300)
        first = await site.join(patient)
        again = await site.join(patient)
        assert (first.status, again.status) == (201, 200)
        assert again.json["ticket"] == first.json["ticket"]
        others_tickets = await gather(site, others)
        aside = await site.join(second)
        outside = await site.join(elsewhere, by="other")
        assert (aside.status, outside.status) == (200, 200)
        wall.turn(300)
        await site.keeper.look()
        places = await positions(site, [first.json["ticket"], aside.json["ticket"]])
        places.append((await site.ticket(outside.json["ticket"], by="other")).json["position"])
        assert len(set(places)) == 1
        assert len(set(await positions(site, [first.json["ticket"], *others_tickets]))) == 21

        await site.tick(2)
        await site.turn(2)
        assert set(await states(site, others_tickets)) == {"admitted"}
        # A ticket is that of one patient, though the place is the person's.
        assert (await site.hold(slot, second, first.json["ticket"])).json["extra"]["ticket"] == "none"
        assert (await site.hold(slot, second, aside.json["ticket"])).status == 201


async def test_everything_is_as_it_was_when_the_process_begins_anew(store: Store, wall: Wall) -> None:
    slot, patients = await released_slot(store), await put_patients(store, 40)
    async with serve(store, hospital_with(), wall) as site:
        await site.turn(HOUR_S - 300)
        tickets = await gather(site, patients)
        await site.turn(300)
        before = await positions(site, tickets), await states(site, tickets)
        assert set(before[1]) == {"admitted", "waiting"}
    async with serve(store, hospital_with(), wall) as site:
        assert (await positions(site, tickets), await states(site, tickets)) == before
        assert (await site.hold(slot, patients[0])).status == 429
        assert (await site.join(patients[0])).json["ticket"] == tickets[0]
        await site.turn(2)
        assert set(await states(site, tickets)) == {"admitted"}
        assert (await site.hold(slot, patients[0], tickets[0])).status == 201


async def test_no_way_round_when_another_process_has_not_looked_yet(store: Store, wall: Wall) -> None:
    """A process that knows nothing of the room decides as one that does: the store tells it within the transaction."""
    slot, (patient, other) = await released_slot(store), await put_patients(store, 2)
    async with (
        serve(store, hospital_with(), wall) as site,
        opened(url_of(store), wall=wall) as elsewhere,
        serve(elsewhere, hospital_with(), wall) as blind,
    ):
        await site.turn(HOUR_S - 300)
        ticket = (await site.join(patient)).json["ticket"]
        await site.turn(300)
        assert (await blind.ask("GET", ROOM)).json["state"] == "closed"
        assert (await blind.hold(slot, other)).json["code"] == "waiting_room"
        assert (await blind.hold(slot, patient)).json["code"] == "waiting_room"
        assert (await site.ticket(ticket)).json["state"] == "admitted"
        # And whoever one process has admitted, every other lets in at once.
        assert (await blind.hold(slot, patient, ticket)).status == 201


async def test_sold_out_is_not_told_from_memory_to_those_without_a_ticket(store: Store, wall: Wall) -> None:
    slot, more = await released_slot(store, 1), await released_slot(store, schedule_id="S2")
    patients = await put_patients(store, 3)
    async with serve(store, hospital_with(), wall) as site:
        await site.turn(HOUR_S - 300)
        tickets = await gather(site, patients)
        await site.turn(300)
        assert (await site.hold(slot, patients[0], tickets[0])).status == 201
        assert (await site.hold(slot, patients[1], tickets[1])).json["code"] == "slot_sold_out"
        for _ in range(3):
            assert (await site.hold(slot, patients[2])).json["code"] == "waiting_room"
        assert (await site.hold(more, patients[1], tickets[1])).status == 201


async def test_repeat_of_an_accepted_hold_gets_its_first_answer_when_the_room_is_open(store: Store, wall: Wall) -> None:
    usual, (patient,) = await put_slot(store), await put_patients(store, 1)
    async with serve(store, hospital_with(), wall) as site:
        await site.turn(HOUR_S - 300)
        held = await site.hold(usual, patient, key="mine")  # gathering closes nothing that is on sale already
        assert held.status == 201
        await site.turn(300)
        again = await site.hold(usual, patient, key="mine")
        assert (again.status, again.json) == (201, held.json)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert (await site.hold(usual, patient, key="another")).status == 429


async def test_ticket_is_good_for_its_time_and_its_seats_and_then_for_a_new_place_at_the_end(
    store: Store, wall: Wall
) -> None:
    slots = [await released_slot(store, schedule_id=f"S{n}") for n in range(4)]
    first, second, third = await put_patients(store, 3)
    async with serve(store, hospital_with(msgspec.structs.replace(RULE, quiet_s=600)), wall) as site:
        await site.turn(HOUR_S - 300)
        tickets = await gather(site, [first, second])
        await site.turn(300)
        assert [(await site.hold(slot, first, tickets[0])).status for slot in slots[:2]] == [201, 201]
        assert (await site.hold(slots[2], first, tickets[0])).json["extra"]["ticket"] == "used"
        anew = await site.join(first)
        assert anew.status == 201
        assert anew.json["ticket"] != tickets[0]
        assert (await site.hold(slots[2], first, tickets[0])).status == 429  # the old one is worth nothing
        await site.keeper.look()
        assert anew.json["position"] == 0
        third_ticket = (await site.join(third)).json["ticket"]
        await site.keeper.look()
        assert await positions(site, [anew.json["ticket"], third_ticket]) == [0, 1]

        await site.turn(1)
        assert await states(site, [anew.json["ticket"]]) == ["admitted"]
        assert (await site.hold(slots[2], first, tickets[0])).json["extra"]["ticket"] == "none"
        assert (await site.hold(slots[2], first, anew.json["ticket"])).status == 201

        await site.turn(298)
        assert await states(site, [tickets[1]]) == ["admitted"]
        await site.turn(1)
        assert await states(site, [tickets[1]]) == ["expired"]
        assert (await site.hold(slots[0], second, tickets[1])).json["extra"]["ticket"] == "expired"
        assert (await site.join(second)).status == 201


async def test_room_closes_when_the_release_is_sold_out_and_those_who_wait_are_told(store: Store, wall: Wall) -> None:
    rule = msgspec.structs.replace(RULE, rate_per_s=1, most_per_s=1)
    slot, patients = await released_slot(store, 1), await put_patients(store, 10)
    async with serve(store, hospital_with(rule), wall) as site:
        await site.turn(HOUR_S - 300)
        tickets = await gather(site, patients)
        await site.turn(300)
        admitted = (await states(site, tickets)).index("admitted")
        assert (await site.hold(slot, patients[admitted], tickets[admitted])).status == 201
        await site.turn(1)
        await site.turn(1)
        told = (await site.ticket(tickets[admitted - 1])).json
        assert (told["state"], told["closed_because"]) == ("closed", "sold_out")
        assert (await site.ask("GET", ROOM)).json["closed_because"] == "sold_out"
        assert (await site.hold(slot, patients[admitted - 1])).json["code"] == "slot_sold_out"
        assert (await site.join(patients[0])).json["code"] == "waiting_room_closed"


async def test_line_goes_on_when_the_hospital_shows_no_seat_yet(store: Store, wall: Wall) -> None:
    """Real openings are late by minutes: until then every slot of the release may be there with nothing left."""
    rule = msgspec.structs.replace(RULE, rate_per_s=1, most_per_s=1)
    slot, patients = await released_slot(store, 0), await put_patients(store, 10)
    async with serve(store, hospital_with(rule), wall) as site:
        await site.turn(HOUR_S - 300)
        tickets = await gather(site, patients)
        await site.turn(300)
        for _ in range(3):
            await site.turn(1)
        assert (await site.ask("GET", ROOM)).json["state"] == "open"
        assert await released_slot(store, 1) == slot
        await site.turn(1)
        seen = await states(site, tickets)
        assert (await site.hold(slot, patients[seen.index("waiting")])).status == 429
        first = seen.index("admitted")
        assert (await site.hold(slot, patients[first], tickets[first])).status == 201
        for _ in range(2):
            await site.turn(1)
        assert (await site.ask("GET", ROOM)).json["closed_because"] == "sold_out"


async def test_room_closes_when_nobody_waits_any_more_and_not_while_holds_are_slow(store: Store, wall: Wall) -> None:
    slot, (patient,) = await released_slot(store), await put_patients(store, 1)
    async with serve(store, hospital_with(), wall) as site:
        await site.turn(HOUR_S - 300)
        await site.turn(301)
        site.delay_s = 0.5
        await site.turn(59)
        assert (await site.ask("GET", ROOM)).json["state"] == "open"
        site.delay_s = 0.0
        await site.turn(59)
        assert (await site.ask("GET", ROOM)).json["state"] == "open"
        await site.turn(1)
        assert (await site.ask("GET", ROOM)).json["state"] == "closed"
        assert (await site.hold(slot, patient)).status == 201


async def test_room_opens_by_load_where_that_is_wished_and_the_first_to_come_is_first(store: Store, wall: Wall) -> None:
    slot, patients = await put_slot(store), await put_patients(store, 3)
    rule = WaitingRoomRule(opens_by_load=True, rate_per_s=1, most_per_s=1)
    async with serve(store, make_hospital(waiting_room=rule), wall) as site:
        for _ in range(3):
            site.delay_s = 0.5  # a queue that comes and goes, as where holds are shed
            site.keeper.sample()
            site.delay_s = 0.0
            assert (await site.ask("GET", ROOM)).json["state"] == "closed"
            await site.turn(1)
        seen = (await site.ask("GET", ROOM)).json
        assert (seen["state"], seen["opened_by"]) == ("open", "load")
        assert (await site.hold(slot, patients[0])).status == 429
        tickets = await gather(site, patients)
        await site.keeper.look()
        assert await positions(site, tickets) == [0, 1, 2]
        await site.turn(1)
        assert await states(site, tickets) == ["admitted", "waiting", "waiting"]


async def test_room_in_use_goes_on_when_the_next_release_is_already_due(store: Store, wall: Wall) -> None:
    patients = await put_patients(store, 30)
    rule = msgspec.structs.replace(RULE, opens_before_s=86_400, quiet_s=5)
    async with serve(store, hospital_with(rule), wall) as site:
        await site.turn(HOUR_S - 300)
        tickets = await gather(site, patients)
        await site.turn(300)
        assert sorted(set(await states(site, tickets))) == ["admitted", "waiting"]
        await site.turn(2)
        assert set(await states(site, tickets)) == {"admitted"}
        for _ in range(8):
            await site.turn(1)
        seen = (await site.ask("GET", ROOM)).json
        assert seen["opens_at"] == (OPENS_AT + dt.timedelta(days=1)).isoformat()
        assert seen["state"] == "gathering"


async def test_next_room_opens_when_nobody_was_there_to_close_the_last_one(store: Store, wall: Wall) -> None:
    """The service was stopped while a room was open, and came back two days later."""
    patients = await put_patients(store, 2)
    async with serve(store, hospital_with(), wall) as site:
        await site.turn(HOUR_S - 300)
        (left,) = await gather(site, patients[:1])
    wall.turn(2 * 86_400 - 350)
    async with serve(store, hospital_with(), wall) as site:
        assert (await site.join(patients[0])).json["code"] == "waiting_room_closed"
        await site.turn(50)
        seen = (await site.ask("GET", ROOM)).json
        assert (seen["state"], seen["opens_at"]) == ("gathering", (OPENS_AT + dt.timedelta(days=2)).isoformat())
        tickets = await gather(site, patients)
        assert set(await states(site, tickets)) == {"gathering"}
        assert await states(site, [left]) == ["closed"]


async def test_nobody_is_let_in_while_the_hospital_locks_nothing(store: Store, wall: Wall) -> None:
    """Who is let in then holds a seat whose lock would not come in time."""
    slot, patients = await released_slot(store), await put_patients(store, 50)
    rule = msgspec.structs.replace(RULE, rate_per_s=20, most_per_s=20)
    async with serve(store, hospital_with(rule), wall) as site:
        await site.turn(HOUR_S - 300)
        tickets = await gather(site, patients)
        wall.turn(300)
        await site.tick(1)
        inside = [n for n, state in enumerate(await states(site, tickets)) if state == "admitted"]
        assert len(inside) == 20
        answers = [await site.hold(slot, patients[n], tickets[n]) for n in inside]
        assert {answer.status for answer in answers} == {201}
        await site.turn(1)  # the locks are looked at every other second
        for _ in range(5):
            before = (await states(site, tickets)).count("admitted")
            await site.turn(1)
        assert (await states(site, tickets)).count("admitted") == before < 50
        async with store.write(HOSPITAL) as tx:
            await tx.run(text("update outbox set status = 'done', updated_ms = :now").bindparams(now=tx.now_ms))
        for _ in range(6):
            await site.turn(1)
        assert set(await states(site, tickets)) == {"admitted"}


async def test_nobody_is_counted_twice_when_a_process_looks_twice_at_once(store: Store, wall: Wall) -> None:
    patients = await put_patients(store, 20)
    async with serve(store, hospital_with(), wall) as site:
        await site.turn(HOUR_S - 300)
        for some in (patients[:10], patients[10:]):  # the first time the connections are yet to be made
            await gather(site, some)
            await asyncio.gather(*(site.keeper.look() for _ in range(3)))
        assert (await site.ask("GET", ROOM)).json["waiting"] == 20


async def test_nobody_is_asked_to_wait_when_no_room_is_configured(store: Store, wall: Wall) -> None:
    slot, (patient,) = await put_slot(store), await put_patients(store, 1)
    async with serve(store, make_hospital(), wall) as site:
        site.delay_s = 60.0
        for _ in range(10):
            await site.turn(1)
        assert (await site.ask("GET", ROOM)).json["state"] == "closed"
        assert (await site.join(patient)).json["code"] == "waiting_room_closed"
        assert (await site.hold(slot, patient)).status == 201


async def test_room_that_was_left_open_holds_nobody_up_when_the_settings_have_none_any_more(
    store: Store, wall: Wall
) -> None:
    slot, (patient,) = await released_slot(store), await put_patients(store, 1)
    async with serve(store, hospital_with(), wall) as site:
        await site.turn(HOUR_S - 300)
        await site.turn(300)
        assert (await site.hold(slot, patient)).status == 429
    async with serve(store, make_hospital(), wall) as site:
        assert (await site.hold(slot, patient)).status == 201


def url_of(store: Store) -> str:
    return store.url.render_as_string(hide_password=False)
