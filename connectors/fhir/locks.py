"""A seat locked before it is paid: by `$hold`, or by a transaction over its Slot and our Appointment.

Which of them is the profile's choice (`lock_slot.call.operation`, or `lock_slot.then.slot`), and whether the server has it is
for its CapabilityStatement to say.
"""

from __future__ import annotations

from connectors.fhir.appointments import GONE, registration
from connectors.fhir.exchange import Versioned
from connectors.fhir.operations import proposal_for
from connectors.fhir.seats import take_seat
from connectors.fhir.transactions import Answer
from connectors.fhir.writes import Ended, Write
from connectors.port import Accepted, Order, Outcome, Rejected, Unknown
from mappings.canonical import RegistrationStatus
from monitoring.logs import get_logger

_log = get_logger(__name__)

# How often a Slot that changes under our hands is read again.
_ATTEMPTS = 3
_UNTOUCHABLE = frozenset({"busy-unavailable", "entered-in-error"})


async def lock_slot(write: Write, order: Order) -> Outcome:
    """Take a seat for a while. It is registered or given back later."""
    if write.call("lock_slot").operation:
        return await take_seat(write, order, _hold)
    abilities = await write.abilities()
    if not abilities.transacts("Slot", "Appointment"):
        return abilities.lacks("transactions with updates of Slot and Appointment")
    if await write.look_first("lock_slot", order) is not None:
        # Else a second Slot would be taken for an Appointment that has one.
        return Rejected(code="already_exists", text="an Appointment under our key was there before")
    return await take_seat(write, order, _lock)


# --- $hold ----------------------------------------------------------------------------------------------------------------


async def _hold(write: Write, order: Order, slot: str) -> Outcome:
    proposed = await _proposed(write, order, slot)
    held = await write.operate("lock_slot", order, reference=proposed)
    record = await registration(write, held)
    if record.status in GONE:
        raise Ended(Rejected(code="taken", text="the hold was answered as cancelled"))
    if record.status is not RegistrationStatus.LOCKED:
        raise Ended(Unknown(reason=f"the held Appointment is {record.status}"))
    return Accepted(his_refs={**record.his_refs, "slot": f"Slot/{slot}"}, record=record)


async def _proposed(write: Write, order: Order, slot: str) -> str:
    """The id of the proposed Appointment for a Slot: what `$find` says where the server has it, else the Slot's own."""
    if "lock_slot.find" not in write.exchange.calls:
        return slot
    if not (await write.abilities()).operates("Appointment", "find"):
        return slot
    found = proposal_for(await write.ask("lock_slot.find", order), slot)
    if found is None:
        raise Ended(Rejected(code="taken", text="$find proposes no Appointment for the Slot"))
    return found


# --- a transaction ----------------------------------------------------------------------------------------------------------


async def _lock(write: Write, order: Order, slot: str) -> Outcome:
    for _ in range(_ATTEMPTS):
        current = await _free(write, order)
        steps = [write.change("lock_slot.slot", order, current), write.creation("lock_slot", order)]
        answers = await write.transact("lock_slot", steps)
        if answers is not None:
            return await _locked(write, order, slot, *answers)
        # Somebody was quicker: go on only if it is still free.
    raise Ended(Rejected(code="busy", text="the Slot keeps changing", retryable=True))


async def _free(write: Write, order: Order) -> Versioned:
    """The Slot as it is now. Ends with `taken` where it is not free, and where nobody could tell when it changes."""
    current = await write.read("lock_slot.slot", order)
    if current is None:
        raise Ended(Rejected(code="taken", text="the Slot is gone"))
    record = await write.map_one("fetch_slots", current.resource)
    if record.seats_left < 1:
        raise Ended(Rejected(code="taken", text="the Slot is not free any more"))
    if current.if_match is None:
        raise Ended(Rejected(code="not_offered", text="the server tells no versions: a Slot cannot be locked"))
    return current


async def _locked(write: Write, order: Order, slot: str, changed: Answer, made: Answer) -> Outcome:
    if made.status == 200:  # the server had it already: then the Slot of this transaction is one too many
        await _give_back(write, order, changed)
        return Rejected(code="already_exists", text="an Appointment under our key was there before")
    if made.id is None:
        raise Ended(Unknown(reason="the transaction's answer does not say which Appointment it made"))
    refs = {"appointment": made.id, "slot": f"Slot/{slot}"}
    if made.resource is None:
        return Accepted(his_refs=refs)
    record = await registration(write, made.resource)
    if record.status is not RegistrationStatus.LOCKED:
        raise Ended(Unknown(reason=f"the Appointment was created as {record.status}"))
    return Accepted(his_refs={**record.his_refs, **refs}, record=record)


async def _give_back(write: Write, order: Order, changed: Answer) -> None:
    """Free the Slot again, if nobody has touched it since. Best effort: the next fetch shows what is left."""
    try:
        current = await write.read("lock_slot.slot", order)
        if current is not None and changed.etag in (None, current.if_match):
            await write.update("unlock_slot.slot", order, current)
    except Ended as ended:
        _log.warning(
            "fhir_slot_not_given_back",
            hospital=write.exchange.hospital.id,
            order_no=order.order_no,
            outcome=type(ended.outcome).__name__,
        )


async def slot_with(write: Write, name: str, order: Order) -> Versioned | None:
    """The Slot that `name` changes with its Appointment; None where the profile leaves Slots to the server, and where the
    hospital has closed it."""
    if f"{name}.slot" not in write.exchange.calls:
        return None
    current = await write.read(f"{name}.slot", order)
    if current is None or str(current.resource.get("status")) in _UNTOUCHABLE:
        return None
    return current
