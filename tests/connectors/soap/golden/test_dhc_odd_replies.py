"""What a DHC hospital answers through each of its doors: odd replies (DOMAIN facts 4), and those that say no."""

from __future__ import annotations

import pytest
from aiohttp import web

from connectors.port import HisReplyInvalid, Rejected, Unknown
from mappings.canonical import (
    Department,
)
from tests.connectors.soap.golden.cases import (
    MISSING_ELSE,
    NO_DOCUMENTS,
    WINDOW,
    refusal,
)
from tests.connectors.soap.golden.dhc_doors import DEPARTMENTS, DOORS, PLAN, PLANS, SCHEDULE, Door, done, failed
from tests.connectors.soap.soap_hospital import (
    enveloped,
    golden_order,
)

# --- how the answer is wrapped -------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", ["escaped", "CDATA", "elements", "no envelope of its own"])
async def test_schedule_is_the_same_however_the_result_is_wrapped(door: Door, wrapped: str) -> None:
    told = done(PLANS)
    inside = {
        "escaped": told.replace("<", "&lt;"),
        "CDATA": f"<![CDATA[<?xml version='1.0' encoding='GBK'?>{told}]]>",
        "elements": told,
        "no envelope of its own": "",
    }[wrapped]
    operation = door.operation
    envelope = (
        '<SOAP-ENV:Envelope xmlns:SOAP-ENV="http://schemas.xmlsoap.org/soap/envelope/"><SOAP-ENV:Body>'
        f'<{operation}Response xmlns="{door.namespace}"><{operation}Result>{inside}</{operation}Result></{operation}Response>'
        "</SOAP-ENV:Body></SOAP-ENV:Envelope>"
    )
    body = told if wrapped == "no envelope of its own" else envelope
    async with door.canned(body.encode()) as (_, his):
        assert await his.fetch_schedules(WINDOW) == [SCHEDULE]


@pytest.mark.parametrize(
    "reply",
    [
        "DEBUG 12 rows\r\n" + done(PLANS),
        done(PLANS) + "\r\n<!-- 0.31s -->OK",
        "\ufeff\r\n" + done(PLANS),
        done(PLANS, code="0000"),
        done(f"<RecordCount>1</RecordCount><Schedules>{PLAN}</Schedules>"),
    ],
    ids=["junk before", "junk behind", "white space", "four zeros", "collapsed"],
)
async def test_schedule_is_the_same_when_the_document_is_odd(door: Door, reply: str) -> None:
    async with door.canned(reply) as (_, his):
        assert await his.fetch_schedules(WINDOW) == [SCHEDULE]


@pytest.mark.parametrize("charset", ["gbk", "gb18030", "utf-8"])
async def test_names_are_whole_whatever_bytes_stand_under_a_utf8_label(door: Door, charset: str) -> None:
    async with door.canned(enveloped(done(DEPARTMENTS)).encode(charset)) as (_, his):
        assert await his.fetch_departments() == [Department(id="100", name="內科")]


@pytest.mark.parametrize("reply", NO_DOCUMENTS)
async def test_lock_is_in_doubt_and_a_read_fails_when_no_document_comes(door: Door, reply: str) -> None:
    async with door.canned(reply) as (_, his):
        assert isinstance(await his.lock_slot(golden_order()), Unknown)
        with pytest.raises(HisReplyInvalid):
            await his.fetch_departments()


async def test_lock_is_rejected_when_the_door_has_no_such_service(door: Door) -> None:
    async with door.canned("未知服务") as (_, his):
        outcome = await his.lock_slot(golden_order())
        assert isinstance(outcome, Rejected)
        assert outcome.code == "invalid_request"


@pytest.mark.parametrize(("faultcode", "kind"), [("Server", Unknown), ("Client", Rejected)])
async def test_lock_is_in_doubt_after_a_fault_of_the_server_and_rejected_after_one_of_ours(
    door: Door, faultcode: str, kind: type
) -> None:
    fault = (
        '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault>'
        f"<faultcode>s:{faultcode}</faultcode><faultstring>ERROR #5002: &lt;UNDEFINED&gt;</faultstring></s:Fault></s:Body>"
        "</s:Envelope>"
    )
    async with door.canned(web.Response(status=500, text=fault, content_type="text/xml")) as (_, his):
        assert isinstance(await his.lock_slot(golden_order()), kind)


# --- what says no --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text", "place", "code", "retryable"),
    [
        ("-1001", "号满", "ResultContent", "full", False),
        ("-1", "该时段号源不足", "ErrorMsg", "full", False),
        ("-1", "该号已被占用", "ResultMsg", "taken", False),
        ("-1003", "重复", "ErrorMsg", "already_exists", False),
        ("-1004", "今日不出诊", "ResultMsg", "stopped", False),
        ("-1", "系统繁忙,请稍后再试", "ResultContent", "busy", True),
        ("-1", "未到放号时间", "ResultMsg", "not_open_yet", True),
        ("7", "两次挂号间隔不足一分钟", "ErrorMsg", "refused", False),
    ],
)
async def test_lock_is_refused_by_its_code_or_its_words_wherever_they_stand(
    door: Door, number: str, text: str, place: str, code: str, retryable: bool
) -> None:
    async with door.canned(failed(number, text, place)) as (_, his):
        told = f"{number}: {text}" if code == "refused" else text
        assert await his.lock_slot(golden_order()) == Rejected(code=code, text=told, retryable=retryable)


@pytest.mark.parametrize("text", MISSING_ELSE)
async def test_order_is_not_given_up_when_something_else_is_missing(door: Door, text: str) -> None:
    async with door.canned(failed("-1", text), text) as (_, his):
        assert await refusal(his.fetch_registration(golden_order())) != "not_found"
        with pytest.raises(HisReplyInvalid):
            await his.fetch_registration(golden_order())


async def test_order_is_absent_when_the_whole_sentence_says_so(door: Door) -> None:
    async with door.canned(failed("-1", "订单在系统中不存在"), failed("-1006", "无")) as (_, his):
        assert await his.fetch_registration(golden_order()) is None
        assert await his.fetch_registration(golden_order()) is None


# --- the doors are not the same ------------------------------------------------------------------------------------


async def test_each_door_is_called_as_no_other_is() -> None:
    for mine in DOORS:
        async with mine.canned(done()) as (peer, his):
            await his.ping()
            mine.sent(peer)
            for other in DOORS:
                if other is not mine:
                    with pytest.raises(AssertionError):
                        other.sent(peer)
