"""A Zysoft hospital that says only what it is told to: GBK under the label gb2312 (DOMAIN facts 1)."""

from __future__ import annotations

from typing import Any

import msgspec

from mappings.canonical import (
    Schedule,
    Session,
)
from tests.connectors.soap.golden.cases import DAY
from tests.connectors.soap.soap_hospital import (
    canned,
    golden_order,
)

PROLOG = '<?xml version="1.0" encoding="gb2312"?>'
SCHEDULE = Schedule(
    id="100|D1|2026-01-05|S",
    date=DAY,
    session=Session.AM,
    department_id="100",
    department_name="内科",
    practitioner_id="D1",
    practitioner_name="李明",
    clinic_type="专家号",
    fee_fen=5050,
    his_refs={"doctor": "李明/D1", "session_code": "S", "type_code": "2"},
)


def zysoft(*replies: Any, **given: Any) -> Any:
    return canned(*replies, profile="zysoft@1", **given)


def done(inside: str = "") -> str:
    return f"{PROLOG}<Response><ResultCode>0000</ResultCode><ResultContent>交易成功</ResultContent>{inside}</Response>"


def failed(text: str, code: str = "9999", place: str = "ResultContent") -> str:
    return f"{PROLOG}<Response><ResultCode>{code}</ResultCode><{place}>{text}</{place}></Response>"


def booked(**given: Any) -> Any:
    slot = msgspec.structs.replace(golden_order().slot, his_refs={"reserve_code": "4"})
    return golden_order(schedule=SCHEDULE, slot=slot, **given)
