"""Refunds: those that fell due, those that a portal asks for, and how they ended."""

from __future__ import annotations

from booking import billing, people
from booking.api.context import Context
from booking.api.present import refund_view
from booking.api.routing import Call, Reply, RequestClass, Route
from booking.api.views.money import NewRefund, RefundList, RefundResult, RefundView
from booking.bookings import own_booking
from booking.errors import Refusal
from booking.money import PaymentRow, kept_payment
from booking.open_refunds import open_refunds
from booking.refunds import ask_refund, own_refund, report_refund
from booking.settings import Mode
from booking.store.engine import Tx
from booking.store.turns import Of


class RefundHandlers:
    """The portal moves the money; here it learns of what is due, and says how that ended."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def get(self, call: Call[None, None]) -> RefundView:
        async with self._context.store.read(call.hospital_id) as tx:
            row = await own_refund(tx, call.caller.id, call.path["refund_id"])
        return refund_view(row, self._context.hospital(call).zone)

    async def open(self, call: Call[None, None]) -> RefundList:
        zone = self._context.hospital(call).zone
        async with self._context.store.read(call.hospital_id) as tx:
            rows = await open_refunds(tx, client_id=call.caller.id)
        return RefundList(items=[refund_view(row, zone) for row in rows])

    async def report(self, call: Call[None, RefundResult]) -> RefundView:
        async with self._context.store.write(call.hospital_id, here=True, of=Of.STEPS) as tx:
            row = await own_refund(tx, call.caller.id, call.path["refund_id"])
            row = await report_refund(
                tx,
                row,
                word=call.body.status,
                refund_trade_no=call.body.refund_trade_no,
                tells_his=self._context.live.capabilities(call.hospital_id)["refund"] == "native"
                and self._context.hospital(call).mode != Mode.OBSERVE,
            )
        return refund_view(row, self._context.hospital(call).zone)

    async def of_booking(self, call: Call[None, NewRefund]) -> Reply:
        async def work(tx: Tx) -> RefundView:
            booking = await own_booking(tx, call.caller.id, call.path["booking_id"])
            return await self._ask(tx, call, await kept_payment(tx, booking_id=booking.id))

        return await self._context.once(call, 201, work)

    async def of_bill(self, call: Call[None, NewRefund]) -> Reply:
        async def work(tx: Tx) -> RefundView:
            _, person = await people.own_patient(tx, call.caller.id, call.path["patient_id"])
            bill = await billing.own_bill(tx, person, call.path["bill_id"])
            return await self._ask(tx, call, await kept_payment(tx, bill_id=bill.id))

        return await self._context.once(call, 201, work)

    async def _ask(self, tx: Tx, call: Call[None, NewRefund], payment: PaymentRow | None) -> RefundView:
        hospital, body = self._context.hospital(call), call.body
        if not hospital.portal_refunds:
            raise Refusal("not_offered_by_hospital", "This hospital alone says what goes back (portal_refunds).")
        if payment is not None and payment.client_id != call.caller.id:
            payment = None  # another portal has taken that money, and it alone can move it
        part = f"portal {call.idempotency_key}"
        row = await ask_refund(tx, payment, amount_fen=body.amount_fen, reason=body.reason, part=part)
        return refund_view(row, hospital.zone)


def refund_routes(context: Context) -> list[Route]:
    """The routes of this group."""
    handlers, scopes = RefundHandlers(context), ("billing",)
    of = "/v1/hospitals/{hospital_id}"
    errors = ("nothing_to_refund", "refund_too_large", "not_offered_by_hospital")
    told = "Due at once, for the portal to carry out. Where the hospital has not left this to portals: not offered."
    return [
        Route("GET", of + "/open-refunds", handlers.open, tag="billing", request_class=RequestClass.READ,
              summary="Your refunds that have not gone back, or of which the hospital does not know, oldest first",
              response=RefundList, scopes=scopes),
        Route("GET", of + "/refunds/{refund_id}", handlers.get, summary="A refund", tag="billing",
              request_class=RequestClass.READ, response=RefundView, scopes=scopes, errors=("refund_unknown",)),
        Route("POST", of + "/refunds/{refund_id}/result", handlers.report, tag="billing", request_class=RequestClass.STEP,
              summary="Report how a refund ended", request=RefundResult, response=RefundView, scopes=scopes,
              identified_by=("refund_id",), errors=("refund_unknown", "refund_conflict")),
        Route("POST", of + "/bookings/{booking_id}/refunds", handlers.of_booking, tag="billing",
              request_class=RequestClass.STEP, summary="Ask for some of a booking's fee back", request=NewRefund,
              response=RefundView, status=201, scopes=scopes, idempotent=True, identified_by=("booking_id",),
              errors=("booking_unknown", *errors), description=told),
        Route("POST", of + "/patients/{patient_id}/bills/{bill_id}/refunds", handlers.of_bill, tag="billing",
              request_class=RequestClass.STEP, summary="Ask for some of a paid bill back", request=NewRefund,
              response=RefundView, status=201, scopes=scopes, idempotent=True, identified_by=("patient_id",),
              errors=("patient_unknown", "bill_unknown", *errors), description=told),
    ]  # fmt: skip
