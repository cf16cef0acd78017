"""Bills and their payments."""

from __future__ import annotations

from functools import partial

from booking import billing, people
from booking.api.context import Context
from booking.api.present import bill_view, split_view, unsettled_view, without_contents
from booking.api.routing import Call, RequestClass, Route
from booking.api.taking_over import take_over
from booking.api.views.money import (
    BillList,
    BillView,
    MergedPaymentView,
    NewMergedPayment,
    NewPayment,
    SplitView,
    UnsettledList,
)
from booking.errors import Refusal
from booking.insured import find_insured
from booking.merged_payments import pay_bills
from booking.money import payments_of, refunds_of
from booking.ports import LiveFailed
from booking.records import Person
from booking.settings import Mode
from booking.settling import unsettled_of
from booking.splits import SplitInvalid, save_split, split_of
from booking.store.engine import Tx
from booking.store.turns import Of
from mappings.canonical import Payment


class BillingHandlers:
    """Bills are read live where the hospital answers such a question, else from what it has sent."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def list(self, call: Call[None, None]) -> BillList:
        person = await self._person(call)
        as_of = await self._refresh(call.hospital_id, person, call.left_s())
        async with self._context.store.read(call.hospital_id) as tx:
            rows = await billing.bills_of(tx, person)
            return BillList(items=[await self._view(tx, row, call.caller.id) for row in rows], as_of=as_of)

    async def get(self, call: Call[None, None]) -> BillView:
        person = await self._person(call)
        async with self._context.store.read(call.hospital_id) as tx:
            return await self._view(tx, await billing.own_bill(tx, person, call.path["bill_id"]), call.caller.id)

    async def pay(self, call: Call[None, NewPayment]) -> BillView:
        """Money that was taken is recorded, though the patient was let go of meanwhile; then nothing of the bill is shown."""
        body = call.body
        offered = self._context.live.capabilities(call.hospital_id)["settle_bill"] == "native"
        payment = Payment(
            channel=body.channel, trade_no=body.trade_no, amount_fen=body.amount_fen, paid_at=body.paid_at
        )
        async with self._context.store.write(call.hospital_id, here=True, of=Of.STEPS) as tx:
            # In this very transaction: the record may be merged into another one at any time.
            patient, person = await people.own_patient(tx, call.caller.id, call.path["patient_id"], or_unbound=True)
            bill = await billing.own_bill(tx, person, call.path["bill_id"])
            await billing.pay_bill(
                tx, bill, payment, client_id=call.caller.id, offered=offered, mode=self._context.hospital(call).mode
            )
            view = await self._view(tx, bill, call.caller.id)
            return view if patient["unbound_ms"] is None else without_contents(view)

    async def pay_several(self, call: Call[None, NewMergedPayment]) -> MergedPaymentView:
        """One payment for several bills (合并支付): all of it is recorded, or nothing."""
        body = call.body
        offered = self._context.live.capabilities(call.hospital_id)["settle_bill"] == "native"
        payment = Payment(
            channel=body.channel, trade_no=body.trade_no, amount_fen=body.amount_fen, paid_at=body.paid_at
        )
        async with self._context.store.write(call.hospital_id, here=True, of=Of.STEPS) as tx:
            patient, person = await people.own_patient(tx, call.caller.id, call.path["patient_id"], or_unbound=True)
            bills = await pay_bills(
                tx,
                person,
                payment,
                {piece.bill_id: piece.amount_fen for piece in body.bills},
                client_id=call.caller.id,
                offered=offered,
                mode=self._context.hospital(call).mode,
            )
            views = [await self._view(tx, bill, call.caller.id) for bill in bills]
            return MergedPaymentView(
                channel=body.channel,
                trade_no=body.trade_no,
                amount_fen=body.amount_fen,
                bills=views if patient["unbound_ms"] is None else [without_contents(view) for view in views],
            )

    async def presettle(self, call: Call[None, None]) -> SplitView:
        """Asks the hospital, and keeps what it says: until it runs out, the patient's share is what is to be paid."""
        person, hospital = await self._person(call), self._context.hospital(call)
        if hospital.mode == Mode.OBSERVE:
            raise Refusal("hospital_observe_only")
        async with self._context.store.read(call.hospital_id) as tx:
            bill = await self._open_bill(tx, person, call)
        told = await self._context.live.presettlement(
            call.hospital_id, bill.record, person.record, bill.order_no, within_s=call.left_s()
        )
        async with self._context.store.write(call.hospital_id, here=True, of=Of.STEPS) as tx:
            now = await self._open_bill(tx, person, call)  # it may have been paid meanwhile, or have changed
            try:
                split = split_of(bill.record, told, now_ms=tx.now_ms, valid_s=hospital.presettlement_valid_s)
            except SplitInvalid as e:
                raise LiveFailed("his_reply_invalid", str(e)) from None
            await save_split(tx, now.id, split)
        return split_view(split, hospital.zone)

    async def settle(self, call: Call[None, None]) -> BillView:
        """For a bill of which the insurance pays all: there is no payment to report."""
        person = await self._person(call)
        offered = self._context.live.capabilities(call.hospital_id)["settle_bill"] == "native"
        async with self._context.store.write(call.hospital_id, here=True, of=Of.STEPS) as tx:
            bill = await billing.own_bill(tx, person, call.path["bill_id"])
            await billing.settle_insured(
                tx, bill, client_id=call.caller.id, offered=offered, mode=self._context.hospital(call).mode
            )
            return await self._view(tx, bill, call.caller.id)

    async def unsettled(self, call: Call[None, None]) -> UnsettledList:
        zone = self._context.hospital(call).zone
        async with self._context.store.read(call.hospital_id) as tx:
            rows = await unsettled_of(tx, call.caller.id)
        return UnsettledList(items=[unsettled_view(row, tx.now_ms, zone) for row in rows])

    async def _open_bill(self, tx: Tx, person: Person, call: Call[None, None]) -> billing.BillRow:
        bill = await billing.own_bill(tx, person, call.path["bill_id"])
        await billing.check_open(tx, bill)
        return bill

    async def _person(self, call: Call[None, None]) -> Person:
        async with self._context.store.read(call.hospital_id) as tx:
            _, person = await people.own_patient(tx, call.caller.id, call.path["patient_id"])
        return person

    async def _refresh(self, hospital_id: str, person: Person, within_s: float | None) -> str:
        """Read the bills live where that is offered, and take them over. A bill that cannot be is left out and logged."""
        if self._context.live.capabilities(hospital_id)["fetch_bills"] == "pushed" or person.record.mrn is None:
            return "stored"
        told = await self._context.live.bills(hospital_id, person.record, within_s=within_s)
        currency, mrn = self._context.hospitals[hospital_id].currency, person.record.mrn
        await take_over(
            self._context.store,
            hospital_id,
            person,
            told,
            is_known=partial(billing.is_known, mrn=mrn),
            put=partial(billing.hear_bill, currency=currency, mrn=mrn),
        )
        return "live"

    async def _view(self, tx: Tx, bill: billing.BillRow, client_id: str) -> BillView:
        zone = self._context.hospitals[tx.hospital_id].zone
        paid, owed = await payments_of(tx, bill_id=bill.id), await refunds_of(tx, bill_id=bill.id)
        insured = None
        if bill.split is not None and bill.split.self_pay_fen == 0:
            insured = await find_insured(tx, bill.id)
        return bill_view(bill, zone, paid, owed, insured, client_id=client_id)


def billing_routes(context: Context) -> list[Route]:
    """The routes of this group."""
    handlers, scopes = BillingHandlers(context), ("billing",)
    of = "/v1/hospitals/{hospital_id}"
    bills = of + "/patients/{patient_id}/bills"
    live = ("patient_unknown", "his_unavailable", "his_refused", "his_reply_invalid", "not_offered_by_hospital")
    return [
        Route("GET", bills, handlers.list, summary="A patient's bills", tag="billing",
              request_class=RequestClass.LIVE, heeds_wait=True, response=BillList, scopes=scopes,
              errors=live),
        Route("GET", bills + "/{bill_id}", handlers.get, summary="A bill, as last told by the hospital", tag="billing",
              request_class=RequestClass.READ,
              response=BillView, scopes=scopes, errors=("patient_unknown", "bill_unknown")),
        Route("POST", bills + "/{bill_id}/payments", handlers.pay, summary="Report money for a bill", tag="billing",
              request_class=RequestClass.STEP,
              request=NewPayment, response=BillView, status=202, scopes=scopes, identified_by=("patient_id",),
              errors=("patient_unknown", "bill_unknown", "payment_conflict", "payment_of_another_portal"),
              description="Money is always recorded; what cannot pay for the bill falls due as a refund at once."),
        Route("POST", of + "/patients/{patient_id}/bill-payments", handlers.pay_several, tag="billing",
              request_class=RequestClass.STEP, summary="Report one payment for several bills of a patient (合并支付)",
              request=NewMergedPayment, response=MergedPaymentView, status=202, scopes=scopes, identified_by=("patient_id",),
              errors=("patient_unknown", "bill_unknown", "payment_conflict", "payment_of_another_portal"),
              description="All of it is recorded, or nothing. Each bill is settled by itself; a piece that cannot pay for its "
                          "bill falls due as a refund at once, and the others stand."),
        Route("POST", bills + "/{bill_id}/settlement", handlers.settle, tag="billing", request_class=RequestClass.STEP,
              summary="Settle a bill of which the insurance pays all (医保, a share of 0)", response=BillView, status=202,
              scopes=scopes, identified_by=("patient_id",),
              errors=("patient_unknown", "bill_unknown", "patient_share_due", "already_paid", "not_payable",
                      "hospital_observe_only", "not_offered_by_hospital"),
              description="There is no payment to report. Asked again it is the same one; read the bill for how far it is."),
        Route("GET", of + "/unsettled-payments", handlers.unsettled, tag="billing", request_class=RequestClass.READ,
              summary="Money that you have reported and the hospital has not booked, oldest first", response=UnsettledList,
              scopes=scopes),
        Route("POST", bills + "/{bill_id}/presettlement", handlers.presettle, tag="billing",
              request_class=RequestClass.LIVE, heeds_wait=True, response=SplitView, scopes=scopes,
              summary="What the insurance pays of a bill and what the patient (医保预结算)",
              errors=("bill_unknown", "already_paid", "not_payable", "hospital_observe_only", *live)),
    ]  # fmt: skip
