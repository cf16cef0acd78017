"""What a Neusoft-style hospital is asked, argument by argument: written by hand from the dialect's codes, units and dates."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from lxml import etree

from connectors.port import Accepted, Rejected
from connectors.soap import SoapConnector
from loadtest.simulators.soap_dialects import neusoft_operations
from mappings.canonical import Patient, Schedule, Session, Sex
from tests.connectors.soap.golden.cases import DAY, KNOWN, WEEK, call_of, refund_of, texts
from tests.connectors.soap.soap_hospital import (
    PERSON,
    CannedPeer,
    canned,
    golden_bill_payment,
    golden_order,
    payment,
)

DONE = "<result><returnCode>1</returnCode><returnDesc>成功</returnDesc></result><Data/>"
HEAD = {"hospCode": "1", "userCode": "HISBRIDGE"}
NAMESPACE = "http://service.his.neusoft.com/"


@contextlib.asynccontextmanager
async def told(
    *replies: str, wsdl: Path | None = None, **given: Any
) -> AsyncIterator[tuple[CannedPeer, SoapConnector]]:
    """A hospital that says only this, and a connector; with `wsdl` its arguments are typed."""
    typed = {} if wsdl is None else {"wsdl": str(wsdl)}
    async with canned(*replies, profile="neusoft@1", **typed, **given) as (peer, his):
        if wsdl is not None:
            await his._endpoint.ready(30.0)
        yield peer, his


@pytest.fixture(params=["typed", "bare"])
def wsdl(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """The hospital's WSDL, or none: what is sent is the same."""
    if request.param == "bare":
        return None
    file = tmp_path / "HisService.wsdl"
    file.write_text(neusoft_operations.wsdl("http://127.0.0.1:9/"), "utf-8")
    return file


def sent(peer: CannedPeer, n: int = -1) -> tuple[str, dict[str, str]]:
    """The operation, and its arguments: in no namespace, each once. Who we are comes first."""
    headers, call = call_of(peer, n)
    assert headers["SOAPAction"] == '""'
    name = etree.QName(call)
    assert name.namespace == NAMESPACE
    arguments = texts(call)
    assert list(arguments)[:2] == ["hospCode", "userCode"]
    return name.localname, arguments


async def test_network_test_says_who_we_are(wsdl: Path | None) -> None:
    async with told(DONE, wsdl=wsdl, settings={"hosp_code": "3", "user_code": "WX001"}) as (peer, his):
        await his.ping()
        assert sent(peer) == ("testConnection", {"hospCode": "3", "userCode": "WX001"})


async def test_schedules_are_asked_from_day_to_day_and_stops_of_all_departments(wsdl: Path | None) -> None:
    async with told(DONE, wsdl=wsdl) as (peer, his):
        await his.fetch_schedules(WEEK)
        days = {"beginDate": "2026-01-05", "endDate": "2026-01-11"}
        assert sent(peer) == ("getSchemaList", HEAD | days | {"deptCode": "100"})
        await his.fetch_stops(msgspec.structs.replace(WEEK, department_id=None))
        assert sent(peer) == ("getStopSchemaList", HEAD | days)


async def test_segments_are_asked_of_a_schedule_that_has_some(wsdl: Path | None) -> None:
    async with told(DONE, wsdl=wsdl) as (peer, his):
        schedule = Schedule(
            id="7001",
            date=DAY,
            session=Session.ALL_DAY,
            department_id="100",
            practitioner_id="D1",
            his_refs={"time_flag": "1"},
        )
        await his.fetch_slots(WEEK, [schedule])
        assert sent(peer) == (
            "getSchemaTimeList",
            HEAD | {"schemaId": "7001", "seeDate": "2026-01-05", "noonCode": "4"},
        )
        await his.fetch_slots(WEEK, [msgspec.structs.replace(schedule, his_refs={})])
        assert sent(peer) == (
            "getSchemaList",
            HEAD | {"beginDate": "2026-01-05", "endDate": "2026-01-05", "deptCode": "100", "doctCode": "D1"},
        )


async def test_patient_is_looked_for_and_created_with_letters_for_the_sex(wsdl: Path | None) -> None:
    created = DONE.replace("<Data/>", "<Data><CARD_NO>0009</CARD_NO></Data>")
    async with told(DONE, created, wsdl=wsdl) as (peer, his):
        await his.find_patient(PERSON)
        known = {"idCardType": "01", "idenNo": "11010119900307123X"}
        assert sent(peer) == ("getPatientInfo", HEAD | known | {"name": "张伟"})
        woman = msgspec.structs.replace(PERSON, sex=Sex.FEMALE, birth_date=dt.date(1990, 3, 7))
        assert await his.create_patient(woman) == Accepted(record=Patient(name="张伟", mrn="0009"))
        assert sent(peer) == (
            "createPatient",
            HEAD | {"name": "张伟", "sexCode": "F", "birthday": "1990-03-07"} | known | {"homeTel": "13800000000"},
        )


@pytest.mark.parametrize(("verb", "operation"), [("lock_slot", "lockSource"), ("book", "bookRegister")])
async def test_seat_is_taken_with_our_number(wsdl: Path | None, verb: str, operation: str) -> None:
    async with told(DONE, wsdl=wsdl) as (peer, his):
        slot = msgspec.structs.replace(golden_order().slot, his_refs={"time_id": "7001-1"})
        await getattr(his, verb)(golden_order(slot=slot))
        cost = {} if verb == "lock_slot" else {"totCost": "7.00"}
        assert sent(peer) == (
            operation,
            HEAD
            | {
                "orderNo": "20260105000000000001",
                "cardNo": "0000012345",
                "schemaId": "100||7",
                "timeId": "7001-1",
                "seeDate": "2026-01-05",
                "noonCode": "1",
                "beginTime": "08:00",
                "endTime": "08:30",
            }
            | cost,
        )


async def test_registration_is_paid_in_yuan_at_an_instant_with_its_offset(wsdl: Path | None) -> None:
    async with told(DONE, wsdl=wsdl) as (peer, his):
        await his.register(golden_order(his_refs={"lock_id": "T1"}, payment=payment(705)))
        assert sent(peer) == (
            "payRegister",
            HEAD
            | {
                "orderNo": "20260105000000000001",
                "cardNo": "0000012345",
                "lockId": "T1",
                "payMode": "WX",
                "totCost": "7.05",
                "tradeNo": "4200001",
                "payTime": "2026-01-04T09:30:15+08:00",
            },
        )


async def test_what_was_taken_is_given_back_by_the_operation_of_what_was_done(wsdl: Path | None) -> None:
    async with told(DONE, wsdl=wsdl) as (peer, his):
        whose = HEAD | {"orderNo": "20260105000000000001"}
        assert await his.unlock_slot(golden_order(his_refs={"lock_id": "T1"})) == Accepted()
        assert sent(peer) == ("unlockSource", whose | {"lockId": "T1"})
        await his.cancel_registration(golden_order(his_refs={"book_id": "Y1"}))
        assert sent(peer) == ("cancelBook", whose | {"bookId": "Y1"})
        await his.cancel_registration(golden_order(his_refs={"clinic_code": "C1"}))
        assert sent(peer) == ("returnRegister", whose | {"clinicCode": "C1"})
        await his.cancel_registration(golden_order(payment=payment(700), reason="停诊"))
        assert sent(peer) == ("returnRegister", whose | {"tradeNo": "4200001", "reason": "停诊"})
        paid = golden_order(payment=payment(700), his_refs={"clinic_code": "C1"})
        await his.refund(refund_of(paid, amount_fen=650))
        assert sent(peer) == (
            "returnRegister",
            whose
            | {
                "clinicCode": "C1",
                "refundNo": "8" * 20,
                "tradeNo": "4200001",
                "refundCost": "6.50",
                "reason": "停诊",
            },
        )


async def test_registration_is_checked_in_and_found_by_our_number(wsdl: Path | None) -> None:
    async with told(DONE, wsdl=wsdl) as (peer, his):
        order = golden_order(his_refs={"clinic_code": "C1"})
        whose = HEAD | {"orderNo": "20260105000000000001", "cardNo": "0000012345", "clinicCode": "C1"}
        await his.check_in(order)
        assert sent(peer) == ("checkIn", whose)
        assert await his.fetch_registration(order) is None
        assert sent(peer) == ("getRegisterInfo", whose)


async def test_recipes_are_read_paid_and_looked_up(wsdl: Path | None) -> None:
    recipes = DONE.replace("<Data/>", "<Data><Row><RECIPE_NO>B1</RECIPE_NO><TOTCOST>1.00</TOTCOST></Row></Data>")
    whose = HEAD | {"cardNo": "0000012345"}
    async with told(recipes, DONE, wsdl=wsdl) as (peer, his):
        await his.fetch_bills(KNOWN)
        assert sent(peer, 0) == ("getRecipeList", whose)
        assert sent(peer, 1) == ("getRecipeDetail", whose | {"recipeNo": "B1"})
        paying = msgspec.structs.replace(golden_bill_payment(), his_refs={"pre_pay_no": "P9"})
        await his.presettle_bill(paying)
        assert sent(peer) == (
            "prePayRecipe",
            whose | {"recipeNo": "R100", "totCost": "120.50", "payMode": "WX"},
        )
        await his.settle_bill(paying)
        ours = HEAD | {"orderNo": "20260105000000000009", "cardNo": "0000012345", "recipeNo": "R100"}
        assert sent(peer) == (
            "payRecipe",
            ours
            | {
                "prePayNo": "P9",
                "payMode": "WX",
                "totCost": "120.50",
                "tradeNo": "4200001",
                "payTime": "2026-01-04T09:30:15+08:00",
            },
        )
        assert await his.fetch_settlement(paying) is None
        assert sent(peer) == ("getPayInfo", ours | {"tradeNo": "4200001"})
        assert await his.fetch_statement(DAY) == []
        assert sent(peer) == ("getCheckBill", HEAD | {"billDate": "2026-01-05", "payMode": "WX"})


async def test_reports_are_asked_for_over_a_year_in_the_laboratory_and_in_radiology(wsdl: Path | None) -> None:
    async with told(DONE, wsdl=wsdl) as (peer, his):
        assert await his.fetch_reports(KNOWN) == []
        asked = [sent(peer, n) for n in (0, 1)]
        assert [operation for operation, _ in asked] == ["getLisReportList", "getPacsReportList"]
        for _, arguments in asked:
            first, last = (dt.date.fromisoformat(arguments[name]) for name in ("beginDate", "endDate"))
            assert (arguments["cardNo"], last - first) == ("0000012345", dt.timedelta(days=365))
        assert await his.fetch_report(KNOWN, "L7") is None
        whose = HEAD | {"cardNo": "0000012345", "reportNo": "L7"}
        assert [sent(peer, n) for n in (2, 3)] == [("getLisReportDetail", whose), ("getPacsReportDetail", whose)]


async def test_nothing_is_sent_when_the_wsdl_requires_what_nobody_has(wsdl: Path | None) -> None:
    nobody = golden_order(patient=Patient(name="张伟"))
    async with told(DONE, wsdl=wsdl) as (peer, his):
        outcome = await his.lock_slot(nobody)
        if wsdl is None:
            assert len(peer.requests) == 1  # without one nothing says that it is required: the hospital will
            return
        assert isinstance(outcome, Rejected)
        assert outcome.code == "invalid_request"
        assert "cardNo" in outcome.text
        assert peer.requests == []
