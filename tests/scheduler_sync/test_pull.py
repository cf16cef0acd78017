"""Pulling: what a fetch brings, what a failed one leaves alone, stops seen by polling, and the age of what we know."""

from __future__ import annotations

import asyncio
import datetime as dt
import math

import msgspec
import pytest
from sqlalchemy import select

from booking.catalog import slot_key
from booking.moves import fetch_topic
from booking.settings import Hospital
from booking.store.engine import Store, StoreUnavailable
from booking.store.tables import departments, practitioners, slots
from connectors.port import HisError, HisRefused, HisReplyInvalid, HisUnavailable, NotOffered, Rejected, Unknown, Verb
from mappings.canonical import Department, NewPlace, Practitioner, ScheduleStatus, ScheduleStopped, Session, StopScope
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.pull import Puller
from tests.booking.world import (
    DAY,
    HOSPITAL,
    ZHANG,
    booked,
    figures,
    get,
    hold,
    make_hospital,
    make_schedule,
    make_slot,
    put_patient,
    put_slot,
)
from tests.scheduler_sync.peer import Peer, crash, until
from tests.stores import Wall

SCHEDULES, SLOTS, STOPS = Verb.FETCH_SCHEDULES, Verb.FETCH_SLOTS, Verb.FETCH_STOPS


@pytest.fixture
def peer() -> Peer:
    """A HIS with one schedule of two slots."""
    it = Peer()
    it.departments = [Department(id="D1", name="内科")]
    it.practitioners = [Practitioner(id="P1", name="王医生", department_id="D1")]
    it.schedules = [make_schedule()]
    it.slots = [make_slot(3, slot_id="1", hour=8), make_slot(4, slot_id="2", hour=9)]
    return it


def puller(store: Store, peer: Peer, hospital: Hospital | None = None) -> Puller:
    of = hospital or make_hospital()
    return Puller(store, of, HospitalLink(of, {peer.name: peer}))


async def seats_of(store: Store) -> list[int]:
    async with store.read(HOSPITAL) as tx:
        return [r["his_left"] for r in await tx.all(select(slots.c.his_left).order_by(slots.c.starts_at_ms))]


async def test_everything_bookable_is_known_when_one_round_is_done(store: Store, peer: Peer) -> None:
    await puller(store, peer).pull_once()
    assert await seats_of(store) == [3, 4]
    async with store.read(HOSPITAL) as tx:
        assert [d["name"] for d in await tx.all(select(departments))] == ["内科"]
        assert [p["name"] for p in await tx.all(select(practitioners))] == ["王医生"]


async def test_seats_follow_the_his_when_it_is_fetched_again(
    store: Store, peer: Peer, hospital: Hospital, wall: Wall
) -> None:
    pull = puller(store, peer)
    await pull.pull_once()
    slot_id = await put_slot(store, 3)
    booking = await hold(store, hospital, slot_id, await put_patient(store))
    wall.turn(1)
    peer.slots = [make_slot(2, slot_id="1", hour=8)]  # somebody at the window took one
    await pull.pull_once()
    assert await figures(store, slot_id) == (2, 1)
    assert await seats_of(store) == [2, 4]  # what a fetch does not name stays
    assert (await get(store, booking.id)).charged


@pytest.mark.parametrize("verb", [Verb.FETCH_DEPARTMENTS, SCHEDULES, SLOTS])
@pytest.mark.parametrize("error", [HisRefused("no"), HisReplyInvalid("<html>")])
async def test_nothing_is_deleted_when_a_fetch_fails(
    store: Store, peer: Peer, wall: Wall, verb: Verb, error: HisError
) -> None:
    await puller(store, peer).pull_once()
    wall.turn(60)
    peer.schedules, peer.slots, peer.departments = [], [], []
    pull = puller(store, peer)
    peer.read_errors[verb].append(error)
    with pytest.raises(type(error)):
        await pull.pull_once()
    assert await seats_of(store) == [3, 4]
    async with store.read(HOSPITAL) as tx:
        assert len(await tx.all(select(departments))) == 1


async def test_nothing_is_deleted_when_the_his_answers_with_nothing(store: Store, peer: Peer, wall: Wall) -> None:
    pull = puller(store, peer)
    await pull.pull_once()
    wall.turn(60)
    peer.schedules, peer.slots = [], []
    await pull.pull_once()
    assert await seats_of(store) == [3, 4]


async def test_age_is_counted_from_the_last_whole_fetch_when_one_fails(store: Store, peer: Peer) -> None:
    pull = puller(store, peer)
    assert pull.age_s("schedules") == math.inf
    peer.read_errors[SLOTS].append(HisRefused("no"))
    with pytest.raises(HisRefused):
        await pull.pull_once()
    assert pull.age_s("schedules") == math.inf
    assert pull.age_s("master") < 60
    await pull.pull_once()
    assert pull.age_s("schedules") < 60
    assert pull.age_s("stops") < 60
    assert peer.calls(Verb.FETCH_DEPARTMENTS) == ["fetch_departments"]  # master data is not asked for each time


async def test_booking_is_stopped_when_polling_shows_its_schedule_stopped(
    store: Store, peer: Peer, hospital: Hospital
) -> None:
    pull = puller(store, peer)
    await pull.pull_once()
    booking_id = await booked(store, hospital, await put_slot(store, 3), await put_patient(store, ZHANG))
    peer.schedules = [make_schedule(status=ScheduleStatus.STOPPED)]
    await pull.pull_once()
    seen = await get(store, booking_id)
    assert (seen.state, seen.payment_state, seen.his_command) == ("stopped", "refund_due", "cancel")
    await pull.pull_once()
    assert await get(store, booking_id) == seen


@pytest.mark.parametrize("restarted", [False, True])
async def test_booking_is_stopped_when_the_store_went_away_between_the_stop_and_its_bookings(
    store: Store, peer: Peer, hospital: Hospital, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    pull = puller(store, peer)
    await pull.pull_once()
    booking_id = await booked(store, hospital, await put_slot(store, 3), await put_patient(store, ZHANG))
    peer.schedules = [make_schedule(status=ScheduleStatus.STOPPED)]

    async def go_away(*_: object, **__: object) -> int:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr("scheduler_sync.pull.carry_known_stops", go_away)
        with pytest.raises(StoreUnavailable):
            await pull.pull_once()
    assert (await get(store, booking_id)).state == "booked"
    await (puller(store, peer) if restarted else pull).pull_once()
    seen = await get(store, booking_id)
    assert (seen.state, seen.payment_state) == ("stopped", "refund_due")


async def test_booking_is_stopped_when_the_list_of_stops_names_its_segment(
    store: Store, peer: Peer, hospital: Hospital
) -> None:
    pull = puller(store, peer)
    await pull.pull_once()
    booking_id = await booked(store, hospital, await put_slot(store, 3), await put_patient(store, ZHANG))
    starts_at = peer.slots[0].starts_at
    peer.stops = [
        ScheduleStopped(scope=StopScope.ORDER),  # one that says nothing must not keep the others from being heard
        ScheduleStopped(scope=StopScope.SEGMENT, schedule_id="S1", date=DAY, session=Session.AM, starts_at=starts_at),
    ]
    await pull.pull_once()
    assert (await get(store, booking_id)).state == "stopped"


@pytest.mark.parametrize("after", [SCHEDULES, SLOTS], ids=["before the schedules", "before the slots"])
async def test_booking_is_moved_and_not_stopped_when_its_session_moves_between_two_reads_of_one_round(
    store: Store, hospital: Hospital, after: Verb
) -> None:
    """The list of stops is read first: what the schedules or slots show and it does not name, it names when it is asked again."""
    later = DAY + dt.timedelta(days=1)

    class Moving(Peer):
        moves = False

        def _read(self, verb: Verb, key: str = "") -> None:
            super()._read(verb, key)
            if self.moves and verb == after:
                self.moves = False
                self.stops = [
                    ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="S1", date=DAY, moved_to=NewPlace(date=later))
                ]
                if after == SCHEDULES:
                    self.schedules = [make_schedule(status=ScheduleStatus.STOPPED), *self.schedules[1:]]
                self.slots = [make_slot(3, status=ScheduleStatus.STOPPED), *self.slots[1:]]

    begins = make_slot(3).starts_at + dt.timedelta(days=1)
    peer = Moving()
    peer.schedules = [make_schedule(), make_schedule(date=later)]
    peer.slots = [make_slot(3), make_slot(3, date=later, starts_at=begins, ends_at=begins + dt.timedelta(minutes=30))]
    # A substitute is listed already: that does not say why it is stopped.
    to = NewPlace(practitioner_id="P2")
    peer.stops = [ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="S1", date=DAY, moved_to=to)]
    pull = puller(store, peer)
    await pull.pull_once()
    booking_id = await booked(store, hospital, slot_key(HOSPITAL, peer.slots[0]), await put_patient(store, ZHANG))
    peer.moves = True
    await pull.pull_once()
    seen = await get(store, booking_id)
    assert (seen.state, seen.payment_state, seen.slot_id) == ("booked", "paid", slot_key(HOSPITAL, peer.slots[1]))
    assert peer.calls(STOPS) == ["fetch_stops"] * 3
    await pull.pull_once()
    assert await get(store, booking_id) == seen
    assert peer.calls(STOPS) == ["fetch_stops"] * 4  # it is named: there is nothing to ask again


async def test_list_of_stops_is_asked_again_once_when_it_never_names_what_is_stopped(store: Store, peer: Peer) -> None:
    pull = puller(store, peer)
    peer.schedules = [make_schedule(status=ScheduleStatus.STOPPED)]
    for times in (2, 3, 4):
        await pull.pull_once()
        assert peer.calls(STOPS) == ["fetch_stops"] * times


async def test_other_slots_are_seen_when_one_cannot_be(store: Store, peer: Peer) -> None:
    peer.slots.append(msgspec.structs.replace(make_slot(9, slot_id="3"), ends_at=peer.slots[0].starts_at))
    await puller(store, peer).pull_once()
    assert await seats_of(store) == [3, 4]


async def test_departments_are_learned_from_schedules_when_the_his_has_no_list(store: Store) -> None:
    peer = Peer(off=[Verb.FETCH_DEPARTMENTS])
    peer.schedules = [make_schedule(), make_schedule("S2", department_id="D2", department_name=None)]
    async with store.write(HOSPITAL) as tx:
        await tx.insert(departments, {"hospital_id": HOSPITAL, "id": "D1", "name": "内科门诊"})
    await puller(store, peer).pull_once()
    async with store.read(HOSPITAL) as tx:
        assert [(d["id"], d["name"]) for d in await tx.all(select(departments))] == [("D1", "内科门诊")]


async def test_nothing_is_asked_when_the_hospital_is_paused(store: Store, peer: Peer) -> None:
    await puller(store, peer, make_hospital(mode="paused")).pull_once()
    assert peer.seen == []


async def test_seats_are_fetched_when_the_hospital_is_only_observed(store: Store, peer: Peer) -> None:
    await puller(store, peer, make_hospital(mode="observe")).pull_once()
    assert await seats_of(store) == [3, 4]


async def test_another_round_begins_when_a_seat_can_only_be_shown_by_a_fetch(store: Store, peer: Peer) -> None:
    pull = puller(store, peer, make_hospital(sync_every_s=3600))
    stopping = asyncio.Event()
    task = asyncio.create_task(pull.run(stopping))

    async def rounds(n: int) -> None:
        async def check() -> bool:
            return len(peer.calls(STOPS)) >= n

        await until(check)

    try:
        await rounds(1)
        await asyncio.sleep(0)
        while len(peer.calls(STOPS)) < 2:
            store.bell.ring(fetch_topic(HOSPITAL))
            await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_pulling_goes_on_when_the_his_was_away(store: Store, peer: Peer) -> None:
    peer.read_errors[SCHEDULES].extend([HisUnavailable("away")] * 2 + [HisReplyInvalid("<html>")])
    pull = puller(store, peer, make_hospital(sync_every_s=0.01))
    task = asyncio.create_task(pull.run(asyncio.Event()))

    async def check() -> bool:
        return await seats_of(store) == [3, 4]

    try:
        await until(check)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# --- the gateway -------------------------------------------------------------------------------------------------------


def link(peer: Peer, **changes: object) -> HospitalLink:
    return HospitalLink(make_hospital(**changes), {peer.name: peer})


async def test_nothing_is_emulated_when_a_verb_is_off() -> None:
    peer = Peer(off=[Verb.REGISTER, Verb.FETCH_BILLS])
    of = link(peer)
    assert await of.write(Verb.REGISTER, None) == Rejected(code="not_offered")
    with pytest.raises(NotOffered):
        await of.read(Verb.FETCH_BILLS, ZHANG)
    assert of.capabilities()["register"] == "off"
    assert of.capabilities()["lock_slot"] == "native"
    assert peer.seen == []


async def test_read_is_tried_twice_when_the_his_was_not_there() -> None:
    peer = Peer()
    peer.read_errors[Verb.FETCH_BILLS].extend([HisUnavailable("away")])
    assert await link(peer).read(Verb.FETCH_BILLS, ZHANG) == []
    assert peer.calls() == ["fetch_bills"] * 2
    peer.read_errors[Verb.FETCH_BILLS].extend([HisRefused("no")])
    with pytest.raises(HisRefused):
        await link(peer).read(Verb.FETCH_BILLS, ZHANG)
    assert len(peer.calls()) == 3


async def test_write_is_never_repeated_by_the_gateway_when_its_outcome_is_unknown() -> None:
    peer = Peer()

    async def lose(peer: Peer, verb: Verb, argument: object) -> Unknown:
        return Unknown(reason="time-out")

    peer.script(Verb.CREATE_PATIENT, lose)
    assert await link(peer).write(Verb.CREATE_PATIENT, ZHANG) == Unknown(reason="time-out")
    assert peer.calls() == ["create_patient"]


async def test_his_is_left_alone_when_five_calls_in_a_row_found_nobody() -> None:
    peer = Peer()
    of = link(peer)
    peer.read_errors[Verb.PING].extend([HisUnavailable("away")] * 5)
    assert of.status == "up"
    for n in range(5):
        with pytest.raises(HisUnavailable):
            await of.read(Verb.PING, attempts=1)
        assert of.status == ("degraded" if n < 4 else "down")
    assert await of.write(Verb.CREATE_PATIENT, ZHANG) == Rejected(
        code="not_sent", text="the breaker is open", retryable=True
    )
    assert peer.calls() == ["ping"] * 5


async def test_refusals_are_answers_when_the_breaker_counts() -> None:
    peer = Peer()
    of = link(peer)
    peer.read_errors[Verb.PING].extend([HisRefused("no"), HisReplyInvalid("<html>")] * 4)
    for _ in range(8):
        with pytest.raises(HisError):
            await of.read(Verb.PING, attempts=1)
    assert of.status == "up"


async def test_place_is_free_again_when_a_connector_has_a_fault() -> None:
    peer = Peer()
    of = link(peer, his_concurrency=1)
    peer.script(Verb.CREATE_PATIENT, crash)
    with pytest.raises(RuntimeError, match="fault"):
        await of.write(Verb.CREATE_PATIENT, ZHANG)
    assert of.free_places(Verb.CREATE_PATIENT) == 1


async def test_each_verb_goes_its_way_when_a_hospital_has_two_connectors() -> None:
    one, two = Peer(off=[Verb.FETCH_REPORTS]), Peer()
    of = HospitalLink(make_hospital(route={"fetch_bills": "two"}), {"one": one, "two": two})
    await of.read(Verb.FETCH_BILLS, ZHANG)  # by route
    await of.read(Verb.FETCH_REPORTS, ZHANG)  # the first that can
    await of.read(Verb.PING)
    assert (one.calls(), two.calls()) == (["ping"], ["fetch_bills", "fetch_reports"])
