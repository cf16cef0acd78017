"""The life of an Appointment: booked unpaid, registered when paid, cancelled."""

from __future__ import annotations

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
from connectors.fhir.documents import Json
from connectors.fhir.locks import slot_with
from connectors.fhir.seats import take_seat
from connectors.fhir.writes import Ended, Write
from connectors.port import Accepted, Order, Outcome, Rejected, Unknown
from mappings.canonical import Registration, RegistrationStatus
from monitoring.logs import get_logger

_log = get_logger(__name__)

# How often an Appointment that changes under our hands is read again.
_ATTEMPTS = 3


# --- book -----------------------------------------------------------------------------------------------------------


async def book(write: Write, order: Order) -> Outcome:
    """Take a seat with an unpaid Appointment."""
    return await take_seat(write, order, _book_slot)


async def _book_slot(write: Write, order: Order, slot: str) -> Outcome:
    created = await write.create("book", order, reference=slot)
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


async def unlock_slot(write: Write, order: Order) -> Outcome:
    """Give a locked seat back."""
    return await cancel_registration(write, order, "unlock_slot")


async def cancel_registration(write: Write, order: Order, name: str = "cancel_registration") -> Outcome:
    """Cancel the Appointment, paid or not, and whatever else lives under our key: each Slot is free again."""
    living = [found for found in await find_ours(write, order) if found.lives]
    if not living:
        return Rejected(code="already_done", text="the Appointment is cancelled already")
    if living[0].record.status in ATTENDED:
        return Rejected(code="too_late", text=f"the Appointment is {living[0].record.status}")
    records = []
    for found in living:
        request = with_refs(order, appointment=found.id)
        records.append(await _turn(write, name, request, found, done=GONE))
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
        updated = await _change(write, name, order, found)
        if updated is not None:
            record = await registration(write, updated)
            if record.status in GONE and write.call(name).operation and GONE is not done:
                raise Ended(Rejected(code="refused", text="$book was answered with a cancelled Appointment"))
            if record.status not in done:
                raise Ended(Unknown(reason=f"the Appointment is {record.status} after the update"))
            return record
        again = await reread(write, order)
        if again is None:
            raise Ended(Rejected(code="not_found", text="the Appointment is gone"))
        found = again
    raise Ended(Rejected(code="busy", text="the Appointment keeps changing", retryable=True))


async def _change(write: Write, name: str, order: Order, found: Found) -> Json | None:
    """The Appointment as it is after the change; None when it, or its Slot, has changed meanwhile."""
    if write.call(name).operation:
        return await write.operate(name, order, reference=found.id, current=found.current.resource)
    of_slot = with_refs(order, slot=found.record.his_refs.get("slot", ""))
    slot = await slot_with(write, name, of_slot)
    if slot is None:
        return await write.update(name, order, found.current)
    changes = write.change(name, order, found.current)
    answers = await write.transact(name, [write.change(f"{name}.slot", of_slot, slot), changes])
    return None if answers is None else answers[1].resource or changes.body


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
