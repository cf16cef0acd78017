"""The DHC documents of the field, sent and read, against values worked out by hand."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import msgspec
import pytest
from lxml import etree

from connectors.port import Accepted, HisRefused, HisReplyInvalid, Order, Outcome, Rejected, Window
from connectors.soap import SoapConnector, create
from mappings.canonical import (
    Bill,
    BillItem,
    Department,
    Patient,
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
from tests.connectors.soap.soap_hospital import (
    HOSPITAL,
    PERSON,
    ZONE,
    CannedPeer,
    canned,
    golden_bill_payment,
    golden_order,
    options,
    payment,
)

DONE = "<Response><ResultCode>0</ResultCode><ResultContent/></Response>"
DAY = dt.date(2026, 1, 5)
WINDOW = Window(date_from=DAY, date_to=DAY, department_id="100")
SCHEDULES = (
    "<Response><ResultCode>0</ResultCode><ResultContent/><RecordCount>1</RecordCount><Schedules><Schedule>"
    "<ScheduleItemCode>100||7</ScheduleItemCode><ServiceDate>2026-01-05</ServiceDate><SessionCode>S</SessionCode>"
    "<SessionName>上午</SessionName><StartTime>08:00</StartTime><EndTime>11:30</EndTime>"
    "<DepartmentCode>100</DepartmentCode><DoctorCode>D1</DoctorCode><DoctorTitle/>"
    "<DoctorSessType>副高号</DoctorSessType><Fee>7</Fee><RegFee>1</RegFee><CheckupFee>6</CheckupFee>"
    "<AvailableNumStr>5,6,7</AvailableNumStr><TimeRangeFlag>Y</TimeRangeFlag><ScheduleStatus>N</ScheduleStatus>"
    "<AvailableTotalNum>20</AvailableTotalNum><AvailableLeftNum>3</AvailableLeftNum><AdmitAddress/></Schedule>"
    "</Schedules></Response>"
)


def _sent(peer: CannedPeer, n: int = -1) -> tuple[str, etree._Element]:
    """The operation and the document of a request."""
    body = etree.fromstring(peer.requests[n][1])[0]
    return etree.QName(body[0]).localname, etree.fromstring(body[0][0].text or "")


def _flat(document: etree._Element) -> list[tuple[str, str]]:
    return [(child.tag, (child.text or "") if len(child) == 0 else str(_flat(child))) for child in document]


async def test_schedule_request_and_reply_are_the_documented_ones() -> None:
    async with canned(SCHEDULES, settings={"user_id": "WX001"}) as (peer, his):
        schedules = await his.fetch_schedules(WINDOW)
        operation, document = _sent(peer)
        assert operation == "QueryAdmSchedule"
        assert document.tag == "Request"
        assert _flat(document) == [
            ("TradeCode", "1004"),
            ("ExtOrgCode", ""),
            ("ClientType", ""),
            ("HospitalId", "2"),
            ("ExtUserID", "WX001"),
            ("StartDate", "2026-01-05"),
            ("EndDate", "2026-01-05"),
            ("DepartmentCode", "100"),
            ("ServiceCode", ""),
            ("DoctorCode", ""),
            ("RBASSessionCode", ""),
            ("StopScheduleFlag", ""),
            ("PatientID", ""),
        ]
        assert peer.requests[0][0]["SOAPAction"] == '"http://tempuri.org/SelfRegService.QueryAdmSchedule"'
        assert schedules == [
            Schedule(
                id="100||7",
                date=DAY,
                session=Session.AM,
                department_id="100",
                practitioner_id="D1",
                clinic_type="副高号",
                fee_fen=700,
                status=ScheduleStatus.OPEN,
                his_refs={
                    "time_ranges": "Y",
                    "session_code": "S",
                    "free_numbers": "5,6,7",
                    "start_time": "08:00",
                    "end_time": "11:30",
                },
            )
        ]


async def test_schedule_is_the_same_when_the_list_of_one_collapsed() -> None:
    collapsed = SCHEDULES.replace("<Schedule>", "").replace("</Schedule>", "")
    async with canned(SCHEDULES, collapsed) as (_, his):
        assert await his.fetch_schedules(WINDOW) == await his.fetch_schedules(WINDOW)


@pytest.mark.parametrize(("session", "expected"), [("X", Session.PM), ("Y", Session.NIGHT), ("Q", Session.ALL_DAY)])
async def test_session_and_stop_are_translated(session: str, expected: Session) -> None:
    reply = SCHEDULES.replace(">S<", f">{session}<").replace("<ScheduleStatus>N", "<ScheduleStatus>S")
    async with canned(reply) as (_, his):
        (schedule,) = await his.fetch_schedules(WINDOW)
        assert (schedule.session, schedule.status) == (expected, ScheduleStatus.STOPPED)


async def test_bad_record_is_left_out_and_the_rest_come() -> None:
    good = SCHEDULES[SCHEDULES.index("<Schedule>") : SCHEDULES.index("</Schedules>")]
    bad = good.replace("<SessionCode>S", "<SessionCode>?")
    async with canned(SCHEDULES.replace(good, bad + good), SCHEDULES.replace(good, bad)) as (_, his):
        assert len(await his.fetch_schedules(WINDOW)) == 1
        with pytest.raises(HisReplyInvalid):
            await his.fetch_schedules(WINDOW)


async def test_time_ranges_become_slots() -> None:
    reply = (
        "<Response><ResultCode>0</ResultCode><TimeRanges><TimeRange><ScheduleItemCode>100||7</ScheduleItemCode>"
        "<StartTime>11:00</StartTime><EndTime>11:30</EndTime><AvailableTotalNum>10</AvailableTotalNum>"
        "<AvailableLeftNum>3</AvailableLeftNum></TimeRange></TimeRanges></Response>"
    )
    async with canned(SCHEDULES, reply) as (peer, his):
        slots = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        operation, document = _sent(peer)
        assert operation == "QueryScheduleTimeInfo"
        assert dict(_flat(document)) == {
            "TradeCode": "10041",
            "ExtOrgCode": "",
            "ClientType": "",
            "HospitalId": "2",
            "ExtUserID": "HISBRIDGE",
            "DepartmentCode": "100",
            "DoctorCode": "D1",
            "RBASSessionCode": "S",
            "ScheduleItemCode": "100||7",
            "ServiceDate": "2026-01-05",
        }
        assert slots == [
            Slot(
                id="100||7@11:00",
                schedule_id="100||7",
                date=DAY,
                session=Session.AM,
                starts_at=dt.datetime(2026, 1, 5, 11, tzinfo=ZONE),
                ends_at=dt.datetime(2026, 1, 5, 11, 30, tzinfo=ZONE),
                seats_left=3,
                his_refs={"begin_time": "11:00", "end_time": "11:30"},
            )
        ]


@pytest.mark.parametrize(("numbers", "left"), [("5,6,7", 3), ("", 0)])
async def test_session_without_time_ranges_is_one_slot_with_the_packed_numbers(numbers: str, left: int) -> None:
    reply = SCHEDULES.replace("<TimeRangeFlag>Y", "<TimeRangeFlag>N").replace("5,6,7", numbers)
    async with canned(reply) as (peer, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert _sent(peer)[0] == "QueryAdmSchedule"
        assert (slot.id, slot.seats_left) == ("100||7", left)
        assert slot.starts_at == dt.datetime(2026, 1, 5, 8, tzinfo=ZONE)
        assert slot.ends_at == dt.datetime(2026, 1, 5, 11, 30, tzinfo=ZONE)


@pytest.mark.parametrize(("left", "seats"), [("-1", 999), ("99", 99), ("0", 0)])
async def test_unlimited_seats_are_many(left: str, seats: int) -> None:
    ranges = (
        "<Response><ResultCode>0</ResultCode><TimeRanges><TimeRange><ScheduleItemCode>100||7</ScheduleItemCode>"
        f"<StartTime>11:00</StartTime><EndTime>11:30</EndTime><AvailableLeftNum>{left}</AvailableLeftNum></TimeRange>"
        "</TimeRanges></Response>"
    )
    async with canned(SCHEDULES, ranges) as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert slot.seats_left == seats


async def test_session_without_time_ranges_is_unlimited_when_the_hospital_says_so() -> None:
    reply = SCHEDULES.replace("<TimeRangeFlag>Y", "<TimeRangeFlag>N").replace("5,6,7", "")
    reply = re.sub("<AvailableLeftNum>[0-9]*<", "<AvailableLeftNum>-1<", reply)
    async with canned(reply) as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert slot.seats_left == 999


def night(flag: str, session: str = "Y") -> str:
    reply = SCHEDULES.replace("<TimeRangeFlag>Y", f"<TimeRangeFlag>{flag}").replace(
        "<SessionCode>S", f"<SessionCode>{session}"
    )
    return reply.replace("<StartTime>08:00", "<StartTime>20:00").replace("<EndTime>11:30", "<EndTime>02:00")


async def test_session_over_midnight_ends_on_the_next_day() -> None:
    async with canned(night("N")) as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert slot.date == DAY
        assert (slot.starts_at, slot.ends_at) == (
            dt.datetime(2026, 1, 5, 20, tzinfo=ZONE),
            dt.datetime(2026, 1, 6, 2, tzinfo=ZONE),
        )


async def test_ranges_of_a_session_over_midnight_are_on_two_days() -> None:
    row = (
        "<TimeRange><ScheduleItemCode>100||7</ScheduleItemCode><StartTime>{}</StartTime><EndTime>{}</EndTime>"
        "<AvailableLeftNum>1</AvailableLeftNum></TimeRange>"
    )
    times = [("20:00", "20:30"), ("23:30", "00:00"), ("00:30", "01:00"), ("01:30", "02:00")]
    rows = "".join(row.format(*pair) for pair in times)
    ranges = f"<Response><ResultCode>0</ResultCode><TimeRanges>{rows}</TimeRanges></Response>"
    async with canned(night("Y"), ranges) as (_, his):
        slots = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert {slot.date for slot in slots} == {DAY}
        assert [f"{slot.starts_at:%d %H:%M}-{slot.ends_at:%d %H:%M}" for slot in slots] == [
            "05 20:00-05 20:30",
            "05 23:30-06 00:00",
            "06 00:30-06 01:00",
            "06 01:30-06 02:00",
        ]


async def test_all_day_session_is_asked_for_by_its_code() -> None:
    ranges = (
        "<Response><ResultCode>0</ResultCode><TimeRanges><TimeRange><ScheduleItemCode>100||7</ScheduleItemCode>"
        "<StartTime>11:00</StartTime><EndTime>11:30</EndTime><AvailableLeftNum>3</AvailableLeftNum></TimeRange>"
        "</TimeRanges></Response>"
    )
    async with canned(SCHEDULES.replace("<SessionCode>S", "<SessionCode>Q"), ranges) as (peer, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert _sent(peer)[1].findtext("RBASSessionCode") == "Q"
        assert slot.session is Session.ALL_DAY


async def test_lock_sends_our_number_and_keeps_the_hospitals() -> None:
    reply = (
        "<Response><TradeCode>10015</TradeCode><TransactionId>DHC0001</TransactionId><ResultCode>0</ResultCode>"
        "<ResultContent>加号成功</ResultContent><LockQueueNo>5</LockQueueNo><RegFee>7</RegFee>"
        "<AdmDate>2026-01-05</AdmDate></Response>"
    )
    async with canned(reply) as (peer, his):
        outcome = await his.lock_slot(golden_order())
        operation, document = _sent(peer)
        assert operation == "LockOrder"
        assert dict(_flat(document)) == {
            "TradeCode": "10015",
            "ExtOrgCode": "",
            "ClientType": "",
            "HospitalID": "2",
            "ExtUserID": "HISBRIDGE",
            "ExtOrderNo": "20260105000000000001",
            "PatientID": "0000012345",
            "CardNo": "",
            "CardType": "",
            "ScheduleItemCode": "100||7",
            "BeginTime": "08:00",
            "EndTime": "08:30",
        }
        refs = {"transaction_id": "DHC0001", "lock_queue_no": "5"}
        record = Registration(
            status=RegistrationStatus.LOCKED, his_id="DHC0001", queue_no="5", fee_fen=700, his_refs=refs
        )
        assert outcome == Accepted(his_refs=refs, record=record)


async def test_registration_sends_yuan_and_the_payment() -> None:
    reply = "<Response><ResultCode>0</ResultCode><AdmNo>88</AdmNo><QueueNo>5</QueueNo><AdmitAddress>2楼</AdmitAddress></Response>"
    refs = {"transaction_id": "DHC0001", "lock_queue_no": "5"}
    async with canned(reply) as (peer, his):
        outcome = await his.register(golden_order(his_refs=refs, payment=payment(705)))
        operation, document = _sent(peer)
        assert operation == "OPRegister"
        sent = dict(_flat(document))
        assert {
            key: sent[key] for key in ("TradeCode", "TransactionId", "PatientID", "PayModeCode", "PayFee", "QueueNo")
        } == {
            "TradeCode": "1101",
            "TransactionId": "DHC0001",
            "PatientID": "0000012345",
            "PayModeCode": "WECHAT",
            "PayFee": "7.05",
            "QueueNo": "5",
        }
        details = document.find("PayDetails")
        assert details is not None
        assert _flat(details) == [
            ("TradeChannel", "WECHAT"),
            ("PayAmt", "7.05"),
            ("PlatformNo", "20260105000000000001"),
            ("OutPayNo", "4200001"),
            ("PayDate", "2026-01-04"),
            ("PayTime", "09:30:15"),
        ]
        assert isinstance(outcome, Accepted)
        assert outcome.his_refs == {"adm_no": "88", "queue_no": "5"}
        assert outcome.record == Registration(
            status=RegistrationStatus.REGISTERED,
            queue_no="5",
            encounter_no="88",
            check_in_place="2楼",
            his_refs={"adm_no": "88", "queue_no": "5"},
        )


@pytest.mark.parametrize(
    ("order", "operation", "trade"),
    [
        (golden_order(payment=payment(700), his_refs={"adm_no": "88"}), "OPRegReturn", "1003"),
        (golden_order(payment=payment(700)), "OPRegReturn", "1003"),
        (golden_order(his_refs={"adm_no": "88"}), "OPRegReturn", "1003"),
        (golden_order(his_refs={"transaction_id": "DHC0001"}), "CancelOrder", "1001"),
    ],
)
async def test_cancel_uses_the_trade_of_what_was_done(order: Order, operation: str, trade: str) -> None:
    async with canned(DONE) as (peer, his):
        assert await his.cancel_registration(order) == Accepted()
        sent, document = _sent(peer)
        assert (sent, document.findtext("TradeCode")) == (operation, trade)
        assert document.findtext("ExtOrderNo") == order.order_no


async def test_unlock_names_the_lock() -> None:
    async with canned(DONE) as (peer, his):
        order = golden_order(his_refs={"transaction_id": "DHC0001", "lock_queue_no": "5"})
        assert await his.unlock_slot(order) == Accepted()
        operation, document = _sent(peer)
        assert (operation, document.findtext("TransactionId"), document.findtext("LockQueueNo")) == (
            "UnLockOrder",
            "DHC0001",
            "5",
        )


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("L", "locked"),
        ("R", "registered"),
        ("A", "checked_in"),
        ("F", "fulfilled"),
        ("T", "released"),
        ("C", "released"),
    ],
)
async def test_query_back_tells_the_states_apart(code: str, status: str) -> None:
    reply = (
        "<Response><ResultCode>0</ResultCode><RegInfos><RegInfo><ExtOrderNo>20260105000000000001</ExtOrderNo>"
        f"<RegStatus>{code}</RegStatus><TransactionId>DHC0001</TransactionId></RegInfo></RegInfos></Response>"
    )
    async with canned(reply) as (peer, his):
        found = await his.fetch_registration(golden_order())
        assert found is not None
        assert (found.status, found.his_id) == (status, "DHC0001")
        assert _sent(peer)[1].findtext("ExtOrderNo") == "20260105000000000001"


@pytest.mark.parametrize(
    "text", ["操作员不存在", "患者不存在", "未找到接口配置", "排班不存在", "订单不存在对应的操作员"]
)
@pytest.mark.parametrize("coded", [True, False])
async def test_query_back_fails_when_something_else_is_missing(text: str, coded: bool) -> None:
    reply = f"<Response><ResultCode>-1</ResultCode><ResultContent>{text}</ResultContent></Response>" if coded else text
    async with canned(reply) as (_, his):
        with pytest.raises((HisRefused, HisReplyInvalid)):
            await his.fetch_registration(golden_order())


@pytest.mark.parametrize("code", ["-1006", "-1"])
async def test_query_back_finds_nothing_when_the_hospital_does_not_know_it(code: str) -> None:
    reply = f"<Response><ResultCode>{code}</ResultCode><ResultContent>订单在系统中不存在</ResultContent></Response>"
    async with canned(reply) as (_, his):
        assert await his.fetch_registration(golden_order()) is None


async def test_patient_is_read_with_sex_one_and_two() -> None:
    row = "<PatInfo><PatientID>000{n}</PatientID><PatientName>张{n}</PatientName><Sex>{n}</Sex><DOB>19900307</DOB></PatInfo>"
    reply = f"<Response><ResultCode>0</ResultCode><PatInfos>{row.format(n=1)}{row.format(n=2)}</PatInfos></Response>"
    async with canned(reply) as (_, his):
        born = dt.date(1990, 3, 7)
        assert await his.find_patient(PERSON) == [
            Patient(name="张1", mrn="0001", sex=Sex.MALE, birth_date=born),
            Patient(name="张2", mrn="0002", sex=Sex.FEMALE, birth_date=born),
        ]


async def test_patient_is_created_with_the_name_that_was_sent() -> None:
    async with canned("<Response><ResultCode>0</ResultCode><PatientID>0009</PatientID></Response>") as (peer, his):
        outcome = await his.create_patient(PERSON)
        assert outcome == Accepted(record=Patient(name="张伟", mrn="0009"))
        sent = dict(_flat(_sent(peer)[1]))
        assert (sent["IDType"], sent["IDNo"], sent["Sex"]) == ("01", "11010119900307123X", "1")


async def test_stop_is_read_as_documented() -> None:
    reply = (
        "<Response><ResultCode>0</ResultCode><StopSchedules><StopSchedule><ScheduleCode>100||7</ScheduleCode>"
        "<ServiceDate>2026-01-05</ServiceDate><TimeRangeCode/><StartTime/><EndTime/><DepartmentCode>100</DepartmentCode>"
        "<DoctorCode>D1</DoctorCode></StopSchedule></StopSchedules></Response>"
    )
    async with canned(reply) as (_, his):
        assert await his.fetch_stops(WINDOW) == [
            ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="100||7", date=DAY)
        ]


async def test_bill_has_its_items_from_the_follow_up_call() -> None:
    bills = (
        "<Response><ResultCode>0</ResultCode><Orders><Order><OrderNo>R100</OrderNo><OrderSum>120.5</OrderSum>"
        "<PatientID>0000012345</PatientID><Adm>77</Adm><OrderDate>2026-01-04 09:00:00</OrderDate></Order></Orders></Response>"
    )
    items = (
        "<Response><ResultCode>0000</ResultCode><Items><Item><ArcmiDesc>血常规</ArcmiDesc><ItemSum>120.50</ItemSum>"
        "<Qty>1</Qty><UOM>次</UOM></Item></Items></Response>"
    )
    async with canned(bills, items) as (peer, his):
        assert await his.fetch_bills(Patient(name="张伟", mrn="0000012345")) == [
            Bill(
                id="R100",
                amount_fen=12050,
                currency="CNY",
                mrn="0000012345",
                issued_at=dt.datetime(2026, 1, 4, 9, tzinfo=ZONE),
                encounter_no="77",
                items=(BillItem(name="血常规", amount_fen=12050, quantity="1", unit="次"),),
                his_refs={"adm": "77"},
            )
        ]
        assert [_sent(peer, n)[1].findtext("TradeCode") for n in (0, 1)] == ["4902", "4904"]
        assert _sent(peer, 1)[1].findtext("Adm") == "77"


async def test_bills_fail_as_a_whole_when_one_cannot_be_read() -> None:
    reply = (
        "<Response><ResultCode>0</ResultCode><Orders><Order><OrderNo>1</OrderNo><OrderSum>1</OrderSum></Order>"
        "<Order><OrderNo>2</OrderNo><OrderSum>1.005</OrderSum></Order></Orders></Response>"
    )
    async with canned(reply) as (_, his):
        with pytest.raises(HisReplyInvalid) as raised:
            await his.fetch_bills(Patient(name="张伟", mrn="1"))
        assert "1.005" not in str(raised.value)


async def test_settlement_sends_the_presettlements_invoice_and_reads_the_receipt() -> None:
    reply = "<Response><ResultCode>0</ResultCode><OrderNo>R100</OrderNo><ReceiptNo>SJ1</ReceiptNo></Response>"
    async with canned(reply) as (peer, his):
        outcome = await his.settle_bill(golden_bill_payment())
        operation, document = _sent(peer)
        assert (operation, document.findtext("TradeCode"), document.findtext("InvoiceNoStr")) == (
            "ZZJCommonPay",
            "4906",
            "INV9",
        )
        assert (document.findtext("PayDetails/PayAmt"), document.findtext("PayDetails/OutPayNo")) == (
            "120.50",
            "4200001",
        )
        assert outcome == Accepted(
            his_refs={"receipt_no": "SJ1"},
            record=Settlement(bill_id="R100", receipt_no="SJ1", his_refs={"receipt_no": "SJ1"}),
        )


@pytest.mark.parametrize(("status", "settled"), [("P", True), ("N", False), ("", False)])
async def test_settlement_counts_only_when_the_hospital_says_paid(status: str, settled: bool) -> None:
    async with canned(charged(status, "<OutPayNo>4200001</OutPayNo>")) as (_, his):
        found = await his.fetch_settlement(golden_bill_payment())
        assert (found is not None) is settled


def charged(status: str, whose: str) -> str:
    return (
        f"<Response><ResultCode>0</ResultCode><OrderNo>R100</OrderNo><ChargeStatus>{status}</ChargeStatus>{whose}"
        "</Response>"
    )


@pytest.mark.parametrize(
    ("whose", "code"),
    [
        ("<OutPayNo>4200099</OutPayNo>", "taken"),
        ("<PlatformNo>20260105000000000008</PlatformNo>", "taken"),
        ("<OutPayNo>4200001</OutPayNo><PayAmt>120.51</PayAmt>", "price_changed"),
    ],
)
async def test_settlement_is_refused_when_it_is_not_by_our_payment(whose: str, code: str) -> None:
    async with canned(charged("P", whose)) as (_, his):
        with pytest.raises(HisRefused) as refused:
            await his.fetch_settlement(golden_bill_payment())
        assert (refused.value.code, refused.value.verb) == (code, "fetch_settlement")


@pytest.mark.parametrize(
    "whose",
    ["<PlatformNo>20260105000000000009</PlatformNo>", "<OutPayNo>4200001</OutPayNo><PayAmt>120.5</PayAmt>"],
)
async def test_settlement_is_ours_when_either_number_is(whose: str) -> None:
    async with canned(charged("P", whose)) as (_, his):
        assert await his.fetch_settlement(golden_bill_payment()) is not None


async def test_settlement_is_unreadable_when_it_does_not_say_whose_it_is(tmp_path: Path) -> None:
    async with canned(charged("P", "")) as (peer, his):
        with pytest.raises(HisReplyInvalid):
            await his.fetch_settlement(golden_bill_payment())
        # A site whose HIS looks by our number without repeating it says so in its profile.
        site = tmp_path / "by_number"
        site.mkdir()
        (site / "profile.yaml").write_text(
            "name: by_number\nversion: 1\nprotocol: soap\nextends: dhc@1\nverbs:\n  fetch_settlement:\n"
            "    call: {echo: true}\n"
            "    reply: {fields: {trade_no: {from: [OutPayNo, /Response/Request/OutPayNo]}}}\n"
        )
        given = msgspec.structs.replace(options(endpoint=peer.url), profile="by_number")
        other: SoapConnector = create(HOSPITAL, "his", given, profiles_dir=tmp_path)
        await other.start()
        try:
            assert await other.fetch_settlement(golden_bill_payment()) is not None
        finally:
            await other.close()


async def test_statement_lines_are_money_in_and_money_back() -> None:
    row = "<Bill><BalFlag>{0}</BalFlag><OutPayNo>42</OutPayNo><PlatformNo>9</PlatformNo><PayAmt>7.00</PayAmt></Bill>"
    reply = f"<Response><ResultCode>0</ResultCode><Bills>{row.format(1)}{row.format(2)}</Bills></Response>"
    async with canned(reply) as (peer, his):
        assert await his.fetch_statement(DAY) == [
            StatementLine(kind=StatementKind.PAYMENT, amount_fen=700, trade_no="42", order_no="9"),
            StatementLine(kind=StatementKind.REFUND, amount_fen=700, trade_no="42", order_no="9"),
        ]
        sent = dict(_flat(_sent(peer)[1]))
        assert (sent["StDTime"], sent["EndDTime"]) == ("2026-01-05 00:00:00", "2026-01-05 23:59:59")


async def test_departments_are_read_from_gbk_bytes_under_a_utf8_label() -> None:
    inner = (
        "&lt;Response&gt;&lt;ResultCode&gt;0&lt;/ResultCode&gt;&lt;Departments&gt;&lt;Department&gt;&lt;DepartmentCode&gt;1"
        "&lt;/DepartmentCode&gt;&lt;DepartmentName&gt;東院&lt;/DepartmentName&gt;&lt;/Department&gt;&lt;/Departments&gt;"
        "&lt;/Response&gt;"
    )
    envelope = '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><r><x>'
    body = f'<?xml version="1.0" encoding="UTF-8"?>{envelope}{inner}</x></r></s:Body></s:Envelope>'
    async with canned(body.encode("gbk")) as (_, his):
        assert await his.fetch_departments() == [Department(id="1", name="東院")]


@pytest.mark.parametrize(("code", "expected"), [("1", Accepted()), ("0", Rejected(code="refused", text="0: no"))])
async def test_success_rule_is_configuration_when_a_site_turns_it_round(
    tmp_path: Path, code: str, expected: Outcome
) -> None:
    site = tmp_path / "upside_down"
    site.mkdir()
    (site / "profile.yaml").write_text(
        "name: upside_down\nversion: 1\nprotocol: soap\nextends: dhc@1\nconnection:\n"
        "  success:\n    - {path: /Response/Ok, values: [true, 1]}\n    - {path: '/Response/@Result', values: [1]}\n"
        "  error_code: [/Response/Ok, '/Response/@Result']\n  error_text: [/Response/Why]\n"
    )
    for reply in (
        f"<Response><Ok>{code}</Ok><Why>no</Why></Response>",
        f'<Response Result="{code}"><Why>no</Why></Response>',
    ):
        async with canned(reply) as (peer, _):
            given = msgspec.structs.replace(options(endpoint=peer.url), profile="upside_down")
            his: SoapConnector = create(HOSPITAL, "his", given, profiles_dir=tmp_path)
            await his.start()
            try:
                assert await his.unlock_slot(golden_order()) == expected
            finally:
                await his.close()
