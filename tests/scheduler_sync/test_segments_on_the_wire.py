"""Half a session, as hospitals of every protocol tell of it over real sockets: another doctor, elsewhere, not at all."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from booking.records import Booking
from booking.store.engine import Store
from booking.store.tables import schedules, slots
from loadtest.simulators.fhir import FhirSimulator
from tests.booking.world import HOSPITAL, get, owed
from tests.scheduler_sync.living import PEOPLE, His, Living, by_fhir, by_hl7v2, by_soap, living, until
from tests.stores import Wall

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)  # the protocols do not know of a store
OTHER = "D2"
HL7V2 = pytest.param(by_hl7v2(), id="hl7v2")
FHIR = pytest.param(by_fhir(), id="fhir")
JKT12320 = pytest.param(by_soap("jkt12320", calls=True), id="jkt12320 by 5001")
DHC = pytest.param(by_soap("dhc"), id="dhc by 1107")
ALL = [HL7V2, FHIR, JKT12320, DHC]
LIST_THEM = {
    FhirSimulator
}  # its Slots stay under the Schedule of the session: only the Appointments name the other doctor


def sessions(at: Living) -> tuple[str, str]:
    """A morning and an afternoon of the first doctor."""
    morning, afternoon = [plan.code for plan in at.his.plans.values() if plan.doctor == "D1"][:2]
    return morning, afternoon


async def booked_each(at: Living, plan: str, segments: tuple[int, ...] = (1, 2, 4)) -> tuple[Booking, Booking, Booking]:
    """Somebody in each of three segments, as a rule in the first, the second and the fourth."""
    one, two, stays = [await at.booked(f"{plan}||{n}", person) for n, person in zip(segments, PEOPLE, strict=True)]
    return one, two, stays


async def shown_under(at: Living, slot_id: str) -> tuple[str | None, str]:
    """(practitioner, status) of a segment, as portals see it."""
    async with at.store.read(HOSPITAL) as tx:
        row = await tx.first(
            select(
                slots.c.practitioner_id, slots.c.status, schedules.c.practitioner_id.label("of_session"),
                schedules.c.status.label("session_is"),
            )
            .select_from(slots.join(schedules, slots.c.schedule_id == schedules.c.id))
            .where(slots.c.id == slot_id)
        )  # fmt: skip
    assert row is not None
    return row["practitioner_id"] or row["of_session"], "stopped" if row["session_is"] == "stopped" else row["status"]


async def until_shown(at: Living, slot_id: str, practitioner_id: str, status: str = "open") -> None:
    async def look() -> bool | None:
        return await shown_under(at, slot_id) == (practitioner_id, status) or None

    await until(look)


async def two_more_fetches(at: Living) -> None:
    """The hospital's list has been read twice more from beginning to end."""
    calls = at.simulator.board.calls
    before = calls["fetch_slots"]

    async def look() -> bool | None:
        return calls["fetch_slots"] >= before + 3 * per_pull or None

    per_pull = len(at.his.plans) if calls["fetch_stops"] else 1  # SOAP asks session by session
    await until(look)


@pytest.mark.parametrize("his", ALL)
@pytest.mark.parametrize(("half", "rest"), [((1, 2), (3, 4)), ((3, 4), (2, 1))])
async def test_half_a_session_has_another_doctor_when_the_hospital_says_so(
    store: Store, messages: Store, wall: Wall, his: His, half: tuple[int, int], rest: tuple[int, int]
) -> None:
    async with living(store, messages, wall, his) as at:
        morning, _ = sessions(at)
        one, two, stays = await booked_each(at, morning, (*half, rest[1]))
        nobodys = await at.slot_of(f"{morning}||{rest[0]}")
        for n in half:
            at.his.substitute_segment(f"{morning}||{n}", OTHER)
        for _ in range(2):  # and tells of it twice, if it tells
            for booking, n in zip((one, two), half, strict=True):
                if isinstance(at.simulator, FhirSimulator):
                    at.simulator.store.follow(at.visit_of(booking).no)
                await at.tell("substitute", f"{morning}||{n}")
        for booking in (one, two):

            async def told_of(booking: Booking = booking) -> bool | None:
                return bool(await at.told("booking.moved", booking)) or None

            await until(told_of)
        if type(at.simulator) not in LIST_THEM:
            for booking in (one, two):
                await until_shown(at, booking.slot_id, OTHER)
        await two_more_fetches(at)
        for booking in (one, two):
            (news,) = await at.told("booking.moved", booking)
            assert (news["cause"], news["from"]["practitioner_id"], news["to"]["practitioner_id"]) == (
                "substituted", "D1", OTHER,
            )  # fmt: skip
            assert news["from"]["slot_id"] == news["to"]["slot_id"] == booking.slot_id
            seen = await get(store, booking.id)
            assert (seen.state, seen.payment_state, seen.slot_id) == ("booked", "paid", booking.slot_id)
        # The other half is the first doctor's as before.
        assert await at.told("booking.moved", stays) == []
        for slot_id in (nobodys, stays.slot_id):
            assert await shown_under(at, slot_id) == ("D1", "open")


@pytest.mark.parametrize("his", ALL)
async def test_half_a_session_is_stopped_and_the_other_half_is_not(
    store: Store, messages: Store, wall: Wall, his: His
) -> None:
    async with living(store, messages, wall, his) as at:
        morning, _ = sessions(at)
        one, two, stays = await booked_each(at, morning)
        third = await at.slot_of(f"{morning}||3")
        for n in (1, 2):
            at.his.stop_segment(f"{morning}||{n}")
        for n in (1, 2):
            await at.tell("stop", f"{morning}||{n}")
        for booking in (one, two):
            await at.becomes(booking, state="stopped", payment_state="refund_due")
            assert [(kind, fen) for kind, fen, _ in await owed(store, booking.id)] == [("refund_due", booking.fee_fen)]
            await until_shown(at, booking.slot_id, "D1", "stopped")
        await two_more_fetches(at)
        assert (await at.becomes(stays, state="booked")).payment_state == "paid"
        for slot_id in (third, stays.slot_id):
            assert await shown_under(at, slot_id) == ("D1", "open")


@pytest.mark.parametrize("his", ALL)
async def test_half_a_session_is_held_in_the_afternoon_when_the_hospital_moves_it(
    store: Store, messages: Store, wall: Wall, his: His
) -> None:
    async with living(store, messages, wall, his) as at:
        morning, afternoon = sessions(at)
        one, two, stays = await booked_each(at, morning)
        for n in (1, 2):
            at.his.move_segment(f"{morning}||{n}", f"{afternoon}||{n + 2}")
        for booking, n in ((one, 1), (two, 2)):
            if isinstance(at.simulator, FhirSimulator):
                at.simulator.store.follow(at.visit_of(booking).no)
            await at.tell("move", f"{morning}||{n}")
        for booking, n in ((one, 3), (two, 4)):
            seen = await at.becomes(booking, slot_id=await at.slot_of(f"{afternoon}||{n}"))
            assert (seen.state, seen.payment_state, seen.his_state) == ("booked", "paid", "registered")
        await two_more_fetches(at)
        for booking in (one, two):
            assert [news["cause"] for news in await at.told("booking.moved", booking)] == ["moved"]
            assert await owed(store, booking.id) == []
        assert ((await get(store, stays.id)).slot_id, await at.told("booking.moved", stays)) == (stays.slot_id, [])
