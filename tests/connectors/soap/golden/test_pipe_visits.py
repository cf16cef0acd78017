"""Pipe strings: visits and what is refused, against records written by hand from DOMAIN facts."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from connectors.port import (
    Accepted,
    HisRefused,
    HisReplyInvalid,
    Rejected,
    Unknown,
)
from mappings.canonical import (
    Registration,
    RegistrationStatus,
)
from tests.connectors.soap.golden.cases import ORDER_NO
from tests.connectors.soap.golden.pipe_peer import PIPE, asked, done, failed, order
from tests.connectors.soap.soap_hospital import (
    ZONE,
    canned,
    payment,
    switch,
)
from tests.connectors.soap.spoken import SPOKEN, order_of, take, with_refs


async def test_seat_is_booked_under_our_number_without_a_lock() -> None:
    reply = done('{预约号:"66",序号:5,金额:700,支付截止时间:"20260104094015"}')
    async with canned(reply, **PIPE) as (peer, his):
        assert await his.lock_slot(order()) == Rejected(code="not_offered", text="lock_slot is not offered by this HIS")
        assert not peer.requests
        outcome = await his.book(order())
        assert asked(peer) == f"YY|1|{ORDER_NO}|0000012345|8801|1400-1430|700"
        assert outcome == Accepted(
            his_refs={"booking_no": "66"},
            record=Registration(
                status=RegistrationStatus.LOCKED,
                his_id="66",
                queue_no="5",
                fee_fen=700,
                lock_expires_at=dt.datetime(2026, 1, 4, 9, 40, 15, tzinfo=ZONE),
                his_refs={"booking_no": "66"},
            ),
        )


async def test_registration_is_paid_in_fen() -> None:
    reply = done('{预约号:"66",序号:"5",门诊号:"M66",就诊地点:"2楼"}')
    async with canned(reply, **PIPE) as (peer, his):
        outcome = await his.register(order(payment=payment(705)))
        assert asked(peer) == f"GHJS|1|{ORDER_NO}|WX|705|4200001|20260104093015"
        assert isinstance(outcome, Accepted)
        assert outcome.his_refs == {"booking_no": "66", "visit_no": "M66"}
        assert isinstance(outcome.record, Registration)
        assert (outcome.record.encounter_no, outcome.record.check_in_place) == ("M66", "2楼")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"payment": payment(700)}, f"TH|1|{ORDER_NO}|4200001||700"),
        ({"his_refs": {"visit_no": "M66"}}, f"TH|1|{ORDER_NO}|||"),
        ({"his_refs": {"booking_no": "66"}}, f"QXYY|1|{ORDER_NO}"),
    ],
)
async def test_cancel_is_the_trade_of_what_was_done(given: dict[str, Any], text: str) -> None:
    async with canned(done("null"), **PIPE) as (peer, his):
        assert await his.cancel_registration(order(**given)) == Accepted()
        assert asked(peer) == text


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("已预约", "locked"),
        ("已挂号", "registered"),
        ("已取号", "checked_in"),
        ("已就诊", "fulfilled"),
        ("已取消", "released"),
        ("已退号", "released"),
        ("爽约", "no_show"),
    ],
)
async def test_query_back_tells_the_states_apart(word: str, status: str) -> None:
    row = f'[{{预约号:"66",平台订单号:"{ORDER_NO}",状态:"{word}",病人ID:"0000012345",排班号:"8801",序号:"5",金额:700}}]'
    async with canned(done(row), **PIPE) as (peer, his):
        assert await his.fetch_registration(order()) == Registration(
            status=RegistrationStatus(status),
            order_no=ORDER_NO,
            his_id="66",
            mrn="0000012345",
            schedule_id="8801",
            queue_no="5",
            fee_fen=700,
            his_refs={"booking_no": "66"},
        )
        assert asked(peer) == f"YYCX|1|{ORDER_NO}"


async def test_order_is_ours_by_the_hospitals_number_alone_when_it_does_not_repeat_ours() -> None:
    spoken = next(one for one in SPOKEN if one.name == "pipe")
    async with spoken.hospital() as (simulator, his):
        asked_for = await order_of(his, simulator)
        taken = with_refs(asked_for, await take(his, asked_for))
        switch(simulator, "*", "no_order_no")
        found = await his.fetch_registration(taken)
        assert found is not None
        assert (found.order_no, found.status) == (None, RegistrationStatus.LOCKED)
        with pytest.raises(HisReplyInvalid):  # our number found it, but it may be anybody's
            await his.fetch_registration(asked_for)


async def test_order_number_is_whole_when_it_is_written_as_a_number() -> None:
    async with canned(done(f'{{平台订单号:{ORDER_NO},状态:"已预约"}}'), **PIPE) as (_, his):
        found = await his.fetch_registration(order())
        assert found is not None
        assert found.order_no == ORDER_NO


async def test_order_is_absent_only_when_the_hospital_says_just_that() -> None:
    replies = (failed("订单不存在"), failed("无数据"), failed("查询失败:操作员不存在"))
    async with canned(*replies, **PIPE) as (_, his):
        assert await his.fetch_registration(order()) is None
        assert await his.fetch_registration(order()) is None
        with pytest.raises(HisRefused, match="操作员不存在"):
            await his.fetch_registration(order())


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (failed("号源已满"), Rejected(code="full", text="号源已满")),
        (failed("该时段已被占用"), Rejected(code="taken", text="该时段已被占用")),
        (failed("订单已存在"), Rejected(code="already_exists", text="订单已存在")),
        (failed("医生停诊"), Rejected(code="stopped", text="医生停诊")),
        (failed("未到放号时间"), Rejected(code="not_open_yet", text="未到放号时间", retryable=True)),
        (failed("系统繁忙"), Rejected(code="busy", text="系统繁忙", retryable=True)),
        (failed("病人不存在"), Rejected(code="patient_unknown", text="病人不存在")),
        (failed("没有权限"), Rejected(code="refused", text="-1: 没有权限")),
        ('{Code:"-1",Message:"号源不足"}', Rejected(code="full", text="号源不足")),
        ('{Code:-1,Msg:"",错误信息:"号源不足"}', Rejected(code="full", text="号源不足")),
        ("未知服务", Rejected(code="invalid_request", text="未知服务")),
        ("未知服务{0}", Rejected(code="invalid_request", text="未知服务{0}")),
    ],
)
async def test_refusal_is_known_by_its_words_wherever_they_stand(reply: str, expected: Rejected) -> None:
    async with canned(reply, **PIPE) as (_, his):
        assert await his.book(order()) == expected


@pytest.mark.parametrize(
    "reply",
    [
        '{Code:"",Msg:"成功"}',
        '{Msg:"成功"}',
        "{Code:0,Data:{预约号:",
        "[]",
        "<Response><Code>0</Code></Response>",
        "<!DOCTYPE html><html><body>502</body></html>",
        "",
        "已受理",
        "{" * 5000,
        "{a:" * 100 + "0" + "}" * 100,
    ],
    ids=["no code", "nothing said", "cut off", "a list", "xml", "html", "empty", "a sentence", "braces", "too deep"],
)
async def test_write_is_unknown_when_its_reply_says_neither_yes_nor_no(reply: str) -> None:
    async with canned(reply, **PIPE) as (_, his):
        assert isinstance(await his.book(order()), Unknown)


@pytest.mark.parametrize("habit", ["single_quotes", "comma_too_many", "collapse"])
async def test_visit_goes_through_whatever_the_habit(habit: str) -> None:
    spoken = next(one for one in SPOKEN if one.name == "pipe")
    async with spoken.hospital() as (simulator, his):
        switch(simulator, "*", habit)
        booked = await order_of(his, simulator)
        booked = with_refs(booked, await take(his, booked), payment=payment(booked.fee_fen))
        booked = with_refs(booked, await his.register(booked))
        found = await his.fetch_registration(booked)
        assert found is not None
        assert found.status is RegistrationStatus.REGISTERED


async def test_refusal_is_known_when_the_hospital_keeps_it_elsewhere() -> None:
    spoken = next(one for one in SPOKEN if one.name == "pipe")
    async with spoken.hospital() as (simulator, his):
        booked = await order_of(his, simulator)
        await take(his, booked)
        switch(simulator, "*", "other_place")
        again = await take(his, booked)
        assert isinstance(again, Rejected)
        assert again.code == "already_exists"
