"""合并支付: which of a HIS's answers is of a bill whose trade number has paid for others too."""

from __future__ import annotations

import datetime as dt

import pytest

from connectors.payments import settlement_of
from connectors.port import BillPayment, HisError, HisRefused, HisReplyInvalid
from mappings.canonical import Bill, Patient, Payment, Settlement

NO, OTHER_NO = "9" * 20, "8" * 20
PAID = BillPayment(
    order_no=NO,
    bill=Bill(id="B1", amount_fen=800, currency="CNY"),
    patient=Patient(name="张伟"),
    payment=Payment(channel="wechat", trade_no="T1", amount_fen=800, paid_at=dt.datetime(2026, 1, 5, 8, tzinfo=dt.UTC)),
    other_bills=("B2", "B3"),
)
OURS = Settlement(bill_id="B1", trade_no="T1", amount_fen=800)
BY_OUR_NUMBER = Settlement(order_no=NO, trade_no="T1", amount_fen=800)
ELSEWHERE_WRITTEN = Settlement(bill_id="0000B1", trade_no="T1", amount_fen=800)  # as some HIS pad
OF_ANOTHER = Settlement(bill_id="B2", trade_no="T1", amount_fen=800)  # of the same amount
OF_A_DEARER = Settlement(bill_id="B3", order_no=OTHER_NO, trade_no="T1", amount_fen=9900)
OF_NO_BILL = Settlement(trade_no="T1", amount_fen=800)


@pytest.mark.parametrize(
    ("found", "ours"),
    [
        ([OURS], OURS),
        ([OF_ANOTHER, OF_A_DEARER, OURS], OURS),
        ([OF_A_DEARER, BY_OUR_NUMBER], BY_OUR_NUMBER),
        ([OF_ANOTHER, ELSEWHERE_WRITTEN], ELSEWHERE_WRITTEN),
        ([OF_ANOTHER], None),
        ([OF_A_DEARER], None),
        ([], None),
    ],
)
def test_answer_of_another_bill_of_the_payment_is_none(found: list[Settlement], ours: Settlement | None) -> None:
    assert settlement_of(PAID, found) == ours


@pytest.mark.parametrize(
    ("found", "error"),
    [
        ([OF_NO_BILL], HisReplyInvalid),  # it may be any of the three
        ([Settlement(trade_no="T1", amount_fen=9900)], HisReplyInvalid),  # and is no other amount of this one
        ([Settlement(bill_id="B1", trade_no="T1", amount_fen=801)], HisRefused),
        ([Settlement(bill_id="B1", order_no=OTHER_NO, trade_no="T7", amount_fen=800)], HisRefused),
    ],
)
def test_answer_that_could_be_of_another_bill_settles_nothing(found: list[Settlement], error: type[HisError]) -> None:
    with pytest.raises(error):
        settlement_of(PAID, found)


def test_answer_that_names_no_bill_is_believed_of_a_payment_for_one() -> None:
    alone = BillPayment(order_no=NO, bill=PAID.bill, patient=PAID.patient, payment=PAID.payment)
    assert settlement_of(alone, [OF_NO_BILL]) == OF_NO_BILL
