"""What a DHC hospital answers through each of its doors, odd ones (DOMAIN facts 4) among it, against records written by hand."""

from __future__ import annotations

import datetime as dt

import pytest
from aiohttp import web

from connectors.port import Accepted, HisReplyInvalid, Rejected, Unknown
from mappings.canonical import (
    Bill,
    BillItem,
    Department,
    Patient,
    Practitioner,
    Registration,
    RegistrationStatus,
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
from tests.connectors.soap.golden.cases import (
    DAY,
    KNOWN,
    MISSING_ELSE,
    NO_DOCUMENTS,
    ORDER_NO,
    PAYMENT_ORDER_NO,
    WINDOW,
    refund_of,
    refusal,
)
from tests.connectors.soap.golden.dhc_doors import DOORS, Door, done, failed
from tests.connectors.soap.soap_hospital import (
    PERSON,
    ZONE,
    enveloped,
    golden_bill_payment,
    golden_order,
    payment,
)

PLAN = (
    "<ScheduleItemCode>100||7</ScheduleItemCode><ServiceDate>2026-01-05</ServiceDate><SessionCode>S</SessionCode>"
    "<SessionName>上午</SessionName><StartTime>08:00</StartTime><EndTime>11:30</EndTime><DepartmentCode>100</DepartmentCode>"
    "<DepartmentName>内科</DepartmentName><DoctorCode>D1</DoctorCode><DoctorName>李明</DoctorName><DoctorTitle/>"
    "<DoctorSessType>副高号</DoctorSessType><Fee>7</Fee><RegFee>1</RegFee><CheckupFee>6</CheckupFee>"
    "<AvailableNumStr>5,6,7</AvailableNumStr><TimeRangeFlag>Y</TimeRangeFlag><ScheduleStatus>N</ScheduleStatus>"
    "<AvailableTotalNum>20</AvailableTotalNum><AvailableLeftNum>3</AvailableLeftNum><AdmitAddress>2楼</AdmitAddress>"
)
PLANS = f"<RecordCount>1</RecordCount><Schedules><Schedule>{PLAN}</Schedule></Schedules>"
SCHEDULE = Schedule(
    id="100||7",
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
    his_refs={
        "time_ranges": "Y",
        "session_code": "S",
        "free_numbers": "5,6,7",
        "start_time": "08:00",
        "end_time": "11:30",
    },
)
DEPARTMENTS = (
    "<Departments><Department><DepartmentCode>100</DepartmentCode><DepartmentName>內科</DepartmentName></Department>"
    "</Departments>"
)


@pytest.fixture(params=DOORS, ids=str)
def door(request: pytest.FixtureRequest) -> Door:
    it: Door = request.param
    return it


# --- how the answer is wrapped --------------------------------------------------------------------------------------


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


# --- what says no -----------------------------------------------------------------------------------------------------


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


# --- plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("letter", "session"), [("S", Session.AM), ("X", Session.PM), ("Y", Session.NIGHT), ("Q", Session.ALL_DAY)]
)
async def test_session_is_a_letter_and_a_stopped_schedule_is_told(door: Door, letter: str, session: Session) -> None:
    told = PLANS.replace("<SessionCode>S<", f"<SessionCode>{letter}<").replace(
        "<ScheduleStatus>N<", "<ScheduleStatus>S<"
    )
    async with door.canned(done(told.replace("2026-01-05", "20260105"))) as (_, his):
        (schedule,) = await his.fetch_schedules(WINDOW)
        assert (schedule.session, schedule.status, schedule.date) == (session, ScheduleStatus.STOPPED, DAY)


@pytest.mark.parametrize(("left", "seats"), [("3", 3), ("0", 0), ("-1", 999)])
async def test_time_range_is_a_slot_and_minus_one_is_without_limit(door: Door, left: str, seats: int) -> None:
    row = (
        "<ScheduleItemCode>100||7</ScheduleItemCode><StartTime>11:00</StartTime><EndTime>11:30</EndTime>"
        f"<AvailableTotalNum>10</AvailableTotalNum><AvailableLeftNum>{left}</AvailableLeftNum>"
    )
    async with door.canned(done(f"<TimeRanges>{row}</TimeRanges>")) as (_, his):
        assert await his.fetch_slots(WINDOW, [SCHEDULE]) == [
            Slot(
                id="100||7@11:00",
                schedule_id="100||7",
                date=DAY,
                session=Session.AM,
                starts_at=dt.datetime(2026, 1, 5, 11, tzinfo=ZONE),
                ends_at=dt.datetime(2026, 1, 5, 11, 30, tzinfo=ZONE),
                seats_left=seats,
                his_refs={"begin_time": "11:00", "end_time": "11:30"},
            )
        ]


@pytest.mark.parametrize(("numbers", "seats"), [("5,6,7", 3), ("5", 1), ("", 0)])
async def test_packed_numbers_are_the_seats_of_a_schedule_without_time_ranges(
    door: Door, numbers: str, seats: int
) -> None:
    told = PLANS.replace("<TimeRangeFlag>Y<", "<TimeRangeFlag>N<").replace(">5,6,7<", f">{numbers}<")
    async with door.canned(done(told)) as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert (slot.id, slot.seats_left) == ("100||7", seats)
        assert (slot.starts_at, slot.ends_at) == (
            dt.datetime(2026, 1, 5, 8, tzinfo=ZONE),
            dt.datetime(2026, 1, 5, 11, 30, tzinfo=ZONE),
        )


async def test_practitioners_and_stops_are_read(door: Door) -> None:
    doctor = (
        "<Doctors><Doctor><DoctorCode>D1</DoctorCode><DoctorName>李明</DoctorName><DoctorTitle>主任医师</DoctorTitle>"
        "<DepartmentCode>100</DepartmentCode></Doctor></Doctors>"
    )
    stop = (
        "<StopSchedules><StopSchedule><ScheduleCode>100||7</ScheduleCode><ServiceDate>2026-01-05</ServiceDate>"
        "<TimeRangeCode>X</TimeRangeCode><StartTime/><EndTime/><DepartmentCode>100</DepartmentCode><DoctorCode>D1</DoctorCode>"
        "</StopSchedule></StopSchedules>"
    )
    async with door.canned(done(DEPARTMENTS), done(doctor), done(stop)) as (_, his):
        assert await his.fetch_practitioners() == [
            Practitioner(id="D1", name="李明", department_id="100", title="主任医师")
        ]
        assert await his.fetch_stops(WINDOW) == [
            ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="100||7", date=DAY, session=Session.PM)
        ]


# --- people -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "sex"), [("1", Sex.MALE), ("2", Sex.FEMALE), ("9", Sex.UNKNOWN), ("", Sex.UNKNOWN)])
async def test_patient_is_read_with_padded_numbers_and_a_masked_phone(door: Door, code: str, sex: Sex) -> None:
    row = (
        f"<PatientID>0000012345</PatientID><PatientName>张伟</PatientName><Sex>{code}</Sex><DOB>19900307</DOB>"
        "<IDNo>11010119900307123X</IDNo><Mobile>138****0000</Mobile><PatientCard>00081234</PatientCard>"
    )
    async with door.canned(done(f"<PatInfos><PatInfo>{row}</PatInfo></PatInfos>")) as (_, his):
        assert await his.find_patient(PERSON) == [
            Patient(
                name="张伟",
                mrn="0000012345",
                sex=sex,
                birth_date=dt.date(1990, 3, 7),
                id_number="11010119900307123X",
                card_number="00081234",
            )
        ]


async def test_nobody_is_found_and_several_or_another_name_are_refused(door: Door) -> None:
    replies = (failed("-201", "无"), failed("-202", "存在多条记录"), failed("-203", "证件号与姓名不符"))
    async with door.canned(*replies) as (_, his):
        assert await his.find_patient(PERSON) == []
        assert await refusal(his.find_patient(PERSON)) == "patient_ambiguous"
        assert await refusal(his.find_patient(PERSON)) == "patient_mismatch"


async def test_new_patient_has_the_hospitals_number_with_its_zeros(door: Door) -> None:
    async with door.canned(done("<PatientID>0000012345</PatientID>")) as (_, his):
        assert await his.create_patient(PERSON) == Accepted(record=Patient(name="张伟", mrn="0000012345"))


# --- visits -----------------------------------------------------------------------------------------------------------


async def test_lock_and_registration_are_read_with_their_numbers(door: Door) -> None:
    locked = "<TransactionId>DHC0001</TransactionId><LockQueueNo>5</LockQueueNo><RegFee>7</RegFee><AdmDate>2026-01-05</AdmDate>"
    paid = "<AdmNo>88</AdmNo><QueueNo>5</QueueNo><RegFee>7.00</RegFee><AdmitAddress>2楼</AdmitAddress>"
    async with door.canned(done(locked), done(paid)) as (_, his):
        refs = {"transaction_id": "DHC0001", "lock_queue_no": "5"}
        assert await his.lock_slot(golden_order()) == Accepted(
            his_refs=refs,
            record=Registration(
                status=RegistrationStatus.LOCKED, his_id="DHC0001", queue_no="5", fee_fen=700, his_refs=refs
            ),
        )
        refs = {"adm_no": "88", "queue_no": "5"}
        assert await his.register(golden_order(payment=payment(700))) == Accepted(
            his_refs=refs,
            record=Registration(
                status=RegistrationStatus.REGISTERED,
                queue_no="5",
                encounter_no="88",
                check_in_place="2楼",
                fee_fen=700,
                his_refs=refs,
            ),
        )


async def test_booking_is_a_seat_that_is_not_paid(door: Door) -> None:
    told = (
        "<TransactionId/><OrderCode>100||7||3</OrderCode><SeqCode>5</SeqCode><RegFee>7.00</RegFee>"
        "<AdmitRange>08:00-08:30</AdmitRange><AdmitAddress>2楼</AdmitAddress>"
    )
    async with door.canned(done(told)) as (_, his):
        refs = {"order_code": "100||7||3", "seq_code": "5"}
        assert await his.book(golden_order()) == Accepted(
            his_refs=refs,
            record=Registration(
                status=RegistrationStatus.LOCKED,
                his_id="100||7||3",
                queue_no="5",
                check_in_place="2楼",
                fee_fen=700,
                his_refs=refs,
            ),
        )


@pytest.mark.parametrize("text", ["该患者已报到", "已签到"])
async def test_check_in_tells_done_before_from_done_now(door: Door, text: str) -> None:
    told = "<QueueNo>5</QueueNo><AdmitAddress>2楼3诊室</AdmitAddress>"
    async with door.canned(done(told), failed("-1", text)) as (_, his):
        assert await his.check_in(golden_order()) == Accepted(
            record=Registration(status=RegistrationStatus.CHECKED_IN, queue_no="5", check_in_place="2楼3诊室")
        )
        assert await his.check_in(golden_order()) == Rejected(code="already_done", text=text)


@pytest.mark.parametrize("text", ["该号已退号", "预约已取消"])
async def test_cancellation_of_what_is_cancelled_says_so(door: Door, text: str) -> None:
    async with door.canned(failed("-1", text)) as (_, his):
        assert await his.cancel_registration(golden_order()) == Rejected(code="already_done", text=text)


@pytest.mark.parametrize(
    ("letter", "status", "refunded"),
    [
        ("L", "locked", False),
        ("B", "locked", False),
        ("R", "registered", False),
        ("A", "checked_in", False),
        ("F", "fulfilled", False),
        ("T", "released", True),
        ("C", "released", False),
    ],
)
async def test_query_back_tells_the_states_apart_and_refunded_from_never_paid(
    door: Door, letter: str, status: str, refunded: bool
) -> None:
    row = (
        f"<RegInfo><ExtOrderNo>{ORDER_NO}</ExtOrderNo><RegStatus>{letter}</RegStatus><TransactionId>DHC0001</TransactionId>"
        "<PatientID>0000012345</PatientID><AdmDate>2026-01-05</AdmDate><BeginTime>08:00</BeginTime></RegInfo>"
    )
    async with door.canned(done(f"<RegInfos>{row}</RegInfos>")) as (_, his):
        assert await his.fetch_registration(golden_order()) == Registration(
            status=RegistrationStatus(status),
            order_no=ORDER_NO,
            his_id="DHC0001",
            mrn="0000012345",
            starts_at=dt.datetime(2026, 1, 5, 8, tzinfo=ZONE),
            his_refs={"transaction_id": "DHC0001"},
        )
        assert (await his.fetch_refund(refund_of()) is not None) is refunded


async def test_registration_of_another_order_is_not_ours(door: Door) -> None:
    row = "<RegStatus>R</RegStatus><ExtOrderNo>20260105000000000002</ExtOrderNo>"
    async with door.canned(done(f"<RegInfos>{row}</RegInfos>")) as (_, his):
        with pytest.raises(HisReplyInvalid, match="another order"):
            await his.fetch_registration(golden_order())


# --- money ------------------------------------------------------------------------------------------------------------


async def test_bill_is_read_in_yuan_with_its_lines(door: Door) -> None:
    bill = (
        "<OrderNo>R100</OrderNo><OrderName>门诊费用</OrderName><OrderSum>120.5</OrderSum><PatientID>0000012345</PatientID>"
        "<Adm>77</Adm><AdmDept>内科</AdmDept><OrderDate>2026-01-04 09:00:00</OrderDate><ChargeStatus>N</ChargeStatus>"
    )
    line = "<ArcmiCode>1</ArcmiCode><ArcmiDesc>血常规</ArcmiDesc><ItemSum>120.50</ItemSum><Qty>1</Qty><UOM>次</UOM>"
    replies = done(f"<Orders>{bill}</Orders>"), done(f"<Items><Item>{line}</Item></Items>")
    async with door.canned(*replies) as (_, his):
        assert await his.fetch_bills(KNOWN) == [
            Bill(
                id="R100",
                amount_fen=12050,
                currency="CNY",
                mrn="0000012345",
                title="门诊费用",
                department_name="内科",
                issued_at=dt.datetime(2026, 1, 4, 9, tzinfo=ZONE),
                encounter_no="77",
                items=(BillItem(name="血常规", amount_fen=12050, quantity="1", unit="次", code="1"),),
                his_refs={"adm": "77"},
            )
        ]


async def test_bills_fail_as_a_whole_when_an_amount_has_a_tenth_of_a_fen(door: Door) -> None:
    bills = "".join(
        f"<Order><OrderNo>{no}</OrderNo><OrderSum>{sum_}</OrderSum></Order>" for no, sum_ in ((1, "1"), (2, "1.005"))
    )
    async with door.canned(done(f"<Orders>{bills}</Orders>")) as (_, his):
        with pytest.raises(HisReplyInvalid):
            await his.fetch_bills(KNOWN)


@pytest.mark.parametrize(("status", "settled"), [("P", True), ("N", False), ("", False)])
async def test_settlement_counts_only_when_the_hospital_says_paid(door: Door, status: str, settled: bool) -> None:
    told = (
        f"<OrderNo>R100</OrderNo><ChargeStatus>{status}</ChargeStatus><ReceiptNo>SJ1</ReceiptNo>"
        f"<PlatformNo>{PAYMENT_ORDER_NO}</PlatformNo><OutPayNo>4200001</OutPayNo><PayAmt>120.5</PayAmt>"
    )
    async with door.canned(done(told)) as (_, his):
        assert await his.fetch_settlement(golden_bill_payment()) == (
            Settlement(
                bill_id="R100",
                receipt_no="SJ1",
                order_no=PAYMENT_ORDER_NO,
                trade_no="4200001",
                amount_fen=12050,
                his_refs={"receipt_no": "SJ1"},
            )
            if settled
            else None
        )


async def test_settlement_is_refused_when_somebody_else_has_paid(door: Door) -> None:
    told = "<OrderNo>R100</OrderNo><ChargeStatus>P</ChargeStatus><OutPayNo>4200099</OutPayNo>"
    async with door.canned(done(told)) as (_, his):
        assert await refusal(his.fetch_settlement(golden_bill_payment())) == "taken"


async def test_statement_lines_are_money_in_and_money_back(door: Door) -> None:
    row = (
        "<Bill><BalFlag>{}</BalFlag><OutPayNo>42</OutPayNo><PlatformNo>9</PlatformNo><PayAmt>7.1</PayAmt>"
        "<TradeChannel>WECHAT</TradeChannel><PayTime>2026-01-05 23:59:59</PayTime></Bill>"
    )
    async with door.canned(done(f"<Bills>{row.format(1)}{row.format(2)}</Bills>")) as (_, his):
        assert await his.fetch_statement(DAY) == [
            StatementLine(
                kind=kind,
                amount_fen=710,
                trade_no="42",
                order_no="9",
                channel="WECHAT",
                at=dt.datetime(2026, 1, 5, 23, 59, 59, tzinfo=ZONE),
            )
            for kind in (StatementKind.PAYMENT, StatementKind.REFUND)
        ]


# --- the doors are not the same ---------------------------------------------------------------------------------------


async def test_each_door_is_called_as_no_other_is() -> None:
    for mine in DOORS:
        async with mine.canned(done()) as (peer, his):
            await his.ping()
            mine.sent(peer)
            for other in DOORS:
                if other is not mine:
                    with pytest.raises(AssertionError):
                        other.sent(peer)
