"""Our Appointments at the server: found by our own key, whatever was lost on the way, and told from those of others.

A server may hold more than one under our key: conditional creates do race, and gateways do repeat. Of those that live, at most
one is paid; the others are surplus, and ours to cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from connectors.fhir.deadlines import Deadline
from connectors.fhir.exchange import Exchange, Versioned
from connectors.fhir.writes import Ended, Write
from connectors.port import HisRefused, Order, Rejected
from mappings.canonical import Registration, RegistrationStatus
from monitoring.logs import get_logger

_log = get_logger(__name__)

ATTENDED = frozenset({RegistrationStatus.CHECKED_IN, RegistrationStatus.FULFILLED, RegistrationStatus.NO_SHOW})
PAID = ATTENDED | {RegistrationStatus.REGISTERED}
GONE = frozenset({RegistrationStatus.RELEASED, RegistrationStatus.ENTERED_IN_ERROR})
_SEVERAL = "several Appointments under our key are booked"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One Appointment of ours: as the server has it, and what it says."""

    current: Versioned
    record: Registration

    @property
    def id(self) -> str:
        """Its id at the server."""
        return str(self.current.resource["id"])

    @property
    def lives(self) -> bool:
        """Whether it takes a seat."""
        return self.record.status not in GONE


async def fetch_registration(exchange: Exchange, order: Order, deadline: Deadline) -> Registration | None:
    """The booking that carries our order number: the paid one, else one that lives, else one that is gone.

    Raises HisRefused `several` where more than one is paid.
    """
    call = exchange.calls["fetch_registration"]
    document = await exchange.search(call, order, deadline, whole=True)
    records = await exchange.map_all(call, document, whole=True)
    found = sorted((one for one in records if one.order_no == order.order_no), key=lambda one: _rank(one, order))
    if not found:
        return await _held(exchange, order, deadline)
    if not is_clear(found):
        raise HisRefused(_SEVERAL, code="several")
    _tell_of_surplus(exchange, order, found)
    first: Registration = found[0]
    return first


async def find_ours(write: Write, order: Order) -> list[Found]:
    """Every Appointment of this order as it is now, in the order of `fetch_registration`.

    Ends with `not_found` where there is none, and with `several` where more than one is paid.
    """
    document = await write.search("fetch_registration", order, whole=True)
    found = [await _found(write, Versioned(entry["resource"], None)) for entry in document["entry"]]
    found = [one for one in found if one.record.order_no == order.order_no]
    known = order.his_refs.get("appointment")
    if known is not None and known not in [one.id for one in found]:
        own = await reread(write, order)  # an index may lag
        found += [own] if own is not None else []
    if not found:
        raise Ended(Rejected(code="not_found", text="no Appointment under our key"))
    found.sort(key=lambda one: _rank(one.record, order))
    records = [one.record for one in found]
    if not is_clear(records):
        raise Ended(Rejected(code="several", text=_SEVERAL))
    _tell_of_surplus(write.exchange, order, records)
    return found


async def reread(write: Write, order: Order) -> Found | None:
    """The Appointment of the id that we keep; None where it is gone. Ends with `not_found` where it is not ours."""
    current = await write.read("fetch_registration.by_id", order)
    if current is None:
        return None
    found = await _found(write, current)
    if not is_ours(found.record, order):
        raise Ended(Rejected(code="not_found", text="the Appointment is not ours"))
    return found


async def registration(write: Write, resource: dict[str, Any]) -> Registration:
    """What an Appointment says."""
    record: Registration = await write.map_one("fetch_registration", resource)
    return record


def is_ours(record: Registration, order: Order) -> bool:
    """Whether it carries our key; one without any key of ours is, if we keep its id: a held one has no room for a key."""
    return record.order_no in (order.order_no, None)


def is_clear(records: Sequence[Registration]) -> bool:
    """Whether it can be said which one stands."""
    return sum(record.status in PAID for record in records) < 2


def with_refs(order: Order, **refs: str) -> Order:
    """The order with more of what the HIS calls things."""
    return msgspec.structs.replace(order, his_refs={**order.his_refs, **refs})


async def _held(exchange: Exchange, order: Order, deadline: Deadline) -> Registration | None:
    """The Appointment of the id that we keep, where none is found by our key."""
    call = exchange.calls.get("fetch_registration.by_id")
    current = await exchange.read(call, order, deadline) if call is not None else None
    if current is None:
        return None
    records = await exchange.map_resources(exchange.calls["fetch_registration"], [current.resource])
    return next((record for record in records if is_ours(record, order)), None)


async def _found(write: Write, current: Versioned) -> Found:
    return Found(current=current, record=await registration(write, current.resource))


def _rank(record: Registration, order: Order) -> tuple[bool, bool, bool]:
    return record.status in GONE, record.status not in PAID, record.his_id != order.his_refs.get("appointment")


def _tell_of_surplus(exchange: Exchange, order: Order, records: Sequence[Registration]) -> None:
    living = sum(record.status not in GONE for record in records)
    if living > 1:
        _log.warning("fhir_appointment_doubled", hospital=exchange.hospital.id, order_no=order.order_no, count=living)
