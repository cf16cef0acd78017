"""What a DHC hospital is asked about plans and people through each of its doors, worked out by hand from DOMAIN facts."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import msgspec
import pytest
from lxml import etree

from connectors.port import Accepted
from connectors.soap import Options, create
from mappings.canonical import Department, Schedule, Session, Sex
from tests.connectors.soap.golden.cases import (
    DAY,
    WEEK,
    WINDOW,
    call_of,
)
from tests.connectors.soap.golden.dhc_doors import WHO, Door, done
from tests.connectors.soap.soap_hospital import HOSPITAL, PERSON, canned, golden_order

ROOT = Path(__file__).parents[4]


# --- plans and people ----------------------------------------------------------------------------------------------


async def test_departments_are_1012_and_settings_say_who_we_are(door: Door) -> None:
    settings = {"org_code": "ORG9", "client_type": "WX", "his_hospital_id": "7", "user_id": "WX001"}
    async with door.canned(done(), settings=settings) as (peer, his):
        assert await his.fetch_departments() == []
        assert door.sent(peer) == (
            "1012",
            {"TradeCode": "1012", "ExtOrgCode": "ORG9", "ClientType": "WX", "HospitalId": "7", "ExtUserID": "WX001"},
        )


async def test_practitioners_are_1013_of_each_department(door: Door) -> None:
    departments = "".join(
        f"<Department><DepartmentCode>{code}</DepartmentCode><DepartmentName>科</DepartmentName></Department>"
        for code in ("100", "200")
    )
    async with door.canned(done(f"<Departments>{departments}</Departments>"), done()) as (peer, his):
        assert await his.fetch_practitioners() == []
        asked = sorted(door.sent(peer, n)[1]["DepartmentCode"] for n in (1, 2))
        assert asked == ["100", "200"]
        assert [door.sent(peer, n)[0] for n in (0, 1, 2)] == ["1012", "1013", "1013"]


async def test_schedules_are_1004_from_day_to_day(door: Door) -> None:
    async with door.canned(done()) as (peer, his):
        await his.fetch_schedules(WEEK)
        assert door.sent(peer) == (
            "1004",
            {"TradeCode": "1004"}
            | WHO
            | {
                "StartDate": "2026-01-05",
                "EndDate": "2026-01-11",
                "DepartmentCode": "100",
                "ServiceCode": "",
                "DoctorCode": "",
                "RBASSessionCode": "",
                "StopScheduleFlag": "",
                "PatientID": "",
            },
        )


@pytest.mark.parametrize(("session", "letter"), [("am", "S"), ("pm", "X"), ("night", "Y"), ("all_day", "Q")])
async def test_time_ranges_are_asked_of_a_schedule_that_has_some(door: Door, session: str, letter: str) -> None:
    schedule = Schedule(
        id="100||7",
        date=DAY,
        session=Session(session),
        department_id="100",
        practitioner_id="D1",
        his_refs={"time_ranges": "Y"},
    )
    async with door.canned(done()) as (peer, his):
        await his.fetch_slots(WINDOW, [schedule])
        assert door.sent(peer) == (
            "10041",
            {"TradeCode": "10041"}
            | WHO
            | {
                "DepartmentCode": "100",
                "DoctorCode": "D1",
                "RBASSessionCode": letter,
                "ScheduleItemCode": "100||7",
                "ServiceDate": "2026-01-05",
            },
        )


async def test_stops_are_1107_of_all_departments(door: Door) -> None:
    async with door.canned(done()) as (peer, his):
        await his.fetch_stops(msgspec.structs.replace(WEEK, department_id=None))
        days = {"StartDate": "2026-01-05", "EndDate": "2026-01-11", "DepartmentCode": ""}
        assert door.sent(peer) == ("1107", {"TradeCode": "1107"} | WHO | days)


async def test_patient_is_looked_for_by_3300_and_created_by_3014_with_one_for_men_and_two_for_women(
    door: Door,
) -> None:
    async with door.canned(done(), done("<PatientID>0009</PatientID>")) as (peer, his):
        await his.find_patient(PERSON)
        assert door.sent(peer) == (
            "3300",
            {"TradeCode": "3300"}
            | WHO
            | {
                "PatientCard": "",
                "CardType": "",
                "PatientID": "",
                "IDCardType": "01",
                "IDNo": "11010119900307123X",
                "PatientName": "张伟",
                "Phone": "",
            },
        )
        woman = msgspec.structs.replace(PERSON, sex=Sex.FEMALE, birth_date=dt.date(1990, 3, 7))
        assert isinstance(await his.create_patient(woman), Accepted)
        assert door.sent(peer) == (
            "3014",
            {
                "TradeCode": "3014",
                "ExtOrgCode": "",
                "ClientType": "",
                "HospitalId": "2",
                "UserID": "HISBRIDGE",
                "PatientType": "01",
                "CardTypeCode": "01",
                "PatientCard": "11010119900307123X",
                "IDType": "01",
                "IDNo": "11010119900307123X",
                "PatientName": "张伟",
                "Sex": "2",
                "DOB": "1990-03-07",
                "Mobile": "13800000000",
                "Address": "",
            },
        )


# --- the envelope --------------------------------------------------------------------------------------------------


async def test_awkward_text_is_sent_whole(door: Door) -> None:
    async with door.canned(done("<PatientID>0009</PatientID>")) as (peer, his):
        name = "张]]>&伟<\"'"
        await his.create_patient(msgspec.structs.replace(PERSON, name=name))
        assert door.sent(peer)[1]["PatientName"] == name


async def test_department_is_that_of_the_hospital_when_the_door_answers(door: Door) -> None:
    one = "<Departments><DepartmentCode>100</DepartmentCode><DepartmentName>内科</DepartmentName></Departments>"
    async with door.canned(done(one, code="0000")) as (_, his):
        assert await his.fetch_departments() == [Department(id="100", name="内科")]


@pytest.mark.parametrize(
    ("page", "operation", "arguments", "soap_action", "codes"),
    [
        (
            "dhc_gateway",
            "{http://tempuri.org}Invoke",
            ["{http://tempuri.org}method", "{http://tempuri.org}param"],
            "urn:gateway#Invoke",
            [("LOCK_NUMBER", "10015"), ("1004", "1004")],
        ),
        (
            "dhc_esb",
            "{http://www.dhcc.com.cn}HIPMessageServer",
            ["{http://www.dhcc.com.cn}input1", "{http://www.dhcc.com.cn}input2"],
            "http://www.dhcc.com.cn/DHC.Published.PUB0042.BS.PUB0042.HIPMessageServer",
            [("10015", "10015"), ("MES0042", "1004")],
        ),
    ],
)
async def test_site_of_the_page_calls_as_the_page_says(
    tmp_path: Path, page: str, operation: str, arguments: list[str], soap_action: str, codes: list[tuple[str, str]]
) -> None:
    text = (ROOT / "docs" / "dialects" / f"{page}.md").read_text("utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "our_his").mkdir()
    (tmp_path / "our_his" / "profile.yaml").write_text(block, "utf-8")
    async with canned(done()) as (peer, _):
        given = Options(protocol="soap", profile="our_his@1", endpoint=peer.url)
        his = create(HOSPITAL, "his", given, profiles_dir=tmp_path)
        await his.start()
        try:
            await his.lock_slot(golden_order())
            await his.fetch_schedules(WEEK)
        finally:
            await his.close()
        calls = [call_of(peer, n) for n in (0, 1)]
    assert {headers["SOAPAction"] for headers, _ in calls} == {f'"{soap_action}"'}
    assert {str(call.tag) for _, call in calls} == {operation}
    assert [child.tag for child in calls[0][1]] == arguments
    told = [(call[0].text, etree.fromstring(call[1].text or "").findtext("TradeCode")) for _, call in calls]
    assert told == codes
