"""What a 12320 platform answers, odd answers among them, and the records that they mean: written by hand."""

from __future__ import annotations

import base64
import datetime as dt
import threading
from typing import Any

import msgspec
import pytest
from aiohttp import web

from connectors.port import (
    Accepted,
    HisRefused,
    HisReplyInvalid,
    HisUnavailable,
    Rejected,
    Unknown,
    Window,
)
from mappings.canonical import (
    Department,
    Patient,
    Practitioner,
    Registration,
    RegistrationStatus,
    Schedule,
    ScheduleStatus,
    Session,
    Sex,
    Slot,
)
from mappings.engine import RecordMap
from monitoring.metrics import REGISTRY
from tests.connectors.soap.golden.jkt12320_peer import (
    DAY,
    NUMBER,
    SIGN_KEY,
    aes,
    asked,
    md5,
    order,
    platform,
    refused,
    told,
)
from tests.connectors.soap.soap_hospital import PERSON, ZONE, enveloped, payment

WINDOW = Window(date_from=DAY, date_to=DAY, department_id="100")
REG = (
    "<REG><REG_ID>R7</REG_ID><DEPT_ID>100</DEPT_ID><DEPT_NAME>内科</DEPT_NAME><DOCTOR_ID>D1</DOCTOR_ID>"
    "<DOCTOR_NAME>李明</DOCTOR_NAME><REG_LEVEL>专家号</REG_LEVEL><REG_DATE>2026-01-05</REG_DATE><TIME_FLAG>1</TIME_FLAG>"
    "<BEGIN_TIME>08:00</BEGIN_TIME><END_TIME>11:30</END_TIME><REG_STATUS>1</REG_STATUS><ISTIME>1</ISTIME>"
    "<TOTAL>20</TOTAL><OVER_COUNT>3</OVER_COUNT><REG_FEE>100</REG_FEE><TREAT_FEE>600</TREAT_FEE></REG>"
)
SCHEDULES = f"<RES><REG_LIST>{REG}</REG_LIST></RES>"
SCHEDULE = Schedule(
    id="R7",
    date=DAY,
    session=Session.AM,
    department_id="100",
    department_name="内科",
    practitioner_id="D1",
    practitioner_name="李明",
    clinic_type="专家号",
    fee_fen=700,
    his_refs={
        "has_segments": "1",
        "begin_time": "08:00",
        "end_time": "11:30",
        "reg_fee_fen": "100",
        "treat_fee_fen": "600",
    },
)
DEPTS = "<RES><DEPT_LIST><DEPT><DEPT_ID>100</DEPT_ID><DEPT_NAME>東院内科</DEPT_NAME></DEPT></DEPT_LIST></RES>"
FOUND = [Department(id="100", name="東院内科")]


def at(hour: int, minute: int = 0, day: int = 5) -> dt.datetime:
    return dt.datetime(2026, 1, day, hour, minute, tzinfo=ZONE)


# --- the envelope ---------------------------------------------------------------------------------------------------


async def test_reply_is_believed_when_openssl_and_md5sum_say_the_same() -> None:
    # printf '<RES><SERVER_TIME>...</SERVER_TIME></RES>' | openssl enc -aes-128-ecb -K ... | base64, and md5sum by the rule
    sealed = "y3oUIc3gKu1M0pn9ellSfudhTZebNwJdPecu1c8ZyBvNs7KHMO1LYQW2h6gD4+bDcg7AM0R2GvV+01k/MN0rPQ=="
    reply = (
        "<ROOT><RETURN_CODE>0</RETURN_CODE><RETURN_MSG>交易成功</RETURN_MSG><SIGN_TYPE>MD5</SIGN_TYPE>"
        f"<SIGN>aa69640a1bb09bc5f3e9ffbb9168e5d6</SIGN><RES_ENCRYPTED>{sealed}</RES_ENCRYPTED></ROOT>"
    )
    async with platform(reply) as (_, his):
        await his.ping()


@pytest.mark.parametrize("reply", [told("<RES/>").replace("<SIGN>", "<SIGN>0"), told("<RES/>").replace(">0<", ">1<")])
async def test_nothing_is_believed_when_the_signature_is_not_the_platforms(reply: str) -> None:
    async with platform(reply) as (_, his):
        assert isinstance(await his.lock_slot(order()), Unknown)
        with pytest.raises(HisReplyInvalid, match="signature"):
            await his.fetch_registration(order())


async def test_departments_are_whole_when_the_encrypted_document_is_gbk_and_says_utf8() -> None:
    labels = {"hospital": "soap-demo", "connector": "his", "kind": "gb18030"}
    before = REGISTRY.get_sample_value("hisbridge_decode_fallbacks_total", labels) or 0
    async with platform(told(f'<?xml version="1.0" encoding="UTF-8"?>{DEPTS}'.encode("gbk"))) as (_, his):
        assert await his.fetch_departments() == FOUND
    assert REGISTRY.get_sample_value("hisbridge_decode_fallbacks_total", labels) == before + 1


async def test_departments_are_whole_when_the_envelope_is_gbk_and_says_utf8() -> None:
    reply = web.Response(body=enveloped(told(DEPTS)).encode("gbk"), content_type="text/xml", charset="utf-8")
    async with platform(reply) as (_, his):
        assert await his.fetch_departments() == FOUND


async def test_document_is_found_when_junk_stands_before_it() -> None:
    async with platform("DEBUG: 1 row\r\n" + told(DEPTS)) as (_, his):
        assert await his.fetch_departments() == FOUND


async def test_base64_may_have_line_ends() -> None:
    folded = base64.encodebytes(aes(DEPTS.encode(), "-e")).decode()
    assert folded.count("\n") > 1
    sign = md5(f"RES_ENCRYPTED={folded}&RETURN_CODE=0&RETURN_MSG=ok&KEY={SIGN_KEY}")
    reply = (
        f"<ROOT><RETURN_CODE>0</RETURN_CODE><RETURN_MSG>ok</RETURN_MSG><SIGN>{sign}</SIGN>"
        f"<RES_ENCRYPTED>{folded}</RES_ENCRYPTED></ROOT>"
    )
    async with platform(reply) as (_, his):
        assert await his.fetch_departments() == FOUND


@pytest.mark.parametrize("text", ["未知服务", "入参错误"])
async def test_bare_sentence_is_a_refusal(text: str) -> None:
    async with platform(text) as (_, his):
        outcome = await his.lock_slot(order())
        assert isinstance(outcome, Rejected)
        assert outcome.code == "invalid_request"


@pytest.mark.parametrize(
    "reply",
    [
        web.Response(status=502, text="<html><body>502 Bad Gateway</body></html>", content_type="text/html"),
        "<html><body>登录</body></html>",
        '<diffgr:diffgram xmlns:diffgr="urn:schemas-microsoft-com:xml-diffgram-v1"><NewDataSet/></diffgr:diffgram>',
        b"\x00\xff\x1c\x80",
        "",
    ],
    ids=["gateway", "login page", "diffgram", "garbage", "empty"],
)
async def test_write_is_unknown_and_read_fails_when_no_document_comes(reply: Any) -> None:
    async with platform(reply) as (_, his):
        assert isinstance(await his.lock_slot(order()), Unknown)
        with pytest.raises((HisReplyInvalid, HisUnavailable)):
            await his.fetch_registration(order())


# --- master data and schedules --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "res",
    [
        DEPTS,
        "<RES><DEPT_LIST><DEPT_ID>100</DEPT_ID><DEPT_NAME>東院内科</DEPT_NAME></DEPT_LIST></RES>",
    ],
    ids=["list of one", "collapsed"],
)
async def test_departments_are_the_same_when_a_list_of_one_collapsed(res: str) -> None:
    async with platform(told(res)) as (_, his):
        assert await his.fetch_departments() == FOUND


async def test_lists_may_be_repeated_elements() -> None:
    row = "<DOCTOR_LIST><DOCTOR_ID>{0}</DOCTOR_ID><DOCTOR_NAME>医{0}</DOCTOR_NAME><DEPT_ID>100</DEPT_ID></DOCTOR_LIST>"
    async with platform(told(DEPTS), told(f"<RES>{row.format(1)}{row.format(2)}</RES>")) as (_, his):
        assert await his.fetch_practitioners() == [
            Practitioner(id="1", name="医1", department_id="100"),
            Practitioner(id="2", name="医2", department_id="100"),
        ]


async def test_schedule_has_the_sum_of_both_fees() -> None:
    async with platform(told(SCHEDULES)) as (_, his):
        assert await his.fetch_schedules(WINDOW) == [SCHEDULE]


@pytest.mark.parametrize(("rows", "aside"), [(3, False), (300, True)])
async def test_long_list_is_mapped_beside_the_event_loop_however_deep_it_stands(
    rows: int, aside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    read = RecordMap._read

    def noted(self: RecordMap, run: Any) -> Any:
        threads.append(threading.get_ident())
        return read(self, run)

    monkeypatch.setattr(RecordMap, "_read", noted)
    async with platform(told(f"<RES><REG_LIST>{REG * rows}</REG_LIST></RES>")) as (_, his):
        assert len(await his.fetch_schedules(WINDOW)) == rows
    assert [thread != threading.get_ident() for thread in threads] == [aside]


@pytest.mark.parametrize(
    ("flag", "session"), [("2", Session.PM), ("3", Session.NIGHT), ("4", Session.ALL_DAY), ("0", None)]
)
async def test_session_is_translated_and_never_guessed(flag: str, session: Session | None) -> None:
    reply = told(SCHEDULES.replace("<TIME_FLAG>1", f"<TIME_FLAG>{flag}"))
    async with platform(reply) as (_, his):
        if session is None:  # the whole day at one platform, the morning at another: the site says which
            with pytest.raises(HisReplyInvalid):
                await his.fetch_schedules(WINDOW)
        else:
            assert [s.session for s in await his.fetch_schedules(WINDOW)] == [session]


async def test_stopped_schedule_is_told_by_its_status() -> None:
    async with platform(told(SCHEDULES.replace("<REG_STATUS>1", "<REG_STATUS>2"))) as (_, his):
        assert [s.status for s in await his.fetch_schedules(WINDOW)] == [ScheduleStatus.STOPPED]


async def test_dates_may_be_compact() -> None:
    async with platform(told(SCHEDULES.replace("2026-01-05", "20260105"))) as (_, his):
        assert await his.fetch_schedules(WINDOW) == [SCHEDULE]


@pytest.mark.parametrize(("left", "seats"), [("3", 3), ("0", 0), ("-1", 999), ("99", 99)])
async def test_segments_are_slots_and_unlimited_seats_are_many(left: str, seats: int) -> None:
    times = (
        "<RES><TIME_LIST><TIME><BEGIN_TIME>11:00</BEGIN_TIME><END_TIME>11:30</END_TIME><TOTAL>10</TOTAL>"
        f"<OVER_COUNT>{left}</OVER_COUNT></TIME></TIME_LIST></RES>"
    )
    async with platform(told(times)) as (_, his):
        assert await his.fetch_slots(WINDOW, [SCHEDULE]) == [
            Slot(
                id="R7@11:00",
                schedule_id="R7",
                date=DAY,
                session=Session.AM,
                starts_at=at(11),
                ends_at=at(11, 30),
                seats_left=seats,
                his_refs={"begin_time": "11:00", "end_time": "11:30"},
            )
        ]


async def test_segments_over_midnight_are_on_two_days() -> None:
    refs = {"has_segments": "1", "begin_time": "20:00", "end_time": "02:00"}
    night = msgspec.structs.replace(SCHEDULE, session=Session.NIGHT, his_refs=refs)
    row = "<TIME><BEGIN_TIME>{}</BEGIN_TIME><END_TIME>{}</END_TIME><OVER_COUNT>1</OVER_COUNT></TIME>"
    rows = row.format("23:30", "00:00") + row.format("00:30", "01:00")
    async with platform(told(f"<RES><TIME_LIST>{rows}</TIME_LIST></RES>")) as (_, his):
        slots = await his.fetch_slots(WINDOW, [night])
    assert [(slot.date, slot.starts_at, slot.ends_at) for slot in slots] == [
        (DAY, at(23, 30), at(0, day=6)),
        (DAY, at(0, 30, 6), at(1, day=6)),
    ]


async def test_session_without_segments_is_one_slot() -> None:
    reply = told(SCHEDULES.replace("<ISTIME>1", "<ISTIME>0"))
    async with platform(reply) as (peer, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert asked(peer)[0] == "2003"
    assert (slot.id, slot.starts_at, slot.ends_at, slot.seats_left) == ("R7", at(8), at(11, 30), 3)


async def test_master_data_has_what_the_platform_tells_besides() -> None:
    department = (
        "<RES><DEPT_LIST><DEPT><DEPT_ID>101</DEPT_ID><DEPT_NAME>心内科</DEPT_NAME><PARENT_ID>100</PARENT_ID>"
        "<ADDRESS>东院</ADDRESS></DEPT></DEPT_LIST></RES>"
    )
    doctor = (
        "<RES><DOCTOR_LIST><DOCTOR><DOCTOR_ID>D1</DOCTOR_ID><DOCTOR_NAME>李明</DOCTOR_NAME><DEPT_ID>101</DEPT_ID>"
        "<TITLE>主任医师</TITLE></DOCTOR></DOCTOR_LIST></RES>"
    )
    located = SCHEDULES.replace("<TOTAL>", "<ADDRESS>门诊楼2层</ADDRESS><TOTAL>")
    async with platform(told(department), told(department), told(doctor), told(located)) as (_, his):
        assert await his.fetch_departments() == [Department(id="101", name="心内科", parent_id="100", campus="东院")]
        doctors = [Practitioner(id="D1", name="李明", department_id="101", title="主任医师")]
        assert await his.fetch_practitioners() == doctors
        assert [s.location for s in await his.fetch_schedules(WINDOW)] == ["门诊楼2层"]


async def test_slot_is_stopped_when_its_segment_is() -> None:
    times = (
        "<RES><TIME_LIST><TIME><BEGIN_TIME>11:00</BEGIN_TIME><END_TIME>11:30</END_TIME><OVER_COUNT>3</OVER_COUNT>"
        "<REG_STATUS>2</REG_STATUS></TIME></TIME_LIST></RES>"
    )
    whole = SCHEDULES.replace("<ISTIME>1", "<ISTIME>0").replace("<REG_STATUS>1", "<REG_STATUS>3")
    without = msgspec.structs.replace(SCHEDULE, his_refs={"has_segments": "0"})
    async with platform(told(times), told(whole)) as (_, his):
        stopped = [await his.fetch_slots(WINDOW, [one]) for one in (SCHEDULE, without)]
    assert [[slot.status for slot in slots] for slots in stopped] == [[ScheduleStatus.STOPPED]] * 2
    assert stopped[1][0].his_refs == {"begin_time": "08:00", "end_time": "11:30"}


# --- people ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "sex"), [("0", Sex.FEMALE), ("1", Sex.MALE), ("2", Sex.UNKNOWN), ("7", Sex.UNKNOWN), ("", Sex.UNKNOWN)]
)
async def test_patient_is_read_with_sex_zero_for_women(code: str, sex: Sex) -> None:
    res = (
        f"<RES><PATIENT_LIST><PATIENT><HOSP_PATIENT_ID>0000012345</HOSP_PATIENT_ID><NAME>张伟</NAME><SEX>{code}</SEX>"
        "<BIRTHDAY>19900307</BIRTHDAY><MOBILE>138****0000</MOBILE></PATIENT></PATIENT_LIST></RES>"
    )
    async with platform(told(res)) as (_, his):
        born = dt.date(1990, 3, 7)
        assert await his.find_patient(PERSON) == [Patient(name="张伟", mrn="0000012345", sex=sex, birth_date=born)]


async def test_patient_has_number_phone_and_card_when_they_are_not_masked() -> None:
    res = (
        "<RES><HOSP_PATIENT_ID>9</HOSP_PATIENT_ID><NAME>张伟</NAME><SEX>1</SEX><IDCARD_NO>11010119900307123X</IDCARD_NO>"
        "<MOBILE>13800000000</MOBILE><CARD_NO>000777</CARD_NO></RES>"
    )
    whole = Patient(
        name="张伟", mrn="9", sex=Sex.MALE, id_number="11010119900307123X", phone="13800000000", card_number="000777"
    )
    masked = res.replace("9900307", "*******").replace("000777", "0**777")
    async with platform(told(res), told(masked)) as (_, his):
        assert await his.find_patient(PERSON) == [whole]
        bare = msgspec.structs.replace(whole, id_number=None, card_number=None)
        assert await his.find_patient(PERSON) == [bare]


async def test_patient_is_created_under_the_hospitals_spelling_when_it_repeats_the_name() -> None:
    res = "<RES><HOSP_PATIENT_ID>9</HOSP_PATIENT_ID><NAME>張偉</NAME></RES>"
    async with platform(told(res)) as (_, his):
        assert await his.create_patient(PERSON) == Accepted(record=Patient(name="張偉", mrn="9"))


async def test_patient_is_created_under_the_name_that_was_sent() -> None:
    async with platform(told("<RES><HOSP_PATIENT_ID>0009</HOSP_PATIENT_ID></RES>")) as (_, his):
        assert await his.create_patient(PERSON) == Accepted(record=Patient(name="张伟", mrn="0009"))


async def test_nobody_is_found_when_the_hospital_knows_no_such_patient() -> None:
    async with platform(refused("100301", "患者信息不存在")) as (_, his):
        assert await his.find_patient(PERSON) == []


# --- a visit --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "means"),
    [
        ("200504", "already_exists"),
        ("200505", "full"),
        ("200506", "taken"),
        ("200507", "stopped"),
        ("299999", "refused"),
    ],
)
async def test_lock_is_refused_by_its_codes(code: str, means: str) -> None:
    async with platform(refused(code, "不能锁号")) as (_, his):
        outcome = await his.lock_slot(order())
    text = "不能锁号" if means != "refused" else f"{code}: 不能锁号"
    assert outcome == Rejected(code=means, text=text)


@pytest.mark.parametrize("element", ["RETURN_MSG", "ERR_MSG"])
async def test_refusal_is_known_by_its_text_when_that_stands_inside_and_the_code_says_nothing(element: str) -> None:
    async with platform(told(f"<RES><{element}>该时段号源已满</{element}></RES>", "-1", "")) as (_, his):
        assert await his.lock_slot(order()) == Rejected(code="full", text="该时段号源已满")


@pytest.mark.parametrize("res", ["", "<RES/>"], ids=["no document", "an empty one"])
async def test_lock_is_taken_when_the_reply_has_nothing_but_its_code(res: str) -> None:
    async with platform(told(res)) as (_, his):
        assert await his.lock_slot(order()) == Accepted(record=Registration(status=RegistrationStatus.LOCKED))


async def test_lock_says_when_it_ends() -> None:
    async with platform(told("<RES><LOCK_EXPIRE_TIME>20260104201500</LOCK_EXPIRE_TIME></RES>")) as (_, his):
        ends = at(20, 15, 4)
        assert await his.lock_slot(order()) == Accepted(
            record=Registration(status=RegistrationStatus.LOCKED, lock_expires_at=ends)
        )


async def test_booking_keeps_what_the_hospital_calls_it() -> None:
    res = (
        "<RES><HOSP_ORDER_ID>H7</HOSP_ORDER_ID><HOSP_SERIAL_NUM>5</HOSP_SERIAL_NUM>"
        "<HOSP_GETREG_DATE>上午7:30前</HOSP_GETREG_DATE><CONCESSIONS>50</CONCESSIONS></RES>"
    )
    refs = {"hosp_order_id": "H7", "serial_num": "5", "get_reg_date": "上午7:30前", "concessions_fen": "50"}
    record = Registration(status=RegistrationStatus.LOCKED, his_id="H7", queue_no="5", his_refs=refs)
    async with platform(told(res)) as (_, his):
        assert await his.book(order()) == Accepted(his_refs=refs, record=record)


async def test_registration_and_check_in_say_where_and_in_which_order() -> None:
    res = "<RES><HOSP_PAY_ID>J7</HOSP_PAY_ID><HOSP_SERIAL_NUM>5</HOSP_SERIAL_NUM><ADDRESS>门诊楼2层</ADDRESS></RES>"

    def record(status: RegistrationStatus, refs: dict[str, str]) -> Accepted:
        told_us = Registration(status=status, queue_no="5", check_in_place="门诊楼2层", his_refs=refs)
        return Accepted(his_refs=refs, record=told_us)

    ours = order(payment=payment(700), his_refs={"hosp_order_id": "H7"})
    async with platform(told(res)) as (_, his):
        refs = {"hosp_pay_id": "J7", "serial_num": "5"}
        assert await his.register(ours) == record(RegistrationStatus.REGISTERED, refs)
        assert await his.check_in(ours) == record(RegistrationStatus.CHECKED_IN, {"serial_num": "5"})


async def test_query_back_has_lock_and_payment_when_they_are_told() -> None:
    res = (
        f"<RES><LOCK_ID>{NUMBER}</LOCK_ID><ORDER_STATUS>0</ORDER_STATUS><HOSP_PAY_ID>J7</HOSP_PAY_ID>"
        "<ADDRESS>门诊楼2层</ADDRESS><LOCK_EXPIRE_TIME>2026-01-04 20:15:00</LOCK_EXPIRE_TIME></RES>"
    )
    async with platform(told(res)) as (_, his):
        assert await his.fetch_registration(order()) == Registration(
            status=RegistrationStatus.LOCKED,
            order_no=NUMBER,
            check_in_place="门诊楼2层",
            lock_expires_at=at(20, 15, 4),
            his_refs={"hosp_pay_id": "J7"},
        )


@pytest.mark.parametrize(
    ("status", "means"),
    [
        ("0", "locked"),
        ("1", "locked"),
        ("2", "registered"),
        ("3", "checked_in"),
        ("4", "fulfilled"),
        ("5", "released"),
        ("6", "released"),
        ("7", "no_show"),
    ],
)
@pytest.mark.parametrize("shape", ["<ORDER_LIST><ORDER>{}</ORDER></ORDER_LIST>", "<ORDER_LIST>{}</ORDER_LIST>", "{}"])
async def test_query_back_tells_the_states_apart(status: str, means: str, shape: str) -> None:
    row = (
        f"<ORDER_ID>{NUMBER}</ORDER_ID><HOSP_ORDER_ID>H7</HOSP_ORDER_ID><ORDER_STATUS>{status}</ORDER_STATUS>"
        "<HOSP_PATIENT_ID>0000012345</HOSP_PATIENT_ID><REG_ID>R7</REG_ID><HOSP_SERIAL_NUM>5</HOSP_SERIAL_NUM>"
        "<REG_DATE>2026-01-05</REG_DATE><BEGIN_TIME>08:00</BEGIN_TIME><REG_FEE>100</REG_FEE><TREAT_FEE>600</TREAT_FEE>"
    )
    async with platform(told(f"<RES>{shape.format(row)}</RES>")) as (_, his):
        assert await his.fetch_registration(order()) == Registration(
            status=RegistrationStatus(means),
            order_no=NUMBER,
            his_id="H7",
            mrn="0000012345",
            schedule_id="R7",
            queue_no="5",
            fee_fen=700,
            starts_at=at(8),
            his_refs={"hosp_order_id": "H7", "serial_num": "5"},
        )


@pytest.mark.parametrize(("code", "text"), [("201201", "无此记录"), ("-1", "订单不存在")])
async def test_query_back_finds_nothing_when_the_platform_does_not_know_the_order(code: str, text: str) -> None:
    async with platform(refused(code, text)) as (_, his):
        assert await his.fetch_registration(order()) is None


@pytest.mark.parametrize(
    ("code", "text"),
    [("-1", "操作员不存在"), ("100002", "签名错误"), ("-1", "订单不存在对应的渠道"), ("100009", "系统繁忙")],
)
async def test_query_back_fails_when_something_else_is_wrong(code: str, text: str) -> None:
    async with platform(refused(code, text)) as (_, his):
        with pytest.raises(HisRefused):
            await his.fetch_registration(order())


@pytest.mark.parametrize(
    ("code", "means"), [("200902", "already_done"), ("200910", "too_late"), ("200901", "not_found")]
)
async def test_cancellation_is_refused_by_its_codes(code: str, means: str) -> None:
    async with platform(refused(code, "不能取消")) as (_, his):
        assert await his.cancel_registration(order()) == Rejected(code=means, text="不能取消")
