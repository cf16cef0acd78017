"""What a Zysoft hospital answers, the odd ones among it, against records written by hand from DOMAIN facts."""

from __future__ import annotations

import datetime as dt

import pytest
from aiohttp import web

from connectors.port import Accepted, HisRefused, HisReplyInvalid, Rejected, Unknown
from mappings.canonical import (
    Bill,
    BillItem,
    Department,
    Patient,
    Practitioner,
    Registration,
    RegistrationStatus,
    Session,
    Sex,
    Slot,
)
from tests.connectors.soap.golden.cases import DAY, KNOWN, WEEK
from tests.connectors.soap.golden.zysoft_peer import PROLOG, SCHEDULE, booked, done, failed, zysoft
from tests.connectors.soap.soap_hospital import (
    PERSON,
    ZONE,
    enveloped,
)

PLAN = (
    "<ServiceDate>2026-01-05 00:00:00</ServiceDate><SessionCode>S</SessionCode><DepartmentCode>100</DepartmentCode>"
    "<DepartmentName>内科</DepartmentName><Doctor>李明/D1</Doctor><DoctorCode>D1</DoctorCode><DoctorName>李明</DoctorName>"
    "<DoctorTitle>主任医师</DoctorTitle><DoctorSessType>专家号</DoctorSessType><DoctorSessTypeCode>2</DoctorSessTypeCode>"
    "<Fee>50.5</Fee><AvailableNum>3</AvailableNum>"
)


def in_gbk(text: str, label: str = "gb2312") -> web.Response:
    """As such a server answers: GBK bytes under the label gb2312."""
    body = enveloped(text).replace("UTF-8", label).encode("gbk")
    return web.Response(body=body, content_type="text/xml", charset=label)


@pytest.mark.parametrize("label", ["gb2312", "GBK", "utf-8"])
async def test_names_are_whole_whatever_the_label_of_gbk_bytes_is(label: str) -> None:
    one = "<DepartmentCode>100</DepartmentCode><DepartmentName>東院镕科</DepartmentName>"
    async with zysoft(in_gbk(done(f"<Departments>{one}</Departments>"), label)) as (_, his):
        assert await his.fetch_departments() == [Department(id="100", name="東院镕科")]


async def test_names_are_whole_when_the_reply_is_utf_8_and_its_document_declares_gb2312() -> None:
    rows = (
        "<Department><DepartmentCode>100</DepartmentCode><DepartmentName>内科</DepartmentName></Department>"
        "<Department><DepartmentCode>200</DepartmentCode><DepartmentName>外科</DepartmentName></Department>"
    )
    async with zysoft(done(f"<CycleNum>2</CycleNum><Departments>{rows}</Departments>")) as (_, his):
        assert [d.name for d in await his.fetch_departments()] == ["内科", "外科"]


async def test_practitioner_is_read_with_title() -> None:
    depts = done("<Departments><DepartmentCode>100</DepartmentCode><DepartmentName>内科</DepartmentName></Departments>")
    row = (
        "<Doctor><DoctorCode>D1</DoctorCode><DoctorName>李明</DoctorName><DoctorTitle>主任医师</DoctorTitle>"
        "<DepartmentCode>100</DepartmentCode></Doctor>"
    )
    async with zysoft(depts, done(f"<Doctors>{row}</Doctors>")) as (_, his):
        assert await his.fetch_practitioners() == [
            Practitioner(id="D1", name="李明", department_id="100", title="主任医师")
        ]


@pytest.mark.parametrize("collapsed", [False, True])
async def test_schedule_is_named_by_department_doctor_day_and_session(collapsed: bool) -> None:
    row = PLAN if collapsed else f"<Schedule>{PLAN}</Schedule>"
    async with zysoft(done(f"<Schedules>{row}</Schedules>")) as (_, his):
        assert await his.fetch_schedules(WEEK) == [SCHEDULE]


async def test_schedule_without_a_doctor_is_named_by_its_kind_of_number() -> None:
    plan = PLAN.replace("<DoctorCode>D1<", "<DoctorCode><").replace("<DoctorName>李明<", "<DoctorName><")
    plan = plan.replace("<SessionCode>S<", "<SessionCode>X<").replace(">2026-01-05 00:00:00<", ">2026-01-05<")
    async with zysoft(done(f"<Schedules>{plan}</Schedules>")) as (_, his):
        (schedule,) = await his.fetch_schedules(WEEK)
        assert (schedule.id, schedule.session) == ("100|2|2026-01-05|X", Session.PM)
        assert (schedule.practitioner_id, schedule.practitioner_name) == (None, None)


@pytest.mark.parametrize(
    ("number", "seats"),
    [("<AvailableNum>3</AvailableNum>", 3), ("<AvailableNum>-1</AvailableNum>", 999), ("", 1)],
)
async def test_time_is_a_slot_and_one_number_where_nothing_is_counted(number: str, seats: int) -> None:
    row = f"<StartTime>08:00</StartTime><EndTime>08:30</EndTime><DoctorSeq>4</DoctorSeq>{number}"
    async with zysoft(done(f"<TimeInfos><TimeInfo>{row}</TimeInfo></TimeInfos>")) as (peer, his):
        assert await his.fetch_slots(WEEK, [SCHEDULE]) == [
            Slot(
                id="100|D1|2026-01-05|S|4",
                schedule_id="100|D1|2026-01-05|S",
                date=DAY,
                session=Session.AM,
                starts_at=dt.datetime(2026, 1, 5, 8, tzinfo=ZONE),
                ends_at=dt.datetime(2026, 1, 5, 8, 30, tzinfo=ZONE),
                seats_left=seats,
                his_refs={"reserve_code": "4"},
            )
        ]
        assert len(peer.requests) == 1


async def test_schedule_without_times_is_one_slot_and_its_neighbours_are_none() -> None:
    other = PLAN.replace("李明/D1", "李明/D9")
    afternoon = PLAN.replace("<SessionCode>S<", "<SessionCode>X<")
    rows = "".join(f"<Schedule>{plan}</Schedule>" for plan in (other, PLAN, afternoon))
    async with zysoft(done("<CycleNum>0</CycleNum>"), done(f"<Schedules>{rows}</Schedules>")) as (_, his):
        assert await his.fetch_slots(WEEK, [SCHEDULE]) == [
            Slot(
                id="100|D1|2026-01-05|S",
                schedule_id="100|D1|2026-01-05|S",
                date=DAY,
                session=Session.AM,
                starts_at=dt.datetime(2026, 1, 5, 8, tzinfo=ZONE),
                ends_at=dt.datetime(2026, 1, 5, 12, tzinfo=ZONE),
                seats_left=3,
            )
        ]


async def test_schedule_whose_times_are_sold_out_is_not_one_slot_instead() -> None:
    plan = PLAN.replace("<AvailableNum>3<", "<AvailableNum>0<")
    async with zysoft(done("<CycleNum>0</CycleNum>"), done(f"<Schedules>{plan}</Schedules>")) as (_, his):
        assert await his.fetch_slots(WEEK, [SCHEDULE]) == []


@pytest.mark.parametrize(("code", "sex"), [("0", Sex.MALE), ("1", Sex.FEMALE), ("男", Sex.MALE), ("3", Sex.UNKNOWN)])
async def test_patient_is_read_with_zero_for_men_and_one_for_women(code: str, sex: Sex) -> None:
    row = (
        f"<PatientID>0000012345</PatientID><PayCardNo>000077</PayCardNo><PatientName>张伟</PatientName><Sex>{code}</Sex>"
        "<IDCardNo>110101********123X</IDCardNo><PhoneNo>13800000000</PhoneNo><Birthday>19900307</Birthday>"
    )
    async with zysoft(done(f"<CycleNum>1</CycleNum><CardInfos><CardInfo>{row}</CardInfo></CardInfos>")) as (_, his):
        assert await his.find_patient(PERSON) == [
            Patient(
                name="张伟",
                mrn="0000012345",
                sex=sex,
                birth_date=dt.date(1990, 3, 7),
                phone="13800000000",
                card_number="000077",
            )
        ]


async def test_nobody_is_found_when_none_are_counted_or_the_words_say_so() -> None:
    async with zysoft(done("<CycleNum>0</CycleNum><CardInfos/>"), failed("卡号无效")) as (_, his):
        assert await his.find_patient(PERSON) == []
        assert await his.find_patient(PERSON) == []


async def test_booking_is_a_seat_that_is_not_paid() -> None:
    reply = "<HISTradeNo>H1</HISTradeNo><OrderCode>12</OrderCode><AdmitAddress>3楼</AdmitAddress><Fee>50.50</Fee>"
    async with zysoft(done(reply)) as (_, his):
        refs = {"his_trade_no": "H1", "order_code": "12"}
        record = Registration(
            status=RegistrationStatus.LOCKED,
            his_id="H1",
            queue_no="12",
            check_in_place="3楼",
            fee_fen=5050,
            his_refs=refs,
        )
        assert await his.book(booked()) == Accepted(his_refs=refs, record=record)


@pytest.mark.parametrize("place", ["ResultContent", "ErrorMsg", "ResultMsg"])
@pytest.mark.parametrize(
    ("text", "code", "retryable"),
    [
        ("无有效号源", "full", False),
        ("该号已被占用", "taken", False),
        ("该订单已存在", "already_exists", False),
        ("医生停诊", "stopped", False),
        ("未到放号时间", "not_open_yet", True),
        ("录入的卡号与原卡号不一致", "patient_mismatch", False),
        ("系统繁忙", "busy", True),
        ("两次挂号间隔不足一分钟", "refused", False),
    ],
)
async def test_booking_is_refused_for_the_reason_in_the_words(
    place: str, text: str, code: str, retryable: bool
) -> None:
    async with zysoft(failed(text, place=place)) as (_, his):
        outcome = await his.book(booked())
        assert isinstance(outcome, Rejected)
        assert (outcome.code, outcome.retryable) == (code, retryable)


@pytest.mark.parametrize("code", ["0", "00", "1", "000"])
async def test_nothing_but_four_zeros_is_success(code: str) -> None:
    async with zysoft(failed("交易成功", code)) as (_, his):
        assert await his.book(booked()) == Rejected(code="refused", text=f"{code}: 交易成功")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("该号已取消", "already_done"),
        ("该号已支付,请到窗口退号", "too_late"),
        ("该号已取号,不能取消", "too_late"),
        ("已过取消时限", "too_late"),
        ("预约记录不存在", "not_found"),
    ],
)
async def test_cancellation_is_done_before_only_when_the_words_say_that_it_is_cancelled(text: str, code: str) -> None:
    async with zysoft(failed(text)) as (_, his):
        assert await his.cancel_registration(booked()) == Rejected(code=code, text=text)


@pytest.mark.parametrize(
    ("code", "status"),
    [("0", "locked"), ("1", "registered"), ("2", "released"), ("3", "fulfilled"), ("4", "no_show")],
)
async def test_query_back_tells_the_states_apart(code: str, status: str) -> None:
    row = (
        f"<BankTradeNo>20260105000000000001</BankTradeNo><HISTradeNo>H1</HISTradeNo><OrderStatus>{code}</OrderStatus>"
        "<PatientID>0000012345</PatientID><ServiceDate>20260105</ServiceDate><StartTime>08:00</StartTime>"
    )
    async with zysoft(done(f"<OrderInfos><OrderInfo>{row}</OrderInfo></OrderInfos>")) as (_, his):
        assert await his.fetch_registration(booked()) == Registration(
            status=RegistrationStatus(status),
            order_no="20260105000000000001",
            his_id="H1",
            mrn="0000012345",
            starts_at=dt.datetime(2026, 1, 5, 8, tzinfo=ZONE),
            his_refs={"his_trade_no": "H1"},
        )


@pytest.mark.parametrize(
    "text", ["操作员不存在", "患者不存在", "排班不存在", "预约记录不存在对应的操作员", "交易代码不存在"]
)
@pytest.mark.parametrize("bare", [False, True])
async def test_query_back_fails_when_something_else_is_missing(text: str, bare: bool) -> None:
    async with zysoft(text if bare else failed(text)) as (_, his):
        with pytest.raises((HisRefused, HisReplyInvalid)):
            await his.fetch_registration(booked())


async def test_bill_is_an_application_with_what_its_visit_tells() -> None:
    visits = "".join(
        f"<VisitInfo><ResidenceNo>{no}</ResidenceNo><PatientID>{mrn}</PatientID><ApplyDeptName>{dept}</ApplyDeptName>"
        "</VisitInfo>"
        for no, mrn, dept in (("V76", "0000012345", "外科"), ("V77", "0000012345", "内科"))
    )
    item = "<Item><ItemCode>1</ItemCode><ItemName>血常规</ItemName><Charges>120.50</Charges><Amount>1</Amount>"
    item += "<Units>次</Units></Item>"
    bill = (
        "<ApplyItem><ApplyNo>R100</ApplyNo><ApplyName>检验</ApplyName><ResidenceNo>V77</ResidenceNo><ItemCost>120.5</ItemCost>"
        f"<AppleTime>20260104090000</AppleTime><Items>{item}</Items></ApplyItem>"
    )
    reply = done(f"<CycleNum>2</CycleNum><VisitInfos>{visits}</VisitInfos><ApplyItems>{bill}</ApplyItems>")
    async with zysoft(reply) as (_, his):
        assert await his.fetch_bills(KNOWN) == [
            Bill(
                id="R100",
                amount_fen=12050,
                currency="CNY",
                mrn="0000012345",
                title="检验",
                department_name="内科",
                issued_at=dt.datetime(2026, 1, 4, 9, tzinfo=ZONE),
                encounter_no="V77",
                items=(BillItem(name="血常规", amount_fen=12050, quantity="1", unit="次", code="1"),),
                his_refs={"residence_no": "V77"},
            )
        ]


async def test_no_bills_are_open_when_none_are_counted_or_the_words_say_so() -> None:
    async with zysoft(done("<CycleNum>0</CycleNum><ApplyItems/>"), failed("没有待缴费记录")) as (_, his):
        assert await his.fetch_bills(KNOWN) == []
        assert await his.fetch_bills(KNOWN) == []


async def test_bills_fail_as_a_whole_when_an_amount_has_a_tenth_of_a_fen() -> None:
    bill = "<ApplyItems><ApplyNo>R100</ApplyNo><ResidenceNo>V77</ResidenceNo><ItemCost>1.005</ItemCost></ApplyItems>"
    async with zysoft(done(bill)) as (_, his):
        with pytest.raises(HisReplyInvalid):
            await his.fetch_bills(KNOWN)


@pytest.mark.parametrize(("text", "kind"), [("未知服务", Rejected), ("连接超时", Unknown)])
async def test_bare_sentence_is_known_by_its_words_or_leaves_a_write_in_doubt(text: str, kind: type) -> None:
    async with zysoft(in_gbk(text)) as (_, his):
        assert isinstance(await his.book(booked()), kind)


@pytest.mark.parametrize(
    "reply",
    [
        "<html><body>Server Error in '/' Application.</body></html>",
        "<diffgr:diffgram xmlns:diffgr='urn:schemas-microsoft-com:xml-diffgram-v1'><NewDataSet/></diffgr:diffgram>",
        PROLOG,
    ],
)
async def test_what_is_no_document_leaves_a_write_in_doubt_and_fails_a_read(reply: str) -> None:
    async with zysoft(reply) as (_, his):
        assert isinstance(await his.book(booked()), Unknown)
        with pytest.raises(HisReplyInvalid):
            await his.fetch_departments()
