"""改诊 and 替诊 as hospitals of every protocol tell them, over real sockets: a segment, a session, another doctor."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from booking.records import Booking
from booking.store.engine import Store
from booking.store.tables import schedules, slots
from loadtest.simulators.fhir import FhirSimulator
from loadtest.simulators.hospital import Hospital
from tests.booking.world import HOSPITAL, owed
from tests.scheduler_sync.living import PEOPLE, His, Living, by_fhir, by_hl7v2, by_soap, living, until
from tests.stores import Wall

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)  # the protocols do not know of a store
OTHER = "D2"
CASES = [
    pytest.param(by_hl7v2(), True, id="hl7v2 by S13 and S14"),
    pytest.param(by_fhir(), True, id="fhir by changes"),
    pytest.param(by_soap("jkt12320", calls=True), True, id="jkt12320 by 5001"),
    pytest.param(by_soap("dhc"), False, id="dhc by 1107"),  # its list knows whole sessions
]


def sessions(his: Hospital) -> tuple[str, str, str]:
    """Three sessions of the first doctor: a morning, an afternoon, and the next morning."""
    first, second, third = [plan.code for plan in his.plans.values() if plan.doctor == "D1"][:3]
    return first, second, third


async def tell(at: Living, kind: str, code: str, moved: list[Booking]) -> None:
    """The hospital tells twice of what is done there, if it tells; a FHIR server writes it into the Appointments."""
    for _ in range(2):
        if isinstance(at.simulator, FhirSimulator):
            for booking in moved:
                at.simulator.store.follow(at.visit_of(booking).no)
        await at.tell(kind, code)


async def shown(at: Living, segment: str) -> tuple[int, int]:
    """(his_left, unreflected) of a segment."""
    slot_id = await at.slot_of(segment)
    async with at.store.read(HOSPITAL) as tx:
        row = await tx.first(select(slots.c.his_left, slots.c.unreflected).where(slots.c.id == slot_id))
    assert row is not None
    return row["his_left"], row["unreflected"]


async def until_shown(at: Living, segment: str, his_left: int) -> None:
    """Wait for the fetch after which the hospital's own figure is all there is to count."""

    async def look() -> bool | None:
        return await shown(at, segment) == (his_left, 0) or None

    await until(look)


@pytest.mark.parametrize(("his", "knows_segments"), CASES)
async def test_bookings_follow_their_session_when_the_hospital_moves_it_or_gives_it_to_another(
    store: Store, messages: Store, wall: Wall, his: His, knows_segments: bool
) -> None:
    async with living(store, messages, wall, his) as at:
        morning, afternoon, next_morning = sessions(at.his)
        one, two, stays = [
            await at.booked(f"{plan}||{n}", person)
            for (plan, n), person in zip([(morning, 1), (morning, 2), (afternoon, 4)], PEOPLE, strict=True)
        ]
        old = await at.slot_of(f"{morning}||3")  # where nobody sits
        moved: list[Booking] = [two]
        if knows_segments:
            at.his.move_segment(f"{morning}||1", f"{next_morning}||3")
            await tell(at, "move", f"{morning}||1", [one])
            await at.becomes(one, slot_id=await at.slot_of(f"{next_morning}||3"))
        else:
            moved = [one, two]

        # 替诊: they stay where they are, and are told who it is.
        at.his.substitute(morning, OTHER)
        await tell(at, "substitute", morning, moved)
        for booking in moved:
            news = await until_told(at, booking, 1)
            assert (news["cause"], news["from"]["practitioner_id"], news["to"]["practitioner_id"]) == (
                "substituted", "D1", OTHER,
            )  # fmt: skip
            assert news["to"]["slot_id"] == booking.slot_id

        # 改诊: the next day, segment by segment.
        targets = {booking.id: f"{next_morning}||{n}" for n, booking in ((1, one), (2, two)) if booking in moved}
        if isinstance(at.simulator, FhirSimulator):
            move_appointments(at, morning, next_morning)
        else:
            at.his.move(morning, next_morning)
        await tell(at, "move", morning, moved)
        for booking in moved:
            await at.becomes(booking, slot_id=await at.slot_of(targets[booking.id]))
        at.his.stop(morning)
        await until_off_sale(at, old)
        targets.setdefault(one.id, f"{next_morning}||3")
        for booking in (one, two):
            segment = targets[booking.id]
            seen = await at.becomes(booking, state="booked")
            assert (seen.order_no, seen.fee_fen, seen.payment_state, seen.his_state) == (
                booking.order_no, booking.fee_fen, "paid", "registered",
            )  # fmt: skip
            await until_shown(at, segment, 2)
            assert await owed(at.store, booking.id) == []
            assert at.visit_of(booking).segment == segment
        await until_shown(at, f"{afternoon}||4", 2)
        seen = await at.becomes(stays, state="booked")
        assert (seen.slot_id, seen.moved_ms, await at.told("booking.moved", stays)) == (stays.slot_id, None, [])
        # Told twice, and seen in every fetch since: each of them is news once.
        assert [n["cause"] for n in await at.told("booking.moved", two)] == ["substituted", "moved"]
        assert len(await at.told("booking.moved", one)) == (1 if knows_segments else 2)


async def test_bookings_are_moved_and_not_stopped_when_their_blocked_slots_are_seen_first(
    store: Store, messages: Store, wall: Wall
) -> None:
    """A FHIR server moves the Appointments and blocks the session; we look at its Slots before its changes."""
    async with living(store, messages, wall, by_fhir(changes_every_s=600)) as at:
        morning, afternoon, next_morning = sessions(at.his)
        booking = await at.booked(f"{morning}||1")
        stopped = await at.booked(f"{afternoon}||1", PEOPLE[1])
        await until_looked(at)
        at.his.move(morning, next_morning)
        at.simulator.store.follow(at.visit_of(booking).no)
        at.his.stop(afternoon)
        seen = await at.becomes(booking, slot_id=await at.slot_of(f"{next_morning}||1"))
        assert (seen.state, seen.payment_state) == ("booked", "paid")
        # One that really does not take place is stopped all the same.
        await at.becomes(stopped, state="stopped", payment_state="refund_due")
        assert (await at.becomes(booking, state="booked")).needs_attention is False


async def until_looked(at: Living) -> None:
    """The regular look at the changes has been; the next one comes when this test is over."""

    async def look() -> bool | None:
        return at.simulator.board.calls["fetch_changes"] > 0 or None

    await until(look)


def move_appointments(at: Living, plan: str, to: str) -> None:
    """As a clerk does it who works with Appointments: each of them first, the session is blocked afterwards."""
    for visit in at.his.visits_of(plan):
        at.his.move_visit(visit.no, visit.segment.replace(plan, to))


async def until_off_sale(at: Living, slot_id: str) -> None:
    """Wait until nothing of the old place can be booked."""

    async def look() -> bool | None:
        async with at.store.read(HOSPITAL) as tx:
            row = await tx.first(
                select(slots.c.status, schedules.c.status.label("of_schedule"))
                .select_from(slots.join(schedules, slots.c.schedule_id == schedules.c.id))
                .where(slots.c.id == slot_id)
            )
        return (row is not None and "stopped" in (row["status"], row["of_schedule"])) or None

    await until(look)


async def until_told(at: Living, booking: Booking, times: int) -> dict[str, Any]:
    """The news of so many moves is there; the last of them."""

    async def look() -> dict[str, Any] | None:
        told = await at.told("booking.moved", booking)
        return told[-1] if len(told) >= times else None

    return await until(look)
