"""What the golden tests of every dialect begin with: the days, people and orders that they speak of, and how a call is opened."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from lxml import etree

from connectors.port import HisRefused, Order, RefundOrder, Window
from mappings.canonical import Patient, Refund
from tests.connectors.soap.soap_hospital import CannedPeer, golden_order, payment

DAY = dt.date(2026, 1, 5)
WINDOW = Window(date_from=DAY, date_to=DAY, department_id="100")
WEEK = Window(date_from=DAY, date_to=dt.date(2026, 1, 11), department_id="100")
KNOWN = Patient(name="张伟", mrn="0000012345")
ORDER_NO = "20260105000000000001"
PAYMENT_ORDER_NO = "20260105000000000009"
REFUND_NO = "8" * 20

NO_DOCUMENTS = [
    "<html><body>Server Error in '/' Application.</body></html>",
    '<diffgr:diffgram xmlns:diffgr="urn:schemas-microsoft-com:xml-diffgram-v1"><NewDataSet/></diffgr:diffgram>',
    "数据库连接异常",
    "",
]
"""What stands where the document should, and says neither yes nor no (DOMAIN facts 4.4)."""

MISSING_ELSE = ["操作员不存在", "患者不存在", "排班不存在"]
"""Sentences that say that something is missing, and it is not the order."""


def call_of(peer: CannedPeer, n: int = -1) -> tuple[dict[str, str], etree._Element]:
    """The HTTP headers of a request and its operation's element."""
    headers, body = peer.requests[n]
    envelope = etree.fromstring(body)
    assert envelope.tag == "{http://schemas.xmlsoap.org/soap/envelope/}Envelope"
    (call,) = envelope[-1]
    return headers, call


def texts(document: etree._Element) -> dict[str, Any]:
    """A document as names and texts in their order; each name once, what has parts as another."""
    found: dict[str, Any] = {str(child.tag): texts(child) if len(child) else child.text or "" for child in document}
    assert len(found) == len(document), "a name stands twice"
    return found


def refund_of(order: Order | None = None, *, amount_fen: int = 700) -> RefundOrder:
    """A refund of a registration for seven yuan."""
    order = order or golden_order(payment=payment(700))
    refund = Refund(refund_no=REFUND_NO, payment=payment(700), amount_fen=amount_fen, reason="停诊")
    return RefundOrder(refund=refund, patient=order.patient, order=order)


async def refusal(read: Any) -> str:
    """The code with which a read is refused."""
    with pytest.raises(HisRefused) as refused:
        await read
    return refused.value.code
