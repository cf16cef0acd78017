"""Pipe strings sent and JSON with bare names read, against values worked out by hand (DOMAIN facts: the form, Code 0 and -1)."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import msgspec
import pytest
from lxml import etree

from connectors.port import (
    Accepted,
    BillPayment,
    HisRefused,
    HisReplyInvalid,
    NotOffered,
    Order,
    RefundOrder,
    Rejected,
    Unknown,
    Window,
)
from connectors.soap import Options, create
from loadtest.simulators.soap_dialects.pipe import written
from mappings.canonical import (
    Bill,
    BillItem,
    Department,
    Observation,
    Patient,
    Practitioner,
    Refund,
    Registration,
    RegistrationStatus,
    Report,
    ReportKind,
    ReportStatus,
    Schedule,
    ScheduleStatus,
    ScheduleStopped,
    Session,
    Settlement,
    Sex,
    Slot,
    StatementKind,
    StatementLine,
    StopScope,
)
from tests.connectors.soap.soap_hospital import (
    HOSPITAL,
    PERSON,
    ZONE,
    CannedPeer,
    canned,
    enveloped,
    golden_bill_payment,
    golden_order,
    payment,
    switch,
)
from tests.connectors.soap.spoken import SPOKEN, order_of, take, with_refs

ENVELOPE = "{http://schemas.xmlsoap.org/soap/envelope/}"
DAY = dt.date(2026, 1, 5)
WINDOW = Window(date_from=DAY, date_to=dt.date(2026, 1, 11), department_id="100")
ORDER_NO = "20260105000000000001"
PIPE = {"profile": "pipe@1"}
DEPARTMENT = '{科室编码:"100",科室名称:"内科"}'
FOUND = [Department(id="100", name="内科")]


def done(data: str) -> str:
    return f'{{Code:0,Msg:"成功",Data:{data}}}'


def failed(text: str) -> str:
    return f'{{Code:-1,Msg:"{text}"}}'


def asked(peer: CannedPeer, n: int = -1) -> str:
    """The string of a request."""
    body = etree.fromstring(peer.requests[n][1]).find(f"{ENVELOPE}Body")
    assert body is not None
    assert body[0].tag == "{http://tempuri.org/}QueryData"
    (argument,) = body[0]
    assert argument.tag == "{http://tempuri.org/}strParam"
    return argument.text or ""


# --- the form -----------------------------------------------------------------------------------------------------


async def test_request_is_one_string_and_the_reply_json_with_bare_names() -> None:
    async with canned(done(f"[{DEPARTMENT}]"), **PIPE, settings={"campus": "东院"}) as (peer, his):
        assert await his.fetch_departments() == FOUND
        assert asked(peer) == "KSLB|东院"
        assert peer.requests[0][0]["SOAPAction"] == '"http://tempuri.org/QueryData"'


@pytest.mark.parametrize(
    "reply",
    [
        done(DEPARTMENT),
        "{'Code':'0',Msg:'成功','Data':[{'科室编码':100,'科室名称':'内科',},],}",
        '{"Code":"0","Msg":null,"Data":[{"科室编码":"100","科室名称":"内科","上级科室":""}]}',
        "DEBUG 1 row\r\n" + done(f"[{DEPARTMENT}]"),
        done(f"[{DEPARTMENT}]") + "\r\nOK",
        '\ufeff  {Code:0,Data:[{科室编码:"100",科室名称:"内科"},{科室编码:""},null]}',
    ],
    ids=["no list", "single quotes and commas", "proper JSON", "junk before", "junk behind", "holes"],
)
async def test_reply_means_the_same_however_it_is_written(reply: str) -> None:
    async with canned(reply, **PIPE) as (_, his):
        assert [(d.id, d.name) for d in await his.fetch_departments()][:1] == [("100", "内科")]


@pytest.mark.parametrize("data", ["[]", "null", '""', "{}"])
async def test_nothing_is_listed_when_the_data_is_empty(data: str) -> None:
    async with canned(done(data), failed("无数据"), **PIPE) as (_, his):
        assert await his.fetch_departments() == []
        assert await his.fetch_departments() == []


async def test_names_are_whole_when_the_bytes_are_gbk_under_a_utf8_label() -> None:
    told = enveloped(done('[{科室编码:"1",科室名称:"東院"}]')).encode("gbk")
    async with canned(told, **PIPE) as (_, his):
        assert await his.fetch_departments() == [Department(id="1", name="東院")]


async def test_value_is_refused_and_nothing_sent_when_it_has_the_separator() -> None:
    async with canned(done("[]"), **PIPE) as (peer, his):
        outcome = await his.create_patient(msgspec.structs.replace(PERSON, name="张|伟"))
        assert outcome == Rejected(
            code="invalid_request",
            text="the request cannot be written: 姓名: the value has the separator | in it, which a packed string cannot carry",
        )
        with pytest.raises(HisRefused) as refused:
            await his.find_patient(msgspec.structs.replace(PERSON, name="张|伟"))
        assert refused.value.code == "invalid_request"
        assert not peer.requests


async def test_absent_values_are_empty_so_that_the_others_keep_their_places(tmp_path: Path) -> None:
    async with canned(done('{病人ID:"0000012345"}'), **PIPE) as (peer, his):
        person = Patient(name="张伟", id_number="11010119900307123X")
        assert await his.create_patient(person) == Accepted(record=Patient(name="张伟", mrn="0000012345"))
        assert asked(peer) == "BRJD|1|张伟|未知||11010119900307123X||"
        # ... unless a site says that one of them is not to be written at all
        place = tmp_path / "short"
        place.mkdir()
        (place / "profile.yaml").write_text(
            "name: short\nversion: 1\nprotocol: soap\nextends: pipe@1\nverbs:\n  create_patient:\n"
            "    request: {地址: {from: address, absent: omit}}\n",
            "utf-8",
        )
        given = Options(protocol="soap", profile="short@1", endpoint=peer.url)
        other = create(HOSPITAL, "his", given, profiles_dir=tmp_path)
        await other.start()
        try:
            await other.create_patient(person)
        finally:
            await other.close()
        assert asked(peer) == "BRJD|1|张伟|未知||11010119900307123X|"


# --- schedules ----------------------------------------------------------------------------------------------------

SCHEDULE = (
    '{排班号:"8801",日期:"20260105",班次:"上午",科室编码:"100",科室名称:"内科",医生工号:"D1",医生姓名:"李明",'
    '号别:"副高号",挂号费:700,状态:"正常",就诊地点:"2楼"}'
)
SEGMENTS = '[{排班号:"8801",时段:"0900-0930",剩余号数:4}]'


async def test_schedules_are_asked_for_by_day_and_priced_in_fen() -> None:
    async with canned(done(f"[{SCHEDULE}]"), **PIPE) as (peer, his):
        assert await his.fetch_schedules(WINDOW) == [
            Schedule(
                id="8801",
                date=DAY,
                session=Session.AM,
                department_id="100",
                department_name="内科",
                practitioner_id="D1",
                practitioner_name="李明",
                clinic_type="副高号",
                fee_fen=700,
                status=ScheduleStatus.OPEN,
                location="2楼",
            )
        ]
        assert asked(peer) == "PBCX|1|20260105|20260111|100"
        await his.fetch_schedules(msgspec.structs.replace(WINDOW, department_id=None))
        assert asked(peer) == "PBCX|1|20260105|20260111|"


@pytest.mark.parametrize(
    ("word", "session"),
    [("下午", Session.PM), ("晚上", Session.NIGHT), ("夜晚", Session.NIGHT), ("全天", Session.ALL_DAY)],
)
async def test_session_and_state_are_words(word: str, session: Session) -> None:
    reply = done(SCHEDULE.replace("上午", word).replace("正常", "停诊"))
    async with canned(reply, **PIPE) as (_, his):
        (schedule,) = await his.fetch_schedules(WINDOW)
        assert (schedule.session, schedule.status) == (session, ScheduleStatus.STOPPED)


async def test_record_is_left_out_when_its_session_is_no_word_that_we_know() -> None:
    reply = done(f"[{SCHEDULE.replace('上午', '凌晨')},{SCHEDULE}]")
    async with canned(reply, done(SCHEDULE.replace("上午", "凌晨")), **PIPE) as (_, his):
        assert len(await his.fetch_schedules(WINDOW)) == 1
        with pytest.raises(HisReplyInvalid):
            await his.fetch_schedules(WINDOW)


async def test_packed_time_becomes_a_slot() -> None:
    async with canned(done(SCHEDULE), done(SEGMENTS), **PIPE) as (peer, his):
        slots = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert asked(peer) == "SDCX|1|8801"
        assert slots == [
            Slot(
                id="8801@0900-0930",
                schedule_id="8801",
                date=DAY,
                session=Session.AM,
                starts_at=dt.datetime(2026, 1, 5, 9, tzinfo=ZONE),
                ends_at=dt.datetime(2026, 1, 5, 9, 30, tzinfo=ZONE),
                seats_left=4,
                his_refs={"segment": "0900-0930"},
            )
        ]


@pytest.mark.parametrize(("told", "left"), [("4", 4), ('"0"', 0), ("99", 999), ("-1", 999), ('"-1"', 999)])
async def test_seats_are_many_when_the_hospital_counts_none(told: str, left: int) -> None:
    async with canned(done(SCHEDULE), done(SEGMENTS.replace("号数:4", f"号数:{told}")), **PIPE) as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert slot.seats_left == left


async def test_doctors_and_stops_are_told() -> None:
    doctors = done('[{医生工号:"D1",医生姓名:"李明",职称:"副主任医师",科室编码:"100"}]')
    stops = done('{排班号:"8801",日期:"2026-01-05",班次:"上午",停诊原因:"会议"}')
    async with canned(doctors, stops, **PIPE) as (peer, his):
        assert await his.fetch_practitioners() == [
            Practitioner(id="D1", name="李明", department_id="100", title="副主任医师")
        ]
        assert asked(peer) == "YSLB|1|"
        assert await his.fetch_stops(WINDOW) == [
            ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="8801", date=DAY, session=Session.AM, reason="会议")
        ]
        assert asked(peer) == "TZCX|1|20260105|20260111"


# --- people -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "sex"), [("男", Sex.MALE), ("女", Sex.FEMALE), ("0", Sex.UNKNOWN), ("2", Sex.FEMALE), ("", Sex.UNKNOWN)]
)
async def test_patient_is_found_with_the_zeros_of_his_number(word: str, sex: Sex) -> None:
    person = f'病人ID:"0000012345",姓名:"张伟",性别:"{word}",出生日期:"19900307"'
    row = f'{{{person},证件号:"11010119900307123X",手机号:"138****0000"}}'
    async with canned(done(row), **PIPE) as (peer, his):
        assert await his.find_patient(PERSON) == [
            Patient(
                name="张伟",
                mrn="0000012345",
                sex=sex,
                birth_date=dt.date(1990, 3, 7),
                id_number="11010119900307123X",
            )
        ]
        assert asked(peer) == "BRCX|1||11010119900307123X|张伟"


async def test_nobody_is_found_when_the_hospital_says_so_in_a_sentence() -> None:
    async with canned(failed("病人不存在"), failed("存在多条记录"), failed("操作员不存在"), **PIPE) as (_, his):
        assert await his.find_patient(PERSON) == []
        with pytest.raises(HisRefused) as refused:
            await his.find_patient(PERSON)
        assert refused.value.code == "patient_ambiguous"
        with pytest.raises(HisRefused, match="-1: 操作员不存在"):
            await his.find_patient(PERSON)


# --- a visit ------------------------------------------------------------------------------------------------------


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


# --- money and reports --------------------------------------------------------------------------------------------


async def test_bill_comes_with_its_items() -> None:
    row = (
        '[{费用单号:"9001",费用名称:"检验费",金额:12050,病人ID:"0000012345",开单科室:"内科",开单时间:"20260105102030",'
        '明细:[{项目编码:"X1",项目名称:"血常规",金额:12050,数量:1,单位:"次"}]}]'
    )
    async with canned(done(row), done(row.replace(":[{", ":{").replace("}]}]", "}}]")), **PIPE) as (peer, his):
        patient = Patient(name="张伟", mrn="0000012345")
        bills = await his.fetch_bills(patient)
        assert bills == [
            Bill(
                id="9001",
                amount_fen=12050,
                currency="CNY",
                mrn="0000012345",
                title="检验费",
                department_name="内科",
                issued_at=dt.datetime(2026, 1, 5, 10, 20, 30, tzinfo=ZONE),
                items=(BillItem(name="血常规", amount_fen=12050, quantity="1", unit="次", code="X1"),),
            )
        ]
        assert asked(peer) == "JFCX|1|0000012345"
        assert await his.fetch_bills(patient) == bills  # the list of one collapsed


async def test_bill_is_settled_with_our_numbers_and_looked_up_by_them() -> None:
    row = '{费用单号:"R100",状态:"已缴费",票据号:"F9",流水号:"4200001",金额:12050}'
    settled = Settlement(
        bill_id="R100", receipt_no="F9", trade_no="4200001", amount_fen=12050, his_refs={"receipt_no": "F9"}
    )
    replies = (done(row), done(row), done('{费用单号:"R100",状态:"未缴费"}'), failed("无数据"))
    async with canned(*replies, **PIPE) as (peer, his):
        paying: BillPayment = golden_bill_payment()
        assert await his.settle_bill(paying) == Accepted(his_refs={"receipt_no": "F9"}, record=settled)
        assert asked(peer) == "JF|1|20260105000000000009|0000012345|R100|WX|12050|4200001|20260104093015"
        assert await his.fetch_settlement(paying) == settled
        assert asked(peer) == "JFJG|1|20260105000000000009|R100|4200001"
        assert await his.fetch_settlement(paying) is None
        assert await his.fetch_settlement(paying) is None
    async with canned(done(row.replace("4200001", "4299999")), **PIPE) as (_, his):
        with pytest.raises(HisRefused) as refused:
            await his.fetch_settlement(paying)
        assert refused.value.code == "taken"


async def test_refund_is_asked_for_and_found_again() -> None:
    paid = order(his_refs={"booking_no": "66", "visit_no": "M66"}, payment=payment(700))
    refund = Refund(refund_no="8" * 20, payment=payment(700), amount_fen=700, reason="停诊")
    given = RefundOrder(refund=refund, patient=paid.patient, order=paid)
    back = f'{{平台订单号:"{ORDER_NO}",状态:"已退号",门诊号:"M66"}}'
    async with canned(done("null"), done(back), done(back.replace("已退号", "已取消")), **PIPE) as (peer, his):
        assert await his.refund(given) == Accepted()
        assert asked(peer) == f"TH|1|{ORDER_NO}|4200001|88888888888888888888|700"
        assert await his.fetch_refund(given) == Settlement(receipt_no="M66", his_refs={"visit_no": "M66"})
        assert await his.fetch_refund(given) is None


async def test_statement_lines_are_money_in_and_money_back() -> None:
    row = '{{交易类型:"{}",流水号:"42",平台订单号:"9",金额:710,支付方式:"WX",交易时间:"20260105235959"}}'
    reply = done(f"[{row.format('收费')},{row.format('退费')}]")
    async with canned(reply, done("[" + row.format("冲正") + "]"), failed("无数据"), **PIPE) as (peer, his):
        assert await his.fetch_statement(DAY) == [
            StatementLine(
                kind=kind,
                amount_fen=710,
                trade_no="42",
                order_no="9",
                channel="WX",
                at=dt.datetime(2026, 1, 5, 23, 59, 59, tzinfo=ZONE),
            )
            for kind in (StatementKind.PAYMENT, StatementKind.REFUND)
        ]
        assert asked(peer) == "DZ|1|20260105|WX"
        with pytest.raises(HisReplyInvalid):  # a statement that is not whole is none
            await his.fetch_statement(DAY)
        assert await his.fetch_statement(DAY) == []


async def test_report_comes_with_its_results() -> None:
    row = (
        '{报告单号:"L1",报告类型:"检验",报告状态:"已审核",报告名称:"血常规",病人ID:"0000012345",报告时间:"20260105100000",'
        '结果:[{项目编码:"WBC",项目名称:"白细胞",结果值:11.2,单位:"10*9/L",参考范围:"3.5-9.5",提示:"↑"}]}'
    )
    async with canned(done(row), **PIPE) as (peer, his):
        patient = Patient(name="张伟", mrn="0000012345")
        assert await his.fetch_reports(patient) == [
            Report(
                id="L1",
                kind=ReportKind.LAB,
                status=ReportStatus.FINAL,
                name="血常规",
                mrn="0000012345",
                issued_at=dt.datetime(2026, 1, 5, 10, tzinfo=ZONE),
                observations=(
                    Observation(
                        code="WBC", name="白细胞", value="11.2", unit="10*9/L", reference_range="3.5-9.5", flag="H"
                    ),
                ),
            )
        ]
        assert asked(peer) == "BGCX|1|0000012345"
        with pytest.raises(NotOffered):
            await his.fetch_report(patient, "L1")


def test_simulated_hospital_writes_names_without_quotes() -> None:
    assert written({"Code": 0, "数据": [{"名称": "a'b"}]}, frozenset()) == '{Code:0,数据:[{名称:"a\'b"}]}'
    assert written({"a": ["b'\"c"]}, frozenset({"single_quotes", "comma_too_many"})) == "{a:['b\\'\"c',],}"
