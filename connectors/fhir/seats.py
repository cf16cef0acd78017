"""One seat of a segment: which of its free Slots is asked for, and which next when somebody else was quicker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from connectors.fhir.inventory import FREE, SLOT, free_slots
from connectors.fhir.writes import Ended, Write
from connectors.port import HisError, Order, Outcome, Rejected

Attempt = Callable[[Write, Order, str], Awaitable[Outcome]]
"""Asks for one Slot, by its id, which the order's slot carries too (`his_refs.slot`). Ends with `taken` where it is gone."""


async def take_seat(write: Write, order: Order, attempt: Attempt) -> Outcome:
    """A Slot that is gone gives way to the next free one of its segment, at most `connection.seat_attempts` times."""
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
        seat = msgspec.structs.replace(order.slot, his_refs={**order.slot.his_refs, SLOT: slot})
        try:
            return await attempt(write, msgspec.structs.replace(order, slot=seat), slot)
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
