"""BSXml: visits and what is refused, against records written by hand from DOMAIN facts."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from connectors.port import Accepted, HisRefused, HisReplyInvalid, Rejected, Unknown
from mappings.canonical import (
    Registration,
    RegistrationStatus,
)
from tests.connectors.soap.golden.bsoft_peer import FOUND, asked, done, failed, order
from tests.connectors.soap.golden.cases import ORDER_NO
from tests.connectors.soap.soap_hospital import (
    ZONE,
    canned,
    payment,
    switch,
)
from tests.connectors.soap.spoken import SPOKEN, order_of, take, with_refs


@pytest.mark.parametrize("verb", ["lock_slot", "book"])
async def test_number_is_taken_under_our_order_number(verb: str) -> None:
    reply = done("<DDXH>66</DDXH><JZXH>5</JZXH><FYHJ>7.00</FYHJ><SHSJ>2026-01-04 09:40:15</SHSJ>")
    async with canned(reply, profile="bsoft@1") as (peer, his):
        outcome = await getattr(his, verb)(order())
        assert asked(peer) == (
            {"lock_slot": "NumberLock", "book": "AppointBook"}[verb],
            {
                "JGID": "1",
                "WBDDH": ORDER_NO,
                "BRID": "0000012345",
                "PBXH": "8801",
                "GZRQ": "2026-01-05",
                "ZBLB": "2",
                "SDXH": "3",
                "FYHJ": "7.00",
            },
        )
        refs = {"order_id": "66", "queue_no": "5"}
        assert outcome == Accepted(
            his_refs=refs,
            record=Registration(
                status=RegistrationStatus.LOCKED,
                his_id="66",
                queue_no="5",
                fee_fen=700,
                lock_expires_at=dt.datetime(2026, 1, 4, 9, 40, 15, tzinfo=ZONE),
                his_refs=refs,
            ),
        )


async def test_registration_is_paid_in_yuan() -> None:
    reply = done("<DDXH>66</DDXH><MZXH>M66</MZXH><JZXH>5</JZXH><FYHJ>7.05</FYHJ><JZDZ>2楼</JZDZ>")
    async with canned(reply, profile="bsoft@1") as (peer, his):
        outcome = await his.register(order(his_refs={"order_id": "66"}, payment=payment(705)))
        assert asked(peer) == (
            "RegisterPay",
            {
                "JGID": "1",
                "WBDDH": ORDER_NO,
                "DDXH": "66",
                "BRID": "0000012345",
                "FYHJ": "7.05",
                "ZFFS": "3",
                "ZFQD": "WECHAT",
                "ZFJE": "7.05",
                "JYLSH": "4200001",
                "JYSJ": "2026-01-04 09:30:15",
            },
        )
        assert isinstance(outcome, Accepted)
        assert outcome.his_refs == {"order_id": "66", "visit_no": "M66", "queue_no": "5"}
        assert isinstance(outcome.record, Registration)
        assert (outcome.record.encounter_no, outcome.record.check_in_place, outcome.record.fee_fen) == (
            "M66",
            "2楼",
            705,
        )


@pytest.mark.parametrize(
    ("given", "service", "told"),
    [
        ({"payment": payment(700)}, "RegisterReturn", "4200001"),
        ({"his_refs": {"visit_no": "M66"}}, "RegisterReturn", ""),
        ({"his_refs": {"order_id": "66"}}, "AppointCancel", None),
    ],
)
async def test_cancel_is_the_service_of_what_was_done(given: dict[str, Any], service: str, told: str | None) -> None:
    async with canned(done(""), profile="bsoft@1") as (peer, his):
        assert await his.cancel_registration(order(**given)) == Accepted()
        sent, body = asked(peer)
        assert (sent, body["WBDDH"], body.get("JYLSH")) == (service, ORDER_NO, told)


async def test_lock_is_given_back_and_a_patient_checked_in_by_both_numbers() -> None:
    refs = {"order_id": "66"}
    body = {"JGID": "1", "WBDDH": ORDER_NO, "DDXH": "66", "BRID": "0000012345"}
    async with canned(done(""), done("<DDXH>66</DDXH><JZXH>5</JZXH>"), profile="bsoft@1") as (peer, his):
        assert await his.unlock_slot(order(his_refs=refs)) == Accepted()
        assert asked(peer) == ("NumberUnlock", body)
        outcome = await his.check_in(order(his_refs=refs))
        assert asked(peer) == ("CheckIn", body)
        assert isinstance(outcome, Accepted)
        assert isinstance(outcome.record, Registration)
        assert (outcome.record.status, outcome.record.queue_no) == (RegistrationStatus.CHECKED_IN, "5")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("0", "locked"),
        ("1", "registered"),
        ("2", "checked_in"),
        ("3", "fulfilled"),
        ("8", "released"),
        ("9", "released"),
    ],
)
async def test_query_back_tells_the_states_apart(code: str, status: str) -> None:
    rows = f"<Rows><Row>{FOUND}</Row></Rows>".replace("<DDZT>0", f"<DDZT>{code}")
    async with canned(done(rows), profile="bsoft@1") as (peer, his):
        assert await his.fetch_registration(order()) == Registration(
            status=RegistrationStatus(status),
            order_no=ORDER_NO,
            his_id="66",
            mrn="0000012345",
            schedule_id="8801",
            queue_no="5",
            fee_fen=700,
            starts_at=dt.datetime(2026, 1, 5, 14, tzinfo=ZONE),
            lock_expires_at=dt.datetime(2026, 1, 4, 9, 40, 15, tzinfo=ZONE),
            his_refs={"order_id": "66", "queue_no": "5"},
        )
        assert asked(peer) == (
            "RegisterQuery",
            {"JGID": "1", "WBDDH": ORDER_NO, "DDXH": "", "BRID": "0000012345"},
        )


async def test_order_is_absent_only_when_the_hospital_says_just_that() -> None:
    async with canned(
        failed("3006", "订单不存在"), failed("77", "订单不存在。"), failed("77", "操作员不存在"), profile="bsoft@1"
    ) as (_, his):
        assert await his.fetch_registration(order()) is None
        assert await his.fetch_registration(order()) is None
        with pytest.raises(HisRefused, match="77: 操作员不存在"):
            await his.fetch_registration(order())


REFUSED = Rejected(code="refused", text="42: 没有权限")


async def test_order_is_ours_by_the_hospitals_number_alone_when_it_does_not_repeat_ours() -> None:
    spoken = next(one for one in SPOKEN if one.name == "bsoft")
    async with spoken.hospital() as (simulator, his):
        asked_for = await order_of(his, simulator)
        taken = with_refs(asked_for, await take(his, asked_for))
        switch(simulator, "*", "no_order_no")
        found = await his.fetch_registration(taken)
        assert found is not None
        assert (found.order_no, found.status) == (None, RegistrationStatus.LOCKED)
        with pytest.raises(HisReplyInvalid):  # our number found it, but it may be anybody's
            await his.fetch_registration(asked_for)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (failed("3001", "号源已满"), Rejected(code="full", text="号源已满")),
        (failed("3002", ""), Rejected(code="taken")),
        (failed("3003", "订单已存在"), Rejected(code="already_exists", text="订单已存在")),
        (failed("3004", "医生停诊"), Rejected(code="stopped", text="医生停诊")),
        (failed("3005", "未到放号时间"), Rejected(code="not_open_yet", text="未到放号时间", retryable=True)),
        (failed("9999", "系统繁忙"), Rejected(code="busy", text="系统繁忙", retryable=True)),
        (failed("", "该号源已满"), Rejected(code="full", text="该号源已满")),
        (failed("42", "没有权限"), REFUSED),
        (
            "<BSXml><MsgHeader><Status>false</Status></MsgHeader><MsgBody><Body><Detail>号源不足</Detail></Body>"
            "</MsgBody></BSXml>",
            Rejected(code="full", text="号源不足"),
        ),
        (failed("42", "没有权限").replace("<MsgBody/>", "<MsgBody>null</MsgBody>"), REFUSED),
        ("未知服务", Rejected(code="invalid_request", text="未知服务")),
    ],
)
async def test_refusal_is_told_by_header_body_or_sentence(reply: str, expected: Rejected) -> None:
    async with canned(reply, profile="bsoft@1") as (_, his):
        assert await his.lock_slot(order()) == expected


@pytest.mark.parametrize(
    "reply",
    [
        done("<DDXH>66</DDXH>", status=""),
        done("<DDXH>66</DDXH>").replace("<Status>true</Status>", ""),
        done("<DDXH>66</DDXH>").replace("</Body>]]>", "]]>"),
        "<BSXml><MsgHeader><Status>true</Status></MsgHeader><MsgBody>已受理</MsgBody></BSXml>",
        "<!DOCTYPE html><html><body>502</body></html>",
        '<diffgr:diffgram xmlns:diffgr="urn:schemas-microsoft-com:xml-diffgram-v1"><NewDataSet/></diffgr:diffgram>',
        "",
    ],
    ids=["status empty", "no status", "body cut off", "body a sentence", "html", "diffgram", "nothing"],
)
async def test_write_is_unknown_when_its_reply_says_neither_yes_nor_no(reply: str) -> None:
    async with canned(reply, profile="bsoft@1") as (_, his):
        assert isinstance(await his.lock_slot(order()), Unknown)
