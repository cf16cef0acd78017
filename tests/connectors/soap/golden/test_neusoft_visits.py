"""What a Neusoft-style hospital answers about visits, and when it says no, against records written by hand from DOMAIN facts."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from connectors.port import Accepted, HisRefused, HisReplyInvalid, Rejected, Unknown
from mappings.canonical import (
    Registration,
    RegistrationStatus,
)
from tests.connectors.soap.golden.cases import DAY, WINDOW, refund_of
from tests.connectors.soap.golden.neusoft_peer import collapsed, done, failed, neusoft
from tests.connectors.soap.soap_hospital import (
    ZONE,
    golden_order,
    payment,
)

# --- what is not there, and what says no ---------------------------------------------------------------------------


async def test_list_of_nothing_is_empty_and_an_order_is_not_given_up_for_it() -> None:
    async with neusoft(failed("未查询到数据")) as (_, his):
        assert await his.fetch_schedules(WINDOW) == []
        assert await his.fetch_stops(WINDOW) == []
        assert await his.fetch_statement(DAY) == []
        with pytest.raises(HisRefused):
            await his.fetch_registration(golden_order())


@pytest.mark.parametrize("text", ["操作员不存在", "患者不存在", "排班不存在", "挂号记录不存在对应的操作员"])
async def test_order_is_not_given_up_when_something_else_is_missing(text: str) -> None:
    async with neusoft(failed(text), text) as (_, his):
        for _ in range(2):
            with pytest.raises((HisRefused, HisReplyInvalid)):
                await his.fetch_registration(golden_order())


async def test_order_is_absent_when_the_whole_sentence_says_so() -> None:
    async with neusoft(failed("挂号记录不存在"), failed("未查询到挂号记录。", in_data=True)) as (_, his):
        assert await his.fetch_registration(golden_order()) is None
        assert await his.fetch_registration(golden_order()) is None


@pytest.mark.parametrize(
    ("text", "code", "retryable"),
    [
        ("该时段号源已满", "full", False),
        ("订单已存在", "already_exists", False),
        ("医生停诊", "stopped", False),
        ("未到放号时间", "not_open_yet", True),
        ("系统繁忙,请稍后再试", "busy", True),
        ("超过当日限制", "limit_reached", False),
        ("患者不存在", "patient_unknown", False),
    ],
)
@pytest.mark.parametrize("in_data", [False, True])
async def test_lock_is_refused_by_its_sentence_wherever_it_stands(
    text: str, code: str, retryable: bool, in_data: bool
) -> None:
    async with neusoft(failed(text, in_data=in_data)) as (_, his):
        assert await his.lock_slot(golden_order()) == Rejected(code=code, text=text, retryable=retryable)


async def test_refusal_keeps_its_code_and_text_when_nobody_knows_the_sentence() -> None:
    async with neusoft(failed("流程异常")) as (_, his):
        assert await his.lock_slot(golden_order()) == Rejected(code="refused", text="0: 流程异常")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("该号已退号", "already_done"),
        ("预约已取消", "already_done"),
        ("已签到,请到窗口退号", "too_late"),
        ("已就诊", "too_late"),
    ],
)
async def test_cancellation_tells_done_before_from_too_late(text: str, code: str) -> None:
    order = golden_order(payment=payment(700))
    async with neusoft(failed(text)) as (_, his):
        assert await his.cancel_registration(order) == Rejected(code=code, text=text)
        assert await his.refund(refund_of(order)) == Rejected(code=code, text=text)


@pytest.mark.parametrize(
    "reply",
    [
        "<html><body>Apache Tomcat/7.0</body></html>",
        '<diffgr:diffgram xmlns:diffgr="urn:schemas-microsoft-com:xml-diffgram-v1"><NewDataSet/></diffgr:diffgram>',
        "<result><returnCode/><returnDesc/></result>",
        "<Data><LOCK_ID>T1</LOCK_ID></Data>",
        "<result><returnCode>1</returnCode></result><Data><LOCK_ID>T1</Data>",
        "<!DOCTYPE r [<!ENTITY x 'y'>]><result><returnCode>&x;</returnCode></result>",
        "数据库连接异常",
        "",
    ],
)
async def test_lock_is_unknown_when_the_reply_says_neither_yes_nor_no(reply: str) -> None:
    async with neusoft(reply) as (_, his):
        assert isinstance(await his.lock_slot(golden_order()), Unknown)


async def test_lock_is_rejected_when_a_bare_sentence_is_known() -> None:
    async with neusoft("未知服务") as (_, his):
        outcome = await his.lock_slot(golden_order())
        assert isinstance(outcome, Rejected)
        assert outcome.code == "invalid_request"


async def test_zero_is_success_when_a_site_says_so(tmp_path: Any) -> None:
    rule = [{"path": "/Reply/result/returnCode", "values": ["0"]}]
    async with neusoft(failed("操作成功"), settings={"success": rule}) as (_, his):
        assert await his.unlock_slot(golden_order()) == Accepted()


# --- visits --------------------------------------------------------------------------------------------------------


async def test_lock_and_payment_are_read_with_their_numbers() -> None:
    locked = (
        "<ORDER_NO>20260105000000000001</ORDER_NO><LOCK_ID>T1</LOCK_ID><SEENO>5</SEENO><TOTCOST>7</TOTCOST>"
        "<END_DATE>2026-01-05 07:15:00</END_DATE>"
    )
    paid = (
        "<ORDER_NO>20260105000000000001</ORDER_NO><CLINIC_CODE>C1</CLINIC_CODE><SEENO>5</SEENO>"
        "<INVOICE_NO>F1</INVOICE_NO><TOTCOST>7.00</TOTCOST><ADDRESS>4楼</ADDRESS>"
    )
    async with neusoft(collapsed(locked), done(paid)) as (_, his):
        refs = {"lock_id": "T1", "seeno": "5"}
        assert await his.lock_slot(golden_order()) == Accepted(
            his_refs=refs,
            record=Registration(
                status=RegistrationStatus.LOCKED,
                order_no="20260105000000000001",
                his_id="T1",
                queue_no="5",
                fee_fen=700,
                lock_expires_at=dt.datetime(2026, 1, 5, 7, 15, tzinfo=ZONE),
                his_refs=refs,
            ),
        )
        refs = {"clinic_code": "C1", "seeno": "5", "invoice_no": "F1"}
        assert await his.register(golden_order(payment=payment(700))) == Accepted(
            his_refs=refs,
            record=Registration(
                status=RegistrationStatus.REGISTERED,
                order_no="20260105000000000001",
                his_id="C1",
                queue_no="5",
                encounter_no="C1",
                check_in_place="4楼",
                fee_fen=700,
                his_refs=refs,
            ),
        )


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("0", "locked"),
        ("1", "registered"),
        ("2", "checked_in"),
        ("3", "fulfilled"),
        ("4", "released"),
        ("5", "released"),
        ("6", "no_show"),
    ],
)
async def test_query_back_tells_the_states_apart_and_refunded_from_never_paid(state: str, status: str) -> None:
    row = f"<ORDER_NO>20260105000000000001</ORDER_NO><LOCK_ID>T1</LOCK_ID><STATE>{state}</STATE>"
    order = golden_order(payment=payment(700))
    refund = refund_of(order)
    async with neusoft(done(row)) as (_, his):
        found = await his.fetch_registration(order)
        assert found is not None
        assert (found.status, found.his_id) == (status, "T1")
        assert (await his.fetch_refund(refund) is not None) is (state == "4")


async def test_registration_of_another_order_is_not_ours() -> None:
    row = "<ORDER_NO>20260105000000000002</ORDER_NO><STATE>1</STATE>"
    async with neusoft(collapsed(row)) as (_, his):
        with pytest.raises(HisReplyInvalid, match="another order"):
            await his.fetch_registration(golden_order())
