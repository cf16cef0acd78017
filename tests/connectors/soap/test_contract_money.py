"""One contract for every SOAP dialect: bills, settlements, refunds and statements."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from connectors.port import (
    Accepted,
    BillPayment,
    NotOffered,
    RefundOrder,
    Rejected,
    Unknown,
    Verb,
)
from mappings.canonical import Refund, StatementKind
from tests.connectors.soap.soap_hospital import ZONE, golden_bill_payment, payment, switch
from tests.connectors.soap.spoken import EACH, Spoken, offers, order_of, patient_of, take, with_refs

pytestmark = EACH


@pytest.mark.parametrize("lost", [False, True], ids=["told", "reply lost"])
async def test_bill_is_settled_once_and_found_again(spoken: Spoken, lost: bool) -> None:
    async with spoken.hospital() as (simulator, his):
        patient = await patient_of(his, simulator)
        assert patient.mrn is not None
        simulator.hospital.charge(patient.mrn, [("血常规", 2500), ("挂号费", 50)])
        if not offers(his, Verb.FETCH_BILLS):
            with pytest.raises(NotOffered):
                await his.fetch_bills(patient)
            return
        (bill,) = await his.fetch_bills(patient)
        assert (bill.amount_fen, bill.currency) == (2550, "CNY")
        assert [(item.name, item.amount_fen) for item in bill.items] == [("血常规", 2500), ("挂号费", 50)]
        paying = BillPayment(order_no="9" * 20, bill=bill, patient=patient, payment=payment(2550))
        if offers(his, Verb.PRESETTLE_BILL):
            presettled = await his.presettle_bill(paying)
            assert isinstance(presettled, Accepted)
            paying = msgspec.structs.replace(paying, his_refs=presettled.his_refs)
        if lost:
            switch(simulator, "settle_bill", "lose_reply", times=1)
        settled = await his.settle_bill(paying)
        assert isinstance(settled, Unknown if lost else Accepted)
        charge = simulator.hospital.charges[next(iter(simulator.hospital.charges))]
        assert (charge.state, charge.trade_no) == ("paid", "4200001")
        if offers(his, Verb.FETCH_SETTLEMENT):
            found = await his.fetch_settlement(paying)
            assert found is not None
            assert found.receipt_no == charge.receipt
        again = await his.settle_bill(paying)
        assert isinstance(again, Rejected)
        assert again.code == "already_exists"
        assert await his.fetch_bills(patient) == []


async def test_nothing_is_settled_when_nobody_has_paid(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        patient = await patient_of(his, simulator)
        if not offers(his, Verb.FETCH_SETTLEMENT):
            return
        assert patient.mrn is not None
        simulator.hospital.charge(patient.mrn, [("血常规", 2500)])
        (bill,) = await his.fetch_bills(patient)
        paying = BillPayment(order_no="9" * 20, bill=bill, patient=patient, payment=payment(2500))
        assert await his.fetch_settlement(paying) is None


@pytest.mark.parametrize("lost", [False, True], ids=["told", "reply lost"])
async def test_refund_of_a_registration_is_found_again_and_stands_in_the_statement(spoken: Spoken, lost: bool) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        paid = payment(order.fee_fen)
        order = with_refs(order, await take(his, order), payment=paid)
        order = with_refs(order, await his.register(order))
        refund = Refund(refund_no="8" * 20, payment=paid, amount_fen=order.fee_fen, reason="停诊")
        asked = RefundOrder(refund=refund, patient=order.patient, order=order)
        if not offers(his, Verb.REFUND):
            refused = await his.refund(asked)
            assert isinstance(refused, Rejected)
            assert refused.code == "not_offered"
            return
        assert await his.fetch_refund(asked) is None
        if lost:
            switch(simulator, "refund", "lose_reply", times=1)
        assert isinstance(await his.refund(asked), Unknown if lost else Accepted)
        assert await his.fetch_refund(asked) is not None
        if not offers(his, Verb.FETCH_STATEMENT):
            return
        lines = await his.fetch_statement(dt.datetime.now(ZONE).date())
        assert [(x.kind, x.amount_fen, x.trade_no) for x in lines] == [
            (StatementKind.PAYMENT, order.fee_fen, "4200001"),
            (StatementKind.REFUND, order.fee_fen, "4200001"),
        ]
        assert await his.fetch_statement(dt.date(2020, 1, 1)) == []


async def test_refund_of_a_bill_is_not_offered_and_not_sent_as_one_of_a_visit(spoken: Spoken) -> None:
    """No dialect has a trade for it: whoever asks must learn that at once, and no registration may be given back for it."""
    async with spoken.hospital() as (simulator, his):
        paying = golden_bill_payment()
        refund = Refund(refund_no="8" * 20, payment=paying.payment, amount_fen=1, reason="patient")
        outcome = await his.refund(RefundOrder(refund=refund, patient=paying.patient, bill=paying.bill))
        assert isinstance(outcome, Rejected)
        if (
            spoken.name == "ninth"
        ):  # a site's own profile, which says nothing of bills: its HIS is asked by no key, and refuses
            assert outcome.code == "invalid_request"
        else:
            assert (outcome.code, simulator.board.calls["refund"]) == ("not_offered", 0)
