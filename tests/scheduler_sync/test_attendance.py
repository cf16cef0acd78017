"""Asking who came: only visits that have begun, each until it is known how it ended, and never where somebody else waits."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import events
from booking.visit_rules import VisitRule
from connectors.port import HisError, HisRefused, HisReplyInvalid, HisUnavailable, Order, Verb
from mappings.canonical import Registration, RegistrationStatus
from scheduler_sync import attendance
from scheduler_sync.attendance import Attendance
from scheduler_sync.gateway import HospitalLink
from tests.booking.world import (
    DAY,
    HOSPITAL,
    LI,
    WANG,
    ZHANG,
    ZONE,
    booked,
    cancel,
    get,
    locked,
    make_hospital,
    put_patient,
    put_slot,
)
from tests.scheduler_sync.peer import Peer, until
from tests.stores import Wall

pytestmark = pytest.mark.usefixtures("engine")
S = RegistrationStatus
ONE_STORE = pytest.mark.parametrize(
    "engine", ["sqlite"], indirect=True
)  # what is shown here asks no store anything of its own


class Asked:
    """A hospital with one visit of Zhang's at 08:00 on DAY, and the HIS that is asked about it."""

    def __init__(self, store: Store, wall: Wall, booking_id: str, order_no: str, **rule: Any) -> None:
        self.store, self.wall, self.booking_id, self.order_no = store, wall, booking_id, order_no
        self.peer = Peer()
        self.peer.orders[order_no] = S.REGISTERED
        self.hospital = make_hospital(visits=VisitRule(**rule))
        self.stopping = asyncio.Event()

    def attendance(self) -> Attendance:
        return Attendance(self.store, self.hospital, HospitalLink(self.hospital, {"peer": self.peer}), self.stopping)

    def at(self, time: str, *, days: int = 0) -> None:
        """The hospital's clock shows this time so many days after DAY."""
        clock = dt.datetime.combine(DAY + dt.timedelta(days=days), dt.time.fromisoformat(time), ZONE)
        self.wall.now_ms = round(clock.timestamp() * 1000)

    async def look(self) -> None:
        """One round of a process that has just begun: the earlier days are due."""
        await self.attendance().look()

    async def state(self) -> str:
        return (await get(self.store, self.booking_id)).state

    def questions(self) -> int:
        return len(self.peer.calls(Verb.FETCH_REGISTRATION))


async def asked(store: Store, wall: Wall, hospital: Hospital, **rule: Any) -> Asked:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store, ZHANG))
    return Asked(store, wall, booking_id, (await get(store, booking_id)).order_no, **rule)


async def told(store: Store) -> list[str]:
    """The states that the portal was told, oldest first."""
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(events.c.payload).where(events.c.type == "booking.changed").order_by(events.c.id))
    return [msgspec.json.decode(row["payload"])["state"] for row in rows]


@pytest.mark.parametrize("state", ["checked_in", "fulfilled", "no_show"])
async def test_booking_follows_the_answer_and_is_told_once_when_the_his_is_asked(
    store: Store, wall: Wall, hospital: Hospital, state: str
) -> None:
    it = await asked(store, wall, hospital)
    it.at("08:30")
    await it.look()
    version = (await get(store, it.booking_id)).version
    assert (await it.state(), it.questions()) == ("booked", 1)
    it.peer.orders[it.order_no] = RegistrationStatus(state)
    for _ in range(3):
        await it.look()
        assert await it.state() == state
    # What was said before is not news: one version, one event.
    assert (await get(store, it.booking_id)).version == version + 1
    assert (await told(store)).count(state) == 1
    assert it.questions() == (2 if state == "fulfilled" else 4)


async def test_late_patient_is_no_missed_one_when_the_his_is_asked_again(
    store: Store, wall: Wall, hospital: Hospital
) -> None:
    it = await asked(store, wall, hospital)
    it.at("13:00")
    for status in (S.NO_SHOW, S.CHECKED_IN, S.FULFILLED):
        it.peer.orders[it.order_no] = status
        await it.look()
        assert await it.state() == status.value
    assert (await told(store))[-3:] == ["no_show", "checked_in", "fulfilled"]


@pytest.mark.parametrize(
    ("time", "days", "questions"),
    [
        ("06:59:59", 0, 0),  # the slot begins at 08:00: people come an hour before
        ("07:00", 0, 1),
        ("23:59", 0, 1),
        ("00:00", 1, 1),
        ("23:59", 2, 1),
        ("00:00", 3, 0),
        ("23:59", -1, 0),
    ],
)
async def test_visit_is_asked_about_when_it_has_begun_and_some_days_after(
    store: Store, wall: Wall, hospital: Hospital, time: str, days: int, questions: int
) -> None:
    it = await asked(store, wall, hospital)
    it.at(time, days=days)
    await it.look()
    assert it.questions() == questions


@ONE_STORE
async def test_earlier_days_are_asked_about_less_often_when_the_process_goes_on(
    store: Store, wall: Wall, hospital: Hospital
) -> None:
    it = await asked(store, wall, hospital)
    it.at("09:00", days=1)
    process = it.attendance()
    for _ in range(3):
        await process.look()
    assert it.questions() == 1


@ONE_STORE
async def test_nobody_is_asked_about_when_there_is_nothing_to_come_to(
    store: Store, wall: Wall, hospital: Hospital
) -> None:
    slot_id = await put_slot(store)
    await locked(store, hospital, slot_id, await put_patient(store, LI))
    cancelling = await booked(store, hospital, slot_id, await put_patient(store, WANG))
    await cancel(store, hospital, cancelling)
    it = Asked(store, wall, cancelling, "0")
    it.at("09:00")
    await it.look()
    assert it.questions() == 0


async def test_answer_is_dropped_when_the_booking_has_changed_while_it_was_asked(
    store: Store, wall: Wall, hospital: Hospital
) -> None:
    """The patient cancels while the question is under way, and the HIS does so before our answer is read."""
    it = await asked(store, wall, hospital)
    it.at("08:30")

    class Slow(Peer):
        async def fetch_registration(self, order: Order) -> Registration | None:
            await cancel(store, hospital, it.booking_id)
            return await super().fetch_registration(order)

    it.peer = Slow()
    it.peer.orders[it.order_no] = S.NO_SHOW
    await it.look()
    assert await it.state() == "cancelling"
    assert (await get(store, it.booking_id)).deferred_news is None


@ONE_STORE
async def test_booking_is_cancelled_and_due_back_when_the_his_says_that_it_was_released(
    store: Store, wall: Wall, hospital: Hospital
) -> None:
    it = await asked(store, wall, hospital)
    it.at("08:30")
    it.peer.orders[it.order_no] = S.RELEASED
    await it.look()
    seen = await get(store, it.booking_id)
    assert (seen.state, seen.his_state, seen.payment_state) == ("cancelled", "released", "refund_due")


@ONE_STORE
async def test_answer_of_another_order_changes_nothing_when_the_his_mixes_them_up(
    store: Store, wall: Wall, hospital: Hospital
) -> None:
    it = await asked(store, wall, hospital)
    it.at("08:30")

    class Confused(Peer):
        async def fetch_registration(self, order: Order) -> Registration | None:
            return Registration(status=S.NO_SHOW, order_no="20310304000000000099")

    it.peer = Confused()
    await it.look()
    assert await it.state() == "booked"


@ONE_STORE
@pytest.mark.parametrize(
    "error", [HisUnavailable("away"), HisRefused("no", code="several"), HisReplyInvalid("html"), RuntimeError("ours")]
)
async def test_next_visit_is_asked_about_when_a_question_fails(
    store: Store, wall: Wall, hospital: Hospital, error: HisError
) -> None:
    first = await asked(store, wall, hospital)
    other = await booked(store, hospital, await put_slot(store, slot_id="2", hour=9), await put_patient(store, LI))
    first.peer.orders[(await get(store, other)).order_no] = S.FULFILLED
    first.peer.read_errors[Verb.FETCH_REGISTRATION].append(error)
    first.at("10:00")
    await first.look()
    assert (await first.state(), (await get(store, other)).state) == ("booked", "fulfilled")


@ONE_STORE
async def test_round_ends_when_the_his_is_away(store: Store, wall: Wall, hospital: Hospital) -> None:
    it = await asked(store, wall, hospital)
    for number in range(2, 8):
        person = msgspec.structs.replace(ZHANG, id_type="passport", id_number=f"E{number}0000000")
        await booked(store, hospital, await put_slot(store, slot_id=str(number)), await put_patient(store, person))
    it.at("10:00")
    it.peer.read_errors[Verb.FETCH_REGISTRATION].extend([HisUnavailable("away")] * 10)
    await it.look()
    assert it.questions() == 3


@ONE_STORE
async def test_nothing_is_asked_around_an_opening(
    store: Store, wall: Wall, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendance, "LONGEST_PAUSE_S", 0.01)
    it = await asked(store, wall, hospital)
    release = msgspec.structs.replace(it.hospital.release, time="10:00", days_ahead=7)
    it.hospital = msgspec.structs.replace(it.hospital, release=release)
    looks = []

    class Watched(HospitalLink):
        def free_places(self, verb: Verb) -> int:
            looks.append(wall.now_ms)
            return super().free_places(verb)

    for time in ("09:55", "10:10"):
        it.at(time)
        link = Watched(it.hospital, {"peer": it.peer})
        looking = asyncio.create_task(Attendance(store, it.hospital, link, it.stopping).look())
        looks.clear()
        await until(lambda: _is(len(looks) >= 3))
        assert it.questions() == 0
        it.stopping.set()
        await looking
        it.stopping = asyncio.Event()
    for time, times in (("09:54:59", 1), ("10:10:01", 2)):
        it.at(time)
        await it.look()
        assert it.questions() == times


@ONE_STORE
async def test_nothing_is_asked_while_more_urgent_calls_have_every_place(
    store: Store, wall: Wall, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendance, "LONGEST_PAUSE_S", 0.01)
    it = await asked(store, wall, hospital)
    it.hospital = msgspec.structs.replace(it.hospital, his_concurrency=1)
    it.at("09:00")
    link = HospitalLink(it.hospital, {"peer": it.peer})
    gate = asyncio.Event()
    busy = asyncio.create_task(link.ask("peer", "fetch_changes", gate.wait))
    await until(lambda: _is(link.in_flight == 1))
    looking = asyncio.create_task(Attendance(store, it.hospital, link, it.stopping).look())
    for _ in range(5):
        await asyncio.sleep(0.01)
        assert it.questions() == 0
    gate.set()
    await busy
    await looking
    assert it.questions() == 1


async def _is(value: bool) -> bool:
    return value


@ONE_STORE
async def test_nobody_asks_when_the_hospital_is_paused_or_wants_no_questions(
    store: Store, wall: Wall, hospital: Hospital
) -> None:
    it = await asked(store, wall, hospital, ask_every_s=0)
    it.at("09:00")
    assert it.attendance().every_s == 0
    it.hospital = make_hospital(mode="paused")
    assert it.attendance().every_s == 900
    await it.look()
    it.peer = Peer(off=[Verb.FETCH_REGISTRATION])
    it.hospital = make_hospital()
    assert it.attendance().every_s == 0
    assert it.questions() == 0


@ONE_STORE
async def test_hospital_that_tells_its_changes_is_not_asked_one_by_one(
    store: Store, wall: Wall, hospital: Hospital
) -> None:
    class Telling(Peer):
        changes_every_s = 60.0
        tells_registrations = True

        async def fetch_changes(self) -> int:
            return 0

    it = await asked(store, wall, hospital)
    it.peer = Telling()
    assert it.attendance().every_s == 0
    it.peer.tells_registrations = False
    assert it.attendance().every_s == 900


# --- the hospital's own rule -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "time", "days", "state"),
    [
        ({}, "23:59", 2, "booked"),  # only the HIS's word counts where nothing is set
        ({"no_show_after_h": 24}, "23:59:59", 1, "booked"),
        ({"no_show_after_h": 24}, "00:00", 2, "no_show"),
        ({"no_show_after_h": 24, "ask_every_s": 0}, "23:59:59", 1, "booked"),
        ({"no_show_after_h": 24, "ask_every_s": 0}, "00:00", 2, "no_show"),
    ],
)
async def test_visit_is_missed_by_rule_when_its_hours_are_over_and_nobody_came(
    store: Store, wall: Wall, hospital: Hospital, rule: dict[str, Any], time: str, days: int, state: str
) -> None:
    it = await asked(store, wall, hospital, **rule)
    it.at(time, days=days)
    for _ in range(2):
        await it.look()
        assert await it.state() == state
    assert (await told(store)).count("no_show") == (state == "no_show")


@ONE_STORE
@pytest.mark.parametrize(("told_last", "state"), [(S.CHECKED_IN, "checked_in"), (S.FULFILLED, "fulfilled")])
async def test_visit_is_not_missed_by_rule_when_the_his_says_that_they_came(
    store: Store, wall: Wall, hospital: Hospital, told_last: RegistrationStatus, state: str
) -> None:
    it = await asked(store, wall, hospital, no_show_after_h=1)
    it.at("02:00", days=1)
    it.peer.orders[it.order_no] = told_last
    for _ in range(2):
        await it.look()
        assert await it.state() == state


@ONE_STORE
async def test_visit_is_not_missed_by_rule_while_the_his_gives_no_answer(
    store: Store, wall: Wall, hospital: Hospital
) -> None:
    it = await asked(store, wall, hospital, no_show_after_h=1)
    it.at("02:00", days=1)
    it.peer.read_errors[Verb.FETCH_REGISTRATION].extend([HisUnavailable("away")] * 2)
    await it.look()
    assert await it.state() == "booked"
    with contextlib.suppress(KeyError):
        del it.peer.orders[it.order_no]  # it knows of no such registration: that is no word on who came
    it.peer.read_errors.clear()
    await it.look()
    assert await it.state() == "booked"
