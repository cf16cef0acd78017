"""A B-Soft hospital that says only what it is told to: BSXml written and opened (DOMAIN facts 1)."""

from __future__ import annotations

import datetime as dt
from typing import Any

from lxml import etree

from connectors.port import Order
from mappings.canonical import (
    Session,
    Slot,
)
from tests.connectors.soap.golden.cases import DAY, ORDER_NO, call_of, texts
from tests.connectors.soap.soap_hospital import (
    ZONE,
    CannedPeer,
    golden_order,
)


def done(body: str, *, cdata: bool = True, status: str = "true") -> str:
    inside = f"<![CDATA[<Body>{body}</Body>]]>" if cdata else f"<Body>{body}</Body>"
    header = "<Sender>HIS</Sender><MsgType>X</MsgType><MsgVersion>3.0</MsgVersion>"
    return (
        f"<BSXml><MsgHeader>{header}<Status>{status}</Status><ErrCode/><Detail>成功</Detail></MsgHeader>"
        f"<MsgBody>{inside}</MsgBody></BSXml>"
    )


def failed(code: str, detail: str) -> str:
    return (
        f"<BSXml><MsgHeader><Status>false</Status><ErrCode>{code}</ErrCode><Detail>{detail}</Detail></MsgHeader>"
        "<MsgBody/></BSXml>"
    )


def arguments(peer: CannedPeer, n: int = -1) -> dict[str, str]:
    _, call = call_of(peer, n)
    assert call.tag == "{http://ws.access.hai/}invoke"
    return texts(call)


def asked(peer: CannedPeer, n: int = -1) -> tuple[str, dict[str, str]]:
    """The service and the body of a request."""
    given = arguments(peer, n)
    document = etree.fromstring(given["parameter"])
    assert document.findtext("MsgHeader/MsgType") == given["service"]
    body = etree.fromstring(document.findtext("MsgBody") or "")
    assert body.tag == "Body"
    return given["service"], texts(body)


def order(**given: Any) -> Order:
    return golden_order(
        **{
            "slot": Slot(
                id="8801@3",
                schedule_id="8801",
                date=DAY,
                session=Session.PM,
                starts_at=dt.datetime(2026, 1, 5, 14, tzinfo=ZONE),
                ends_at=dt.datetime(2026, 1, 5, 14, 30, tzinfo=ZONE),
                seats_left=3,
                his_refs={"segment_no": "3"},
            )
        }
        | given
    )


FOUND = (
    f"<DDXH>66</DDXH><WBDDH>{ORDER_NO}</WBDDH><DDZT>0</DDZT><BRID>0000012345</BRID><PBXH>8801</PBXH>"
    "<GZRQ>2026-01-05</GZRQ><JZSD>14:00-14:30</JZSD><JZXH>5</JZXH><MZXH/><FYHJ>7.00</FYHJ>"
    "<SHSJ>2026-01-04 09:40:15</SHSJ>"
)
