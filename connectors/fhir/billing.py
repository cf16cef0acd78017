"""Bills, their settlement and refunds: Invoice and ChargeItem read, PaymentReconciliation and PaymentNotice written.

A bill is settled when the **HIS** has balanced its Invoice, not when it has taken our notice.
"""

from __future__ import annotations

import asyncio

import msgspec

from connectors.fhir.deadlines import Deadline
from connectors.fhir.documents import Document, Json
from connectors.fhir.exchange import Exchange, Versioned
from connectors.fhir.writes import Ended, Write
from connectors.payments import refund_of, settlement_of
from connectors.port import Accepted, BillPayment, HisError, HisRefused, Outcome, RefundOrder, Rejected, Unknown
from mappings.canonical import Bill, BillStatus, Patient, Settlement
from monitoring.logs import get_logger

_log = get_logger(__name__)
_FIRST_LOOK_S = 0.1


async def fetch_bills(exchange: Exchange, patient: Patient, deadline: Deadline) -> list[Bill]:
    """The open bills of a patient. The charge items that their lines refer to come from a search of their own."""
    call = exchange.calls["fetch_bills"]
    document = await exchange.search(call, patient, deadline)
    items = exchange.calls.get("fetch_bills.items")
    if items is not None and document["entry"]:
        more = await exchange.search(items, patient, deadline)
        document = Document.of([*document["entry"], *more["entry"]])
    return await exchange.map_all(call, document)


async def fetch_settlement(exchange: Exchange, payment: BillPayment, deadline: Deadline) -> Settlement | None:
    """What the HIS has booked under our order number and over our amount; None while the Invoice is not balanced.

    An Invoice that is balanced without a notice of ours was paid with other money: HisRefused `taken`. It is read before
    the notices, so that ours is among them if it was ours that balanced it.
    """
    call, of_invoice = exchange.calls["fetch_settlement"], exchange.calls["settle_bill.invoice"]
    invoice = await exchange.read(of_invoice, payment, deadline)
    if invoice is None:
        return None
    document = await exchange.search(call, payment, deadline, whole=True)
    entries = [*document["entry"], {"resource": invoice.resource}]
    found = settlement_of(payment, await exchange.map_all(call, Document.of(entries), whole=True))
    if found is None:
        bills = await exchange.map_resources(of_invoice, [invoice.resource])
        if any(bill.status is BillStatus.PAID for bill in bills):
            raise HisRefused("another payment has balanced the Invoice", code="taken")
    return found


async def settle_bill(write: Write, payment: BillPayment) -> Outcome:
    """Record the payment, tell of it, and wait a moment for the Invoice to be balanced."""
    invoice = await _invoice(write, payment)
    bill: Bill = await write.map_one("settle_bill.invoice", invoice.resource)
    if bill.status is BillStatus.PAID:
        return Rejected(code="already_exists", text="the Invoice is balanced already")
    if bill.status is not BillStatus.OPEN:
        return Rejected(code="refused", text="the Invoice is not open")
    if (bill.amount_fen, bill.currency) != (payment.payment.amount_fen, payment.bill.currency):
        return Rejected(code="price_changed", text="the Invoice is over another amount")
    recorded = await write.create("settle_bill", payment)
    payment = _with_refs(payment, payment_reconciliation=recorded.id)
    try:
        notice = await write.create("settle_bill.notice", payment)
    except Ended as ended:
        if isinstance(ended.outcome, Rejected) and not ended.outcome.retryable:
            await _withdraw(write, payment)
        raise
    payment = _with_refs(payment, payment_notice=notice.id)
    told = notice.resource
    return await _wait_for_balance(write, payment, told)


async def refund(write: Write, order: RefundOrder) -> Outcome:
    """Tell of money that has gone back: by a resource that the site has agreed to read so."""
    told = await write.create("refund", order)
    if (told.resource or {}).get("outcome") == "error":
        return Rejected(code="refused", text="the HIS has the refund, and says that it cannot process it")
    return Accepted(his_refs={"payment_reconciliation": told.id})


async def fetch_refund(exchange: Exchange, order: RefundOrder, deadline: Deadline) -> Settlement | None:
    """What the HIS has under our number of the refund."""
    call = exchange.calls["fetch_refund"]
    document = await exchange.search(call, order, deadline, whole=True)
    return refund_of(order, await exchange.map_all(call, document, whole=True))


async def _invoice(write: Write, payment: BillPayment) -> Versioned:
    invoice = await write.read("settle_bill.invoice", payment)
    if invoice is None:
        code = (
            Unknown(reason="the Invoice is gone") if write.wrote else Rejected(code="not_found", text="no such Invoice")
        )
        raise Ended(code)
    return invoice


async def _wait_for_balance(write: Write, payment: BillPayment, notice: Json | None) -> Outcome:
    """Look at the Invoice until it is balanced, at 0, 0.1, 0.3, 0.7, 1.5 s ... and at most for `settle_wait_s`."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + min(write.exchange.setting("settle_wait_s", 5), write.deadline.left_s())
    pause_s = _FIRST_LOOK_S
    while True:
        invoice = await _invoice(write, payment)
        bill: Bill = await write.map_one("settle_bill.invoice", invoice.resource)
        if bill.status is BillStatus.PAID:
            return Accepted(his_refs=payment.his_refs, record=await _settlement(write, payment, invoice, notice))
        if loop.time() + pause_s >= ends:
            return Unknown(reason="the HIS took the payment notice and has not balanced the Invoice yet")
        await asyncio.sleep(pause_s)
        pause_s *= 2


async def _settlement(write: Write, payment: BillPayment, invoice: Versioned, notice: Json | None) -> Settlement:
    """The settlement as a query-back reads it; the bare fact where the server returned no notice."""
    if notice is not None:
        document = Document.of([{"resource": notice}, {"resource": invoice.resource}])
        try:
            found = await write.exchange.map_all(write.call("fetch_settlement"), document)
        except HisError:
            # The money is booked: an unreadable receipt must not put that in doubt. It is in the log of `map_all`.
            found = []
        if found:
            record: Settlement = found[0]
            if record.amount_fen not in (None, payment.payment.amount_fen):
                raise Ended(Unknown(reason="the HIS has a notice over another amount under our number"))
            return record
    return Settlement(bill_id=payment.bill.id, his_refs=payment.his_refs)


async def _withdraw(write: Write, payment: BillPayment) -> None:
    """Take the payment's record back when its notice was refused. Best effort: the refusal stands either way."""
    try:
        recorded = await write.read("settle_bill.withdraw", payment)
        if recorded is not None:
            await write.update("settle_bill.withdraw", payment, recorded)
    except Ended as ended:
        outcome = type(ended.outcome).__name__
        _log.warning(
            "fhir_payment_not_withdrawn",
            hospital=write.exchange.hospital.id,
            order_no=payment.order_no,
            outcome=outcome,
        )


def _with_refs(payment: BillPayment, **refs: str) -> BillPayment:
    return msgspec.structs.replace(payment, his_refs={**payment.his_refs, **refs})
