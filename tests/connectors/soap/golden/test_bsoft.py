"""BSXml documents, sent and read, against values worked out by hand (DOMAIN facts: the envelope, the header, CDATA)."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from lxml import etree

from connectors.port import Accepted, HisRefused, HisReplyInvalid, Order, RefundOrder, Rejected, Unknown, Window
from connectors.soap import Options, SoapConnector, create
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
from mappings.profile import ProfileError
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
WINDOW_OF_ALL = Window(date_from=dt.date(2020, 1, 1), date_to=dt.date(2999, 12, 31))
WINDOW = Window(date_from=DAY, date_to=DAY, department_id="100")
ORDER_NO = "20260105000000000001"


def done(body: str, *, cdata: bool = True, status: str = "true") -> str:
    inside = f"<![CDATA[<Body>{body}</Body>]]>" if cdata else f"<Body>{body}</Body>"
    header = "<Sender>HIS</Sender><MsgType>X</MsgType><MsgVersion>3.0</MsgVersion>"
    return (
        f"<BSXml><MsgHeader>{header}<Status>{status}</Status><ErrCode/><Detail>成功</Detail></MsgHeader>"
        f"<MsgBody>{inside}</MsgBody></BSXml>"
    )


def failed(code: str, detail: str) -> str:
    return (
        f"<BSXml><MsgHeader><Status>false</Status><ErrCode>{code}</ErrCode><Detail>{detail}</Detail></MsgHeader>"
        "<MsgBody/></BSXml>"
    )


@contextlib.asynccontextmanager
async def talking(
    tmp_path: Path, *replies: str | bytes | web.Response, **settings: str
) -> AsyncIterator[tuple[CannedPeer, SoapConnector]]:
    secret = tmp_path / "password"
    secret.write_text("S3CRET<&>\n", "utf-8")
    given: dict[str, Any] = {"profile": "bsoft@1", "secret_files": {"password": str(secret)}, "settings": settings}
    async with canned(*replies, **given) as (peer, his):
        yield peer, his


def arguments(peer: CannedPeer, n: int = -1) -> dict[str, str]:
    body = etree.fromstring(peer.requests[n][1]).find(f"{ENVELOPE}Body")
    assert body is not None
    assert body[0].tag == "{http://ws.access.hai/}invoke"
    return {str(child.tag): child.text or "" for child in body[0]}


def asked(peer: CannedPeer, n: int = -1) -> tuple[str, dict[str, str]]:
    """The service and the body of a request."""
    given = arguments(peer, n)
    document = etree.fromstring(given["parameter"])
    assert document.findtext("MsgHeader/MsgType") == given["service"]
    body = etree.fromstring(document.findtext("MsgBody") or "")
    assert body.tag == "Body"
    return given["service"], {str(child.tag): child.text or "" for child in body}


# --- the envelope -------------------------------------------------------------------------------------------------


async def test_call_is_the_documented_one_when_departments_are_asked_for(tmp_path: Path) -> None:
    reply = done("<Rows><Row><KSDM>100</KSDM><KSMC>内科</KSMC><SJKS>1</SJKS></Row></Rows>")
    async with talking(tmp_path, reply, user_id="WX001", sender="PORTAL") as (peer, his):
        assert await his.fetch_departments() == [Department(id="100", name="内科", parent_id="1")]
    assert list(arguments(peer).items()) == [
        ("service", "DeptQuery"),
        ("urid", "WX001"),
        ("pwd", "S3CRET<&>"),
        (
            "parameter",
            "<BSXml><MsgHeader><Sender>PORTAL</Sender><MsgType>DeptQuery</MsgType><MsgVersion>3.0</MsgVersion></MsgHeader>"
            "<MsgBody><![CDATA[<Body><JGID>1</JGID></Body>]]></MsgBody></BSXml>",
        ),
    ]


async def test_password_is_empty_when_the_site_has_none() -> None:
    async with canned(done(""), profile="bsoft@1") as (peer, his):
        await his.ping()
    assert arguments(peer)["pwd"] == ""
    assert asked(peer) == ("SystemTime", {"JGID": "1"})


async def test_hospital_refuses_when_the_password_is_another(tmp_path: Path) -> None:
    spoken = next(one for one in SPOKEN if one.name == "bsoft")
    secret = tmp_path / "wrong"
    secret.write_text("guess")
    async with spoken.hospital(secret_files={"password": str(secret)}) as (_, his):
        with pytest.raises(HisRefused, match="用户名或密码错误") as refused:
            await his.fetch_departments()
        assert refused.value.code == "invalid_request"


async def test_body_is_read_alike_when_it_is_not_in_cdata() -> None:
    spoken = next(one for one in SPOKEN if one.name == "bsoft")
    async with spoken.hospital() as (simulator, his):
        before = (await his.fetch_departments(), await his.fetch_schedules(WINDOW_OF_ALL))
        switch(simulator, "*", "no_cdata")
        assert (await his.fetch_departments(), await his.fetch_schedules(WINDOW_OF_ALL)) == before
        assert len(before[0]) == 3
    rows = "<Rows><Row><KSDM>100</KSDM><KSMC>内科</KSMC></Row></Rows>"
    async with canned(done(rows, cdata=False), profile="bsoft@1") as (_, his):
        assert await his.fetch_departments() == [Department(id="100", name="内科")]


async def test_reply_is_read_when_junk_stands_before_and_behind_both_documents() -> None:
    rows = "<Rows><Row><KSDM>100</KSDM><KSMC>内科 A&amp;E</KSMC></Row></Rows>"
    told = done(rows).replace("<![CDATA[", "<![CDATA[<?xml version='1.0' encoding='GBK'?> row 1 ")
    async with canned(f"DEBUG 1 row\r\n{told}\r\nOK", profile="bsoft@1") as (_, his):
        assert await his.fetch_departments() == [Department(id="100", name="内科 A&E")]


async def test_names_are_whole_when_the_bytes_are_gbk_under_a_utf8_label() -> None:
    rows = "<Rows><Row><KSDM>1</KSDM><KSMC>東院</KSMC></Row></Rows>"
    async with canned(enveloped(done(rows)).encode("gbk"), profile="bsoft@1") as (_, his):
        assert await his.fetch_departments() == [Department(id="1", name="東院")]


# --- schedules ----------------------------------------------------------------------------------------------------

SCHEDULE = (
    "<PBXH>8801</PBXH><GZRQ>2026-01-05</GZRQ><ZBLB>1</ZBLB><KSDM>100</KSDM><KSMC>内科</KSMC><YSDM>D1</YSDM>"
    "<YSXM>李明</YSXM><HYLB>副高号</HYLB><GHF>1.00</GHF><ZLF>6.00</ZLF><FYHJ>7</FYHJ><YYXE>20</YYXE><TGBZ>0</TGBZ>"
    "<JZDZ>门诊楼2层</JZDZ>"
)
SCHEDULES = f"<Count>1</Count><Rows><Row>{SCHEDULE}</Row></Rows>"
SEGMENT = "<SDXH>3</SDXH><PBXH>8801</PBXH><JZSD>09:00-09:30</JZSD><SYHS>4</SYHS><TGBZ>0</TGBZ>"
SEGMENTS = f"<Rows><Row>{SEGMENT}</Row></Rows>"


async def test_schedule_request_and_reply_mean_what_they_say() -> None:
    async with canned(done(SCHEDULES), profile="bsoft@1") as (peer, his):
        schedules = await his.fetch_schedules(WINDOW)
        assert asked(peer) == (
            "ScheduleQuery",
            {"JGID": "1", "KSRQ": "2026-01-05", "JSRQ": "2026-01-05", "KSDM": "100", "YSDM": ""},
        )
        assert schedules == [
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
                quota=20,
                location="门诊楼2层",
            )
        ]


async def test_schedule_is_the_same_when_the_list_of_one_collapsed() -> None:
    collapsed = f"<Count>1</Count><Rows>{SCHEDULE}</Rows>"
    async with canned(done(SCHEDULES), done(collapsed), profile="bsoft@1") as (_, his):
        assert await his.fetch_schedules(WINDOW) == await his.fetch_schedules(WINDOW)


@pytest.mark.parametrize(
    ("code", "session"), [("1", Session.AM), ("2", Session.PM), ("3", Session.NIGHT), ("4", Session.ALL_DAY)]
)
async def test_session_is_a_number_and_a_stop_a_flag(code: str, session: Session) -> None:
    reply = SCHEDULES.replace("<ZBLB>1", f"<ZBLB>{code}").replace("<TGBZ>0", "<TGBZ>1")
    async with canned(done(reply), profile="bsoft@1") as (_, his):
        (schedule,) = await his.fetch_schedules(WINDOW)
        assert (schedule.session, schedule.status) == (session, ScheduleStatus.STOPPED)


@pytest.mark.parametrize(("told", "quota"), [("20", 20), ("0", 0), ("-1", None), ("99", None), ("", None)])
async def test_quota_is_none_when_the_hospital_sets_no_limit(told: str, quota: int | None) -> None:
    async with canned(done(SCHEDULES.replace("<YYXE>20", f"<YYXE>{told}")), profile="bsoft@1") as (_, his):
        (schedule,) = await his.fetch_schedules(WINDOW)
        assert schedule.quota == quota


async def test_packed_time_becomes_a_slot() -> None:
    async with canned(done(SCHEDULES), done(SEGMENTS), profile="bsoft@1") as (peer, his):
        slots = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert asked(peer) == ("SegmentQuery", {"JGID": "1", "PBXH": "8801", "GZRQ": "2026-01-05", "ZBLB": "1"})
        assert slots == [
            Slot(
                id="8801@3",
                schedule_id="8801",
                date=DAY,
                session=Session.AM,
                starts_at=dt.datetime(2026, 1, 5, 9, tzinfo=ZONE),
                ends_at=dt.datetime(2026, 1, 5, 9, 30, tzinfo=ZONE),
                seats_left=4,
                his_refs={"segment_no": "3"},
            )
        ]


@pytest.mark.parametrize(("told", "left"), [("4", 4), ("0", 0), ("-1", 999)])
async def test_seats_are_many_when_the_hospital_counts_none(told: str, left: int) -> None:
    reply = SEGMENTS.replace("<SYHS>4", f"<SYHS>{told}")
    async with canned(done(SCHEDULES), done(reply), profile="bsoft@1") as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert slot.seats_left == left


async def test_segment_ends_on_the_next_day_when_it_crosses_midnight() -> None:
    schedules = SCHEDULES.replace("<ZBLB>1", "<ZBLB>3")
    segments = SEGMENTS.replace("09:00-09:30", "23:30-00:00")
    async with canned(done(schedules), done(segments), profile="bsoft@1") as (_, his):
        (slot,) = await his.fetch_slots(WINDOW, await his.fetch_schedules(WINDOW))
        assert (slot.starts_at.isoformat(), slot.ends_at.isoformat()) == (
            "2026-01-05T23:30:00+08:00",
            "2026-01-06T00:00:00+08:00",
        )


async def test_doctors_and_stops_are_told() -> None:
    doctors = "<Rows><Row><YGDM>D1</YGDM><YGXM>李明</YGXM><YGJB>副主任医师</YGJB><KSDM>100</KSDM></Row></Rows>"
    stops = "<Rows><Row><PBXH>8801</PBXH><GZRQ>20260105</GZRQ><ZBLB>1</ZBLB><TZYY>会议</TZYY></Row></Rows>"
    async with canned(done(doctors), done(stops), profile="bsoft@1") as (peer, his):
        assert await his.fetch_practitioners() == [
            Practitioner(id="D1", name="李明", department_id="100", title="副主任医师")
        ]
        assert asked(peer) == ("DoctorQuery", {"JGID": "1", "KSDM": ""})
        assert await his.fetch_stops(WINDOW) == [
            ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="8801", date=DAY, session=Session.AM, reason="会议")
        ]


# --- people -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "sex"), [("0", Sex.UNKNOWN), ("1", Sex.MALE), ("2", Sex.FEMALE), ("9", Sex.UNKNOWN), ("", Sex.UNKNOWN)]
)
async def test_patient_is_found_with_the_zeros_of_his_number(code: str, sex: Sex) -> None:
    row = (
        f"<Rows><Row><BRID>0000012345</BRID><BRXM>张伟</BRXM><BRXB>{code}</BRXB><CSNY>19900307</CSNY>"
        "<SFZH>11010119900307123X</SFZH><LXDH>138****0000</LXDH><JZKH>00081234</JZKH></Row></Rows>"
    )
    async with canned(done(row), profile="bsoft@1") as (peer, his):
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
        assert asked(peer) == (
            "PatientQuery",
            {"JGID": "1", "BRID": "", "JZKH": "", "ZJLX": "1", "SFZH": "11010119900307123X", "BRXM": "张伟"},
        )


async def test_nobody_is_found_when_the_hospital_knows_no_such_patient() -> None:
    async with canned(failed("2001", "病人不存在"), failed("2002", "存在多条记录"), profile="bsoft@1") as (_, his):
        assert await his.find_patient(PERSON) == []
        with pytest.raises(HisRefused) as refused:
            await his.find_patient(PERSON)
        assert refused.value.code == "patient_ambiguous"


async def test_patient_is_created_with_codes_of_the_dialect() -> None:
    async with canned(done("<BRID>0000012345</BRID>"), profile="bsoft@1") as (peer, his):
        outcome = await his.create_patient(PERSON)
        assert outcome == Accepted(record=Patient(name="张伟", mrn="0000012345"))
        assert asked(peer) == (
            "PatientCreate",
            {
                "JGID": "1",
                "BRXM": "张伟",
                "BRXB": "1",
                "CSNY": "",
                "ZJLX": "1",
                "SFZH": "11010119900307123X",
                "LXDH": "13800000000",
                "LXDZ": "",
                "BRXZ": "1",
            },
        )


# --- a visit ------------------------------------------------------------------------------------------------------


def order(**given: Any) -> Order:
    return golden_order(
        **{
            "slot": Slot(
                id="8801@3",
                schedule_id="8801",
                date=DAY,
                session=Session.PM,
                starts_at=dt.datetime(2026, 1, 5, 14, tzinfo=ZONE),
                ends_at=dt.datetime(2026, 1, 5, 14, 30, tzinfo=ZONE),
                seats_left=3,
                his_refs={"segment_no": "3"},
            )
        }
        | given
    )


@pytest.mark.parametrize("verb", ["lock_slot", "book"])
async def test_number_is_taken_under_our_order_number(verb: str) -> None:
    reply = done("<DDXH>66</DDXH><JZXH>5</JZXH><FYHJ>7.00</FYHJ><SHSJ>2026-01-04 09:40:15</SHSJ>")
    async with canned(reply, profile="bsoft@1") as (peer, his):
        outcome = await getattr(his, verb)(order())
        assert asked(peer) == (
            {"lock_slot": "NumberLock", "book": "AppointBook"}[verb],
            {
                "JGID": "1",
                "WBDDH": ORDER_NO,
                "BRID": "0000012345",
                "PBXH": "8801",
                "GZRQ": "2026-01-05",
                "ZBLB": "2",
                "SDXH": "3",
                "FYHJ": "7.00",
            },
        )
        refs = {"order_id": "66", "queue_no": "5"}
        assert outcome == Accepted(
            his_refs=refs,
            record=Registration(
                status=RegistrationStatus.LOCKED,
                his_id="66",
                queue_no="5",
                fee_fen=700,
                lock_expires_at=dt.datetime(2026, 1, 4, 9, 40, 15, tzinfo=ZONE),
                his_refs=refs,
            ),
        )


async def test_registration_is_paid_in_yuan() -> None:
    reply = done("<DDXH>66</DDXH><MZXH>M66</MZXH><JZXH>5</JZXH><FYHJ>7.05</FYHJ><JZDZ>2楼</JZDZ>")
    async with canned(reply, profile="bsoft@1") as (peer, his):
        outcome = await his.register(order(his_refs={"order_id": "66"}, payment=payment(705)))
        assert asked(peer) == (
            "RegisterPay",
            {
                "JGID": "1",
                "WBDDH": ORDER_NO,
                "DDXH": "66",
                "BRID": "0000012345",
                "FYHJ": "7.05",
                "ZFFS": "3",
                "ZFQD": "WECHAT",
                "ZFJE": "7.05",
                "JYLSH": "4200001",
                "JYSJ": "2026-01-04 09:30:15",
            },
        )
        assert isinstance(outcome, Accepted)
        assert outcome.his_refs == {"order_id": "66", "visit_no": "M66", "queue_no": "5"}
        assert isinstance(outcome.record, Registration)
        assert (outcome.record.encounter_no, outcome.record.check_in_place, outcome.record.fee_fen) == (
            "M66",
            "2楼",
            705,
        )


@pytest.mark.parametrize(
    ("given", "service", "told"),
    [
        ({"payment": payment(700)}, "RegisterReturn", "4200001"),
        ({"his_refs": {"visit_no": "M66"}}, "RegisterReturn", ""),
        ({"his_refs": {"order_id": "66"}}, "AppointCancel", None),
    ],
)
async def test_cancel_is_the_service_of_what_was_done(given: dict[str, Any], service: str, told: str | None) -> None:
    async with canned(done(""), profile="bsoft@1") as (peer, his):
        assert await his.cancel_registration(order(**given)) == Accepted()
        sent, body = asked(peer)
        assert (sent, body["WBDDH"], body.get("JYLSH")) == (service, ORDER_NO, told)


async def test_lock_is_given_back_and_a_patient_checked_in_by_both_numbers() -> None:
    refs = {"order_id": "66"}
    body = {"JGID": "1", "WBDDH": ORDER_NO, "DDXH": "66", "BRID": "0000012345"}
    async with canned(done(""), done("<DDXH>66</DDXH><JZXH>5</JZXH>"), profile="bsoft@1") as (peer, his):
        assert await his.unlock_slot(order(his_refs=refs)) == Accepted()
        assert asked(peer) == ("NumberUnlock", body)
        outcome = await his.check_in(order(his_refs=refs))
        assert asked(peer) == ("CheckIn", body)
        assert isinstance(outcome, Accepted)
        assert isinstance(outcome.record, Registration)
        assert (outcome.record.status, outcome.record.queue_no) == (RegistrationStatus.CHECKED_IN, "5")


FOUND = (
    f"<DDXH>66</DDXH><WBDDH>{ORDER_NO}</WBDDH><DDZT>0</DDZT><BRID>0000012345</BRID><PBXH>8801</PBXH>"
    "<GZRQ>2026-01-05</GZRQ><JZSD>14:00-14:30</JZSD><JZXH>5</JZXH><MZXH/><FYHJ>7.00</FYHJ>"
    "<SHSJ>2026-01-04 09:40:15</SHSJ>"
)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("0", "locked"),
        ("1", "registered"),
        ("2", "checked_in"),
        ("3", "fulfilled"),
        ("8", "released"),
        ("9", "released"),
    ],
)
async def test_query_back_tells_the_states_apart(code: str, status: str) -> None:
    rows = f"<Rows><Row>{FOUND}</Row></Rows>".replace("<DDZT>0", f"<DDZT>{code}")
    async with canned(done(rows), profile="bsoft@1") as (peer, his):
        assert await his.fetch_registration(order()) == Registration(
            status=RegistrationStatus(status),
            order_no=ORDER_NO,
            his_id="66",
            mrn="0000012345",
            schedule_id="8801",
            queue_no="5",
            fee_fen=700,
            starts_at=dt.datetime(2026, 1, 5, 14, tzinfo=ZONE),
            lock_expires_at=dt.datetime(2026, 1, 4, 9, 40, 15, tzinfo=ZONE),
            his_refs={"order_id": "66", "queue_no": "5"},
        )
        assert asked(peer) == (
            "RegisterQuery",
            {"JGID": "1", "WBDDH": ORDER_NO, "DDXH": "", "BRID": "0000012345"},
        )


async def test_order_is_absent_only_when_the_hospital_says_just_that() -> None:
    async with canned(
        failed("3006", "订单不存在"), failed("77", "订单不存在。"), failed("77", "操作员不存在"), profile="bsoft@1"
    ) as (_, his):
        assert await his.fetch_registration(order()) is None
        assert await his.fetch_registration(order()) is None
        with pytest.raises(HisRefused, match="77: 操作员不存在"):
            await his.fetch_registration(order())


REFUSED = Rejected(code="refused", text="42: 没有权限")


async def test_order_is_ours_by_the_hospitals_number_alone_when_it_does_not_repeat_ours() -> None:
    spoken = next(one for one in SPOKEN if one.name == "bsoft")
    async with spoken.hospital() as (simulator, his):
        asked_for = await order_of(his, simulator)
        taken = with_refs(asked_for, await take(his, asked_for))
        switch(simulator, "*", "no_order_no")
        found = await his.fetch_registration(taken)
        assert found is not None
        assert (found.order_no, found.status) == (None, RegistrationStatus.LOCKED)
        with pytest.raises(HisReplyInvalid):  # our number found it, but it may be anybody's
            await his.fetch_registration(asked_for)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (failed("3001", "号源已满"), Rejected(code="full", text="号源已满")),
        (failed("3002", ""), Rejected(code="taken")),
        (failed("3003", "订单已存在"), Rejected(code="already_exists", text="订单已存在")),
        (failed("3004", "医生停诊"), Rejected(code="stopped", text="医生停诊")),
        (failed("3005", "未到放号时间"), Rejected(code="not_open_yet", text="未到放号时间", retryable=True)),
        (failed("9999", "系统繁忙"), Rejected(code="busy", text="系统繁忙", retryable=True)),
        (failed("", "该号源已满"), Rejected(code="full", text="该号源已满")),
        (failed("42", "没有权限"), REFUSED),
        (
            "<BSXml><MsgHeader><Status>false</Status></MsgHeader><MsgBody><Body><Detail>号源不足</Detail></Body>"
            "</MsgBody></BSXml>",
            Rejected(code="full", text="号源不足"),
        ),
        (failed("42", "没有权限").replace("<MsgBody/>", "<MsgBody>null</MsgBody>"), REFUSED),
        ("未知服务", Rejected(code="invalid_request", text="未知服务")),
    ],
)
async def test_refusal_is_told_by_header_body_or_sentence(reply: str, expected: Rejected) -> None:
    async with canned(reply, profile="bsoft@1") as (_, his):
        assert await his.lock_slot(order()) == expected


@pytest.mark.parametrize(
    "reply",
    [
        done("<DDXH>66</DDXH>", status=""),
        done("<DDXH>66</DDXH>").replace("<Status>true</Status>", ""),
        done("<DDXH>66</DDXH>").replace("</Body>]]>", "]]>"),
        "<BSXml><MsgHeader><Status>true</Status></MsgHeader><MsgBody>已受理</MsgBody></BSXml>",
        "<!DOCTYPE html><html><body>502</body></html>",
        '<diffgr:diffgram xmlns:diffgr="urn:schemas-microsoft-com:xml-diffgram-v1"><NewDataSet/></diffgr:diffgram>',
        "",
    ],
    ids=["status empty", "no status", "body cut off", "body a sentence", "html", "diffgram", "nothing"],
)
async def test_write_is_unknown_when_its_reply_says_neither_yes_nor_no(reply: str) -> None:
    async with canned(reply, profile="bsoft@1") as (_, his):
        assert isinstance(await his.lock_slot(order()), Unknown)


# --- money --------------------------------------------------------------------------------------------------------


async def test_bill_has_its_items() -> None:
    bills = (
        "<Rows><Row><FYXH>9001</FYXH><FYMC>检验费</FYMC><ZJJE>120.5</ZJJE><BRID>0000012345</BRID><MZXH>M77</MZXH>"
        "<KSMC>内科</KSMC><KDSJ>2026-01-05 10:20:30</KDSJ><JSZT>0</JSZT></Row></Rows>"
    )
    items = "<Rows><Row><XMDM>X1</XMDM><XMMC>血常规</XMMC><XMJE>120.50</XMJE><XMSL>1</XMSL><XMDW>次</XMDW></Row></Rows>"
    async with canned(done(bills), done(items), profile="bsoft@1") as (peer, his):
        assert await his.fetch_bills(Patient(name="张伟", mrn="0000012345", card_number="0008")) == [
            Bill(
                id="9001",
                amount_fen=12050,
                currency="CNY",
                mrn="0000012345",
                title="检验费",
                department_name="内科",
                issued_at=dt.datetime(2026, 1, 5, 10, 20, 30, tzinfo=ZONE),
                encounter_no="M77",
                items=(BillItem(name="血常规", amount_fen=12050, quantity="1", unit="次", code="X1"),),
                his_refs={"visit_no": "M77"},
            )
        ]
        assert asked(peer, 0) == ("ChargeQuery", {"JGID": "1", "BRID": "0000012345", "JZKH": "0008"})
        assert asked(peer, 1) == ("ChargeDetail", {"JGID": "1", "BRID": "0000012345", "FYXH": "9001"})


async def test_bill_is_presettled_and_settled_with_our_numbers() -> None:
    paid = "<FYXH>R100</FYXH><FPHM>F9</FPHM><WBDDH>20260105000000000009</WBDDH><ZFJE>120.50</ZFJE>"
    async with canned(done("<FYXH>R100</FYXH><YJSH>Y9</YJSH>"), done(paid), profile="bsoft@1") as (peer, his):
        presettled = await his.presettle_bill(golden_bill_payment())
        assert isinstance(presettled, Accepted)
        assert presettled.his_refs == {"presettle_no": "Y9"}
        assert asked(peer) == (
            "ChargePreSettle",
            {"JGID": "1", "BRID": "0000012345", "MZXH": "", "FYXH": "R100", "ZJJE": "120.50"},
        )
        paying = msgspec.structs.replace(golden_bill_payment(), his_refs=presettled.his_refs)
        assert await his.settle_bill(paying) == Accepted(
            his_refs={"receipt_no": "F9"},
            record=Settlement(
                bill_id="R100",
                receipt_no="F9",
                order_no="20260105000000000009",
                amount_fen=12050,
                his_refs={"receipt_no": "F9"},
            ),
        )
        assert asked(peer) == (
            "ChargeSettle",
            {
                "JGID": "1",
                "WBDDH": "20260105000000000009",
                "BRID": "0000012345",
                "FYXH": "R100",
                "YJSH": "Y9",
                "ZFFS": "3",
                "ZFQD": "WECHAT",
                "ZFJE": "120.50",
                "JYLSH": "4200001",
                "JYSJ": "2026-01-04 09:30:15",
            },
        )


@pytest.mark.parametrize(("status", "settled"), [("1", True), ("0", False), ("9", False)])
async def test_settlement_counts_only_when_the_hospital_says_paid(status: str, settled: bool) -> None:
    row = f"<Rows><Row><FYXH>R100</FYXH><JSZT>{status}</JSZT><JYLSH>4200001</JYLSH><FPHM>F9</FPHM></Row></Rows>"
    async with canned(done(row), profile="bsoft@1") as (_, his):
        found = await his.fetch_settlement(golden_bill_payment())
        assert (found is not None and found.receipt_no == "F9") is settled


async def test_settlement_is_taken_when_another_payment_made_it() -> None:
    row = "<Rows><Row><FYXH>R100</FYXH><JSZT>1</JSZT><JYLSH>4299999</JYLSH></Row></Rows>"
    async with canned(done(row), profile="bsoft@1") as (_, his):
        with pytest.raises(HisRefused) as refused:
            await his.fetch_settlement(golden_bill_payment())
        assert refused.value.code == "taken"


async def test_refund_is_asked_for_and_found_again() -> None:
    paid = order(his_refs={"order_id": "66", "visit_no": "M66"}, payment=payment(700))
    refund = Refund(refund_no="8" * 20, payment=payment(700), amount_fen=700, reason="停诊")
    given = RefundOrder(refund=refund, patient=paid.patient, order=paid)
    back = f"<Rows><Row>{FOUND}</Row></Rows>".replace("<DDZT>0", "<DDZT>9").replace("<MZXH/>", "<MZXH>M66</MZXH>")
    never_paid = back.replace("<DDZT>9", "<DDZT>8")
    async with canned(done(""), done(back), done(never_paid), profile="bsoft@1") as (peer, his):
        assert await his.refund(given) == Accepted()
        assert asked(peer) == (
            "RegisterReturn",
            {
                "JGID": "1",
                "WBDDH": ORDER_NO,
                "DDXH": "66",
                "MZXH": "M66",
                "BRID": "0000012345",
                "JYLSH": "4200001",
                "TKDH": "8" * 20,
                "TKJE": "7.00",
            },
        )
        assert await his.fetch_refund(given) == Settlement(receipt_no="M66", his_refs={"visit_no": "M66"})
        assert await his.fetch_refund(given) is None
    assert given.order is not None


async def test_statement_lines_are_money_in_and_money_back() -> None:
    row = (
        "<Row><JYLX>{}</JYLX><JYLSH>42</JYLSH><WBDDH>9</WBDDH><ZFJE>7.1</ZFJE><ZFQD>WECHAT</ZFQD>"
        "<JYSJ>2026-01-05 23:59:59</JYSJ></Row>"
    )
    async with canned(done(f"<Rows>{row.format(1)}{row.format(2)}</Rows>"), profile="bsoft@1") as (peer, his):
        lines = [
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
        assert await his.fetch_statement(DAY) == lines
        assert asked(peer) == ("BillStatement", {"JGID": "1", "JZRQ": "2026-01-05", "ZFFS": "3"})
    async with canned(done("<Rows><Row><JYLX>3</JYLX><ZFJE>1</ZFJE></Row></Rows>"), profile="bsoft@1") as (_, his):
        with pytest.raises(HisReplyInvalid):  # a statement that is not whole is none
            await his.fetch_statement(DAY)


# --- reports ------------------------------------------------------------------------------------------------------

REPORT = "<BGDH>L1</BGDH><BGLX>{}</BGLX><BGZT>2</BGZT><BGMC>血常规</BGMC><BRID>0000012345</BRID><BGSJ>2026-01-05 10:00:00</BGSJ>"
RESULT = (
    "<XM><XMDM>WBC</XMDM><XMMC>白细胞</XMMC><XMJG>11.2</XMJG><XMDW>10*9/L</XMDW><CKFW>3.5-9.5</CKFW><TSBZ>↑</TSBZ></XM>"
)


@pytest.mark.parametrize(("code", "kind"), [("1", ReportKind.LAB), ("2", ReportKind.EXAM)])
async def test_report_is_listed_and_told_with_its_results(code: str, kind: ReportKind) -> None:
    patient = Patient(name="张伟", mrn="0000012345")
    head = REPORT.format(code)
    more = "<CYSJ>20260105090000</CYSJ><BGJL>未见异常</BGJL><SHYS>陈静</SHYS>"
    whole = f"<Rows><Row>{head}{more}<XMLB>{RESULT}</XMLB></Row></Rows>"
    async with canned(done(f"<Rows><Row>{head}</Row></Rows>"), done(whole), profile="bsoft@1") as (peer, his):
        listed = Report(
            id="L1",
            kind=kind,
            status=ReportStatus.FINAL,
            name="血常规",
            mrn="0000012345",
            issued_at=dt.datetime(2026, 1, 5, 10, tzinfo=ZONE),
        )
        assert await his.fetch_reports(patient) == [listed]
        assert asked(peer) == ("ReportQuery", {"JGID": "1", "BRID": "0000012345", "BGLX": ""})
        assert await his.fetch_report(patient, "L1") == msgspec.structs.replace(
            listed,
            effective_at=dt.datetime(2026, 1, 5, 9, tzinfo=ZONE),
            conclusion="未见异常",
            interpreter="陈静",
            observations=(
                Observation(
                    code="WBC", name="白细胞", value="11.2", unit="10*9/L", reference_range="3.5-9.5", flag="H"
                ),
            ),
        )
        assert asked(peer) == ("ReportDetail", {"JGID": "1", "BRID": "0000012345", "BGDH": "L1"})


# --- settings -----------------------------------------------------------------------------------------------------


def test_profile_is_refused_when_the_secret_that_it_names_is_not_set(tmp_path: Path) -> None:
    place = tmp_path / "strict"
    place.mkdir()
    (place / "profile.yaml").write_text(
        "name: strict\nversion: 1\nprotocol: soap\nextends: bsoft@1\nconnection:\n"
        "  arguments: {pwd: {from: secret.password, absent: null}}\n"
    )
    given = Options(protocol="soap", profile="strict@1", endpoint="http://127.0.0.1:9/")
    with pytest.raises(ProfileError, match=r"connection\.arguments\.pwd: the secret password is not set: give"):
        create(HOSPITAL, "his", given, profiles_dir=tmp_path)
    secret = tmp_path / "password"
    secret.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match=r"the secret password is not UTF-8"):
        create(
            HOSPITAL,
            "his",
            msgspec.structs.replace(given, secret_files={"password": str(secret)}),
            profiles_dir=tmp_path,
        )
