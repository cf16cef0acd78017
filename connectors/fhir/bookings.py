"""The life of an Appointment: booked unpaid, registered when paid, cancelled."""

from __future__ import annotations

import msgspec

from connectors.fhir.appointments import (
    ATTENDED,
    GONE,
    PAID,
    Found,
    find_ours,
    registration,
    reread,
    with_refs,
)
from connectors.fhir.inventory import FREE, SLOT, free_slots
from connectors.fhir.writes import Ended, Write
from connectors.port import Accepted, HisError, Order, Outcome, Rejected, Unknown
from mappings.canonical import Registration, RegistrationStatus
from monitoring.logs import get_logger

_log = get_logger(__name__)

# How often an Appointment that changes under our hands is read again.
_ATTEMPTS = 3


# --- book -----------------------------------------------------------------------------------------------------------


async def book(write: Write, order: Order) -> Outcome:
    """Take a seat with an unpaid Appointment. A Slot that is gone gives way to the next free one of its segment."""
    attempts = int(write.exchange.setting("seat_attempts", 4))
    candidates = _rotated(order.slot.his_refs.get(FREE, "").split(), order.order_no)[: max(1, attempts // 2)]
    asked, tried, last = False, set[str](), Rejected(code="full", text="no free Slot")
    for _ in range(attempts):
        candidates = [slot for slot in candidates if slot not in tried]
        if not candidates and not asked:
            asked = True
            candidates = [slot for slot in await _free_now(write, order) if slot not in tried]
        if not candidates:
            return last if last.code == "full" else Rejected(code="full", text=last.text)
        slot = candidates.pop(0)
        tried.add(slot)
        try:
            return await _book_slot(write, order, slot)
        except Ended as ended:
            if not isinstance(ended.outcome, Rejected) or ended.outcome.code != "taken":
                raise
            last = ended.outcome
    return msgspec.structs.replace(last, retryable=True)


def _rotated(slots: list[str], order_no: str) -> list[str]:
    """The same Slots, starting elsewhere for each order: bookings of one segment do not all fight for its first seat."""
    digits = "".join(char for char in order_no[-6:] if char.isdigit())
    at = int(digits or "0") % len(slots) if slots else 0
    return slots[at:] + slots[:at]


async def _free_now(write: Write, order: Order) -> list[str]:
    document = await write.search("book.free", order)
    try:
        slots = await write.exchange.map_all(write.call("fetch_slots"), document)
    except HisError as error:
        raise Ended(Rejected(code="busy", text=str(error), retryable=True)) from error
    return _rotated(free_slots(slots), order.order_no)


async def _book_slot(write: Write, order: Order, slot: str) -> Outcome:
    seat = msgspec.structs.replace(order.slot, his_refs={**order.slot.his_refs, SLOT: slot})
    created = await write.create("book", msgspec.structs.replace(order, slot=seat))
    if created.existed:
        raise Ended(Rejected(code="already_exists", text="an Appointment under our key was there before"))
    if created.resource is None:
        return Accepted(his_refs={"appointment": created.id})
    record = await registration(write, created.resource)
    if record.status is not RegistrationStatus.LOCKED and record.status not in PAID:
        raise Ended(Unknown(reason=f"the Appointment was created as {record.status}"))
    return Accepted(his_refs=record.his_refs, record=record)


# --- register and cancel --------------------------------------------------------------------------------------------


async def register(write: Write, order: Order) -> Outcome:
    """Tell of the payment, then turn the Appointment to booked, if it is still ours and still the version we read."""
    found, *others = await find_ours(write, order)
    if not found.lives:
        return Rejected(code="too_late", text="the HIS has released the Appointment")
    await _cancel_surplus(write, order, others)
    paid = with_refs(order, appointment=found.id)
    notice = None
    if order.payment is not None:
        notice = (await write.create("register.notice", paid)).id
        paid = with_refs(paid, payment_notice=notice)
    try:
        record = await _turn(write, "register", paid, found, done=PAID)
    except Ended as ended:
        if notice is not None and isinstance(ended.outcome, Rejected) and not ended.outcome.retryable:
            await _withdraw(write, "register.withdraw", paid)
        raise
    refs = dict(record.his_refs)
    if notice is not None:
        refs["payment_notice"] = notice
    return Accepted(his_refs=refs, record=record)


async def cancel_registration(write: Write, order: Order) -> Outcome:
    """Cancel the Appointment, paid or not, and whatever else lives under our key: each Slot is free again."""
    living = [found for found in await find_ours(write, order) if found.lives]
    if not living:
        return Rejected(code="already_done", text="the Appointment is cancelled already")
    if living[0].record.status in ATTENDED:
        return Rejected(code="too_late", text=f"the Appointment is {living[0].record.status}")
    records = []
    for found in living:
        request = with_refs(order, appointment=found.id)
        records.append(await _turn(write, "cancel_registration", request, found, done=GONE))
    return Accepted(his_refs=records[0].his_refs, record=records[0])


async def _turn(
    write: Write, name: str, order: Order, found: Found, *, done: frozenset[RegistrationStatus]
) -> Registration:
    """PUT until the Appointment has a status of `done`; a version conflict means reading again, and it must still be ours."""
    if found.current.if_match is None:
        found = await reread(write, order) or found  # a search that tells no versions
    for _ in range(_ATTEMPTS):
        if found.record.status in done:
            return found.record
        if not found.lives:
            raise Ended(Rejected(code="too_late", text="the HIS has released the Appointment"))
        updated = await write.update(name, order, found.current)
        if updated is not None:
            record = await registration(write, updated)
            if record.status not in done:
                raise Ended(Unknown(reason=f"the Appointment is {record.status} after the update"))
            return record
        again = await reread(write, order)
        if again is None:
            raise Ended(Rejected(code="not_found", text="the Appointment is gone"))
        found = again
    raise Ended(Rejected(code="busy", text="the Appointment keeps changing", retryable=True))


async def _cancel_surplus(write: Write, order: Order, others: list[Found]) -> None:
    """Give the seats of surplus Appointments back. Best effort: what is left is found again when ours is cancelled."""
    for other in others:
        try:
            if other.lives:
                request = with_refs(order, appointment=other.id)
                await _turn(write, "cancel_registration", request, other, done=GONE)
        except Ended as ended:
            _warn("fhir_surplus_not_cancelled", write, order, ended)


async def _withdraw(write: Write, name: str, order: Order) -> None:
    """Take a payment notice back whose registration was refused. Best effort: the refusal stands either way."""
    try:
        notice = await write.read(name, order)
        if notice is not None:
            await write.update(name, order, notice)
    except Ended as ended:
        _warn("fhir_notice_not_withdrawn", write, order, ended)


def _warn(event: str, write: Write, order: Order, ended: Ended) -> None:
    _log.warning(
        event, hospital=write.exchange.hospital.id, order_no=order.order_no, outcome=type(ended.outcome).__name__
    )
