"""A hospital of pipe strings that says only what it is told to (DOMAIN facts 1)."""

from __future__ import annotations

import datetime as dt
from typing import Any

from connectors.port import (
    Order,
)
from mappings.canonical import (
    Session,
    Slot,
)
from tests.connectors.soap.golden.cases import DAY, call_of
from tests.connectors.soap.soap_hospital import (
    ZONE,
    CannedPeer,
    golden_order,
)

PIPE = {"profile": "pipe@1"}


def done(data: str) -> str:
    return f'{{Code:0,Msg:"成功",Data:{data}}}'


def failed(text: str) -> str:
    return f'{{Code:-1,Msg:"{text}"}}'


def asked(peer: CannedPeer, n: int = -1) -> str:
    """The string of a request."""
    _, call = call_of(peer, n)
    assert call.tag == "{http://tempuri.org/}QueryData"
    (argument,) = call
    assert argument.tag == "{http://tempuri.org/}strParam"
    return argument.text or ""


def order(**given: Any) -> Order:
    slot = Slot(
        id="8801@1400-1430",
        schedule_id="8801",
        date=DAY,
        session=Session.PM,
        starts_at=dt.datetime(2026, 1, 5, 14, tzinfo=ZONE),
        ends_at=dt.datetime(2026, 1, 5, 14, 30, tzinfo=ZONE),
        seats_left=3,
        his_refs={"segment": "1400-1430"},
    )
    return golden_order(**({"slot": slot} | given))
