"""What a Zysoft hospital is sent, against documents worked out by hand from DOMAIN facts."""

from __future__ import annotations

import datetime as dt

import msgspec
from lxml import etree

from connectors.port import Accepted, Rejected
from mappings.canonical import (
    Bill,
    Patient,
    Registration,
    RegistrationStatus,
    Settlement,
    Sex,
)
from tests.connectors.soap.golden.cases import WEEK
from tests.connectors.soap.golden.zysoft_peer import PROLOG, SCHEDULE, booked, done, failed, zysoft
from tests.connectors.soap.soap_hospital import (
    PERSON,
    ZONE,
    CannedPeer,
    golden_bill_payment,
    payment,
)

HEAD = {"BankID": "02", "HospitalID": "1", "ClientType": "25", "TerminalID": "", "ExtUserID": "HISBRIDGE"}


def document(peer: CannedPeer, n: int = -1) -> etree._Element:
    """The document of a request, after a look at its envelope."""
    headers, body = peer.requests[n]
    assert headers["SOAPAction"] == '"http://www.zysoft.com.cn/BankService"'
    assert headers["Content-Type"] == "text/xml; charset=gb2312"
    text = body.decode("gbk")
    assert text.startswith(PROLOG)
    call = etree.fromstring(text.removeprefix(PROLOG))[0][0]
    assert call.tag == "{http://www.zysoft.com.cn/}BankService"
    assert [child.tag for child in call] == ["{http://www.zysoft.com.cn/}strXML"]
    inner = call[0].text or ""
    assert inner.startswith(f"{PROLOG}<Request><TradeCode>")
    return etree.fromstring(inner.removeprefix(PROLOG))


def sent(peer: CannedPeer, n: int = -1) -> dict[str, str]:
    """Its elements; what was written at this very moment is only looked at."""
    root = document(peer, n)
    told = {str(child.tag): child.text or "" for child in root}
    assert list(told)[1:6] == list(HEAD)
    return told


def is_now(text: str) -> bool:
    at = dt.datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=ZONE)
    return abs(dt.datetime.now(ZONE) - at) < dt.timedelta(minutes=5)


async def test_network_test_is_2108_and_settings_say_who_we_are() -> None:
    settings = {"bank_id": "07", "his_hospital_id": "3", "client_type": "9", "terminal_id": "T1", "user_id": "WX001"}
    async with zysoft(done(), settings=settings) as (peer, his):
        await his.ping()
        assert sent(peer) == {
            "TradeCode": "2108",
            "BankID": "07",
            "HospitalID": "3",
            "ClientType": "9",
            "TerminalID": "T1",
            "ExtUserID": "WX001",
        }


async def test_name_outside_gb_2312_is_sent_in_the_bytes_of_gbk() -> None:
    async with zysoft(done("<PatientID>0009</PatientID>")) as (peer, his):
        await his.create_patient(msgspec.structs.replace(PERSON, name="朱镕喆"))
        assert document(peer).findtext("PatientName") == "朱镕喆"
        assert b"\xd6\xec\xe9F\x86\xb4" in peer.requests[0][1]  # 朱 D6 EC, 镕 E9 46, 喆 86 B4


async def test_name_outside_gbk_is_refused_and_never_sent_as_something_else() -> None:
    async with zysoft(done()) as (peer, his):
        refused = await his.create_patient(msgspec.structs.replace(PERSON, name="张𬱖"))
        assert isinstance(refused, Rejected)
        assert refused.code == "charset"
        assert "𬱖" not in refused.text
        assert not peer.requests


async def test_patient_is_created_by_2131_with_the_dialects_own_codes_of_sex() -> None:
    async with zysoft(done("<PatientID>0009</PatientID>")) as (peer, his):
        woman = msgspec.structs.replace(PERSON, sex=Sex.FEMALE, birth_date=dt.date(1990, 3, 7))
        assert await his.create_patient(woman) == Accepted(record=Patient(name="张伟", mrn="0009"))
        asked = sent(peer)
        assert is_now(asked.pop("BankDate"))
        assert asked == {"TradeCode": "2131"} | HEAD | {
            "PayCardNo": "11010119900307123X",
            "PatientName": "张伟",
            "Sex": "1",
            "Birthday": "1990-03-07",
            "Age": "0",
            "MobileNo": "13800000000",
            "Address": "",
            "IDCardNo": "11010119900307123X",
            "Money": "0",
            "PayType": "1",
        }


async def test_schedules_are_2305_of_a_department() -> None:
    async with zysoft(done("<CycleNum>0</CycleNum>")) as (peer, his):
        assert await his.fetch_schedules(WEEK) == []
        assert sent(peer) == {"TradeCode": "2305"} | HEAD | {
            "StartDate": "2026-01-05",
            "EndDate": "2026-01-11",
            "SessionCode": "",
            "DepartmentCode": "100",
            "Doctor": "",
            "DoctorCode": "",
            "ServiceDate": "",
        }


async def test_times_are_2304_of_a_schedule_by_all_that_names_it() -> None:
    async with zysoft(done("<CycleNum>0</CycleNum>")) as (peer, his):
        assert await his.fetch_slots(WEEK, [SCHEDULE]) == []
        name = {"SessionCode": "S", "DepartmentCode": "100", "Doctor": "李明/D1", "DoctorCode": "D1"}
        assert sent(peer, 0) == {"TradeCode": "2304"} | HEAD | {"ServiceDate": "2026-01-05"} | name
        assert sent(peer, 1) == {"TradeCode": "2305"} | HEAD | name | {
            "StartDate": "2026-01-05",
            "EndDate": "2026-01-05",
            "ServiceDate": "",
        }


async def test_seat_is_booked_by_2306_with_our_number_as_the_banks() -> None:
    async with zysoft(done()) as (peer, his):
        await his.book(booked())
        asked = sent(peer)
        assert is_now(asked.pop("BankDate"))
        assert asked == {"TradeCode": "2306"} | HEAD | {
            "BankTradeNo": "20260105000000000001",
            "ServiceDate": "2026-01-05",
            "SessionCode": "S",
            "DepartmentCode": "100",
            "Doctor": "李明/D1",
            "DoctorCode": "D1",
            "StartTime": "08:00",
            "EndTime": "08:30",
            "ReserveCode": "4",
            "PhoneNo": "",
            "PayCardNo": "",
            "PatientID": "0000012345",
            "PreFlag": "1",
        }


async def test_booking_is_collected_by_2058_and_paid_by_2094() -> None:
    visit = done("<VisitNo>V5</VisitNo>")
    paid = done("<ReceiptNo>R6</ReceiptNo><SettleNo>S6</SettleNo><Charges>50.50</Charges><QueueNo>12</QueueNo>")
    async with zysoft(visit, paid) as (peer, his):
        outcome = await his.register(booked(his_refs={"his_trade_no": "H1"}, payment=payment(5050)))
        collected, settled = sent(peer, 0), sent(peer, 1)
        assert is_now(collected.pop("BankDate"))
        assert collected == {"TradeCode": "2058"} | HEAD | {
            "BankTradeNo": "20260105000000000001",
            "OrgHISTradeNo": "H1",
            "PatientID": "0000012345",
        }
        assert settled == {"TradeCode": "2094"} | HEAD | {
            "BankTradeNo": "4200001",
            "BankDate": "20260104093015",
            "IoFlag": "0",
            "VisitNo": "V5",
            "OrgHISTradeNo": "H1",
            "PatientID": "0000012345",
            "PayType": "1",
            "Money": "50.50",
            "Charges": "50.50",
            "SequenceNos": "",
        }
        refs = {"visit_no": "V5", "receipt_no": "R6", "settle_no": "S6"}
        assert outcome == Accepted(
            his_refs=refs,
            record=Registration(
                status=RegistrationStatus.REGISTERED,
                queue_no="12",
                fee_fen=5050,
                his_refs={"receipt_no": "R6", "settle_no": "S6"},
            ),
        )


async def test_payment_goes_on_when_the_booking_was_collected_before() -> None:
    async with zysoft(failed("该预约已取号"), done("<ReceiptNo>R6</ReceiptNo>")) as (peer, his):
        order = booked(his_refs={"his_trade_no": "H1"}, payment=payment(5050))
        assert isinstance(await his.register(order), Accepted)
        assert (sent(peer)["TradeCode"], sent(peer)["OrgHISTradeNo"]) == ("2094", "H1")


async def test_nothing_is_paid_when_the_booking_cannot_be_collected() -> None:
    async with zysoft(failed("该预约已取消")) as (peer, his):
        refused = await his.register(booked(his_refs={"his_trade_no": "H1"}, payment=payment(5050)))
        assert refused == Rejected(code="already_done", text="该预约已取消")
        assert len(peer.requests) == 1


async def test_booking_is_cancelled_by_2309_and_found_by_2310() -> None:
    async with zysoft(done()) as (peer, his):
        order = booked(his_refs={"his_trade_no": "H1", "order_code": "12"})
        assert await his.cancel_registration(order) == Accepted()
        cancelled = sent(peer)
        assert is_now(cancelled.pop("BankDate"))
        assert cancelled == {"TradeCode": "2309"} | HEAD | {
            "BankTradeNo": "20260105000000000001",
            "OrgOrderCode": "12",
            "OrgHISTradeNo": "H1",
            "PatientID": "0000012345",
        }
        assert await his.fetch_registration(order) is None
        assert sent(peer) == {"TradeCode": "2310"} | HEAD | {
            "OrgBankTradeNo": "20260105000000000001",
            "OrgHISTradeNo": "H1",
            "PatientID": "0000012345",
        }


async def test_bill_is_numbered_by_2095_and_settled_by_2094() -> None:
    numbered = done("<SequenceNos><SequenceNo>Q7</SequenceNo></SequenceNos><PreCost>120.50</PreCost>")
    settled = done(
        "<ReceiptNo>SJ1</ReceiptNo><SettleNo>S9</SettleNo><BankTradeNo>4200001</BankTradeNo><Charges>120.5</Charges>"
    )
    bill = Bill(id="R100", amount_fen=12050, currency="CNY", his_refs={"residence_no": "V77"})
    async with zysoft(numbered, settled) as (peer, his):
        outcome = await his.settle_bill(msgspec.structs.replace(golden_bill_payment(), bill=bill, his_refs={}))
        asked = document(peer, 0)
        assert [asked.findtext(name) for name in ("TradeCode", "IoFlag", "ResidenceNo")] == ["2095", "0", "V77"]
        assert [asked.findtext(f"ApplyItems/ApplyItem/{name}") for name in ("ApplyNo", "ItemCost")] == [
            "R100",
            "120.50",
        ]
        told = document(peer, 1)
        assert {str(child.tag): child.text for child in told if child.tag in ("TradeCode", "Money", "BankTradeNo")} == {
            "TradeCode": "2094",
            "Money": "120.50",
            "BankTradeNo": "4200001",
        }
        assert (told.findtext("VisitNo"), told.findtext("SequenceNos/SequenceNo")) == ("V77", "Q7")
        refs = {"receipt_no": "SJ1", "settle_no": "S9"}
        assert outcome == Accepted(
            his_refs={"sequence_no": "Q7"} | refs,
            record=Settlement(receipt_no="SJ1", trade_no="4200001", amount_fen=12050, his_refs=refs),
        )


async def test_settlement_is_not_sent_when_the_numbers_do_not_come() -> None:
    async with zysoft("<html><body>Server Error</body></html>") as (peer, his):
        outcome = await his.settle_bill(golden_bill_payment())
        assert isinstance(outcome, Rejected)
        assert (outcome.code, outcome.retryable) == ("not_sent", True)
        assert len(peer.requests) == 1
