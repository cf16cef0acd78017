"""What a zoesoft hospital answers about visits, and replies that are none, against records written by hand from DOMAIN facts."""

from __future__ import annotations

import datetime as dt

import pytest

from connectors.port import Accepted, HisRefused, HisReplyInvalid, Rejected, Unknown
from mappings.canonical import (
    Department,
    Registration,
    RegistrationStatus,
)
from tests.connectors.soap.golden.zoesoft_peer import done, failed, zoesoft
from tests.connectors.soap.soap_hospital import (
    ZONE,
    enveloped,
    golden_order,
)

# --- a visit -------------------------------------------------------------------------------------------------------


async def test_booking_is_a_seat_that_is_not_paid() -> None:
    reply = done(
        "<OutOrderNo>20260105000000000001</OutOrderNo><OrderId>Y1</OrderId><QueueNo>5</QueueNo><TotalFee>7</TotalFee>"
        "<PayBefore>2026-01-04 10:00:00</PayBefore><Address>3楼</Address>"
    )
    async with zoesoft(reply) as (_, his):
        refs = {"order_id": "Y1", "queue_no": "5"}
        record = Registration(
            status=RegistrationStatus.LOCKED,
            order_no="20260105000000000001",
            his_id="Y1",
            queue_no="5",
            check_in_place="3楼",
            fee_fen=700,
            lock_expires_at=dt.datetime(2026, 1, 4, 10, tzinfo=ZONE),
            his_refs=refs,
        )
        assert await his.book(golden_order()) == Accepted(his_refs=refs, record=record)


@pytest.mark.parametrize("place", ["Err", "ErrMsg", "Message"])
@pytest.mark.parametrize(
    ("text", "code", "retryable"),
    [
        ("号源已满", "full", False),
        ("该号已被占用", "taken", False),
        ("订单已存在", "already_exists", False),
        ("医生停诊", "stopped", False),
        ("未到放号时间", "not_open_yet", True),
        ("超过当日限制", "limit_reached", False),
        ("系统繁忙", "busy", True),
        ("两次挂号间隔不足一分钟", "refused", False),
    ],
)
async def test_booking_is_refused_for_the_reason_in_the_words_wherever_they_stand(
    place: str, text: str, code: str, retryable: bool
) -> None:
    async with zoesoft(failed(text, place)) as (_, his):
        outcome = await his.book(golden_order())
        assert isinstance(outcome, Rejected)
        assert (outcome.code, outcome.retryable) == (code, retryable)
        assert outcome.text == (f"-1: {text}" if code == "refused" else text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("该预约已取消", "already_done"),
        ("该号已支付,请到窗口退号", "too_late"),
        ("该号已取号,不能取消", "too_late"),
        ("已过取消时限", "too_late"),
        ("预约记录不存在", "not_found"),
    ],
)
async def test_cancellation_is_done_before_only_when_the_words_say_that_it_is_cancelled(text: str, code: str) -> None:
    async with zoesoft(failed(text)) as (_, his):
        assert await his.cancel_registration(golden_order()) == Rejected(code=code, text=text)


async def test_number_that_was_collected_before_is_collected() -> None:
    async with zoesoft(failed("该号已取号")) as (_, his):
        assert await his.check_in(golden_order()) == Rejected(code="already_done", text="该号已取号")


@pytest.mark.parametrize("reply", ["<Response/>", "<Response Err=''><OrderId>Y1</OrderId></Response>", done("<Order")])
async def test_booking_is_in_doubt_when_the_root_does_not_say_how_it_went(reply: str) -> None:
    async with zoesoft(reply) as (_, his):
        assert isinstance(await his.book(golden_order()), Unknown)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("0", "locked"),
        ("1", "registered"),
        ("2", "checked_in"),
        ("3", "released"),
        ("4", "released"),
        ("5", "no_show"),
        ("6", "fulfilled"),
    ],
)
async def test_query_back_tells_the_states_apart(code: str, status: str) -> None:
    row = (
        f"<OutOrderNo>20260105000000000001</OutOrderNo><OrderId>Y1</OrderId><Status>{code}</Status>"
        "<PatientId>0000012345</PatientId><SeeDate>2026-01-05</SeeDate><BeginTime>08:00</BeginTime>"
    )
    async with zoesoft(done(f"<Orders><Order>{row}</Order></Orders>")) as (_, his):
        assert await his.fetch_registration(golden_order()) == Registration(
            status=RegistrationStatus(status),
            order_no="20260105000000000001",
            his_id="Y1",
            mrn="0000012345",
            starts_at=dt.datetime(2026, 1, 5, 8, tzinfo=ZONE),
            his_refs={"order_id": "Y1"},
        )


async def test_query_back_finds_nothing_when_the_list_is_empty_or_the_words_say_so() -> None:
    async with zoesoft(done("<Orders/>"), failed("预约记录不存在")) as (_, his):
        assert await his.fetch_registration(golden_order()) is None
        assert await his.fetch_registration(golden_order()) is None


@pytest.mark.parametrize("text", ["操作员不存在", "患者不存在", "排班不存在", "预约记录不存在对应的操作员"])
@pytest.mark.parametrize("bare", [False, True])
async def test_query_back_fails_when_something_else_is_missing(text: str, bare: bool) -> None:
    async with zoesoft(text if bare else failed(text)) as (_, his):
        with pytest.raises((HisRefused, HisReplyInvalid)):
            await his.fetch_registration(golden_order())


async def test_query_back_fails_when_the_list_has_a_state_that_nobody_knows() -> None:
    row = "<Order><OutOrderNo>20260105000000000001</OutOrderNo><OrderId>Y1</OrderId><Status>8</Status></Order>"
    async with zoesoft(done(f"<Orders>{row}</Orders>")) as (_, his):
        with pytest.raises(HisReplyInvalid):
            await his.fetch_registration(golden_order())


# --- replies that are none -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "kind"), [("未知服务", Rejected), ("连接超时", Unknown)])
async def test_bare_sentence_is_known_by_its_words_or_leaves_a_write_in_doubt(text: str, kind: type) -> None:
    async with zoesoft(text) as (_, his):
        assert isinstance(await his.book(golden_order()), kind)


@pytest.mark.parametrize(
    "reply",
    [
        "<html><body>Server Error in '/' Application.</body></html>",
        "<diffgr:diffgram xmlns:diffgr='urn:schemas-microsoft-com:xml-diffgram-v1'><NewDataSet/></diffgr:diffgram>",
    ],
)
async def test_page_or_data_set_leaves_a_write_in_doubt_and_fails_a_read(reply: str) -> None:
    async with zoesoft(reply) as (_, his):
        assert isinstance(await his.book(golden_order()), Unknown)
        with pytest.raises(HisReplyInvalid):
            await his.fetch_departments()


async def test_names_are_whole_when_gbk_bytes_stand_under_a_utf8_label() -> None:
    one = "<Depts><Dept><DeptCode>100</DeptCode><DeptName>東院内科</DeptName></Dept></Depts>"
    async with zoesoft(enveloped(done(one)).encode("gbk")) as (_, his):
        assert await his.fetch_departments() == [Department(id="100", name="東院内科")]
