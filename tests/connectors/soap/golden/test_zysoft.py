"""Zysoft: what is sent, byte by byte where the encoding is meant, and what is read, against values written by hand."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest
from aiohttp import web
from lxml import etree

from connectors.port import Accepted, HisRefused, HisReplyInvalid, Rejected, Unknown, Window
from mappings.canonical import (
    Bill,
    BillItem,
    Department,
    Patient,
    Practitioner,
    Registration,
    RegistrationStatus,
    Schedule,
    Session,
    Settlement,
    Sex,
    Slot,
)
from tests.connectors.soap.soap_hospital import (
    PERSON,
    ZONE,
    CannedPeer,
    canned,
    enveloped,
    golden_bill_payment,
    golden_order,
    payment,
)

PROLOG = '<?xml version="1.0" encoding="gb2312"?>'
DAY = dt.date(2026, 1, 5)
WINDOW = Window(date_from=DAY, date_to=dt.date(2026, 1, 11), department_id="100")
KNOWN = Patient(name="张伟", mrn="0000012345")
HEAD = {"BankID": "02", "HospitalID": "1", "ClientType": "25", "TerminalID": "", "ExtUserID": "HISBRIDGE"}
PLAN = (
    "<ServiceDate>2026-01-05 00:00:00</ServiceDate><SessionCode>S</SessionCode><DepartmentCode>100</DepartmentCode>"
    "<DepartmentName>内科</DepartmentName><Doctor>李明/D1</Doctor><DoctorCode>D1</DoctorCode><DoctorName>李明</DoctorName>"
    "<DoctorTitle>主任医师</DoctorTitle><DoctorSessType>专家号</DoctorSessType><DoctorSessTypeCode>2</DoctorSessTypeCode>"
    "<Fee>50.5</Fee><AvailableNum>3</AvailableNum>"
)
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


def in_gbk(text: str, label: str = "gb2312") -> web.Response:
    """As such a server answers: GBK bytes under the label gb2312."""
    body = enveloped(text).replace("UTF-8", label).encode("gbk")
    return web.Response(body=body, content_type="text/xml", charset=label)


def document(peer: CannedPeer, n: int = -1) -> etree._Element:
    """The document of a request, after a look at its envelope."""
    headers, body = peer.requests[n]
    assert headers["SOAPAction"] == '"http://www.zysoft.com.cn/BankService"'
    assert headers["Content-Type"] == "text/xml; charset=gb2312"
    text = body.decode("gbk")
    assert text.startswith(PROLOG)
    call = etree.fromstring(text.removeprefix(PROLOG))[0][0]
    assert call.tag == "{http://www.zysoft.com.cn/}BankService"
    assert [child.tag for child in call] == ["{http://www.zysoft.com.cn/}strXML"]
    inner = call[0].text or ""
    assert inner.startswith(f"{PROLOG}<Request><TradeCode>")
    return etree.fromstring(inner.removeprefix(PROLOG))


def sent(peer: CannedPeer, n: int = -1) -> dict[str, str]:
    """Its elements; what was written at this very moment is only looked at."""
    root = document(peer, n)
    told = {str(child.tag): child.text or "" for child in root}
    assert list(told)[1:6] == list(HEAD)
    return told


def is_now(text: str) -> bool:
    at = dt.datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=ZONE)
    return abs(dt.datetime.now(ZONE) - at) < dt.timedelta(minutes=5)


# --- requests -------------------------------------------------------------------------------------------------------


async def test_network_test_is_2108_and_settings_say_who_we_are() -> None:
    settings = {"bank_id": "07", "his_hospital_id": "3", "client_type": "9", "terminal_id": "T1", "user_id": "WX001"}
    async with zysoft(done(), settings=settings) as (peer, his):
        await his.ping()
        assert sent(peer) == {
            "TradeCode": "2108",
            "BankID": "07",
            "HospitalID": "3",
            "ClientType": "9",
            "TerminalID": "T1",
            "ExtUserID": "WX001",
        }


async def test_name_outside_gb_2312_is_sent_in_the_bytes_of_gbk() -> None:
    async with zysoft(done("<PatientID>0009</PatientID>")) as (peer, his):
        await his.create_patient(msgspec.structs.replace(PERSON, name="朱镕喆"))
        assert document(peer).findtext("PatientName") == "朱镕喆"
        assert b"\xd6\xec\xe9F\x86\xb4" in peer.requests[0][1]  # 朱 D6 EC, 镕 E9 46, 喆 86 B4


async def test_name_outside_gbk_is_refused_and_never_sent_as_something_else() -> None:
    async with zysoft(done()) as (peer, his):
        refused = await his.create_patient(msgspec.structs.replace(PERSON, name="张𬱖"))
        assert isinstance(refused, Rejected)
        assert refused.code == "charset"
        assert "𬱖" not in refused.text
        assert not peer.requests


async def test_patient_is_created_by_2131_with_the_dialects_own_codes_of_sex() -> None:
    async with zysoft(done("<PatientID>0009</PatientID>")) as (peer, his):
        woman = msgspec.structs.replace(PERSON, sex=Sex.FEMALE, birth_date=dt.date(1990, 3, 7))
        assert await his.create_patient(woman) == Accepted(record=Patient(name="张伟", mrn="0009"))
        asked = sent(peer)
        assert is_now(asked.pop("BankDate"))
        assert asked == {"TradeCode": "2131"} | HEAD | {
            "PayCardNo": "11010119900307123X",
            "PatientName": "张伟",
            "Sex": "1",
            "Birthday": "1990-03-07",
            "Age": "0",
            "MobileNo": "13800000000",
            "Address": "",
            "IDCardNo": "11010119900307123X",
            "Money": "0",
            "PayType": "1",
        }


async def test_schedules_are_2305_of_a_department() -> None:
    async with zysoft(done("<CycleNum>0</CycleNum>")) as (peer, his):
        assert await his.fetch_schedules(WINDOW) == []
        assert sent(peer) == {"TradeCode": "2305"} | HEAD | {
            "StartDate": "2026-01-05",
            "EndDate": "2026-01-11",
            "SessionCode": "",
            "DepartmentCode": "100",
            "Doctor": "",
            "DoctorCode": "",
            "ServiceDate": "",
        }


async def test_times_are_2304_of_a_schedule_by_all_that_names_it() -> None:
    async with zysoft(done("<CycleNum>0</CycleNum>")) as (peer, his):
        assert await his.fetch_slots(WINDOW, [SCHEDULE]) == []
        name = {"SessionCode": "S", "DepartmentCode": "100", "Doctor": "李明/D1", "DoctorCode": "D1"}
        assert sent(peer, 0) == {"TradeCode": "2304"} | HEAD | {"ServiceDate": "2026-01-05"} | name
        assert sent(peer, 1) == {"TradeCode": "2305"} | HEAD | name | {
            "StartDate": "2026-01-05",
            "EndDate": "2026-01-05",
            "ServiceDate": "",
        }


def booked(**given: Any) -> Any:
    slot = msgspec.structs.replace(golden_order().slot, his_refs={"reserve_code": "4"})
    return golden_order(schedule=SCHEDULE, slot=slot, **given)


async def test_seat_is_booked_by_2306_with_our_number_as_the_banks() -> None:
    async with zysoft(done()) as (peer, his):
        await his.book(booked())
        asked = sent(peer)
        assert is_now(asked.pop("BankDate"))
        assert asked == {"TradeCode": "2306"} | HEAD | {
            "BankTradeNo": "20260105000000000001",
            "ServiceDate": "2026-01-05",
            "SessionCode": "S",
            "DepartmentCode": "100",
            "Doctor": "李明/D1",
            "DoctorCode": "D1",
            "StartTime": "08:00",
            "EndTime": "08:30",
            "ReserveCode": "4",
            "PhoneNo": "",
            "PayCardNo": "",
            "PatientID": "0000012345",
            "PreFlag": "1",
        }


async def test_booking_is_collected_by_2058_and_paid_by_2094() -> None:
    visit = done("<VisitNo>V5</VisitNo>")
    paid = done("<ReceiptNo>R6</ReceiptNo><SettleNo>S6</SettleNo><Charges>50.50</Charges><QueueNo>12</QueueNo>")
    async with zysoft(visit, paid) as (peer, his):
        outcome = await his.register(booked(his_refs={"his_trade_no": "H1"}, payment=payment(5050)))
        collected, settled = sent(peer, 0), sent(peer, 1)
        assert is_now(collected.pop("BankDate"))
        assert collected == {"TradeCode": "2058"} | HEAD | {
            "BankTradeNo": "20260105000000000001",
            "OrgHISTradeNo": "H1",
            "PatientID": "0000012345",
        }
        assert settled == {"TradeCode": "2094"} | HEAD | {
            "BankTradeNo": "4200001",
            "BankDate": "20260104093015",
            "IoFlag": "0",
            "VisitNo": "V5",
            "OrgHISTradeNo": "H1",
            "PatientID": "0000012345",
            "PayType": "1",
            "Money": "50.50",
            "Charges": "50.50",
            "SequenceNos": "",
        }
        refs = {"visit_no": "V5", "receipt_no": "R6", "settle_no": "S6"}
        assert outcome == Accepted(
            his_refs=refs,
            record=Registration(
                status=RegistrationStatus.REGISTERED,
                queue_no="12",
                fee_fen=5050,
                his_refs={"receipt_no": "R6", "settle_no": "S6"},
            ),
        )


async def test_payment_goes_on_when_the_booking_was_collected_before() -> None:
    async with zysoft(failed("该预约已取号"), done("<ReceiptNo>R6</ReceiptNo>")) as (peer, his):
        order = booked(his_refs={"his_trade_no": "H1"}, payment=payment(5050))
        assert isinstance(await his.register(order), Accepted)
        assert (sent(peer)["TradeCode"], sent(peer)["OrgHISTradeNo"]) == ("2094", "H1")


async def test_nothing_is_paid_when_the_booking_cannot_be_collected() -> None:
    async with zysoft(failed("该预约已取消")) as (peer, his):
        refused = await his.register(booked(his_refs={"his_trade_no": "H1"}, payment=payment(5050)))
        assert refused == Rejected(code="already_done", text="该预约已取消")
        assert len(peer.requests) == 1


async def test_booking_is_cancelled_by_2309_and_found_by_2310() -> None:
    async with zysoft(done()) as (peer, his):
        order = booked(his_refs={"his_trade_no": "H1", "order_code": "12"})
        assert await his.cancel_registration(order) == Accepted()
        cancelled = sent(peer)
        assert is_now(cancelled.pop("BankDate"))
        assert cancelled == {"TradeCode": "2309"} | HEAD | {
            "BankTradeNo": "20260105000000000001",
            "OrgOrderCode": "12",
            "OrgHISTradeNo": "H1",
            "PatientID": "0000012345",
        }
        assert await his.fetch_registration(order) is None
        assert sent(peer) == {"TradeCode": "2310"} | HEAD | {
            "OrgBankTradeNo": "20260105000000000001",
            "OrgHISTradeNo": "H1",
            "PatientID": "0000012345",
        }


async def test_bill_is_numbered_by_2095_and_settled_by_2094() -> None:
    numbered = done("<SequenceNos><SequenceNo>Q7</SequenceNo></SequenceNos><PreCost>120.50</PreCost>")
    settled = done(
        "<ReceiptNo>SJ1</ReceiptNo><SettleNo>S9</SettleNo><BankTradeNo>4200001</BankTradeNo><Charges>120.5</Charges>"
    )
    bill = Bill(id="R100", amount_fen=12050, currency="CNY", his_refs={"residence_no": "V77"})
    async with zysoft(numbered, settled) as (peer, his):
        outcome = await his.settle_bill(msgspec.structs.replace(golden_bill_payment(), bill=bill, his_refs={}))
        asked = document(peer, 0)
        assert [asked.findtext(name) for name in ("TradeCode", "IoFlag", "ResidenceNo")] == ["2095", "0", "V77"]
        assert [asked.findtext(f"ApplyItems/ApplyItem/{name}") for name in ("ApplyNo", "ItemCost")] == [
            "R100",
            "120.50",
        ]
        told = document(peer, 1)
        assert {str(child.tag): child.text for child in told if child.tag in ("TradeCode", "Money", "BankTradeNo")} == {
            "TradeCode": "2094",
            "Money": "120.50",
            "BankTradeNo": "4200001",
        }
        assert (told.findtext("VisitNo"), told.findtext("SequenceNos/SequenceNo")) == ("V77", "Q7")
        refs = {"receipt_no": "SJ1", "settle_no": "S9"}
        assert outcome == Accepted(
            his_refs={"sequence_no": "Q7"} | refs,
            record=Settlement(receipt_no="SJ1", trade_no="4200001", amount_fen=12050, his_refs=refs),
        )


async def test_settlement_is_not_sent_when_the_numbers_do_not_come() -> None:
    async with zysoft("<html><body>Server Error</body></html>") as (peer, his):
        outcome = await his.settle_bill(golden_bill_payment())
        assert isinstance(outcome, Rejected)
        assert (outcome.code, outcome.retryable) == ("not_sent", True)
        assert len(peer.requests) == 1


# --- replies --------------------------------------------------------------------------------------------------------


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
        assert await his.fetch_schedules(WINDOW) == [SCHEDULE]


async def test_schedule_without_a_doctor_is_named_by_its_kind_of_number() -> None:
    plan = PLAN.replace("<DoctorCode>D1<", "<DoctorCode><").replace("<DoctorName>李明<", "<DoctorName><")
    plan = plan.replace("<SessionCode>S<", "<SessionCode>X<").replace(">2026-01-05 00:00:00<", ">2026-01-05<")
    async with zysoft(done(f"<Schedules>{plan}</Schedules>")) as (_, his):
        (schedule,) = await his.fetch_schedules(WINDOW)
        assert (schedule.id, schedule.session) == ("100|2|2026-01-05|X", Session.PM)
        assert (schedule.practitioner_id, schedule.practitioner_name) == (None, None)


@pytest.mark.parametrize(
    ("number", "seats"),
    [("<AvailableNum>3</AvailableNum>", 3), ("<AvailableNum>-1</AvailableNum>", 999), ("", 1)],
)
async def test_time_is_a_slot_and_one_number_where_nothing_is_counted(number: str, seats: int) -> None:
    row = f"<StartTime>08:00</StartTime><EndTime>08:30</EndTime><DoctorSeq>4</DoctorSeq>{number}"
    async with zysoft(done(f"<TimeInfos><TimeInfo>{row}</TimeInfo></TimeInfos>")) as (peer, his):
        assert await his.fetch_slots(WINDOW, [SCHEDULE]) == [
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
        assert await his.fetch_slots(WINDOW, [SCHEDULE]) == [
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
        assert await his.fetch_slots(WINDOW, [SCHEDULE]) == []


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
