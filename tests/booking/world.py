"""A small hospital to book at: what tests put into the store, and the moves that they make there."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import select, update

from booking.api.holding import renderer
from booking.bookings import CommandResult, cancel_booking, note_sent, pay_booking, settle_command
from booking.catalog import schedule_key, slot_key
from booking.commands import OPEN
from booking.fetches import apply_slots, put_schedules
from booking.inventory.requests import HoldRequest, Terms
from booking.inventory.writer import HoldWriter
from booking.money import PaymentRow
from booking.moves import load_booking
from booking.people import add_patient
from booking.records import Booking
from booking.settings import Hospital, Mode, ReserveBy
from booking.store.engine import Store, Tx
from booking.store.tables import outbox, refunds, slots
from mappings.canonical import HisRefs, Patient, Payment, Registration, Schedule, ScheduleStatus, Session, Slot
from tests.stores import BEGIN_MS

HOSPITAL = "h1"
CLIENT = "portal"
ZONE = ZoneInfo("Asia/Shanghai")
DAY = dt.date(2031, 3, 4)
FEE_FEN = 1500
ZHANG = Patient(
    name="张伟", id_type="id_card", id_number="110101199003070038", phone="13800001111", address="幸福路一号"
)
LI = Patient(name="李娜", id_type="id_card", id_number="110101198507150029", phone="13900002222")
WANG = Patient(name="王芳", id_type="id_card", id_number="110101197001010040", phone="13700003333")
_trades = itertools.count(1)
_keys = itertools.count(1)


def make_hospital(**changes: Any) -> Hospital:
    """A live hospital that locks, with short pauses."""
    known = Hospital(
        id=HOSPITAL,
        name="一院",
        mode=Mode.LIVE,
        reserve_by=ReserveBy.LOCK,
        pay_window_s=900,
        lock_wait_s=60,
        his_settle_s=30,
        his_concurrency=4,
        his_queue_deadline_s=5,
    )
    return msgspec.structs.replace(known, **changes)


def make_schedule(schedule_id: str = "S1", **changes: Any) -> Schedule:
    """An open schedule on `DAY`, in the morning."""
    known = Schedule(
        id=schedule_id,
        date=DAY,
        session=Session.AM,
        department_id="D1",
        department_name="内科",
        practitioner_id="P1",
        practitioner_name="王医生",
        fee_fen=FEE_FEN,
        status=ScheduleStatus.OPEN,
    )
    return msgspec.structs.replace(known, **changes)


def make_slot(seats: int, *, schedule_id: str = "S1", slot_id: str = "1", hour: int = 8, **changes: Any) -> Slot:
    """Half an hour of a schedule."""
    starts_at = dt.datetime.combine(DAY, dt.time(hour), ZONE)
    known = Slot(
        id=slot_id,
        schedule_id=schedule_id,
        date=DAY,
        session=Session.AM,
        starts_at=starts_at,
        ends_at=starts_at + dt.timedelta(minutes=30),
        seats_left=seats,
    )
    return msgspec.structs.replace(known, **changes)


def schedule_id_of(schedule: Schedule) -> str:
    return schedule_key(HOSPITAL, schedule.id, schedule.date, schedule.session)


async def put_slot(store: Store, seats: int = 5, *, schedule: Schedule | None = None, **slot: Any) -> str:
    """Store a schedule with one slot as a first fetch would; returns our id of the slot."""
    of = schedule or make_schedule()
    record = make_slot(seats, schedule_id=of.id, **slot)
    async with store.write(HOSPITAL) as tx:
        await put_schedules(tx, [of])
        await fetch(tx, record)
    return slot_key(HOSPITAL, record)


async def fetch(
    tx: Tx, *records: Slot, started_ms: int | None = None, ended_ms: int | None = None, his_cache_ms: int = 0
) -> int:
    """Apply a fetch that began and ended at these instants, by default now; how many slots show its figures."""
    started = tx.now_ms if started_ms is None else started_ms
    await apply_slots(
        tx,
        list(records),
        started_ms=started,
        ended_ms=started if ended_ms is None else ended_ms,
        his_cache_ms=his_cache_ms,
    )
    shown = await tx.all(
        select(slots.c.id).where(
            slots.c.hospital_id == tx.hospital_id,
            slots.c.id.in_([slot_key(tx.hospital_id, record) for record in records]),
            slots.c.fetch_started_ms == started,
        )
    )
    return len(shown)


async def put_patient(
    store: Store, record: Patient = ZHANG, *, client: str = CLIENT, user: str = "u1", asks_his: bool = False
) -> str:
    """A patient of a client, linked unless the HIS is to be asked."""
    async with store.write(HOSPITAL) as tx:
        patient_id, _ = await add_patient(tx, client_id=client, user_ref=user, record=record, links_by_command=asks_his)
    return patient_id


def request(
    slot_id: str, patient_id: str, *, client: str = CLIENT, fee_fen: int | None = None, key: str = "", digest: str = "d"
) -> HoldRequest:
    """A request for a seat, under a key of its own unless one is given."""
    return HoldRequest(
        client_id=client,
        user_ref="u1",
        slot_id=slot_id,
        patient_id=patient_id,
        key=key or f"key-{next(_keys)}",
        digest=digest,
        fee_fen=fee_fen,
    )


@asynccontextmanager
async def hold_writer(store: Store, **options: Any) -> AsyncIterator[HoldWriter]:
    """A running writer of holds for hospitals that offer everything."""

    def terms(hospital: Hospital, now_ms: int) -> Terms:
        return Terms(mode=hospital.mode.value, offered=True, rules=hospital.rules, zone=hospital.zone)

    writer = HoldWriter(store, **{"terms": terms, "render": renderer, **options})
    await writer.start()
    try:
        yield writer
    finally:
        await writer.close()


async def hold(
    store: Store, hospital: Hospital, slot_id: str, patient_id: str, *, client: str = CLIENT, fee_fen: int | None = None
) -> Booking:
    """Hold a seat. Raises Refusal."""
    async with hold_writer(store) as writer:
        answer = await writer.hold(hospital, request(slot_id, patient_id, client=client, fee_fen=fee_fen))
    return await get(store, msgspec.json.decode(answer.body)["id"])


async def get(store: Store, booking_id: str) -> Booking:
    """The booking as stored."""
    async with store.read(HOSPITAL) as tx:
        found = await load_booking(tx, booking_id)
    assert found is not None
    return found


async def send(store: Store, booking_id: str) -> None:
    """The open command of a booking leaves, as the outbox would note it."""
    async with store.write(HOSPITAL) as tx:
        booking = await load_booking(tx, booking_id)
        assert booking is not None
        await _mark(tx, booking, "sent")
        await note_sent(tx, [booking.id])


async def answer(
    store: Store,
    hospital: Hospital,
    booking_id: str,
    code: str | None = None,
    *,
    his_refs: HisRefs | None = None,
    registration: Registration | None = None,
) -> Booking:
    """The HIS accepts the open command of a booking, or refuses it with `code`. Returns the booking as it is then."""
    async with store.write(HOSPITAL) as tx:
        booking = await load_booking(tx, booking_id)
        assert booking is not None
        await _mark(tx, booking, "done")
        result = CommandResult(accepted=code is None, code=code, his_refs=his_refs or {}, registration=registration)
        await settle_command(tx, hospital, booking, result)
    return await get(store, booking_id)


async def _mark(tx: Tx, booking: Booking, status: str) -> None:
    await tx.run(
        update(outbox)
        .where(outbox.c.hospital_id == HOSPITAL, outbox.c.line == booking.line, outbox.c.status.in_(OPEN))
        .values(status=status)
    )


async def send_and_answer(store: Store, hospital: Hospital, booking_id: str, code: str | None = None) -> Booking:
    """One round trip to the HIS."""
    await send(store, booking_id)
    return await answer(store, hospital, booking_id, code)


def make_payment(amount_fen: int = FEE_FEN, *, trade_no: str | None = None, channel: str = "wechat") -> Payment:
    paid_at = dt.datetime.fromtimestamp(BEGIN_MS / 1000, dt.UTC)
    return Payment(channel=channel, trade_no=trade_no or f"T{next(_trades)}", amount_fen=amount_fen, paid_at=paid_at)


async def pay(store: Store, hospital: Hospital, booking_id: str, payment: Payment | None = None) -> PaymentRow:
    """Report money for a booking. Raises Refusal."""
    async with store.write(HOSPITAL) as tx:
        booking = await load_booking(tx, booking_id)
        assert booking is not None
        return await pay_booking(tx, hospital, booking, payment or make_payment())


async def cancel(store: Store, hospital: Hospital, booking_id: str, reason: str = "patient") -> Booking:
    """Ask for the cancellation. Raises Refusal."""
    async with store.write(HOSPITAL) as tx:
        booking = await load_booking(tx, booking_id)
        assert booking is not None
        await cancel_booking(tx, hospital, booking, reason)
    return await get(store, booking_id)


async def locked(store: Store, hospital: Hospital, slot_id: str, patient_id: str) -> str:
    """A booking whose lock the HIS has accepted; its id."""
    booking = await hold(store, hospital, slot_id, patient_id)
    await send_and_answer(store, hospital, booking.id)
    return booking.id


async def booked(store: Store, hospital: Hospital, slot_id: str, patient_id: str) -> str:
    """A paid and registered booking; its id."""
    booking_id = await locked(store, hospital, slot_id, patient_id)
    await pay(store, hospital, booking_id)
    await send_and_answer(store, hospital, booking_id)
    return booking_id


async def figures(store: Store, slot_id: str) -> tuple[int, int]:
    """(his_left, unreflected) of a slot."""
    async with store.read(HOSPITAL) as tx:
        row = await tx.first(
            select(slots.c.his_left, slots.c.unreflected).where(slots.c.hospital_id == HOSPITAL, slots.c.id == slot_id)
        )
    assert row is not None
    return row["his_left"], row["unreflected"]


async def remaining(store: Store, slot_id: str) -> int:
    """What may be sold."""
    his_left, unreflected = await figures(store, slot_id)
    return max(0, his_left - unreflected)


async def owed(store: Store, booking_id: str) -> list[tuple[str, int, str]]:
    """(status, amount, reason) of every refund of a booking."""
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(
            select(refunds).where(refunds.c.hospital_id == HOSPITAL, refunds.c.booking_id == booking_id)
        )
    return sorted((r["status"], r["amount_fen"], r["reason"]) for r in rows)


async def commands(store: Store, line: str) -> list[tuple[str, str]]:
    """(verb, status) of every command of a line, oldest first."""
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(
            select(outbox.c.verb, outbox.c.status)
            .where(outbox.c.hospital_id == HOSPITAL, outbox.c.line == line)
            .order_by(outbox.c.id)
        )
    return [(r["verb"], r["status"]) for r in rows]
