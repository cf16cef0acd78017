"""What a zoesoft hospital answers, the odd ones among it, against records written by hand from DOMAIN facts."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest

from connectors.port import Accepted, HisRefused, HisReplyInvalid, Rejected, Unknown, Window
from mappings.canonical import (
    Attachment,
    Bill,
    BillItem,
    Department,
    Observation,
    Patient,
    Practitioner,
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
    StopScope,
)
from tests.connectors.soap.soap_hospital import (
    PERSON,
    ZONE,
    canned,
    enveloped,
    golden_bill_payment,
    golden_order,
)

DAY = dt.date(2026, 1, 5)
WINDOW = Window(date_from=DAY, date_to=DAY, department_id="100")
KNOWN = Patient(name="张伟", mrn="0000012345")
PLAN = (
    "<ScheduleId>7001</ScheduleId><SeeDate>2026-01-05</SeeDate><Noon>1</Noon><BeginTime>08:00</BeginTime>"
    "<EndTime>11:30</EndTime><DeptCode>100</DeptCode><DeptName>内科</DeptName><DoctorCode>D1</DoctorCode>"
    "<DoctorName>李明</DoctorName><DoctorTitle>主任医师</DoctorTitle><RegTypeName>专家号</RegTypeName>"
    "<TotalFee>50</TotalFee><TimeFlag>1</TimeFlag><Status>1</Status><LeftNum>3</LeftNum><Address/>"
)
SCHEDULE = Schedule(
    id="7001",
    date=DAY,
    session=Session.AM,
    department_id="100",
    department_name="内科",
    practitioner_id="D1",
    practitioner_name="李明",
    clinic_type="专家号",
    fee_fen=5000,
    his_refs={"time_flag": "1", "begin_time": "08:00", "end_time": "11:30"},
)
SEGMENT = (
    "<ScheduleId>7001</ScheduleId><SegmentId>7001-1</SegmentId><BeginTime>{}</BeginTime><EndTime>{}</EndTime>"
    "<LeftNum>{}</LeftNum>"
)


def done(inside: str = "") -> str:
    return f'<Response Result="0" Err="">{inside}</Response>'


def failed(text: str, place: str = "Err") -> str:
    if place == "Err":
        return f'<Response Result="-1" Err="{text}"/>'
    return f'<Response Result="-1" Err=""><{place}>{text}</{place}></Response>'


def zoesoft(*replies: Any, **given: Any) -> Any:
    return canned(*replies, profile="zoesoft@1", **given)


# --- plans ----------------------------------------------------------------------------------------------------------


async def test_departments_are_read_from_a_list_and_from_a_list_of_one_that_collapsed() -> None:
    one = "<DeptCode>100</DeptCode><DeptName>内科</DeptName><ParentCode>1</ParentCode><Address>东院</Address>"
    both = done(f"<Depts><Dept>{one}</Dept></Depts>"), done(f"<Depts>{one}</Depts>")
    async with zoesoft(*both) as (_, his):
        for _ in both:
            assert await his.fetch_departments() == [Department(id="100", name="内科", parent_id="1", campus="东院")]


async def test_schedule_is_read_with_its_fee_in_fen() -> None:
    async with zoesoft(done(f"<Schedules><Schedule>{PLAN}</Schedule></Schedules>")) as (_, his):
        assert await his.fetch_schedules(WINDOW) == [SCHEDULE]


async def test_schedule_is_the_same_when_junk_stands_before_it_and_the_list_collapsed() -> None:
    reply = "调试:\r\n<?xml version='1.0' encoding='gb2312'?>" + done(f"<Schedules>{PLAN}</Schedules>")
    async with zoesoft(reply) as (_, his):
        assert await his.fetch_schedules(WINDOW) == [SCHEDULE]


@pytest.mark.parametrize(
    ("noon", "session"), [("1", Session.AM), ("2", Session.PM), ("3", Session.NIGHT), ("4", Session.ALL_DAY)]
)
async def test_noon_four_is_the_whole_day(noon: str, session: Session) -> None:
    plan = PLAN.replace("<Noon>1<", f"<Noon>{noon}<").replace("<Status>1<", "<Status>0<")
    async with zoesoft(done(f"<Schedules><Schedule>{plan}</Schedule></Schedules>")) as (_, his):
        (schedule,) = await his.fetch_schedules(WINDOW)
        assert (schedule.session, schedule.status) == (session, ScheduleStatus.STOPPED)


async def test_practitioners_are_those_who_stand_on_the_plan_once_each() -> None:
    nobody = PLAN.replace("<DoctorCode>D1<", "<DoctorCode><").replace("<DoctorName>李明<", "<DoctorName><")
    afternoon = PLAN.replace("<Noon>1<", "<Noon>2<")
    rows = "".join(f"<Schedule>{plan}</Schedule>" for plan in (PLAN, afternoon, nobody))
    depts = done("<Depts><Dept><DeptCode>100</DeptCode><DeptName>内科</DeptName></Dept></Depts>")
    async with zoesoft(depts, done(f"<Schedules>{rows}</Schedules>")) as (_, his):
        assert await his.fetch_practitioners() == [
            Practitioner(id="D1", name="李明", department_id="100", title="主任医师")
        ]


@pytest.mark.parametrize(("left", "seats"), [("3", 3), ("0", 0), ("-1", 999)])
async def test_segments_become_slots_and_minus_one_is_without_limit(left: str, seats: int) -> None:
    segment = SEGMENT.format("08:00", "08:30", left)
    async with zoesoft(done(f"<Segments><Segment>{segment}</Segment></Segments>")) as (_, his):
        assert await his.fetch_slots(WINDOW, [SCHEDULE]) == [
            Slot(
                id="7001-1",
                schedule_id="7001",
                date=DAY,
                session=Session.AM,
                starts_at=dt.datetime(2026, 1, 5, 8, tzinfo=ZONE),
                ends_at=dt.datetime(2026, 1, 5, 8, 30, tzinfo=ZONE),
                seats_left=seats,
                his_refs={"segment_id": "7001-1", "begin_time": "08:00", "end_time": "08:30"},
            )
        ]


async def test_segment_after_midnight_is_on_the_next_day() -> None:
    night = msgspec.structs.replace(
        SCHEDULE, session=Session.NIGHT, his_refs={"time_flag": "1", "begin_time": "20:00", "end_time": "02:00"}
    )
    async with zoesoft(done(f"<Segments>{SEGMENT.format('00:30', '01:00', '1')}</Segments>")) as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, [night])
        assert (slot.date, slot.starts_at) == (DAY, dt.datetime(2026, 1, 6, 0, 30, tzinfo=ZONE))


async def test_schedule_without_segments_is_one_slot() -> None:
    plan = PLAN.replace("<TimeFlag>1<", "<TimeFlag>0<")
    async with zoesoft(done(f"<Schedules><Schedule>{plan}</Schedule></Schedules>")) as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, [msgspec.structs.replace(SCHEDULE, his_refs={"time_flag": "0"})])
        assert (slot.id, slot.seats_left) == ("7001", 3)
        assert slot.ends_at == dt.datetime(2026, 1, 5, 11, 30, tzinfo=ZONE)


async def test_stop_is_read_with_its_reason() -> None:
    stop = "<Stop><ScheduleId>7001</ScheduleId><SeeDate>2026-01-05</SeeDate><Noon>2</Noon><Reason>会诊</Reason></Stop>"
    async with zoesoft(done(f"<Stops>{stop}</Stops>")) as (_, his):
        assert await his.fetch_stops(WINDOW) == [
            ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="7001", date=DAY, session=Session.PM, reason="会诊")
        ]


# --- people ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "sex"), [("0", Sex.UNKNOWN), ("1", Sex.MALE), ("2", Sex.FEMALE), ("9", Sex.UNKNOWN), ("", Sex.UNKNOWN)]
)
async def test_patient_is_read_with_padded_number_and_masked_phone(code: str, sex: Sex) -> None:
    row = (
        f"<PatientId>0000012345</PatientId><PatientName>张伟</PatientName><Sex>{code}</Sex><Birthday>19900307</Birthday>"
        "<IdNo>11010119900307123X</IdNo><Phone>138****0000</Phone><CardNo>000077</CardNo>"
    )
    async with zoesoft(done(f"<Patients><Patient>{row}</Patient></Patients>")) as (_, his):
        assert await his.find_patient(PERSON) == [
            Patient(
                name="张伟",
                mrn="0000012345",
                sex=sex,
                birth_date=dt.date(1990, 3, 7),
                id_number="11010119900307123X",
                card_number="000077",
            )
        ]


async def test_nobody_is_found_when_the_hospital_says_so_in_words() -> None:
    async with zoesoft(failed("未查询到患者信息"), failed("患者不存在。")) as (_, his):
        assert await his.find_patient(PERSON) == []
        assert await his.find_patient(PERSON) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("姓名与证件号不符", "patient_mismatch"),
        ("存在多条患者信息", "patient_ambiguous"),
        ("患者已建档", "already_exists"),
    ],
)
async def test_new_patient_is_refused_for_the_reason_in_the_words(text: str, code: str) -> None:
    async with zoesoft(failed(text)) as (_, his):
        assert await his.create_patient(PERSON) == Rejected(code=code, text=text)


# --- a visit --------------------------------------------------------------------------------------------------------


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


# --- money ----------------------------------------------------------------------------------------------------------


async def test_bill_has_its_lines_from_3002() -> None:
    bill = (
        "<BillNo>R100</BillNo><BillName>处方</BillName><Amount>120.5</Amount><PatientId>0000012345</PatientId>"
        "<VisitNo>77</VisitNo><BillTime>2026-01-04 09:00:00</BillTime><DeptName>内科</DeptName><Status>0</Status>"
    )
    item = (
        "<ItemCode>1</ItemCode><ItemName>血常规</ItemName><Amount>120.50</Amount><Quantity>1</Quantity><Unit>次</Unit>"
    )
    async with zoesoft(done(f"<Bills>{bill}</Bills>"), done(f"<Items>{item}</Items>")) as (_, his):
        assert await his.fetch_bills(KNOWN) == [
            Bill(
                id="R100",
                amount_fen=12050,
                currency="CNY",
                mrn="0000012345",
                title="处方",
                department_name="内科",
                issued_at=dt.datetime(2026, 1, 4, 9, tzinfo=ZONE),
                encounter_no="77",
                items=(BillItem(name="血常规", amount_fen=12050, quantity="1", unit="次", code="1"),),
                his_refs={"visit_no": "77"},
            )
        ]


async def test_no_bills_are_open_when_the_words_say_so() -> None:
    async with zoesoft(failed("未查询到待缴费记录", "ErrMsg")) as (_, his):
        assert await his.fetch_bills(KNOWN) == []


async def test_presettlement_tells_what_is_left_to_pay() -> None:
    reply = done(
        "<BillNo>R100</BillNo><PreSettleId>PS9</PreSettleId><Amount>120.50</Amount><FundAmount>100.00</FundAmount>"
        "<AccountAmount>0.50</AccountAmount><SelfAmount>20.00</SelfAmount>"
    )
    async with zoesoft(reply) as (_, his):
        refs = {"pre_settle_id": "PS9", "fund": "100.00", "account": "0.50"}
        assert await his.presettle_bill(golden_bill_payment()) == Accepted(
            his_refs=refs, record=Settlement(bill_id="R100", amount_fen=2000, his_refs=refs)
        )


SETTLED = (
    "<BillNo>R100</BillNo><SettleId>S9</SettleId><Status>{}</Status><ReceiptNo>SJ1</ReceiptNo>"
    "<TradeNo>{}</TradeNo><PayAmount>{}</PayAmount>"
)


@pytest.mark.parametrize("status", ["0", "1", "2"])
async def test_settlement_counts_only_when_the_hospital_says_settled(status: str) -> None:
    settle = SETTLED.format(status, "4200001", "120.50")
    replies = done(f"<Settles>{settle}</Settles>"), done(settle)
    found = Settlement(
        bill_id="R100",
        receipt_no="SJ1",
        trade_no="4200001",
        amount_fen=12050,
        his_refs={"settle_id": "S9", "receipt_no": "SJ1"},
    )
    async with zoesoft(*replies) as (_, his):
        for refs in ({}, {"settle_id": "S9"}):
            asked = msgspec.structs.replace(golden_bill_payment(), his_refs=refs)
            assert await his.fetch_settlement(asked) == (found if status == "1" else None)


@pytest.mark.parametrize(
    ("trade_no", "amount", "code"), [("4200099", "120.50", "taken"), ("4200001", "120.51", "price_changed")]
)
async def test_settlement_is_refused_when_it_is_not_by_our_payment(trade_no: str, amount: str, code: str) -> None:
    reply = done(f"<Settles><Settle>{SETTLED.format('1', trade_no, amount)}</Settle></Settles>")
    async with zoesoft(reply) as (_, his):
        with pytest.raises(HisRefused) as refused:
            await his.fetch_settlement(golden_bill_payment())
        assert refused.value.code == code


# --- reports --------------------------------------------------------------------------------------------------------

HEADING = (
    "<ReportNo>{}</ReportNo><ReportName>{}</ReportName><PatientId>0000012345</PatientId>"
    "<ReportTime>2026-01-05 15:00:00</ReportTime>"
)


async def test_reports_of_both_kinds_are_one_list() -> None:
    lab = f"<Report>{HEADING.format('L7', '血常规')}<Status>2</Status></Report>"
    exam = f"{HEADING.format('E8', '胸部CT')}<Status>1</Status>"
    both = done(f"<Reports>{lab}</Reports>"), done(f"<Reports>{exam}</Reports>")
    async with zoesoft(*both) as (_, his):
        told = [(r.id, r.kind, r.status, r.name) for r in await his.fetch_reports(KNOWN)]
        assert told == [
            ("L7", ReportKind.LAB, ReportStatus.FINAL, "血常规"),
            ("E8", ReportKind.EXAM, ReportStatus.PRELIMINARY, "胸部CT"),
        ]


async def test_laboratory_report_is_read_with_its_results() -> None:
    item = (
        "<Item><ItemCode>WBC</ItemCode><ItemName>白细胞</ItemName><Result>11.2</Result><Unit>10*9/L</Unit>"
        "<Range>3.5-9.5</Range><Flag>↑</Flag></Item>"
    )
    lab = done(f"{HEADING.format('L7', '血常规')}<Items>{item}</Items>")
    async with zoesoft(lab, failed("报告不存在")) as (_, his):
        assert await his.fetch_report(KNOWN, "L7") == Report(
            id="L7",
            kind=ReportKind.LAB,
            status=ReportStatus.FINAL,
            name="血常规",
            mrn="0000012345",
            issued_at=dt.datetime(2026, 1, 5, 15, tzinfo=ZONE),
            observations=(
                Observation(
                    name="白细胞", code="WBC", value="11.2", unit="10*9/L", reference_range="3.5-9.5", flag="H"
                ),
            ),
        )


async def test_examination_is_read_with_its_finding_and_its_document() -> None:
    exam = done(
        f"{HEADING.format('E8', '胸部CT')}<Finding>双肺纹理清晰</Finding><Conclusion>未见异常</Conclusion>"
        "<PdfUrl>http://10.0.0.9/pacs/E8.pdf</PdfUrl>"
    )
    async with zoesoft(failed("报告不存在"), exam) as (_, his):
        assert await his.fetch_report(KNOWN, "E8") == Report(
            id="E8",
            kind=ReportKind.EXAM,
            status=ReportStatus.FINAL,
            name="胸部CT",
            mrn="0000012345",
            issued_at=dt.datetime(2026, 1, 5, 15, tzinfo=ZONE),
            conclusion="双肺纹理清晰\n未见异常",
            attachments=(Attachment(content_type="application/pdf", url="http://10.0.0.9/pacs/E8.pdf"),),
        )


# --- replies that are none ------------------------------------------------------------------------------------------


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
