"""Holding, paying, cancelling, and waiting for what the hospital says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import msgspec

from booking import bookings as rules
from booking.api.context import Context
from booking.api.cursors import decode_cursor, encode_cursor
from booking.api.present import booking_view
from booking.api.routing import Call, Pending, Reply, RequestClass, Route
from booking.api.views.bookings import BookingList, BookingQuery, BookingView, Cancel, NewBooking, WaitQuery
from booking.api.views.money import NewPayment
from booking.api.waiting import TICKET_FIELD, place_of
from booking.gathering import purse
from booking.inventory.requests import HoldRequest
from booking.inventory.writer import Outcome, granted
from booking.looks import Looks
from booking.moves import topic
from booking.records import Booking
from booking.steps import Step, Steps
from booking.store.bell import wait_for_ring
from booking.store.engine import Tx
from mappings.canonical import Payment

_REPLAYED = {"Idempotent-Replayed": "true"}
POLL_S = 1.0  # how long a change made by another process may stay unseen by a waiting request


class BookingHandlers:
    """The life of a booking, as a portal drives it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._looks = Looks(context.store)
        self._steps = Steps(context.store)

    def hold_at_once(self, call: Call[None, NewBooking]) -> Pending:
        """Asks for the seat, and waits for nothing but the decision."""
        hospital, request = self._context.hospital(call), self._request_of(call)
        return Pending(self._context.holds.ask(hospital, request, within_s=call.left_s()), _told)

    async def hold(self, call: Call[None, NewBooking]) -> Reply:
        hospital, request = self._context.hospital(call), self._request_of(call)
        return _told(await self._context.holds.hold(hospital, request, within_s=call.left_s()))

    def _request_of(self, call: Call[None, NewBooking]) -> HoldRequest:
        body, place = call.body, place_of(self._context.rooms, call, call.body.patient_id)
        return HoldRequest(
            client_id=call.caller.id,
            user_ref=body.user_ref,
            slot_id=body.slot_id,
            patient_id=body.patient_id,
            key=call.idempotency_key or "",
            digest=call.fingerprint(),
            fee_fen=body.fee_fen,
            span=call.span,
            room_ms=place[0],
            rank=place[1],
            offer=None if body.waitlist_entry_id is msgspec.UNSET else body.waitlist_entry_id,
        )

    async def list(self, call: Call[BookingQuery, None]) -> BookingList:
        query, zone = call.query, self._context.hospital(call).zone
        after = None if query.cursor is None else str(decode_cursor(query.cursor, str)[0])
        async with self._context.store.read(call.hospital_id) as tx:
            found = await rules.find_bookings(
                tx,
                call.caller.id,
                patient_id=query.patient_id,
                user_ref=query.user_ref,
                state=query.state,
                after=after,
                limit=query.limit + 1,
            )
        page = found[: query.limit]
        return BookingList(
            items=[booking_view(b, tx.now_ms, zone) for b in page],
            next=encode_cursor(page[-1].id) if len(found) > query.limit else None,
        )

    async def get(self, call: Call[WaitQuery, None]) -> BookingView:
        """Answers at once if the booking is newer than `since_version`, else when it changes or `wait_s` is over."""
        query, booking_id = call.query, call.path["booking_id"]
        loop = asyncio.get_running_loop()
        ends = loop.time() + query.wait_s
        since = query.since_version
        while True:
            bell = self._context.store.bell.listen(topic(booking_id))
            try:
                version, view = await self._look(call, booking_id)
                left = ends - loop.time()
                if since is None:
                    since = version
                if version > since or left <= 0 or self._context.draining():
                    return view
                await wait_for_ring(bell, min(left, POLL_S))
            finally:
                bell.cancel()

    async def _look(self, call: Call[WaitQuery, None], booking_id: str) -> tuple[int, BookingView]:
        look = await self._looks.look(call.hospital_id, booking_id)
        if look is None or look.booking.client_id != call.caller.id:
            raise rules.unknown_booking(booking_id)
        zone = self._context.hospital(call).zone
        return look.booking.version, booking_view(look.booking, look.now_ms, zone, *look.purse, look.place)

    async def pay(self, call: Call[None, NewPayment]) -> BookingView:
        hospital, body = self._context.hospital(call), call.body
        payment = Payment(
            channel=body.channel, trade_no=body.trade_no, amount_fen=body.amount_fen, paid_at=body.paid_at
        )

        async def work(tx: Tx, booking: Booking) -> BookingView:
            await rules.pay_booking(tx, hospital, booking, payment)
            return booking_view(booking, tx.now_ms, hospital.zone, *await purse(tx, booking))

        return await self._step(call, work, names=[(body.channel, body.trade_no)])

    async def cancel(self, call: Call[None, Cancel]) -> BookingView:
        hospital = self._context.hospital(call)

        async def work(tx: Tx, booking: Booking) -> BookingView:
            await rules.cancel_booking(tx, hospital, booking, call.body.reason)
            return booking_view(booking, tx.now_ms, hospital.zone, *await purse(tx, booking))

        return await self._step(call, work)

    async def _step(
        self,
        call: Call[None, Any],
        work: Callable[[Tx, Booking], Awaitable[BookingView]],
        names: Sequence[tuple[str, str]] = (),
    ) -> BookingView:
        step = Step(call.caller.id, call.path["booking_id"], work, names)
        return cast(BookingView, await self._steps.take(call.hospital_id, step))


def _told(outcome: Outcome) -> Reply:
    """The answer to a hold. Raises Refusal."""
    answer = granted(outcome)
    return Reply(answer.body, status=answer.status, headers=_REPLAYED if answer.replayed else {})


def booking_routes(context: Context) -> list[Route]:
    """The routes of this group."""
    handlers, scopes = BookingHandlers(context), ("booking",)
    of = "/v1/hospitals/{hospital_id}/bookings"
    hold_errors = (
        "slot_sold_out", "slot_not_released", "hospital_closed", "schedule_stopped", "slot_in_past", "duplicate_booking",
        "price_changed", "fee_unknown",
        "limit_reached", "patient_not_eligible", "patient_blocked", "channel_quota_reached", "wait_after_cancellation",
        "slot_unknown", "patient_unknown", "patient_rejected", "hospital_paused", "hospital_observe_only",
        "not_offered_by_hospital", "waiting_room", "waitlist_entry_unknown", "offer_over",
    )  # fmt: skip
    return [
        Route("POST", of, handlers.hold, at_once=handlers.hold_at_once, summary="Hold a seat", tag="bookings",
              request_class=RequestClass.HOLD, heeds_wait=True,
              request=NewBooking, response=BookingView, status=201, scopes=scopes, idempotent=True,
              identified_by=("user_ref", "patient_id"), errors=hold_errors,
              headers={TICKET_FIELD: "The patient's ticket, while the hospital's waiting room is open."},
              description="Answers after our own commit; the lock at the hospital follows. Wait for it with `wait_s`."),
        Route("GET", of + "/{booking_id}", handlers.get, summary="A booking, now or when it changes", tag="bookings",
              request_class=RequestClass.READ,
              query=WaitQuery, response=BookingView, scopes=scopes, errors=("booking_unknown",), waits=True),
        Route("GET", of, handlers.list, summary="Bookings of a patient or a user", tag="bookings",
              request_class=RequestClass.READ, query=BookingQuery,
              response=BookingList, scopes=scopes, errors=("cursor_invalid",)),
        Route("POST", of + "/{booking_id}/payments", handlers.pay, summary="Report money for a booking", tag="bookings",
              request_class=RequestClass.STEP,
              request=NewPayment, response=BookingView, status=202, scopes=scopes, identified_by=("booking_id",),
              errors=("booking_unknown", "payment_conflict", "payment_of_another_portal"),
              description="Money is always recorded; what cannot pay for the booking falls due as a refund at once."),
        Route("POST", of + "/{booking_id}/cancel", handlers.cancel, summary="Cancel a booking", tag="bookings",
              request_class=RequestClass.STEP,
              request=Cancel, response=BookingView, status=202, scopes=scopes, identified_by=("booking_id",),
              errors=("booking_unknown", "not_cancellable", "cancel_too_late", "hospital_paused", "hospital_observe_only")),
    ]  # fmt: skip
