"""Holding a seat: every refusal, what a hold leaves behind, and idempotency."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from booking import idempotency
from booking.errors import Refusal
from booking.inventory import HoldFacts, decide_hold
from booking.people import load_person, reject_person
from booking.seats import Seats
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
)
from tests.stores import BEGIN_MS, Wall

# --- the decision, as a table ------------------------------------------------------------------------------------------

GOOD = HoldFacts(now_ms=1_000, mode="live", starts_at_ms=2_000, fee_fen=1500, seats=Seats(3, 1))
REFUSED: list[tuple[str, dict[str, object]]] = [
    ("hospital_observe_only", {"mode": "observe"}),
    ("hospital_paused", {"mode": "paused"}),
    ("not_offered_by_hospital", {"offered": False}),
    ("slot_unknown", {"slot_known": False}),
    ("patient_unknown", {"patient_known": False}),
    ("patient_rejected", {"patient_rejected": "patient_mismatch"}),
    ("schedule_stopped", {"stopped": True}),
    ("slot_in_past", {"starts_at_ms": 1_000}),
    ("slot_not_released", {"opens_at_ms": 1_001}),
    ("duplicate_booking", {"live_booking_id": "b1"}),
    ("price_changed", {"shown_fee_fen": 1400}),
    ("slot_sold_out", {"seats": Seats(3, 3)}),
]


def test_hold_is_granted_when_nothing_speaks_against_it() -> None:
    assert decide_hold(GOOD) == Seats(3, 2)
    at_the_bell = msgspec.structs.replace(GOOD, opens_at_ms=1_000, shown_fee_fen=1500, seats=Seats(1, 0))
    assert decide_hold(at_the_bell) == Seats(1, 1)


@pytest.mark.parametrize(("code", "changes"), REFUSED, ids=[r[0] for r in REFUSED])
def test_hold_is_refused_when_one_rule_says_no(code: str, changes: dict[str, object]) -> None:
    assert decide_hold(msgspec.structs.replace(GOOD, **changes)) == code


@pytest.mark.parametrize("first", range(len(REFUSED)))
def test_earlier_rule_speaks_when_several_say_no(first: int) -> None:
    """Who may not book at all is not told that seats are left; each of the table's rules hides those after it."""
    code, changes = REFUSED[first]
    together: dict[str, object] = {}
    for _, more in reversed(REFUSED[first:]):
        together |= more
    assert decide_hold(msgspec.structs.replace(GOOD, **{**together, **changes})) == code


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
    assert raised.value.extra == {"opens_at": opens}
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
