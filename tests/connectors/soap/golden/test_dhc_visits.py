"""DHC self-service: people and visits, sent and read, against values worked out by hand."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec
import pytest

from connectors.port import Accepted, HisRefused, HisReplyInvalid, Order, Outcome, Rejected
from connectors.soap import SoapConnector, create
from mappings.canonical import (
    Patient,
    Registration,
    RegistrationStatus,
    Sex,
)
from tests.connectors.soap.golden.cases import texts
from tests.connectors.soap.golden.dhc_doors import called, done
from tests.connectors.soap.soap_hospital import (
    HOSPITAL,
    PERSON,
    canned,
    golden_order,
    options,
    payment,
)


async def test_lock_sends_our_number_and_keeps_the_hospitals() -> None:
    reply = (
        "<Response><TradeCode>10015</TradeCode><TransactionId>DHC0001</TransactionId><ResultCode>0</ResultCode>"
        "<ResultContent>加号成功</ResultContent><LockQueueNo>5</LockQueueNo><RegFee>7</RegFee>"
        "<AdmDate>2026-01-05</AdmDate></Response>"
    )
    async with canned(reply) as (peer, his):
        outcome = await his.lock_slot(golden_order())
        operation, document = called(peer)
        assert operation == "LockOrder"
        assert texts(document) == {
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
        operation, document = called(peer)
        assert operation == "OPRegister"
        sent = texts(document)
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
        assert list(texts(details).items()) == [
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
    async with canned(done()) as (peer, his):
        assert await his.cancel_registration(order) == Accepted()
        sent, document = called(peer)
        assert (sent, document.findtext("TradeCode")) == (operation, trade)
        assert document.findtext("ExtOrderNo") == order.order_no


async def test_unlock_names_the_lock() -> None:
    async with canned(done()) as (peer, his):
        order = golden_order(his_refs={"transaction_id": "DHC0001", "lock_queue_no": "5"})
        assert await his.unlock_slot(order) == Accepted()
        operation, document = called(peer)
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
        assert called(peer)[1].findtext("ExtOrderNo") == "20260105000000000001"


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


async def test_patient_is_created_with_the_name_that_wascalled() -> None:
    async with canned("<Response><ResultCode>0</ResultCode><PatientID>0009</PatientID></Response>") as (peer, his):
        outcome = await his.create_patient(PERSON)
        assert outcome == Accepted(record=Patient(name="张伟", mrn="0009"))
        sent = texts(called(peer)[1])
        assert (sent["IDType"], sent["IDNo"], sent["Sex"]) == ("01", "11010119900307123X", "1")


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
