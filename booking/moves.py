"""Moving a booking: the transition table's verdict, its side effects, the new row and the news, in one transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from booking import seats
from booking.clinics import pay_window_ms_of
from booking.commands import RANKS, drop_queued, hurry, queue_command, wake_topic
from booking.gathering import count_taken, kept, load_seats, purse, save_seats, write_booking
from booking.gathering import load_booking as load_booking
from booking.late_settlement import tell_what_went_back
from booking.lifecycle import (
    LIVE_STATES,
    Axes,
    Command,
    CommandStatus,
    Effect,
    Event,
    HisState,
    Move,
    State,
    move,
    must_not_be,
    occupies,
)
from booking.milestones import SEAT_GONE, count_end
from booking.money import owe_refund, payment_sum, set_settlement
from booking.openings import lock_verb
from booking.records import Booking
from booking.returned_seats import hold_back, take_back
from booking.settings import Hospital, ReserveBy
from booking.store.engine import Tx
from booking.store.ids import new_order_no
from monitoring import metrics

# A payment this close to the end of the HIS's own lock would be registered too late.
LOCK_MARGIN_MS = 5_000


class RuleBroken(Exception):
    """A move would lead to a combination that must never exist; nothing was changed."""


def topic(booking_id: str) -> str:
    """What those listen to who wait for a booking to change."""
    return f"booking:{booking_id}"


def fetch_topic(hospital_id: str) -> str:
    """Rung when only a new fetch can show a seat."""
    return f"fetch:{hospital_id}"


async def save_booking(tx: Tx, booking: Booking, *, tell: bool = True) -> None:
    """Write a booking back under a new version, derive what is derived, tell and wake. Raises RuleBroken.

    `tell` False is for what only we care about, such as how far a command has got: no new version, nobody is woken.
    """
    booking.payment_state = payment_sum(booking, *await purse(tx, booking))
    broken = must_not_be(booking.axes, booking.payment_state)
    if broken:
        raise RuleBroken(f"booking {booking.id}: {', '.join(broken)}")
    if booking.registration is not None and booking.registration.his_id is not None:
        booking.his_id = booking.registration.his_id
    booking.live = booking.state in LIVE_STATES
    occupied, booking.occupies = booking.occupies, occupies(booking.axes)
    if occupied != booking.occupies:
        await count_taken(tx, booking.schedule_id, booking.occupies - occupied)
    if not booking.live and not booking.occupies:
        booking.needs_attention = False  # it is over, and nothing of it is left at the HIS: there is nothing to settle
    if tell:
        booking.version += 1
    booking.updated_ms = tx.now_ms
    await write_booking(tx, booking, tell=tell)
    if tell:
        tx.ring(topic(booking.id))


async def apply(tx: Tx, hospital: Hospital, booking: Booking, event: Event, *, reason: str | None = None) -> None:
    """Move a booking and do everything that belongs to it. Raises IllegalMove: nothing was changed."""
    step = move(event, booking.axes)
    before = booking.axes
    if reason is not None:
        booking.reason = reason
    if step.to.state in (State.HELD, State.BOOKED):
        booking.cancelled_ms = None  # the hospital has refused the cancellation
    await _take(tx, hospital, booking, step)
    if hospital.reserve_by == ReserveBy.QUOTA:
        # The seats are ours, and the HIS has not heard of this one: nobody needs to be asked to give it, or to take it back.
        for asked, granted in ((Effect.QUEUE_UNLOCK, Event.RELEASE_ACCEPTED), (Effect.QUEUE_LOCK, Event.LOCK_ACCEPTED)):
            if asked in step.effects:
                await _take(tx, hospital, booking, move(granted, booking.axes))
    if before.state != booking.state or booking.state == State.HELD:
        booking.expires_at_ms = _expires_at(booking)
    if before.state != booking.state:
        tx.count(metrics.bookings.labels(hospital=tx.hospital_id, state=booking.state.value).inc)
        count_end(tx, before, booking)
    await save_booking(tx, booking)


async def _take(tx: Tx, hospital: Hospital, booking: Booking, step: Move) -> None:
    booking.axes = step.to
    for effect in step.effects:
        await _EFFECTS[effect](tx, hospital, booking)


def is_lock_over(hospital: Hospital, booking: Booking, now_ms: int) -> bool:
    """Whether the HIS has freed, or is about to free, by itself what it had locked for us."""
    if booking.his_state != HisState.LOCKED:
        return False
    told = booking.registration.lock_expires_at if booking.registration is not None else None
    if told is not None and now_ms >= int(told.timestamp() * 1000) - LOCK_MARGIN_MS:
        return True
    if not hospital.his_lock_s or booking.lock_sent_ms is None:
        return False
    return now_ms >= booking.lock_sent_ms + int(hospital.his_lock_s * 1000) - LOCK_MARGIN_MS


async def note_command(tx: Tx, booking: Booking, status: CommandStatus) -> None:
    """Mirror the outbox row's status on the booking: queued, sent or unknown."""
    if booking.his_command == Command.NONE or booking.his_command_status == status:
        return
    booking.his_command_status = status
    await save_booking(tx, booking, tell=False)


def _expires_at(booking: Booking) -> int | None:
    if booking.state != State.HELD:
        return None
    return booking.pay_by_ms if booking.his_state == HisState.LOCKED else booking.lock_by_ms


# --- effects ------------------------------------------------------------------------------------------------------


async def _start_pay_window(tx: Tx, hospital: Hospital, booking: Booking) -> None:
    """pay_by = min(lock accepted + pay window, lock sent + the HIS's lock time - margin) (DESIGN section 4)."""
    ends = [tx.now_ms + await pay_window_ms_of(tx, hospital, booking.slot_id)]
    if hospital.his_lock_s and booking.lock_sent_ms is not None:
        ends.append(booking.lock_sent_ms + int(hospital.his_lock_s * 1000) - LOCK_MARGIN_MS)
    told = booking.registration.lock_expires_at if booking.registration is not None else None
    if told is not None:
        ends.append(int(told.timestamp() * 1000) - LOCK_MARGIN_MS)
    booking.pay_by_ms = min(ends)


async def _register_if_paid(tx: Tx, hospital: Hospital, booking: Booking) -> None:
    if booking.fee_fen == 0 or booking.payment_state == "paid":
        await _queue_register(tx, hospital, booking)


async def _take_seat(tx: Tx, hospital: Hospital, booking: Booking) -> None:
    was = await load_seats(tx, booking.slot_id)
    figures = seats.hold(was.figures)
    if figures is None:
        raise RuleBroken(f"booking {booking.id}: there is no seat to take")
    await save_seats(tx, booking.slot_id, was, figures)
    await take_back(tx, booking)
    booking.charged = True
    # A HIS takes a key once: it may have locked and released the old one.
    booking.order_no = new_order_no(tx.now_ms)
    booking.his_refs, booking.registration, booking.his_id = {}, None, None
    booking.lock_sent_ms = booking.lock_reply_ms = booking.unlock_sent_ms = booking.pay_by_ms = None
    booking.lock_by_ms = tx.now_ms + int(hospital.lock_wait_s * 1000)


async def _queue_lock(tx: Tx, hospital: Hospital, booking: Booking) -> None:
    if hospital.reserve_by != ReserveBy.QUOTA:
        person_line = f"person:{booking.person_id}"
        await _queue(tx, booking, Command.LOCK, lock_verb(hospital), waits_for=person_line)


async def _queue_register(tx: Tx, hospital: Hospital, booking: Booking) -> None:
    person_line = None
    if hospital.reserve_by == ReserveBy.QUOTA:
        # No lock has waited for the person's record at the HIS: the registration must.
        person_line = f"person:{booking.person_id}"
        await hurry(tx, person_line, RANKS["register"])
    await _queue(tx, booking, Command.REGISTER, "register", waits_for=person_line)


async def _queue_unlock(tx: Tx, hospital: Hospital, booking: Booking) -> None:
    if hospital.reserve_by != ReserveBy.QUOTA:
        verb = "unlock_slot" if hospital.reserve_by == ReserveBy.LOCK else "cancel_registration"
        await _queue(tx, booking, Command.UNLOCK, verb)


async def _queue_cancel(tx: Tx, hospital: Hospital, booking: Booking) -> None:
    await _queue(tx, booking, Command.CANCEL, "cancel_registration")


async def _queue(tx: Tx, booking: Booking, command: Command, verb: str, *, waits_for: str | None = None) -> None:
    booking.axes = Axes(booking.state, booking.his_state, command, CommandStatus.QUEUED)
    if command in (Command.UNLOCK, Command.CANCEL):
        booking.unlock_sent_ms = None
    await queue_command(tx, line=booking.line, verb=verb, subject_id=booking.id, waits_for=waits_for)
    tx.ring(wake_topic(tx.hospital_id))


async def _drop_command(tx: Tx, hospital: Hospital, booking: Booking) -> None:
    await drop_queued(tx, booking.line)


async def _seat_unsent(tx: Tx, hospital: Hospital, booking: Booking) -> None:
    was = await load_seats(tx, booking.slot_id)
    await save_seats(tx, booking.slot_id, was, seats.give_back_unsent(was.figures, charged=booking.charged))
    booking.charged = False
    await hold_back(tx, hospital, booking)


async def _seat_refused(tx: Tx, hospital: Hospital, booking: Booking) -> None:
    was = await load_seats(tx, booking.slot_id)
    gone = (booking.reason or "") in SEAT_GONE and hospital.reserve_by != ReserveBy.QUOTA
    await save_seats(tx, booking.slot_id, was, seats.refused(was.figures, charged=booking.charged, seat_gone=gone))
    booking.charged = False
    if gone:
        tx.ring(fetch_topic(tx.hospital_id))


async def _seat_released(tx: Tx, hospital: Hospital, booking: Booking) -> None:
    was = await load_seats(tx, booking.slot_id)
    if hospital.reserve_by == ReserveBy.QUOTA:
        # Only our own bookings count against our quota; the HIS's figure says nothing about them.
        figures, ask = seats.give_back_unsent(was.figures, charged=booking.charged), False
    else:
        figures, ask = seats.released(
            was.figures,
            charged=booking.charged,
            unlock_sent_ms=booking.unlock_sent_ms,
            fetch_ended_ms=was.fetch_ended_ms,
        )
    await save_seats(tx, booking.slot_id, was, figures)
    booking.charged = False
    await hold_back(tx, hospital, booking)
    if ask:
        tx.ring(fetch_topic(tx.hospital_id))


async def _refund_if_paid(tx: Tx, hospital: Hospital, booking: Booking) -> None:
    payment = await kept(tx, booking)
    if payment is not None:
        await owe_refund(tx, payment, client_id=booking.client_id, reason=booking.reason or booking.state)


async def _settle(tx: Tx, hospital: Hospital, booking: Booking) -> None:
    payment = await kept(tx, booking)
    if payment is not None:
        await set_settlement(tx, payment, "settled")
        if payment.returned_fen:
            await tell_what_went_back(tx, payment)


async def _needs_attention(tx: Tx, hospital: Hospital, booking: Booking) -> None:
    booking.needs_attention = True


_EFFECTS: dict[Effect, Callable[[Tx, Hospital, Booking], Awaitable[None]]] = {
    Effect.START_PAY_WINDOW: _start_pay_window,
    Effect.REGISTER_IF_PAID: _register_if_paid,
    Effect.TAKE_SEAT: _take_seat,
    Effect.QUEUE_LOCK: _queue_lock,
    Effect.QUEUE_REGISTER: _queue_register,
    Effect.QUEUE_UNLOCK: _queue_unlock,
    Effect.QUEUE_CANCEL: _queue_cancel,
    Effect.DROP_COMMAND: _drop_command,
    Effect.SEAT_UNSENT: _seat_unsent,
    Effect.SEAT_REFUSED: _seat_refused,
    Effect.SEAT_RELEASED: _seat_released,
    Effect.REFUND_IF_PAID: _refund_if_paid,
    Effect.SETTLE: _settle,
    Effect.NEEDS_ATTENTION: _needs_attention,
}
