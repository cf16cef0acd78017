"""Holding a seat: every refusal, what a hold leaves behind, and idempotency."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest

from booking import idempotency
from booking.errors import Refusal
from booking.inventory.decide import decide
from booking.inventory.requests import (
    Decision,
    Facts,
    Granted,
    HoldRequest,
    LiveFacts,
    PatientFacts,
    Refused,
    ScheduleFacts,
    SlotFacts,
    Terms,
)
from booking.people import load_person, reject_person
from booking.settings import Hospital, Mode
from booking.store.engine import Store
from mappings.canonical import ScheduleStatus
from tests.booking.world import (
    CLIENT,
    DAY,
    FEE_FEN,
    HOSPITAL,
    LI,
    ZHANG,
    ZONE,
    cancel,
    commands,
    figures,
    get,
    hold,
    make_hospital,
    make_schedule,
    put_patient,
    put_slot,
    request,
)
from tests.stores import BEGIN_MS, Wall

# --- the decision, as a table ------------------------------------------------------------------------------------------

ASKED = request("sl1", "p1", fee_fen=1500, key="k1")
OPEN = Terms(mode="live", offered=True)


def facts_of(**changes: Any) -> Facts:
    """A batch's facts in which nothing speaks against `ASKED`; `changes` are fields of the slot, its schedule or its patient."""
    schedule: dict[str, Any] = {
        "id": "sc1",
        "date": "2031-03-04",
        "department_id": "D1",
        "opens_at_ms": None,
        "stopped": False,
    }
    schedule |= {"fee_fen": 1500, "quota": None, "taken": 0}
    schedule |= {name.removeprefix("schedule_"): v for name, v in changes.items() if name.startswith("schedule_")}
    slot: dict[str, Any] = {"id": "sl1", "starts_at_ms": 2_000, "stopped": False, "his_left": 3, "unreflected": 1}
    slot |= {name: value for name, value in changes.items() if name in slot}
    patient = PatientFacts("ps1", changes.get("his_state", "linked"), changes.get("reject_code"))
    live = {("ps1", "sc1"): LiveFacts("b1", changes["live_client"])} if "live_client" in changes else {}
    return Facts(
        now_ms=1_000,
        seq=7,
        slots={} if changes.get("no_slot") else {"sl1": SlotFacts(schedule=ScheduleFacts(**schedule), **slot)},
        patients={} if changes.get("no_patient") else {(CLIENT, "p1"): patient},
        keys={},
        live=live,
    )


def decide_one(facts: Facts, asked: HoldRequest = ASKED, terms: Terms = OPEN) -> Decision:
    return decide([asked], ["b9"], facts, terms)[0]


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    # code, changes of the facts, of the terms, of the request
    ("hospital_observe_only", {}, {"mode": "observe"}, {}),
    ("not_offered_by_hospital", {}, {"offered": False}, {}),
    ("slot_unknown", {"no_slot": True}, {}, {}),
    ("patient_unknown", {"no_patient": True}, {}, {}),
    ("patient_rejected", {"his_state": "rejected", "reject_code": "patient_mismatch"}, {}, {}),
    ("schedule_stopped", {"stopped": True}, {}, {}),
    ("slot_in_past", {"starts_at_ms": 1_000}, {}, {}),
    ("slot_not_released", {"schedule_opens_at_ms": 1_001}, {}, {}),
    ("hospital_closed", {}, {"closed_until_ms": 5_000}, {}),
    ("duplicate_booking", {"live_client": CLIENT}, {}, {}),
    ("price_changed", {}, {}, {"fee_fen": 1400}),
    ("slot_sold_out", {"his_left": 1}, {}, {}),
]
ONLY_ONE: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("hospital_paused", {}, {"mode": "paused"}, {}),
    ("schedule_stopped", {"schedule_stopped": True}, {}, {}),
    ("fee_unknown", {"schedule_fee_fen": None}, {}, {}),
    ("slot_sold_out", {"his_left": 1, "unreflected": 5}, {}, {}),
    ("slot_sold_out", {"schedule_quota": 4, "schedule_taken": 4}, {}, {}),
]


def test_hold_is_granted_when_nothing_speaks_against_it() -> None:
    facts = facts_of()
    granted = decide_one(facts)
    assert isinstance(granted, Granted)
    assert (granted.fee_fen, granted.patient.person_id) == (1500, "ps1")
    assert (facts.slots["sl1"].his_left, facts.slots["sl1"].unreflected, facts.slots["sl1"].schedule.taken) == (3, 2, 1)


def test_hold_is_granted_when_it_comes_at_the_very_opening_for_the_last_seat() -> None:
    assert isinstance(decide_one(facts_of(schedule_opens_at_ms=1_000, his_left=2, schedule_quota=1)), Granted)


@pytest.mark.parametrize(("code", "facts", "terms", "asked"), REFUSED + ONLY_ONE)
def test_hold_is_refused_when_one_rule_says_no(
    code: str, facts: dict[str, Any], terms: dict[str, Any], asked: dict[str, Any]
) -> None:
    changed = msgspec.structs.replace
    decision = decide_one(facts_of(**facts), changed(ASKED, **asked), changed(OPEN, **terms))
    assert isinstance(decision, Refused)
    assert decision.code == code


@pytest.mark.parametrize("first", range(len(REFUSED)))
def test_earlier_rule_speaks_when_several_say_no(first: int) -> None:
    """Who may not book at all is not told that seats are left; each of the table's rules hides those after it."""
    together: list[dict[str, Any]] = [{}, {}, {}]
    for _, *changes in reversed(REFUSED[first:]):
        together = [{**known, **more} for known, more in zip(together, changes, strict=True)]
    changed = msgspec.structs.replace
    decision = decide_one(facts_of(**together[0]), changed(ASKED, **together[2]), changed(OPEN, **together[1]))
    assert isinstance(decision, Refused)
    assert decision.code == REFUSED[first][0]


# --- on the store ------------------------------------------------------------------------------------------------------


async def test_hold_leaves_a_booking_and_its_lock_behind_when_it_is_granted(store: Store, hospital: Hospital) -> None:
    slot_id, patient_id = await put_slot(store, 3), await put_patient(store)
    booking = await hold(store, hospital, slot_id, patient_id, fee_fen=FEE_FEN)
    stored = await get(store, booking.id)
    assert stored == booking
    assert (stored.state, stored.his_state, stored.his_command, stored.his_command_status) == (
        "held", "none", "lock", "queued",
    )  # fmt: skip
    assert (stored.payment_state, stored.fee_fen, stored.expires_at_ms) == ("due", FEE_FEN, BEGIN_MS + 60_000)
    assert len(stored.order_no) == 20
    assert stored.order_no.isdigit()
    assert await commands(store, stored.line) == [("lock_slot", "queued")]
    assert await figures(store, slot_id) == (3, 1)


async def test_unpaid_booking_is_queued_when_the_hospital_reserves_by_booking(store: Store) -> None:
    booking = await hold(store, make_hospital(reserve_by="book"), await put_slot(store), await put_patient(store))
    assert await commands(store, booking.line) == [("book", "queued")]


async def test_nothing_is_written_when_a_hold_is_refused(store: Store, hospital: Hospital) -> None:
    slot_id, patient_id = await put_slot(store, 0), await put_patient(store)
    with pytest.raises(Refusal, match="slot_sold_out"):
        await hold(store, hospital, slot_id, patient_id)
    assert await figures(store, slot_id) == (0, 0)


async def test_refusals_name_their_code_when_the_store_knows_why(store: Store, hospital: Hospital) -> None:
    slot_id, patient_id = await put_slot(store), await put_patient(store)

    async def code_of(slot: str = slot_id, patient: str = patient_id, of: Hospital = hospital, **kw: int) -> str:
        with pytest.raises(Refusal) as raised:
            await hold(store, of, slot, patient, fee_fen=kw.get("fee_fen"))
        return raised.value.code

    assert await code_of(slot="sl_none") == "slot_unknown"
    assert await code_of(patient="nobody") == "patient_unknown"
    assert await code_of(of=make_hospital(mode=Mode.PAUSED)) == "hospital_paused"
    assert await code_of(of=make_hospital(mode=Mode.OBSERVE)) == "hospital_observe_only"
    assert await code_of(fee_fen=FEE_FEN - 1) == "price_changed"
    stopped = await put_slot(store, schedule=make_schedule("S2", status=ScheduleStatus.STOPPED))
    assert await code_of(slot=stopped) == "schedule_stopped"
    segment = await put_slot(store, schedule=make_schedule("S3"), status=ScheduleStatus.STOPPED)
    assert await code_of(slot=segment) == "schedule_stopped"


async def test_other_clients_patient_is_unknown_when_somebody_guesses_its_id(store: Store, hospital: Hospital) -> None:
    slot_id, patient_id = await put_slot(store), await put_patient(store)
    with pytest.raises(Refusal, match="patient_unknown"):
        await hold(store, hospital, slot_id, patient_id, client="another")


async def test_slot_opens_by_the_clock_alone_when_its_hour_comes(store: Store, hospital: Hospital, wall: Wall) -> None:
    opens = dt.datetime(2031, 3, 3, 7, tzinfo=ZONE)
    slot_id = await put_slot(store, schedule=make_schedule(opens_at=opens))
    patient_id = await put_patient(store)
    wall.turn(3_599.999)
    with pytest.raises(Refusal, match="slot_not_released") as raised:
        await hold(store, hospital, slot_id, patient_id)
    assert raised.value.extra == {"opens_at": opens, "allowed_at": opens}
    wall.turn(0.001)
    assert (await hold(store, hospital, slot_id, patient_id)).state == "held"


async def test_opened_slot_stays_open_when_the_wall_clock_is_turned_back(
    store: Store, hospital: Hospital, wall: Wall
) -> None:
    opens = dt.datetime(2031, 3, 3, 7, tzinfo=ZONE)
    slot_id = await put_slot(store, schedule=make_schedule(opens_at=opens))
    zhang, li = await put_patient(store, ZHANG), await put_patient(store, LI)
    wall.turn(3_600)
    await hold(store, hospital, slot_id, zhang)
    wall.turn(-60)
    assert (await hold(store, hospital, slot_id, li)).state == "held"


async def test_slot_is_past_when_it_has_begun(store: Store, hospital: Hospital, wall: Wall) -> None:
    slot_id, patient_id = await put_slot(store, hour=8), await put_patient(store)
    starts = dt.datetime.combine(DAY, dt.time(8), ZONE)
    wall.now_ms = round(starts.timestamp() * 1000)
    with pytest.raises(Refusal, match="slot_in_past"):
        await hold(store, hospital, slot_id, patient_id)


async def test_second_booking_is_a_duplicate_when_the_first_is_live(store: Store, hospital: Hospital) -> None:
    patient_id = await put_patient(store)
    first, second = await put_slot(store, slot_id="1"), await put_slot(store, slot_id="2", hour=9)
    held = await hold(store, hospital, first, patient_id)
    with pytest.raises(Refusal, match="duplicate_booking"):
        await hold(store, hospital, second, patient_id)
    other = await put_slot(store, schedule=make_schedule("S2"))
    assert (await hold(store, hospital, other, patient_id)).state == "held"
    await cancel(store, hospital, held.id)
    assert (await hold(store, hospital, second, patient_id)).state == "held"


async def test_second_booking_is_a_duplicate_when_another_client_made_the_first(
    store: Store, hospital: Hospital
) -> None:
    slot_id = await put_slot(store)
    mine = await put_patient(store, client=CLIENT)
    theirs = await put_patient(store, client="another")
    assert mine != theirs
    await hold(store, hospital, slot_id, mine)
    with pytest.raises(Refusal, match="duplicate_booking"):
        await hold(store, hospital, slot_id, theirs, client="another")


async def test_lock_waits_for_the_person_when_the_his_does_not_know_them_yet(store: Store, hospital: Hospital) -> None:
    patient_id = await put_patient(store, asks_his=True)
    booking = await hold(store, hospital, await put_slot(store), patient_id)
    async with store.read(HOSPITAL) as tx:
        person = await load_person(tx, booking.person_id)
    assert person is not None
    assert await commands(store, person.line) == [("create_patient", "queued")]
    assert await commands(store, booking.line) == [("lock_slot", "queued")]


async def test_hold_is_refused_when_the_his_has_refused_the_patient(store: Store, hospital: Hospital) -> None:
    slot_id, patient_id = await put_slot(store), await put_patient(store, asks_his=True)
    booking = await hold(store, hospital, slot_id, patient_id)
    await cancel(store, hospital, booking.id)
    async with store.write(HOSPITAL) as tx:
        person = await load_person(tx, booking.person_id)
        assert person is not None
        await reject_person(tx, person, "patient_ambiguous")
    with pytest.raises(Refusal, match="patient_rejected"):
        await hold(store, hospital, slot_id, patient_id)


# --- idempotency -------------------------------------------------------------------------------------------------------

DIGEST = idempotency.body_digest("/v1/hospitals/h1/bookings", b'{"slot_id": "1"}')


async def test_same_bytes_come_again_when_key_and_body_are_the_same(store: Store, wall: Wall) -> None:
    body = '{"id": "b1", "name": "张*"}'.encode()
    async with store.write(HOSPITAL) as tx:
        assert await idempotency.recall(tx, CLIENT, "k1", DIGEST) is None
        await idempotency.remember(tx, CLIENT, "k1", DIGEST, 201, body)
    wall.turn(23 * 3600)
    async with store.write(HOSPITAL) as tx:
        assert await idempotency.recall(tx, CLIENT, "k1", DIGEST) == (201, body)
        assert await idempotency.recall(tx, "another", "k1", DIGEST) is None


async def test_key_is_refused_when_it_comes_with_another_body_or_route(store: Store) -> None:
    others = [
        idempotency.body_digest("/v1/hospitals/h1/bookings", b'{"slot_id": "2"}'),
        idempotency.body_digest("/v1/hospitals/h1/patients", b'{"slot_id": "1"}'),
    ]
    async with store.write(HOSPITAL) as tx:
        await idempotency.remember(tx, CLIENT, "k1", DIGEST, 201, b"{}")
        for digest in others:
            with pytest.raises(Refusal, match="idempotency_key_reused"):
                await idempotency.recall(tx, CLIENT, "k1", digest)


async def test_key_stays_free_when_its_request_was_refused(store: Store, hospital: Hospital) -> None:
    slot_id, patient_id = await put_slot(store, 0), await put_patient(store)

    async def once() -> None:
        async with store.write(HOSPITAL) as tx:
            await idempotency.remember(tx, CLIENT, "k1", DIGEST, 201, b"{}")
            raise Refusal("slot_sold_out")

    with pytest.raises(Refusal):
        await hold(store, hospital, slot_id, patient_id)
    with pytest.raises(Refusal):
        await once()
    async with store.write(HOSPITAL) as tx:
        assert await idempotency.recall(tx, CLIENT, "k1", DIGEST) is None


async def test_key_is_new_again_when_a_day_has_passed(store: Store, wall: Wall) -> None:
    async with store.write(HOSPITAL) as tx:
        await idempotency.remember(tx, CLIENT, "old", DIGEST, 201, b"{}")
    wall.turn(24 * 3600)
    async with store.write(HOSPITAL) as tx:
        await idempotency.remember(tx, CLIENT, "new", DIGEST, 201, b"{}")
        assert await idempotency.recall(tx, CLIENT, "old", DIGEST) is None
    assert await idempotency.forget_keys(store, HOSPITAL) == 1
    async with store.write(HOSPITAL) as tx:
        assert await idempotency.recall(tx, CLIENT, "new", DIGEST) == (201, b"{}")
