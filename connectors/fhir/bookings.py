"""The life of an Appointment: booked unpaid, registered when paid, cancelled; and looked up by our own key."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from connectors.fhir.deadlines import Deadline
from connectors.fhir.documents import Document, Json
from connectors.fhir.exchange import Exchange, Versioned
from connectors.fhir.inventory import FREE, SLOT, free_slots
from connectors.fhir.writes import Ended, Write
from connectors.port import Accepted, HisError, Order, Outcome, Rejected, Unknown
from mappings.canonical import Patient, Registration, RegistrationStatus
from monitoring.logs import get_logger

_log = get_logger(__name__)

_ATTENDED = frozenset({RegistrationStatus.CHECKED_IN, RegistrationStatus.FULFILLED, RegistrationStatus.NO_SHOW})
_PAID = _ATTENDED | {RegistrationStatus.REGISTERED}
_GONE = frozenset({RegistrationStatus.RELEASED, RegistrationStatus.ENTERED_IN_ERROR})
# How often an Appointment that changes under our hands is read again.
_ATTEMPTS = 3


# --- reading --------------------------------------------------------------------------------------------------------


async def fetch_registration(exchange: Exchange, order: Order, deadline: Deadline) -> Registration | None:
    """The booking that carries our order number. Of several (If-None-Exist does race) the one that is alive counts."""
    call = exchange.calls["fetch_registration"]
    document = await exchange.search(call, order, deadline, whole=True)
    records = await exchange.map_all(call, document, whole=True)
    found = [record for record in records if record.order_no == order.order_no]
    living = [record for record in found if record.status not in _GONE]
    if len(living) > 1:
        _log.warning(
            "fhir_appointment_doubled", hospital=exchange.hospital.id, order_no=order.order_no, count=len(living)
        )
    paid = [record for record in living if record.status in _PAID]
    return next(iter([*paid, *living, *found]), None)


async def _appointment(write: Write, order: Order) -> tuple[Versioned, Registration]:
    """The Appointment of this order as it is now, by the id we kept, else by our key; ends with `not_found`."""
    current = await write.read("fetch_registration.by_id", order)
    if current is None:
        document = await write.search("fetch_registration", order, whole=True)
        # The living one first, for the same reason as in `fetch_registration`.
        ranked = [(await _registration(write, resource), resource) for resource in _resources(document)]
        ranked.sort(key=lambda pair: (pair[0].status in _GONE, pair[0].status not in _PAID))
        ours = [resource for record, resource in ranked if record.order_no == order.order_no]
        current = Versioned(ours[0], None) if ours else None
    if current is None:
        raise Ended(Rejected(code="not_found", text="no Appointment under our key"))
    record = await _registration(write, current.resource)
    if record.order_no != order.order_no:
        raise Ended(Rejected(code="not_found", text="the Appointment is not ours"))
    return current, record


def _resources(document: Document) -> Iterable[Json]:
    return [entry["resource"] for entry in document["entry"]]


async def _registration(write: Write, resource: Json) -> Registration:
    record: Registration = await write.map_one("fetch_registration", resource)
    return record


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
        raise Ended(Rejected(code="already_exists", text="HTTP 200: an Appointment under our key was there before"))
    if created.resource is None:
        return Accepted(his_refs={"appointment": created.id})
    record = await _registration(write, created.resource)
    if record.status is not RegistrationStatus.LOCKED and record.status not in _PAID:
        raise Ended(Unknown(reason=f"the Appointment was created as {record.status}"))
    return Accepted(his_refs=record.his_refs, record=record)


# --- register and cancel --------------------------------------------------------------------------------------------


async def register(write: Write, order: Order) -> Outcome:
    """Tell of the payment, then turn the Appointment to booked, if it is still ours and still the version we read."""
    current, record = await _appointment(write, order)
    if record.status in _GONE:
        return Rejected(code="too_late", text="the HIS has released the Appointment")
    paid = _with_refs(order, appointment=str(current.resource["id"]))
    notice = None
    if order.payment is not None:
        notice = (await write.create("register.notice", paid)).id
        paid = _with_refs(paid, payment_notice=notice)
    try:
        record = await _turn(write, "register", paid, current, record, done=_PAID)
    except Ended as ended:
        if notice is not None and isinstance(ended.outcome, Rejected) and not ended.outcome.retryable:
            await _withdraw(write, "register.withdraw", paid)
        raise
    refs = dict(record.his_refs)
    if notice is not None:
        refs["payment_notice"] = notice
    return Accepted(his_refs=refs, record=record)


async def cancel_registration(write: Write, order: Order) -> Outcome:
    """Cancel the Appointment, paid or not: its Slot is free again."""
    current, record = await _appointment(write, order)
    if record.status in _GONE:
        return Rejected(code="already_done", text="the Appointment is cancelled already")
    if record.status in _ATTENDED:
        return Rejected(code="too_late", text=f"the Appointment is {record.status}")
    request = _with_refs(order, appointment=str(current.resource["id"]))
    record = await _turn(write, "cancel_registration", request, current, record, done=_GONE)
    return Accepted(his_refs=record.his_refs, record=record)


async def _turn(
    write: Write,
    name: str,
    order: Order,
    current: Versioned,
    record: Registration,
    *,
    done: frozenset[RegistrationStatus],
) -> Registration:
    """PUT until the Appointment has a status of `done`; a version conflict means reading again, and it must still be ours."""
    for _ in range(_ATTEMPTS):
        if record.status in done:
            return record
        if record.status in _GONE:
            raise Ended(Rejected(code="too_late", text="the HIS has released the Appointment"))
        updated = await write.update(name, order, current)
        if updated is not None:
            record = await _registration(write, updated)
            if record.status not in done:
                raise Ended(Unknown(reason=f"the Appointment is {record.status} after the update"))
            return record
        current, record = await _appointment(write, order)
    raise Ended(Rejected(code="busy", text="the Appointment keeps changing", retryable=True))


async def _withdraw(write: Write, name: str, order: Order) -> None:
    """Take a payment notice back whose registration was refused. Best effort: the refusal stands either way."""
    try:
        notice = await write.read(name, order)
        if notice is not None:
            await write.update(name, order, notice)
    except Ended as ended:
        outcome = type(ended.outcome).__name__
        _log.warning(
            "fhir_notice_not_withdrawn", hospital=write.exchange.hospital.id, order_no=order.order_no, outcome=outcome
        )


def _with_refs(order: Order, **refs: str) -> Order:
    return msgspec.structs.replace(order, his_refs={**order.his_refs, **refs})


# --- patients -------------------------------------------------------------------------------------------------------


async def create_patient(write: Write, patient: Patient) -> Outcome:
    """Create the patient's record, or find the one under the same number; the name must then be the same."""
    created = await write.create("create_patient", patient, several="patient_ambiguous")
    if created.resource is None:
        return Accepted(his_refs={"patient": created.id})
    record: Patient = await write.map_one("find_patient", created.resource)
    if created.existed and _plain(record.name) != _plain(patient.name):
        return Rejected(code="patient_mismatch", text="HTTP 200: the number belongs to a record with another name")
    return Accepted(his_refs=record.his_refs, record=record)


def _plain(name: str) -> str:
    return "".join(name.split()).casefold()
