"""What a 12320 platform answers: its envelope, and visits, against records written by hand from DOMAIN facts."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from aiohttp import web

from connectors.port import (
    Accepted,
    HisRefused,
    HisReplyInvalid,
    HisUnavailable,
    Rejected,
    Unknown,
)
from mappings.canonical import (
    Registration,
    RegistrationStatus,
)
from monitoring.metrics import REGISTRY
from tests.connectors.soap.golden.cases import ORDER_NO
from tests.connectors.soap.golden.jkt12320_peer import (
    DEPTS,
    FOUND,
    SIGN_KEY,
    aes,
    at,
    md5,
    order,
    platform,
    refused,
    told,
)
from tests.connectors.soap.soap_hospital import enveloped, payment

# --- the envelope --------------------------------------------------------------------------------------------------


async def test_reply_is_believed_when_openssl_and_md5sum_say_the_same() -> None:
    # printf '<RES><SERVER_TIME>...</SERVER_TIME></RES>' | openssl enc -aes-128-ecb -K ... | base64, and md5sum by the rule
    sealed = "y3oUIc3gKu1M0pn9ellSfudhTZebNwJdPecu1c8ZyBvNs7KHMO1LYQW2h6gD4+bDcg7AM0R2GvV+01k/MN0rPQ=="
    reply = (
        "<ROOT><RETURN_CODE>0</RETURN_CODE><RETURN_MSG>交易成功</RETURN_MSG><SIGN_TYPE>MD5</SIGN_TYPE>"
        f"<SIGN>aa69640a1bb09bc5f3e9ffbb9168e5d6</SIGN><RES_ENCRYPTED>{sealed}</RES_ENCRYPTED></ROOT>"
    )
    async with platform(reply) as (_, his):
        await his.ping()


@pytest.mark.parametrize("reply", [told("<RES/>").replace("<SIGN>", "<SIGN>0"), told("<RES/>").replace(">0<", ">1<")])
async def test_nothing_is_believed_when_the_signature_is_not_the_platforms(reply: str) -> None:
    async with platform(reply) as (_, his):
        assert isinstance(await his.lock_slot(order()), Unknown)
        with pytest.raises(HisReplyInvalid, match="signature"):
            await his.fetch_registration(order())


async def test_departments_are_whole_when_the_encrypted_document_is_gbk_and_says_utf8() -> None:
    labels = {"hospital": "soap-demo", "connector": "his", "kind": "gb18030"}
    before = REGISTRY.get_sample_value("hisbridge_decode_fallbacks_total", labels) or 0
    async with platform(told(f'<?xml version="1.0" encoding="UTF-8"?>{DEPTS}'.encode("gbk"))) as (_, his):
        assert await his.fetch_departments() == FOUND
    assert REGISTRY.get_sample_value("hisbridge_decode_fallbacks_total", labels) == before + 1


async def test_departments_are_whole_when_the_envelope_is_gbk_and_says_utf8() -> None:
    reply = web.Response(body=enveloped(told(DEPTS)).encode("gbk"), content_type="text/xml", charset="utf-8")
    async with platform(reply) as (_, his):
        assert await his.fetch_departments() == FOUND


async def test_document_is_found_when_junk_stands_before_it() -> None:
    async with platform("DEBUG: 1 row\r\n" + told(DEPTS)) as (_, his):
        assert await his.fetch_departments() == FOUND


async def test_base64_may_have_line_ends() -> None:
    folded = base64.encodebytes(aes(DEPTS.encode(), "-e")).decode()
    assert folded.count("\n") > 1
    sign = md5(f"RES_ENCRYPTED={folded}&RETURN_CODE=0&RETURN_MSG=ok&KEY={SIGN_KEY}")
    reply = (
        f"<ROOT><RETURN_CODE>0</RETURN_CODE><RETURN_MSG>ok</RETURN_MSG><SIGN>{sign}</SIGN>"
        f"<RES_ENCRYPTED>{folded}</RES_ENCRYPTED></ROOT>"
    )
    async with platform(reply) as (_, his):
        assert await his.fetch_departments() == FOUND


@pytest.mark.parametrize("text", ["未知服务", "入参错误"])
async def test_bare_sentence_is_a_refusal(text: str) -> None:
    async with platform(text) as (_, his):
        outcome = await his.lock_slot(order())
        assert isinstance(outcome, Rejected)
        assert outcome.code == "invalid_request"


@pytest.mark.parametrize(
    "reply",
    [
        web.Response(status=502, text="<html><body>502 Bad Gateway</body></html>", content_type="text/html"),
        "<html><body>登录</body></html>",
        '<diffgr:diffgram xmlns:diffgr="urn:schemas-microsoft-com:xml-diffgram-v1"><NewDataSet/></diffgr:diffgram>',
        b"\x00\xff\x1c\x80",
        "",
    ],
    ids=["gateway", "login page", "diffgram", "garbage", "empty"],
)
async def test_write_is_unknown_and_read_fails_when_no_document_comes(reply: Any) -> None:
    async with platform(reply) as (_, his):
        assert isinstance(await his.lock_slot(order()), Unknown)
        with pytest.raises((HisReplyInvalid, HisUnavailable)):
            await his.fetch_registration(order())


# --- a visit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "means"),
    [
        ("200504", "already_exists"),
        ("200505", "full"),
        ("200506", "taken"),
        ("200507", "stopped"),
        ("299999", "refused"),
    ],
)
async def test_lock_is_refused_by_its_codes(code: str, means: str) -> None:
    async with platform(refused(code, "不能锁号")) as (_, his):
        outcome = await his.lock_slot(order())
    text = "不能锁号" if means != "refused" else f"{code}: 不能锁号"
    assert outcome == Rejected(code=means, text=text)


@pytest.mark.parametrize("element", ["RETURN_MSG", "ERR_MSG"])
async def test_refusal_is_known_by_its_text_when_that_stands_inside_and_the_code_says_nothing(element: str) -> None:
    async with platform(told(f"<RES><{element}>该时段号源已满</{element}></RES>", "-1", "")) as (_, his):
        assert await his.lock_slot(order()) == Rejected(code="full", text="该时段号源已满")


@pytest.mark.parametrize("res", ["", "<RES/>"], ids=["no document", "an empty one"])
async def test_lock_is_taken_when_the_reply_has_nothing_but_its_code(res: str) -> None:
    async with platform(told(res)) as (_, his):
        assert await his.lock_slot(order()) == Accepted(record=Registration(status=RegistrationStatus.LOCKED))


async def test_lock_says_when_it_ends() -> None:
    async with platform(told("<RES><LOCK_EXPIRE_TIME>20260104201500</LOCK_EXPIRE_TIME></RES>")) as (_, his):
        ends = at(20, 15, 4)
        assert await his.lock_slot(order()) == Accepted(
            record=Registration(status=RegistrationStatus.LOCKED, lock_expires_at=ends)
        )


async def test_booking_keeps_what_the_hospital_calls_it() -> None:
    res = (
        "<RES><HOSP_ORDER_ID>H7</HOSP_ORDER_ID><HOSP_SERIAL_NUM>5</HOSP_SERIAL_NUM>"
        "<HOSP_GETREG_DATE>上午7:30前</HOSP_GETREG_DATE><CONCESSIONS>50</CONCESSIONS></RES>"
    )
    refs = {"hosp_order_id": "H7", "serial_num": "5", "get_reg_date": "上午7:30前", "concessions_fen": "50"}
    record = Registration(status=RegistrationStatus.LOCKED, his_id="H7", queue_no="5", his_refs=refs)
    async with platform(told(res)) as (_, his):
        assert await his.book(order()) == Accepted(his_refs=refs, record=record)


async def test_registration_and_check_in_say_where_and_in_which_order() -> None:
    res = "<RES><HOSP_PAY_ID>J7</HOSP_PAY_ID><HOSP_SERIAL_NUM>5</HOSP_SERIAL_NUM><ADDRESS>门诊楼2层</ADDRESS></RES>"

    def record(status: RegistrationStatus, refs: dict[str, str]) -> Accepted:
        told_us = Registration(status=status, queue_no="5", check_in_place="门诊楼2层", his_refs=refs)
        return Accepted(his_refs=refs, record=told_us)

    ours = order(payment=payment(700), his_refs={"hosp_order_id": "H7"})
    async with platform(told(res)) as (_, his):
        refs = {"hosp_pay_id": "J7", "serial_num": "5"}
        assert await his.register(ours) == record(RegistrationStatus.REGISTERED, refs)
        assert await his.check_in(ours) == record(RegistrationStatus.CHECKED_IN, {"serial_num": "5"})


async def test_query_back_has_lock_and_payment_when_they_are_told() -> None:
    res = (
        f"<RES><LOCK_ID>{ORDER_NO}</LOCK_ID><ORDER_STATUS>0</ORDER_STATUS><HOSP_PAY_ID>J7</HOSP_PAY_ID>"
        "<ADDRESS>门诊楼2层</ADDRESS><LOCK_EXPIRE_TIME>2026-01-04 20:15:00</LOCK_EXPIRE_TIME></RES>"
    )
    async with platform(told(res)) as (_, his):
        assert await his.fetch_registration(order()) == Registration(
            status=RegistrationStatus.LOCKED,
            order_no=ORDER_NO,
            check_in_place="门诊楼2层",
            lock_expires_at=at(20, 15, 4),
            his_refs={"hosp_pay_id": "J7"},
        )


@pytest.mark.parametrize(
    ("status", "means"),
    [
        ("0", "locked"),
        ("1", "locked"),
        ("2", "registered"),
        ("3", "checked_in"),
        ("4", "fulfilled"),
        ("5", "released"),
        ("6", "released"),
        ("7", "no_show"),
    ],
)
@pytest.mark.parametrize("shape", ["<ORDER_LIST><ORDER>{}</ORDER></ORDER_LIST>", "<ORDER_LIST>{}</ORDER_LIST>", "{}"])
async def test_query_back_tells_the_states_apart(status: str, means: str, shape: str) -> None:
    row = (
        f"<ORDER_ID>{ORDER_NO}</ORDER_ID><HOSP_ORDER_ID>H7</HOSP_ORDER_ID><ORDER_STATUS>{status}</ORDER_STATUS>"
        "<HOSP_PATIENT_ID>0000012345</HOSP_PATIENT_ID><REG_ID>R7</REG_ID><HOSP_SERIAL_NUM>5</HOSP_SERIAL_NUM>"
        "<REG_DATE>2026-01-05</REG_DATE><BEGIN_TIME>08:00</BEGIN_TIME><REG_FEE>100</REG_FEE><TREAT_FEE>600</TREAT_FEE>"
    )
    async with platform(told(f"<RES>{shape.format(row)}</RES>")) as (_, his):
        assert await his.fetch_registration(order()) == Registration(
            status=RegistrationStatus(means),
            order_no=ORDER_NO,
            his_id="H7",
            mrn="0000012345",
            schedule_id="R7",
            queue_no="5",
            fee_fen=700,
            starts_at=at(8),
            his_refs={"hosp_order_id": "H7", "serial_num": "5"},
        )


@pytest.mark.parametrize(("code", "text"), [("201201", "无此记录"), ("-1", "订单不存在")])
async def test_query_back_finds_nothing_when_the_platform_does_not_know_the_order(code: str, text: str) -> None:
    async with platform(refused(code, text)) as (_, his):
        assert await his.fetch_registration(order()) is None


@pytest.mark.parametrize(
    ("code", "text"),
    [("-1", "操作员不存在"), ("100002", "签名错误"), ("-1", "订单不存在对应的渠道"), ("100009", "系统繁忙")],
)
async def test_query_back_fails_when_something_else_is_wrong(code: str, text: str) -> None:
    async with platform(refused(code, text)) as (_, his):
        with pytest.raises(HisRefused):
            await his.fetch_registration(order())


@pytest.mark.parametrize(
    ("code", "means"), [("200902", "already_done"), ("200910", "too_late"), ("200901", "not_found")]
)
async def test_cancellation_is_refused_by_its_codes(code: str, means: str) -> None:
    async with platform(refused(code, "不能取消")) as (_, his):
        assert await his.cancel_registration(order()) == Rejected(code=means, text="不能取消")
