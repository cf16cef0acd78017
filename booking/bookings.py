"""What patients, portals, the clock and the HIS do to an existing booking."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, bindparam, case, func, literal_column, select, update

from booking.cancellations import refused_cancellation
from booking.commands import close_flying
from booking.errors import Refusal
from booking.gathering import gathered, kept, payments_named
from booking.late_money import can_be_taken_up
from booking.lifecycle import TABLE, Command, CommandStatus, Event, HisState, IllegalMove, State
from booking.milestones import count_lock, count_registration
from booking.money import PaymentRow, record_payment, set_settlement
from booking.moves import apply, is_lock_over, load_booking, save_booking
from booking.records import Booking, booking_from_row
from booking.reported import is_repeat
from booking.rescheduling.orders import hear_place, without_move
from booking.rescheduling.relocating import has_another
from booking.settings import Hospital
from booking.store.budget import Budget
from booking.store.engine import Tx
from booking.store.fixed import Fixed, is_one_of
from booking.store.tables import bookings, slots
from mappings.canonical import HisRefs, Payment, Registration, RegistrationStatus

MOST_IN_A_TURN = 50  # rows read at once by what goes on over many transactions


async def own_booking(tx: Tx, client_id: str, booking_id: str) -> Booking:
    """A booking of this API client. Raises Refusal(booking_unknown), also for another client's."""
    booking = await load_booking(tx, booking_id)
    if booking is None or booking.client_id != client_id:
        raise unknown_booking(booking_id)
    return booking


def unknown_booking(booking_id: str) -> Refusal:
    """For a booking that does not exist, or is another client's: nobody learns which."""
    return Refusal("booking_unknown", f"There is no booking {booking_id} of yours at this hospital.")


async def find_bookings(
    tx: Tx,
    client_id: str,
    *,
    patient_id: str | None = None,
    user_ref: str | None = None,
    state: str | None = None,
    after: str | None = None,
    limit: int = 200,
) -> list[Booking]:
    """Bookings of a client that fit every given value, newest first, older than the booking `after`."""
    # Joined to nothing, a column is out of the choice of an index: a client has as many bookings as you like, a patient few.
    few = patient_id is not None or user_ref is not None
    client: ColumnElement[str] = bookings.c.client_id.concat("") if few else bookings.c.client_id
    query = select(bookings).where(bookings.c.hospital_id == tx.hospital_id, client == client_id)
    for name, value in (("patient_id", patient_id), ("user_ref", user_ref), ("state", state)):
        if value is not None:
            query = query.where(bookings.c[name] == value)
    if after is not None:
        query = query.where(bookings.c.id < after)
    rows = await tx.all(query.order_by(bookings.c.id.desc()).limit(limit))
    return [booking_from_row(tx, r) for r in rows]


# --- the patient and the portal ------------------------------------------------------------------------------------


async def cancel_booking(tx: Tx, hospital: Hospital, booking: Booking, reason: str, *, by_patient: bool = True) -> None:
    """Begin to cancel. Asking twice is harmless. Raises Refusal(not_cancellable, cancel_too_late).

    What is not `by_patient` has no cutoff, and is no cancellation that the booking rules count.
    """
    if booking.state in (State.CANCELLING, State.CANCELLED):
        return
    if hospital.mode != "live":
        raise Refusal("hospital_paused" if hospital.mode == "paused" else "hospital_observe_only")
    if by_patient and (refused := await refused_cancellation(tx, hospital, booking)) is not None:
        raise Refusal(refused.code, refused.detail, **refused.extra)
    before = booking.cancelled_ms
    booking.cancelled_ms = tx.now_ms if by_patient else None
    try:
        await apply(tx, hospital, booking, Event.CANCEL_REQUESTED, reason=reason)
    except IllegalMove:
        booking.cancelled_ms = before
        raise Refusal("not_cancellable", f"A booking that is {booking.state} cannot be cancelled.") from None


def why_unusable(booking: Booking, payment: Payment, kept: PaymentRow | None, now_ms: int) -> str | None:
    """Why reported money cannot pay for this booking, None when it can. Pure."""
    if kept is not None:
        return "second_payment"
    if booking.fee_fen == 0:
        return "nothing_due"
    if payment.amount_fen != booking.fee_fen:
        return "wrong_amount"
    if (Event.MONEY_USABLE, booking.axes) not in TABLE:
        return f"booking_{booking.state}"
    if booking.pay_by_ms is not None and booking.state == State.HELD and now_ms >= booking.pay_by_ms:
        return "too_late"
    return None


async def pay_booking(tx: Tx, hospital: Hospital, booking: Booking, payment: Payment) -> PaymentRow:
    """Record money for a booking; the same report again gives the same row. What comes late buys the seat if it still can.

    Raises Refusal(payment_conflict, payment_of_another_portal) when this channel and trade number have paid for something else,
    another amount, or somebody else's booking.
    """
    known = await payments_named(tx, payment.channel, payment.trade_no)
    if is_repeat(payment, known, {booking.id: payment.amount_fen}, client_id=booking.client_id):
        return known[0]
    unusable = why_unusable(booking, payment, await kept(tx, booking), tx.now_ms)
    if unusable in ("too_late", "booking_expired") and await can_be_taken_up(tx, hospital, booking):
        unusable = None
    row = await record_payment(tx, payment, client_id=booking.client_id, booking_id=booking.id, unusable=unusable)
    if unusable is not None:
        await save_booking(tx, booking)
        return row
    booking.payment_state = "paid"
    if booking.state == State.EXPIRED:
        booking.reason = None
        await apply(tx, hospital, booking, Event.LATE_MONEY_USABLE)
    else:
        await apply(tx, hospital, booking, Event.MONEY_USABLE)
    return row


# --- the clock -----------------------------------------------------------------------------------------------------


_DUE = Fixed(
    select(bookings.c.id)
    .where(
        bookings.c.hospital_id == bindparam("of_hospital"),
        bookings.c.state == literal_column("'held'"),
        bookings.c.expires_at_ms <= bindparam("now"),
    )
    .limit(1)
)


async def any_due(tx: Tx) -> bool:
    """Whether a hold has come to its end."""
    return await tx.first(_DUE, {"of_hospital": tx.hospital_id, "now": tx.now_ms}) is not None


def _why_expired(booking: Booking) -> str:
    """Whose time ran out: the patient's, or the hospital's."""
    return "not_paid_in_time" if booking.his_state == HisState.LOCKED else "not_locked_in_time"


async def expire_due(tx: Tx, hospital: Hospital, *, budget: Budget | None = None) -> int:
    """Expire holds that nobody paid in time, by the store's clock; returns how many. Those with money are left alone.

    What is left when the `budget` is spent is for another transaction.
    """
    rows = await tx.all(
        select(bookings)
        .where(
            bookings.c.hospital_id == tx.hospital_id, bookings.c.state == "held", bookings.c.expires_at_ms <= tx.now_ms
        )
        .order_by(bookings.c.expires_at_ms)
        .limit(MOST_IN_A_TURN)
    )
    expired = 0
    async with gathered(tx, rows) as due:
        for booking in due.bookings.values():
            if booking.payment_state == "paid" or (Event.EXPIRED, booking.axes) not in TABLE:
                # Money keeps a hold alive: its registration is under way or waits for the lock.
                booking.expires_at_ms = None
                await save_booking(due, booking)
            else:
                await apply(due, hospital, booking, Event.EXPIRED, reason=_why_expired(booking))
                expired += 1
            if budget is not None and budget.spent:
                break
    return expired


# --- outcomes of commands ------------------------------------------------------------------------------------------


class CommandResult(msgspec.Struct, frozen=True, kw_only=True):
    """The settled outcome of a booking's command, protocol-free. `code` is set for a refusal."""

    accepted: bool
    code: str | None = None
    his_refs: HisRefs = {}
    registration: Registration | None = None
    gone_already: bool = False


_ACCEPTED = {
    Command.LOCK: Event.LOCK_ACCEPTED,
    Command.REGISTER: Event.REGISTER_ACCEPTED,
    Command.UNLOCK: Event.RELEASE_ACCEPTED,
    Command.CANCEL: Event.RELEASE_ACCEPTED,
}
_REJECTED = {
    Command.LOCK: Event.LOCK_REJECTED,
    Command.REGISTER: Event.REGISTER_REJECTED,
    Command.UNLOCK: Event.RELEASE_REJECTED,
    Command.CANCEL: Event.RELEASE_REJECTED,
}


async def settle_command(tx: Tx, hospital: Hospital, booking: Booking, result: CommandResult) -> None:
    """Move a booking by the outcome of the command that it has under way."""
    command = booking.his_command
    if command == Command.NONE:
        raise IllegalMove(Event.LOCK_ACCEPTED, booking.axes)
    booking.his_refs = {**booking.his_refs, **result.his_refs}
    if result.registration is not None:
        booking.registration = merge_told(booking.registration, result.registration)
    lapsed = command == Command.UNLOCK and is_lock_over(hospital, booking, tx.now_ms)
    if result.gone_already or lapsed:  # some HIS say a plain "yes" to the release of a lock that had lapsed by itself
        booking.unlock_sent_ms = None  # the HIS may have freed the seat long ago, and a fetch may have shown it free
    if command == Command.LOCK:
        booking.lock_reply_ms = tx.now_ms if result.accepted else None
    if not result.accepted and command == Command.REGISTER:
        payment = await kept(tx, booking)
        if payment is not None:
            await set_settlement(tx, payment, "rejected")
    held = booking.state == State.HELD
    await apply(tx, hospital, booking, (_ACCEPTED if result.accepted else _REJECTED)[command], reason=result.code)
    if held and result.accepted and command == Command.LOCK:
        count_lock(tx, hospital, booking)
    elif held and result.accepted and command == Command.REGISTER:
        count_registration(tx, hospital, booking, await kept(tx, booking))
    await _hear_deferred(tx, hospital, booking)


async def _hear_deferred(tx: Tx, hospital: Hospital, booking: Booking) -> None:
    """Apply the news that came while a command was under way, now that its outcome is known."""
    if booking.deferred_news is None:
        return
    status, booking.deferred_news = RegistrationStatus(booking.deferred_news), None
    event = await event_of(tx, hospital, booking, status)
    if event is None:
        await save_booking(tx, booking, tell=False)
    else:
        await apply(tx, hospital, booking, event, reason="his" if event == Event.HIS_RELEASED else None)


def merge_told(known: Registration | None, told: Registration) -> Registration:
    """What the HIS told last wins; what it left out stays."""
    if known is None:
        return told
    fields = {f: getattr(told, f) for f in told.__struct_fields__ if getattr(told, f) is not None and f != "his_refs"}
    return msgspec.structs.replace(known, **fields, his_refs={**known.his_refs, **told.his_refs})


_SENT = Fixed(
    update(bookings)
    .where(
        bookings.c.hospital_id == bindparam("of_hospital"),
        is_one_of(bookings.c.id, "ids"),
        bookings.c.his_command != Command.NONE.value,
    )
    .values(
        his_command_status=CommandStatus.SENT.value,
        updated_ms=bindparam("now_ms"),
        lock_sent_ms=case(
            (bookings.c.his_command == "lock", func.coalesce(bookings.c.lock_sent_ms, bindparam("now_ms"))),
            else_=bookings.c.lock_sent_ms,
        ),
        # The first attempt counts: it may be the one that freed the seat.
        unlock_sent_ms=case(
            (
                (bookings.c.his_command == "unlock") | (bookings.c.his_command == "cancel"),
                func.coalesce(bookings.c.unlock_sent_ms, bindparam("now_ms")),
            ),
            else_=bookings.c.unlock_sent_ms,
        ),
    )
)
_LOOKED = Fixed(
    update(bookings)
    .where(
        bookings.c.hospital_id == bindparam("of_hospital"),
        is_one_of(bookings.c.id, "ids"),
        bookings.c.his_command != Command.NONE.value,
    )
    .values(his_command_status=CommandStatus.UNKNOWN.value, updated_ms=bindparam("now_ms"))
)


async def note_sent(tx: Tx, booking_ids: Sequence[str]) -> None:
    """The commands of these bookings are about to leave: from now on their outcome is open. No new version, nobody is told."""
    if booking_ids:
        await tx.later(_SENT, {"of_hospital": tx.hospital_id, "ids": list(booking_ids), "now_ms": tx.now_ms})


async def note_looked(tx: Tx, booking_ids: Sequence[str]) -> None:
    """What has become of the commands of these bookings is being looked up."""
    if booking_ids:
        await tx.later(_LOOKED, {"of_hospital": tx.hospital_id, "ids": list(booking_ids), "now_ms": tx.now_ms})


# --- news from the HIS ---------------------------------------------------------------------------------------------

_NEWS = {
    RegistrationStatus.RELEASED: Event.HIS_RELEASED,
    RegistrationStatus.ENTERED_IN_ERROR: Event.HIS_RELEASED,
    RegistrationStatus.REGISTERED: Event.HIS_REGISTERED,
    RegistrationStatus.CHECKED_IN: Event.HIS_CHECKED_IN,
    RegistrationStatus.FULFILLED: Event.HIS_FULFILLED,
    RegistrationStatus.NO_SHOW: Event.HIS_NO_SHOW,
}


_BY_ORDER_NO, _BY_HIS_ID = (
    Fixed(select(bookings).where(bookings.c.hospital_id == bindparam("of_hospital"), column == bindparam("key")))
    for column in (bookings.c.order_no, bookings.c.his_id)
)


async def own_by_order_no(tx: Tx, client_id: str, order_no: str) -> Booking | None:
    """A client's booking by the number that the hospital sees."""
    row = await tx.first(_BY_ORDER_NO, {"of_hospital": tx.hospital_id, "key": order_no})
    return None if row is None or row["client_id"] != client_id else booking_from_row(tx, row)


async def find_by_visit(tx: Tx, told: Registration) -> Booking | None:
    """Our booking behind a registration: by our order number, else by the HIS's own id of it."""
    if told.order_no is not None:
        row = await tx.first(_BY_ORDER_NO, {"of_hospital": tx.hospital_id, "key": told.order_no})
    elif told.his_id is not None:
        row = await tx.first(_BY_HIS_ID, {"of_hospital": tx.hospital_id, "key": told.his_id})
    else:
        return None
    return None if row is None else booking_from_row(tx, row)


async def hear_registration(tx: Tx, hospital: Hospital, booking: Booking, told: Registration) -> bool:
    """Apply the HIS's unasked word on one of our bookings; False when it changes nothing here.

    News that answers the command under way settles it (SIU with SCH-1 = our key, where nothing can be asked); any other news
    waits for the command's own outcome.
    """
    await hear_place(tx, hospital, booking, told)
    told = without_move(told)
    if await _settles(tx, hospital, booking, told):
        return True
    booking.registration = merge_told(booking.registration, told)
    booking.his_refs = {**booking.his_refs, **told.his_refs}
    if booking.his_command != Command.NONE:
        booking.deferred_news = told.status.value
        await save_booking(tx, booking)
        return False
    event = await event_of(tx, hospital, booking, told.status)
    if event is None:
        await save_booking(tx, booking)
        return False
    await apply(tx, hospital, booking, event, reason="his" if event == Event.HIS_RELEASED else None)
    return True


_OVER_AT_HIS = (State.EXPIRED, State.CANCELLED, State.REJECTED, State.STOPPED)


async def event_of(tx: Tx, hospital: Hospital, booking: Booking, status: RegistrationStatus) -> Event | None:
    """What the HIS's word means where the booking stands; None when it changes nothing."""
    event = _NEWS.get(status)
    if booking.state in _OVER_AT_HIS and status in (RegistrationStatus.LOCKED, RegistrationStatus.REGISTERED):
        # A command that we gave up was carried out after all: what it holds must go.
        locked = status == RegistrationStatus.LOCKED
        event = Event.HIS_LOCKED_LATE if locked else Event.HIS_REGISTERED_LATE
    elif event == Event.HIS_REGISTERED and not await _counts_as_registered(tx, hospital, booking):
        return None
    if event == Event.HIS_CHECKED_IN and booking.state == State.NO_SHOW and await _is_replaced(tx, booking):
        return None
    return event if event is not None and (event, booking.axes) in TABLE else None


async def _is_replaced(tx: Tx, booking: Booking) -> bool:
    """A person has one live booking of a schedule: where they have taken another since they missed this one, it stays over."""
    return await has_another(tx, booking, booking.schedule_id)


async def _counts_as_registered(tx: Tx, hospital: Hospital, booking: Booking) -> bool:
    """Where we book unpaid, the HIS's "booked" is our own unpaid booking, not a registration, until money is there.

    It may have come to the window: then the HIS says so.
    """
    if hospital.reserve_by != "book" or booking.fee_fen == 0:
        return True
    if booking.registration is not None and booking.registration.paid:
        return True
    return await kept(tx, booking) is not None


async def _settles(tx: Tx, hospital: Hospital, booking: Booking, told: Registration) -> bool:
    """Settle the command under way if this is its outcome; False when it is not, or nothing has left yet."""
    if booking.his_command_status not in (CommandStatus.SENT, CommandStatus.UNKNOWN):
        return False
    answers = {
        Command.LOCK: (RegistrationStatus.LOCKED, RegistrationStatus.REGISTERED),
        Command.REGISTER: (RegistrationStatus.REGISTERED,),
        Command.UNLOCK: (RegistrationStatus.RELEASED, RegistrationStatus.ENTERED_IN_ERROR),
        Command.CANCEL: (RegistrationStatus.RELEASED, RegistrationStatus.ENTERED_IN_ERROR),
    }.get(booking.his_command, ())
    if told.status not in answers or not await close_flying(tx, booking.line):
        return False
    booking.needs_attention = False
    if booking.his_command == Command.LOCK and told.paid:  # it is more than the command asked for
        booking.deferred_news = told.status.value
    result = CommandResult(accepted=True, his_refs=told.his_refs, registration=told)
    await settle_command(tx, hospital, booking, result)
    return True


async def stop_bookings(
    tx: Tx,
    hospital: Hospital,
    *,
    schedule_id: str | None = None,
    slot_ids: list[str] | None = None,
    order_no: str | None = None,
    released: bool,
    reason: str | None,
    budget: Budget | None = None,
) -> int:
    """停诊 for every live booking of a schedule, of some slots, or of one order; returns how many were moved.

    With a `budget`, those who are left when it is spent are left: the same call in another transaction goes on with them.
    """
    query = select(bookings).where(bookings.c.hospital_id == tx.hospital_id, bookings.c.live, bookings.c.occupies)
    if schedule_id is not None:
        query = query.where(bookings.c.schedule_id == schedule_id)
    if slot_ids is not None:
        # By schedule, too: that is what bookings have an index for.
        of = select(slots.c.schedule_id).where(slots.c.hospital_id == tx.hospital_id, slots.c.id.in_(slot_ids))
        schedule_ids = {row["schedule_id"] for row in await tx.all(of)}
        query = query.where(bookings.c.schedule_id.in_(sorted(schedule_ids)), bookings.c.slot_id.in_(slot_ids))
    if order_no is not None:
        query = query.where(bookings.c.order_no == order_no)
    if schedule_id is None and slot_ids is None and order_no is None:
        raise ValueError("a stop names a schedule, slots or an order")
    if budget is not None:
        query = query.order_by(bookings.c.id.concat("")).limit(MOST_IN_A_TURN)  # sorted after: not by walking all
    event = Event.STOPPED_AND_RELEASED if released else Event.STOPPED
    moved = 0
    async with gathered(tx, await tx.all(query)) as all_of_them:
        for booking in all_of_them.bookings.values():
            if (event, booking.axes) not in TABLE:
                continue
            await apply(all_of_them, hospital, booking, event, reason=reason or "schedule_stopped")
            moved += 1
            if budget is not None and budget.spent:
                break
    return moved


def payable(booking: Booking, now_ms: int, kept: bool) -> bool:
    """Whether money makes sense now: the seat is locked, unpaid, and there is time left."""
    return (
        booking.state == State.HELD
        and booking.his_state == HisState.LOCKED
        and booking.fee_fen > 0
        and not kept
        and booking.pay_by_ms is not None
        and now_ms < booking.pay_by_ms
    )
