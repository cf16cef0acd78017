"""Seats for the facade: the request that `/v1` would make, and its key where the caller sent none.

Without an `Idempotency-Key` the key is made of the client (keys are each client's own), the operation, the reference and the
patient: a hold repeated is the same hold. Once that booking is over, the next hold of the same seat by the same patient is a new
one: its key is made of the first key and the booking that it led to, and so on.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Generic, TypeVar

import msgspec

from booking.api.context import Context
from booking.api.problems import ApiProblem
from booking.api.routing import Call, parse_idempotency_key
from booking.api.views.bookings import BookingView
from booking.api.waiting import place_of
from booking.errors import Refusal
from booking.inventory.requests import Answer, HoldRequest
from booking.inventory.writer import Outcome, granted
from booking.lifecycle import Command, CommandStatus, HisState, State
from booking.looks import Looks
from booking.named import slots_named
from booking.people import user_of
from booking.records import Booking

HOLD, BOOK = "hold", "book"
IDEMPOTENCY_KEY = "Idempotency-Key"
MOST_AGAIN = 20  # bookings of one seat by one patient that may have ended within a key's 24 hours
TAKEN = frozenset({State.HELD, State.BOOKED, State.CHECKED_IN})
"""Where a booking is the one that a repeated hold means. One that is being cancelled is not: its seat is on the way back."""
MOST_USERS, MOST_SLOTS = 20_000, 2_000  # known by heart
SLOT_KNOWN_S = 2.0  # a slot's time and doctor may be so old in the answer to a hold; every read asks the store

Row = dict[str, Any]
V = TypeVar("V")
_told = msgspec.json.Decoder(BookingView)


class Seat(msgspec.Struct, frozen=True):
    """A booking and the row of its slot. `is_new`: this request has made it."""

    booking: Booking
    slot: Row
    is_new: bool = False


class Holds:
    """Takes seats for the operations, and looks at bookings of theirs."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._looks = Looks(context.store)
        self._users: _Recent[str] = _Recent(MOST_USERS)
        self._slots: _Recent[tuple[float, Row]] = _Recent(MOST_SLOTS)

    async def take(
        self, call: Call[Any, Any], operation: str, slot_id: str, patient_id: str, *, renew: bool = True
    ) -> Seat:
        """The seat of this slot for this patient of the caller: a new one, or the one that the same request has got before.

        Without `renew` the request is bound to its first booking for as long as its key is, also when that is over.

        Raises Refusal, ApiProblem and what the writer of holds raises.
        """
        if call.admit_as is not None:
            _admit(call.admit_as, await self._user_of(call, patient_id), patient_id)
        return await self.settle(call, operation, self._request(call, operation, slot_id, patient_id), renew=renew)

    def ask(self, call: Call[Any, Any], request: HoldRequest) -> asyncio.Future[Outcome]:
        """Ask for a seat without waiting; what comes of it is for `settle`. Raises as `HoldWriter.ask`."""
        return self._context.holds.ask(self._context.hospital(call), request, within_s=call.left_s())

    async def settle(
        self,
        call: Call[Any, Any],
        operation: str,
        request: HoldRequest,
        outcome: Outcome | None = None,
        *,
        renew: bool = True,
    ) -> Seat:
        """The seat that came of a request; without its `outcome` it is asked for. Raises as `take`."""
        try:
            return await self._ask(call, request, outcome, renew=renew)
        except Refusal as refusal:
            if refusal.code == "duplicate_booking":
                return await self._same(call, request, refusal)
            if refusal.code != "slot_sold_out" or operation == HOLD:
                raise
            return await self._held_before(call, request, refusal)

    async def _ask(
        self, call: Call[Any, Any], request: HoldRequest, outcome: Outcome | None = None, *, renew: bool = True
    ) -> Seat:
        hospital, derived = self._context.hospital(call), request.key == f"fhir-{request.digest}"
        for _ in range(MOST_AGAIN):
            if outcome is None:
                answer = await self._context.holds.hold(hospital, request, within_s=call.left_s())
            else:
                answer, outcome = granted(outcome), None
            if not answer.replayed:
                return Seat(made_by(call, answer), await self.slot(call.hospital_id, request.slot_id), is_new=True)
            seat = await self.look(call, made_by(call, answer).id)
            if not (derived and renew) or seat.booking.state in TAKEN:
                return seat
            request = msgspec.structs.replace(request, key=_next_key(request.key, seat.booking.id))
        ended = f"{MOST_AGAIN} bookings of this seat have ended within a day: send an {IDEMPOTENCY_KEY}."
        raise Refusal("limit_reached", ended)

    async def _held_before(self, call: Call[Any, Any], request: HoldRequest, refusal: Refusal) -> Seat:
        """The seat of an earlier `$hold`, which may have been the last one: what is sold out is known without the store."""
        meaning = _meaning(HOLD, request.slot_id, request.patient_id)
        try:
            return await self._ask(call, msgspec.structs.replace(request, key=f"fhir-{meaning}", digest=meaning))
        except Refusal:
            raise refusal from None

    async def look(self, call: Call[Any, Any], booking_id: str) -> Seat:
        """A booking of the caller as it is now. Raises Refusal(booking_unknown), also for another client's."""
        look = await self._looks.look(call.hospital_id, booking_id)
        if look is None or look.booking.client_id != call.caller.id:
            raise Refusal("booking_unknown", "There is no such booking of yours at this hospital.")
        return Seat(look.booking, await self.slot(call.hospital_id, look.booking.slot_id))

    async def slot(self, hospital_id: str, slot_id: str) -> Row:
        """A slot's row, its seats aside up to `SLOT_KNOWN_S` old. Raises Refusal(slot_unknown)."""
        known = self.known_slot(hospital_id, slot_id)
        if known is not None:
            return known
        now_s = time.monotonic()
        async with self._context.store.read(hospital_id, here=True) as tx:
            row = (await slots_named(tx, [slot_id])).get(slot_id)
        if row is None:
            raise Refusal("slot_unknown", "There is no such slot at this hospital.")
        self._slots.put((hospital_id, slot_id), (now_s, row))
        return row

    def known_slot(self, hospital_id: str, slot_id: str) -> Row | None:
        """The same where the store has not to be asked; one and the same row until it is read again."""
        known = self._slots.get((hospital_id, slot_id))
        return known[1] if known is not None and time.monotonic() - known[0] <= SLOT_KNOWN_S else None

    def request_at_once(
        self, call: Call[Any, Any], operation: str, slot_id: str, patient_id: str
    ) -> HoldRequest | None:
        """The request that asks for this seat; None, and nothing counted, where the store must tell first whose patient it is.

        Raises ApiProblem.
        """
        if call.admit_as is not None:
            user_ref = self._users.get((call.hospital_id, call.caller.id, patient_id))
            if user_ref is None:
                return None
            _admit(call.admit_as, user_ref, patient_id)
        return self._request(call, operation, slot_id, patient_id)

    def _request(self, call: Call[Any, Any], operation: str, slot_id: str, patient_id: str) -> HoldRequest:
        meaning = _meaning(operation, slot_id, patient_id)
        room_ms, rank = place_of(self._context.rooms, call, patient_id)
        return HoldRequest(
            client_id=call.caller.id,
            user_ref=None,
            slot_id=slot_id,
            patient_id=patient_id,
            key=key_of(call.request.headers, meaning),
            digest=meaning,
            span=call.span,
            room_ms=room_ms,
            rank=rank,
        )

    async def _user_of(self, call: Call[Any, Any], patient_id: str) -> str:
        """Whose patient it is: neither the client nor the user of a patient ever changes. Raises Refusal."""
        place = (call.hospital_id, call.caller.id, patient_id)
        known = self._users.get(place)
        if known is None:
            async with self._context.store.read(call.hospital_id, here=True) as tx:
                known = await user_of(tx, call.caller.id, patient_id)
            self._users.put(place, known)
        return known

    async def _same(self, call: Call[Any, Any], request: HoldRequest, refusal: Refusal) -> Seat:
        """The booking that stands in the way, where it is the very one that is asked for: `$book` after `$hold`."""
        booking_id = (refusal.extra or {}).get("booking_id") if refusal.code == "duplicate_booking" else None
        if booking_id is None:
            raise refusal
        seat = await self.look(call, str(booking_id))
        same = (seat.booking.slot_id, seat.booking.patient_id) == (request.slot_id, request.patient_id)
        if not same or seat.booking.state not in TAKEN:
            raise refusal
        return seat


def made_by(call: Call[Any, Any], answer: Answer) -> Booking:
    """The booking as the answer shows it, without asking the store."""
    view = _told.decode(answer.body)
    return Booking(
        hospital_id=call.hospital_id,
        id=view.id,
        order_no=view.order_no,
        client_id=call.caller.id,
        user_ref=view.user_ref,
        patient_id=view.patient_id,
        person_id="",
        slot_id=view.slot_id,
        schedule_id=view.schedule_id,
        version=view.version,
        state=State(view.state),
        his_state=HisState(view.his_state),
        his_command=Command(view.his_command),
        his_command_status=CommandStatus(view.his_command_status),
        payment_state=view.payment_state,
        fee_fen=view.fee_fen,
        live=True,
        occupies=True,
        charged=True,
        created_ms=round(view.created_at.timestamp() * 1000),
        updated_ms=round(view.updated_at.timestamp() * 1000),
        expires_at_ms=None if view.expires_at is None else round(view.expires_at.timestamp() * 1000),
    )


def _admit(admit_as: Callable[[str, str], None], user_ref: str, patient_id: str) -> None:
    admit_as("user_ref", user_ref)
    admit_as("patient_id", patient_id)


def key_of(headers: Mapping[str, str], meaning: str) -> str:
    """The caller's own key, or the one that is made of what it asks for. Raises ApiProblem(idempotency_key_invalid)."""
    sent = headers.get(IDEMPOTENCY_KEY)
    if sent is None:
        return f"fhir-{meaning}"
    if not sent.strip():
        raise ApiProblem("idempotency_key_invalid")
    return parse_idempotency_key(sent)


def _meaning(operation: str, slot_id: str, patient_id: str) -> str:
    return sha256(f"fhir {operation}\n{slot_id}\n{patient_id}".encode()).hexdigest()


def _next_key(key: str, booking_id: str) -> str:
    return f"fhir-{sha256(f'{key} {booking_id}'.encode()).hexdigest()}"


class _Recent(Generic[V]):
    """What was looked up last, bounded in entries."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[tuple[str, ...], V] = OrderedDict()

    def get(self, key: tuple[str, ...]) -> V | None:
        return self._known.get(key)

    def put(self, key: tuple[str, ...], value: V) -> None:
        self._known[key] = value
        if len(self._known) > self._most:
            self._known.popitem(last=False)
