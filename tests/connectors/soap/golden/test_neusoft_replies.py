"""What a Neusoft-style hospital answers, the odd ones among it, against records written by hand from DOMAIN facts."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest

from connectors.port import Accepted, HisRefused, HisReplyInvalid, RefundOrder, Rejected, Unknown, Window
from mappings.canonical import (
    Attachment,
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
    PERSON,
    ZONE,
    canned,
    enveloped,
    golden_bill_payment,
    golden_order,
    payment,
)

DAY = dt.date(2026, 1, 5)
WINDOW = Window(date_from=DAY, date_to=DAY, department_id="100")
KNOWN = Patient(name="张伟", mrn="0000012345")
RESULT = "<result><returnCode>1</returnCode><returnDesc>成功</returnDesc></result>"
PLAN = (
    "<ID>7001</ID><SEE_DATE>2026-01-05</SEE_DATE><NOONCODE>1</NOONCODE><BEGIN_TIME>08:00</BEGIN_TIME>"
    "<END_TIME>11:30</END_TIME><DEPT_CODE>100</DEPT_CODE><DEPT_NAME>内科</DEPT_NAME><DOCT_CODE>D1</DOCT_CODE>"
    "<DOCT_NAME>李明</DOCT_NAME><REGLEVL_CODE>2</REGLEVL_CODE><REGLEVL_NAME>专家号</REGLEVL_NAME>"
    "<TOTCOST>50.00</TOTCOST><CANREG>1</CANREG><TIME_FLAG>1</TIME_FLAG><TEL_LMT>20</TEL_LMT>"
    "<TEL_REGED>17</TEL_REGED><ADDRESS/>"
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
    quota=20,
    his_refs={"time_flag": "1", "begin_time": "08:00", "end_time": "11:30", "reglevl_code": "2"},
)
SEGMENT = (
    "<ID>7001-1</ID><SCHEMA_ID>7001</SCHEMA_ID><BEGIN_TIME>{}</BEGIN_TIME><END_TIME>{}</END_TIME>"
    "<TEL_LMT>{}</TEL_LMT><TEL_REGED>{}</TEL_REGED>"
)


def done(*rows: str) -> str:
    return f"{RESULT}<Data>{''.join(f'<Row>{row}</Row>' for row in rows)}</Data>"


def collapsed(row: str) -> str:
    return f"{RESULT}<Data>{row}</Data>"


def failed(text: str, *, in_data: bool = False) -> str:
    if in_data:
        return f"<result><returnCode>0</returnCode><returnDesc/></result><Data><ERR_MSG>{text}</ERR_MSG></Data>"
    return f"<result><returnCode>0</returnCode><returnDesc>{text}</returnDesc></result>"


def neusoft(*replies: Any, **given: Any) -> Any:
    return canned(*replies, profile="neusoft@1", **given)


# --- plans ----------------------------------------------------------------------------------------------------------


async def test_departments_are_read_from_a_list_a_collapsed_one_and_a_root_for_each() -> None:
    one, two = (
        f"<DEPT_CODE>{code}</DEPT_CODE><DEPT_NAME>{name}</DEPT_NAME>"
        for code, name in (("100", "内科"), ("200", "外科"))
    )
    internal, surgical = Department(id="100", name="内科"), Department(id="200", name="外科")
    several = f"{RESULT}<Data>{one}</Data>\r\n<Data>{two}</Data>"
    async with neusoft(done(one, two), collapsed(one), several) as (_, his):
        assert await his.fetch_departments() == [internal, surgical]
        assert await his.fetch_departments() == [internal]
        assert await his.fetch_departments() == [internal, surgical]


async def test_schedule_is_read_with_its_fee_in_fen_and_its_quota() -> None:
    async with neusoft(done(PLAN)) as (_, his):
        assert await his.fetch_schedules(WINDOW) == [SCHEDULE]


@pytest.mark.parametrize(
    "reply",
    [
        "DEBUG 12 rows\r\n" + collapsed(PLAN),
        "<?xml version='1.0' encoding='GBK'?>"
        + RESULT
        + "<?xml version='1.0' encoding='GBK'?>"
        + f"<Data>{PLAN}</Data>",
        "\ufeff\r\n" + done(PLAN),
    ],
    ids=["junk", "a prolog for each root", "white space"],
)
async def test_schedule_is_the_same_when_something_stands_before_a_root(reply: str) -> None:
    async with neusoft(reply) as (_, his):
        assert await his.fetch_schedules(WINDOW) == [SCHEDULE]


async def test_schedule_is_read_from_gbk_bytes_under_a_utf8_label() -> None:
    async with neusoft(enveloped(done(PLAN)).encode("gbk")) as (_, his):
        assert await his.fetch_schedules(WINDOW) == [SCHEDULE]


@pytest.mark.parametrize(
    ("noon", "session"), [("1", Session.AM), ("2", Session.PM), ("3", Session.NIGHT), ("4", Session.ALL_DAY)]
)
async def test_noon_four_is_the_whole_day_and_what_cannot_be_booked_is_stopped(noon: str, session: Session) -> None:
    plan = PLAN.replace("<NOONCODE>1<", f"<NOONCODE>{noon}<").replace("<CANREG>1<", "<CANREG>0<")
    async with neusoft(done(plan.replace("2026-01-05", "20260105"))) as (_, his):
        (schedule,) = await his.fetch_schedules(WINDOW)
        assert (schedule.session, schedule.status, schedule.date) == (session, ScheduleStatus.STOPPED, DAY)


@pytest.mark.parametrize(("quota", "known"), [("20", 20), ("-1", None), ("999", None), ("", None)])
async def test_quota_without_limit_is_none(quota: str, known: int | None) -> None:
    async with neusoft(done(PLAN.replace("<TEL_LMT>20<", f"<TEL_LMT>{quota}<"))) as (_, his):
        (schedule,) = await his.fetch_schedules(WINDOW)
        assert schedule.quota == known


@pytest.mark.parametrize(
    ("quota", "used", "seats"), [("20", "17", 3), ("20", "20", 0), ("20", "22", 0), ("20", "", 20), ("-1", "17", 999)]
)
async def test_seats_left_are_the_quota_less_what_is_used(quota: str, used: str, seats: int) -> None:
    async with neusoft(done(SEGMENT.format("08:00", "08:30", quota, used))) as (_, his):
        assert await his.fetch_slots(WINDOW, [SCHEDULE]) == [
            Slot(
                id="7001-1",
                schedule_id="7001",
                date=DAY,
                session=Session.AM,
                starts_at=dt.datetime(2026, 1, 5, 8, tzinfo=ZONE),
                ends_at=dt.datetime(2026, 1, 5, 8, 30, tzinfo=ZONE),
                seats_left=seats,
                his_refs={"time_id": "7001-1", "begin_time": "08:00", "end_time": "08:30"},
            )
        ]


async def test_segment_after_midnight_is_on_the_next_day() -> None:
    night = msgspec.structs.replace(
        SCHEDULE, session=Session.NIGHT, his_refs={"time_flag": "1", "begin_time": "20:00", "end_time": "02:00"}
    )
    async with neusoft(collapsed(SEGMENT.format("00:30", "01:00", "2", "1"))) as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, [night])
        assert (slot.date, slot.starts_at) == (DAY, dt.datetime(2026, 1, 6, 0, 30, tzinfo=ZONE))


async def test_schedule_without_segments_is_one_slot() -> None:
    plan = PLAN.replace("<TIME_FLAG>1</TIME_FLAG>", "")
    async with neusoft(done(plan)) as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, [msgspec.structs.replace(SCHEDULE, his_refs={})])
        assert (slot.id, slot.seats_left) == ("7001", 3)
        assert slot.ends_at == dt.datetime(2026, 1, 5, 11, 30, tzinfo=ZONE)


async def test_practitioners_and_stops_are_read() -> None:
    depts = done("<DEPT_CODE>100</DEPT_CODE><DEPT_NAME>内科</DEPT_NAME>")
    doctor = (
        "<DOCT_CODE>D1</DOCT_CODE><DOCT_NAME>李明</DOCT_NAME><LEVL_NAME>主任医师</LEVL_NAME><DEPT_CODE>100</DEPT_CODE>"
    )
    stop = "<ID>7001</ID><SEE_DATE>2026-01-05</SEE_DATE><NOONCODE>2</NOONCODE><STOP_REASON>会诊</STOP_REASON>"
    async with neusoft(depts, done(doctor), done(stop)) as (_, his):
        assert await his.fetch_practitioners() == [
            Practitioner(id="D1", name="李明", department_id="100", title="主任医师")
        ]
        assert await his.fetch_stops(WINDOW) == [
            ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="7001", date=DAY, session=Session.PM, reason="会诊")
        ]


# --- what is not there, and what says no -----------------------------------------------------------------------------


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
    refund = Refund(refund_no="8" * 20, payment=payment(700), amount_fen=700, reason="")
    order = golden_order(payment=payment(700))
    async with neusoft(failed(text)) as (_, his):
        assert await his.cancel_registration(order) == Rejected(code=code, text=text)
        assert await his.refund(RefundOrder(refund=refund, patient=KNOWN, order=order)) == Rejected(
            code=code, text=text
        )


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


# --- people ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "sex"),
    [("M", Sex.MALE), ("F", Sex.FEMALE), ("1", Sex.MALE), ("2", Sex.FEMALE), ("男", Sex.MALE), ("", Sex.UNKNOWN)],
)
async def test_patient_is_read_with_padded_number_and_masked_phone(code: str, sex: Sex) -> None:
    row = (
        f"<CARD_NO>0000012345</CARD_NO><NAME>张伟</NAME><SEX_CODE>{code}</SEX_CODE><BIRTHDAY>1990-03-07 00:00:00</BIRTHDAY>"
        "<IDENNO>11010119900307123X</IDENNO><HOME_TEL>138****0000</HOME_TEL><MCARD_NO>000077</MCARD_NO>"
    )
    async with neusoft(done(row)) as (_, his):
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


async def test_nobody_is_found_and_a_wrong_name_is_refused() -> None:
    async with neusoft(failed("未查询到患者信息"), failed("姓名与证件号不符:李四")) as (_, his):
        assert await his.find_patient(PERSON) == []
        with pytest.raises(HisRefused) as refused:
            await his.find_patient(PERSON)
        assert refused.value.code == "patient_mismatch"


# --- visits ---------------------------------------------------------------------------------------------------------


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
    refund = RefundOrder(
        refund=Refund(refund_no="8" * 20, payment=payment(700), amount_fen=700, reason=""), patient=KNOWN, order=order
    )
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


# --- money ----------------------------------------------------------------------------------------------------------


async def test_recipe_is_a_bill_with_its_lines() -> None:
    recipe = (
        "<RECIPE_NO>R100</RECIPE_NO><RECIPE_NAME>门诊处方</RECIPE_NAME><TOTCOST>120.5</TOTCOST><CARD_NO>0000012345</CARD_NO>"
        "<CLINIC_CODE>C7</CLINIC_CODE><DEPT_NAME>内科</DEPT_NAME><OPER_DATE>2026-01-04 09:00:00</OPER_DATE><PAY_FLAG>0</PAY_FLAG>"
    )
    line = "<ITEM_CODE>1</ITEM_CODE><ITEM_NAME>血常规</ITEM_NAME><TOTCOST>120.50</TOTCOST><QTY>1</QTY><PRICE_UNIT>次</PRICE_UNIT>"
    async with neusoft(collapsed(recipe), collapsed(line)) as (_, his):
        assert await his.fetch_bills(KNOWN) == [
            Bill(
                id="R100",
                amount_fen=12050,
                currency="CNY",
                mrn="0000012345",
                title="门诊处方",
                department_name="内科",
                issued_at=dt.datetime(2026, 1, 4, 9, tzinfo=ZONE),
                encounter_no="C7",
                items=(BillItem(name="血常规", amount_fen=12050, quantity="1", unit="次", code="1"),),
                his_refs={"clinic_code": "C7"},
            )
        ]


async def test_presettlement_leaves_what_the_insurance_does_not_pay() -> None:
    row = (
        "<RECIPE_NO>R100</RECIPE_NO><PREPAY_NO>P9</PREPAY_NO><TOTCOST>120.50</TOTCOST><PUB_COST>80.00</PUB_COST>"
        "<PAY_COST>20.00</PAY_COST><OWN_COST>20.50</OWN_COST>"
    )
    async with neusoft(done(row)) as (_, his):
        outcome = await his.presettle_bill(golden_bill_payment())
        assert isinstance(outcome, Accepted)
        assert isinstance(outcome.record, Settlement)
        assert outcome.record.amount_fen == 2050
        assert outcome.his_refs == {"pre_pay_no": "P9", "pub_cost": "80.00", "pay_cost": "20.00"}


@pytest.mark.parametrize(("flag", "settled"), [("1", True), ("0", False), ("2", False), ("", False)])
async def test_settlement_counts_only_when_the_hospital_says_paid(flag: str, settled: bool) -> None:
    row = (
        f"<RECIPE_NO>R100</RECIPE_NO><PAY_FLAG>{flag}</PAY_FLAG><RECEIPT_NO>SJ1</RECEIPT_NO><TRADE_NO>4200001</TRADE_NO>"
        "<TOTCOST>120.50</TOTCOST>"
    )
    async with neusoft(done(row)) as (_, his):
        found = await his.fetch_settlement(golden_bill_payment())
        if not settled:
            assert found is None
            return
        assert found == Settlement(
            bill_id="R100",
            receipt_no="SJ1",
            trade_no="4200001",
            amount_fen=12050,
            his_refs={"receipt_no": "SJ1"},
        )


async def test_settlement_is_refused_when_somebody_else_has_paid() -> None:
    row = "<RECIPE_NO>R100</RECIPE_NO><PAY_FLAG>1</PAY_FLAG><TRADE_NO>4200099</TRADE_NO>"
    async with neusoft(done(row)) as (_, his):
        with pytest.raises(HisRefused) as refused:
            await his.fetch_settlement(golden_bill_payment())
        assert refused.value.code == "taken"


async def test_statement_lines_are_money_in_and_money_back() -> None:
    row = (
        "<TRANS_TYPE>{}</TRANS_TYPE><TRADE_NO>42</TRADE_NO><ORDER_NO>9</ORDER_NO><TOTCOST>7.00</TOTCOST><PAY_MODE>WX</PAY_MODE>"
        "<OPER_DATE>2026-01-05 09:30:15</OPER_DATE>"
    )
    async with neusoft(done(row.format(1), row.format(2))) as (_, his):
        line = StatementLine(
            kind=StatementKind.PAYMENT,
            amount_fen=700,
            trade_no="42",
            order_no="9",
            channel="WX",
            at=dt.datetime(2026, 1, 5, 9, 30, 15, tzinfo=ZONE),
        )
        assert await his.fetch_statement(DAY) == [line, msgspec.structs.replace(line, kind=StatementKind.REFUND)]


# --- reports ----------------------------------------------------------------------------------------------------------


async def test_report_of_the_laboratory_has_its_values_and_one_of_radiology_its_words() -> None:
    head = (
        "<REPORT_NO>L7</REPORT_NO><REPORT_NAME>{}</REPORT_NAME><CARD_NO>0000012345</CARD_NO>"
        "<REPORT_DATE>2026-01-05 10:00:00</REPORT_DATE><REPORT_STATE>2</REPORT_STATE>"
    )
    item = (
        "<Item><ITEM_CODE>WBC</ITEM_CODE><ITEM_NAME>白细胞</ITEM_NAME><RESULT>11.2</RESULT><UNIT>10*9/L</UNIT>"
        "<REFER_RANGE>3.5-9.5</REFER_RANGE><RESULT_FLAG>↑</RESULT_FLAG></Item>"
    )
    seen = "<EXAM_SEE>双肺清晰</EXAM_SEE><EXAM_RESULT>未见异常</EXAM_RESULT><PDF_URL>http://192.0.2.7/L7.pdf</PDF_URL>"
    issued = dt.datetime(2026, 1, 5, 10, tzinfo=ZONE)
    lab = collapsed(head.format("血常规") + f"<Items>{item}</Items>")
    async with neusoft(lab, failed("报告不存在"), collapsed(head.format("胸部CT") + seen)) as (peer, his):
        assert await his.fetch_report(KNOWN, "L7") == Report(
            id="L7",
            kind=ReportKind.LAB,
            status=ReportStatus.FINAL,
            name="血常规",
            mrn="0000012345",
            issued_at=issued,
            observations=(
                Observation(
                    name="白细胞", code="WBC", value="11.2", unit="10*9/L", reference_range="3.5-9.5", flag="H"
                ),
            ),
        )
        assert len(peer.requests) == 1
        assert await his.fetch_report(KNOWN, "L7") == Report(
            id="L7",
            kind=ReportKind.EXAM,
            status=ReportStatus.FINAL,
            name="胸部CT",
            mrn="0000012345",
            issued_at=issued,
            conclusion="双肺清晰\n未见异常",
            attachments=(Attachment(content_type="application/pdf", url="http://192.0.2.7/L7.pdf"),),
        )
