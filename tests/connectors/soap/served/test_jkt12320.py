"""What a 12320 hospital calls (DOMAIN.md section 2), as canonical events: written by hand, over real sockets."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
import pytest

from connectors.port import Refused
from connectors.soap import Options, create
from mappings.canonical import (
    AnyEvent,
    Bill,
    BillIssued,
    BillStatus,
    RefundAsked,
    RefundQuestion,
    RefundState,
    RefundStatus,
    Registration,
    RegistrationChanged,
    RegistrationStatus,
    Report,
    ReportIssued,
    ReportKind,
    ReportStatus,
    ScheduleStopped,
    Session,
    StopScope,
)
from tests.connectors.soap.soap_hospital import HOSPITAL, ZONE

from .his import Desk, Served, call, document, envelope, opened, secret_files

ORDER = "20260105000000000001"
TOLD_AT = dt.datetime.now(ZONE).replace(microsecond=0)  # of those that say it: an old one would be refused
AT = f"<MSG_TIME>{TOLD_AT:%Y-%m-%d %H:%M:%S}</MSG_TIME>"
ISSUED_AT = dt.datetime(2026, 1, 4, 18, 30, tzinfo=ZONE)
NAMED = f"<ORDER_ID>{ORDER}</ORDER_ID><HOSP_ORDER_ID>H77</HOSP_ORDER_ID><HOSP_PATIENT_ID>P1</HOSP_PATIENT_ID>"
SCHEDULE = "<REG_ID>R9</REG_ID><DEPT_ID>100</DEPT_ID><REG_DATE>2026-01-05</REG_DATE><TIME_FLAG>1</TIME_FLAG>"
DAY = dt.date(2026, 1, 5)


def changed(status: RegistrationStatus, **more: object) -> RegistrationChanged:
    told = {"order_no": ORDER, "his_id": "H77", "mrn": "P1"} | more
    return RegistrationChanged(occurred_at=TOLD_AT, registration=Registration(status=status, **told))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Row:
    """One call and what it tells; nothing: it is stored for a person."""

    name: str
    trade: str
    request: str
    events: tuple[AnyEvent, ...]

    def __str__(self) -> str:
        return self.name


ROWS = [
    Row("a schedule is stopped", "5001", f"{AT}{SCHEDULE}<STOP_TYPE>1</STOP_TYPE><STOP_REASON>会议</STOP_REASON>", (
        ScheduleStopped(occurred_at=TOLD_AT, scope=StopScope.SCHEDULE, schedule_id="R9", date=DAY, session=Session.AM,
                        reason="会议"),)),
    Row("a segment is stopped", "5001", f"{SCHEDULE}<STOP_TYPE>2</STOP_TYPE><BEGIN_TIME>08:30</BEGIN_TIME>", (
        ScheduleStopped(scope=StopScope.SEGMENT, schedule_id="R9", date=DAY, session=Session.AM,
                        starts_at=dt.datetime(2026, 1, 5, 8, 30, tzinfo=ZONE)),)),
    Row("an order is stopped", "5001", f"<STOP_TYPE>3</STOP_TYPE><ORDER_ID>{ORDER}</ORDER_ID>", (
        ScheduleStopped(scope=StopScope.ORDER, order_no=ORDER),)),
    Row("a stop that does not say of what", "5001", f"{SCHEDULE}<ORDER_ID>{ORDER}</ORDER_ID>", ()),
    Row("a stop of an unknown kind", "5001", f"{SCHEDULE}<STOP_TYPE>9</STOP_TYPE>", ()),
    Row("an order is cancelled", "5002", f"{AT}{NAMED}", (
        changed(RegistrationStatus.RELEASED, his_refs={"hosp_order_id": "H77"}),)),
    Row("a registration is refunded", "5003",
        f"{AT}{NAMED}<REFUND_TYPE>1</REFUND_TYPE><HOSP_REFUND_ID>F1</HOSP_REFUND_ID><REFUND_AMOUNT>700</REFUND_AMOUNT>", (
        changed(RegistrationStatus.RELEASED, his_refs={"hosp_order_id": "H77", "hosp_refund_id": "F1"}),)),
    Row("a refund alone", "5003",
        f"{AT}{NAMED}<REFUND_TYPE>2</REFUND_TYPE><HOSP_REFUND_ID>F1</HOSP_REFUND_ID><REFUND_AMOUNT>100</REFUND_AMOUNT>", (
        RefundAsked(occurred_at=TOLD_AT, order_no=ORDER, his_id="H77", mrn="P1", amount_fen=100, his_refund_no="F1"),)),
    Row("a patient has checked in", "5004",
        f"{AT}{NAMED}<HOSP_SERIAL_NUM>12</HOSP_SERIAL_NUM><ADDRESS>门诊楼 3 层</ADDRESS>", (
        changed(RegistrationStatus.CHECKED_IN, queue_no="12", check_in_place="门诊楼 3 层",
                his_refs={"hosp_order_id": "H77", "serial_num": "12"}),)),
    Row("paid at the window", "5005",
        f"{AT}{NAMED}<HOSP_PAY_ID>Y5</HOSP_PAY_ID><HOSP_SERIAL_NUM>7</HOSP_SERIAL_NUM><TRADE_AMOUNT>700</TRADE_AMOUNT>", (
        changed(RegistrationStatus.REGISTERED, queue_no="7", paid=True,
                his_refs={"hosp_order_id": "H77", "hosp_pay_id": "Y5", "serial_num": "7"}),)),
    Row("a bill is given back", "6001",
        f"{AT}<BILL_NO>B1</BILL_NO><HOSP_PATIENT_ID>P1</HOSP_PATIENT_ID><TRANSACTION_ID>42</TRANSACTION_ID>"
        "<HOSP_REFUND_ID>F2</HOSP_REFUND_ID><REFUND_AMOUNT>12050</REFUND_AMOUNT>", (
        RefundAsked(occurred_at=TOLD_AT, bill_id="B1", mrn="P1", trade_no="42", amount_fen=12050, his_refund_no="F2"),)),
    Row("bills are pushed", "7001",
        f"{AT}<BILL_LIST><BILL><BILL_NO>B1</BILL_NO><BILL_AMOUNT>12050</BILL_AMOUNT><BILL_NAME>化验费</BILL_NAME>"
        "<HOSP_PATIENT_ID>P1</HOSP_PATIENT_ID><BILL_STATUS>0</BILL_STATUS><BILL_TIME>2026-01-04 10:00:00</BILL_TIME></BILL>"
        "<BILL><BILL_NO>B2</BILL_NO><BILL_AMOUNT>1</BILL_AMOUNT><HOSP_PATIENT_ID>P2</HOSP_PATIENT_ID>"
        "<BILL_STATUS>1</BILL_STATUS></BILL></BILL_LIST>", (
        BillIssued(occurred_at=TOLD_AT, bill=Bill(id="B1", amount_fen=12050, currency="CNY", mrn="P1", title="化验费",
                                                  issued_at=dt.datetime(2026, 1, 4, 10, tzinfo=ZONE))),
        BillIssued(occurred_at=TOLD_AT, bill=Bill(id="B2", amount_fen=1, currency="CNY", mrn="P2", status=BillStatus.PAID)))),
    Row("a list of one bill that has collapsed", "7001",
        "<BILL_LIST><BILL_NO>B1</BILL_NO><BILL_AMOUNT>12050</BILL_AMOUNT><HOSP_PATIENT_ID>P1</HOSP_PATIENT_ID></BILL_LIST>", (
        BillIssued(bill=Bill(id="B1", amount_fen=12050, currency="CNY", mrn="P1")),)),
    Row("a place in the queue", "7001",
        f"{AT}<QUEUE_LIST><QUEUE>{NAMED}<ORDER_STATUS>3</ORDER_STATUS><QUEUE_NO>15</QUEUE_NO></QUEUE></QUEUE_LIST>", (
        changed(RegistrationStatus.CHECKED_IN, queue_no="15"),)),
    Row("a report is pushed", "7001",
        "<REPORT_LIST><REPORT><REPORT_ID>L1</REPORT_ID><REPORT_TYPE>1</REPORT_TYPE><REPORT_STATUS>2</REPORT_STATUS>"
        "<REPORT_NAME>血常规</REPORT_NAME><HOSP_PATIENT_ID>P1</HOSP_PATIENT_ID>"
        "<REPORT_TIME>2026-01-04 18:30:00</REPORT_TIME></REPORT></REPORT_LIST>", (
        ReportIssued(occurred_at=ISSUED_AT, report=Report(id="L1", kind=ReportKind.LAB, status=ReportStatus.FINAL,
                                                          name="血常规", mrn="P1", issued_at=ISSUED_AT)),)),
    Row("a push of nothing that we know", "7001", "<NEWS>x</NEWS>", ()),
]  # fmt: skip


@contextlib.asynccontextmanager
async def platform(folder: Path, profile: str = "jkt12320@1") -> AsyncIterator[Served]:
    options = Options(protocol="soap", profile=profile, listen_port=0, secret_files=secret_files(folder))
    connector, desk = create(HOSPITAL, "his", options, profiles_dir=folder), Desk()
    await connector.start()
    try:
        await connector.serve(desk.handle)
        async with aiohttp.ClientSession() as session:
            yield Served(connector, desk, f"http://127.0.0.1:{connector.listen_port}/PubService", session)
    finally:
        await connector.close()


@pytest.mark.parametrize("row", ROWS, ids=str)
async def test_call_tells_what_it_means_when_a_12320_hospital_calls(row: Row, tmp_path: Path) -> None:
    async with platform(tmp_path) as us:
        said = await us.post(call(row.trade, row.request))
        assert (said.status, said.code) == (200, "0")
        [inbound] = us.desk.taken
        assert inbound.events == row.events
        assert (inbound.problem is None) == bool(row.events)
        assert inbound.message_type == row.trade


@pytest.mark.parametrize(
    ("days", "code"), [(0, "0"), (5.9, "0"), (6.1, "100004"), (8, "100004"), (400, "100004"), (-6.1, "100004")]
)
async def test_call_is_refused_when_it_was_made_before_repeats_are_forgotten(
    days: float, code: str, tmp_path: Path
) -> None:
    """Overheard, and sent again once the 7 days are over in which it would be a duplicate."""
    at = dt.datetime.now(ZONE) - dt.timedelta(days=days)
    async with platform(tmp_path) as us:
        said = await us.post(call("5002", f"<MSG_TIME>{at:%Y-%m-%d %H:%M:%S}</MSG_TIME>{NAMED}"))
        assert (said.status, said.code) == (200, code)
        assert len(us.desk.taken) == (code == "0")


@pytest.mark.parametrize("time", ["", "<MSG_TIME/>", "<MSG_TIME>soon</MSG_TIME>"])
async def test_call_without_a_time_is_taken_unless_the_site_says_that_all_have_one(time: str, tmp_path: Path) -> None:
    """One that cannot be read is no time: then the call is set aside, not refused for ever."""
    async with platform(tmp_path) as us:
        assert (await us.post(call("5002", f"{time}{NAMED}"))).code == "0"
        assert len(us.desk.taken) == 1
    strict = tmp_path / "strict" / "profile.yaml"
    strict.parent.mkdir()
    fresh = "connection: {server: {fresh: {required: true, within_s: 86400}}}"
    strict.write_text(f"name: strict\nversion: 1\nprotocol: soap\nextends: jkt12320@1\n{fresh}\n", "utf-8")
    async with platform(tmp_path, profile="strict") as us:
        assert (await us.post(call("5002", f"{time}{NAMED}"))).code == "100004"
        assert (await us.post(call("5002", f"{AT}{NAMED}"))).code == "0"
        assert len(us.desk.taken) == 1


async def test_stop_is_found_by_its_order_when_it_cannot_be_mapped(tmp_path: Path) -> None:
    async with platform(tmp_path) as us:
        await us.post(call("5001", f"{SCHEDULE}{NAMED}<MSG_ID>M7</MSG_ID>"))
        [inbound] = us.desk.taken
        assert (inbound.order_no, inbound.mrn, inbound.control_id) == (ORDER, "P1", "M7")


@pytest.mark.parametrize("trade", ["5007", "2005", ""])
async def test_trade_is_refused_in_the_dialects_words_when_there_is_none_such(trade: str, tmp_path: Path) -> None:
    async with platform(tmp_path) as us:
        said = await us.post(call(trade, NAMED))
        assert (said.status, said.code, said.parts["RETURN_MSG"]) == (200, "100003", "不支持的交易")
        assert us.desk.asked == 0


REFUNDED = RefundState(
    refund_no="rf_1",
    status=RefundStatus.REFUNDED,
    amount_fen=700,
    channel="WECHAT",
    trade_no="4200001",
    refund_trade_no="5030001",
    changed_at=dt.datetime(2026, 1, 4, 10, 30, tzinfo=dt.UTC),
)
DUE = msgspec.structs.replace(REFUNDED, refund_no="rf_2", status=RefundStatus.DUE, refund_trade_no=None)


@pytest.mark.parametrize(
    ("trade", "request_", "asked"),
    [
        ("5006", NAMED, RefundQuestion(order_no=ORDER, his_id="H77")),
        ("6002", "<BILL_NO>B1</BILL_NO><TRANSACTION_ID>4200001</TRANSACTION_ID>",
         RefundQuestion(bill_id="B1", trade_no="4200001")),
    ],
)  # fmt: skip
async def test_hospital_is_told_what_became_of_a_refund_when_it_asks(
    trade: str, request_: str, asked: RefundQuestion, tmp_path: Path
) -> None:
    questions: list[RefundQuestion] = []
    found: list[RefundState] | Refused = [REFUNDED, DUE]

    async def answer(question: RefundQuestion) -> list[RefundState] | Refused:
        questions.append(question)
        return found

    async with platform(tmp_path) as us:
        us.connector.take_questions(answer)
        said = await us.post(call(trade, request_))
        assert (said.status, said.code) == (200, "0")
        first = "<REFUND><REFUND_ID>rf_1</REFUND_ID><REFUND_STATUS>2</REFUND_STATUS><REFUND_AMOUNT>700</REFUND_AMOUNT>"
        second = "<REFUND><REFUND_ID>rf_2</REFUND_ID><REFUND_STATUS>0</REFUND_STATUS><REFUND_AMOUNT>700</REFUND_AMOUNT>"
        paid = "<TRADE_CHANNEL_ID>WECHAT</TRADE_CHANNEL_ID><TRANSACTION_ID>4200001</TRANSACTION_ID>"
        at = "<REFUND_TIME>2026-01-04 18:30:00</REFUND_TIME></REFUND>"
        back = "<REFUND_TRANSACTION_ID>5030001</REFUND_TRANSACTION_ID>"
        assert opened(said.parts["RES_ENCRYPTED"]) == (
            f"<RES><REFUND_LIST>{first}{paid}{back}{at}{second}{paid}<REFUND_TRANSACTION_ID/>{at}</REFUND_LIST></RES>"
        )
        assert questions == [asked]
        found = []
        assert (await us.post(call(trade, request_))).code == "100005"
        found = Refused(code="store_unavailable", text="", retryable=True)
        assert (await us.post(call(trade, request_))).code == "100009"
        assert us.desk.asked == 0
        # Who does not sign is not told.
        before = len(questions)
        forged = document(trade, request_, sign="0")
        assert (await us.post(envelope(f"<xml><![CDATA[{forged}]]></xml>").encode())).code == "100002"
        assert len(questions) == before
