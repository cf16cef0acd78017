"""Bills, presettlements and refunds as a portal sees them: over HTTP, on both engines."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from booking.api.views import books
from booking.billing import load_bill, put_bill, settle_payment
from booking.people import hear_patient, link_person, merge_persons, own_patient
from booking.reporting import put_report
from booking.settings import Hospital, Mode
from booking.store.engine import Store
from booking.store.tables import events, outbox
from mappings.canonical import Bill, BillStatus, Report, ReportKind, ReportStatus, Settlement
from tests.booking.api.fhir.site import FhirSite, Told, serve_fhir
from tests.booking.world import CLIENT, HOSPITAL, LI, make_hospital, put_patient
from tests.stores import Wall

pytestmark = pytest.mark.usefixtures("engine")
BILL = Bill(id="B1", amount_fen=8800, currency="CNY", mrn="M1")
OF = f"/v1/hospitals/{HOSPITAL}"


class Portal:
    """One bill of one patient, and who asks about it."""

    def __init__(self, site: FhirSite, patient_id: str, bill_id: str) -> None:
        self.site, self.patient_id, self.bill_id = site, patient_id, bill_id
        self.bill = f"{OF}/patients/{patient_id}/bills/{bill_id}"

    async def post(self, path: str, body: Any = None, *, key: str | None = None, by: str = CLIENT) -> Told:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        headers |= {} if key is None else {"Idempotency-Key": f'"{key}"'}
        return await self.site.ask(path, "POST", body, by=by, headers=headers)

    async def put(self, path: str, body: Any) -> Told:
        return await self.site.ask(path, "PUT", body, by=CLIENT, headers={"Content-Type": "application/json"})

    async def pay(self, amount_fen: int, trade_no: str = "T1") -> dict[str, Any]:
        body = {
            "channel": "wechat",
            "trade_no": trade_no,
            "amount_fen": amount_fen,
            "paid_at": "2031-03-03T06:00:00+08:00",
        }
        told = await self.post(f"{self.bill}/payments", body)
        assert told.status == 202, told.body
        return dict(told.json)

    async def settled(self, settlement: Settlement | None = None) -> None:
        async with self.site.store.write(HOSPITAL) as tx:
            await tx.run(outbox.update().values(status="done"))
            bill = await load_bill(tx, self.bill_id)
            assert bill is not None
            await settle_payment(tx, bill, accepted=True, settlement=settlement, client_id=CLIENT, code=None)


async def open_portal(store: Store, site: FhirSite) -> Portal:
    patient_id = await put_patient(store)
    async with store.write(HOSPITAL) as tx:
        _, person = await own_patient(tx, CLIENT, patient_id)
        await link_person(tx, person, msgspec.structs.replace(person.record, mrn="M1"))
        bill = await put_bill(tx, BILL, currency="CNY")
    return Portal(site, patient_id, bill.id)


@pytest.fixture
def hospital() -> Hospital:
    return make_hospital(portal_refunds=True, presettlement_valid_s=600)


@pytest.fixture
async def portal(store: Store, hospital: Hospital) -> AsyncIterator[Portal]:
    async with serve_fhir(store, hospital) as site:
        yield await open_portal(store, site)


async def test_patients_share_is_shown_before_it_is_paid_and_the_invoice_afterwards(portal: Portal) -> None:
    portal.site.ward.presettled = Settlement(amount_fen=1000, fund_fen=5000, account_fen=2800, his_refs={"no": "P9"})
    told = await portal.post(f"{portal.bill}/presettlement")
    shares = {"total_fen": 8800, "self_pay_fen": 1000, "fund_fen": 5000, "account_fen": 2800}
    split = {**shares, "valid_until": "2031-03-03T06:10:00+08:00"}
    assert (told.status, told.json) == (200, split)
    assert (await portal.site.ask(portal.bill)).json["split"] == split
    paid = await portal.pay(1000)
    assert [(p["unusable"], p["settlement"]) for p in paid["payments"]] == [(None, "pending")]
    [waiting] = (await portal.site.ask(f"{OF}/unsettled-payments")).json["items"]
    assert (waiting["bill_id"], waiting["trade_no"], waiting["settlement"]) == (portal.bill_id, "T1", "pending")
    assert (waiting["reported_at"], waiting["age_s"]) == ("2031-03-03T06:00:00+08:00", 0)
    assert (await portal.site.ask(f"{OF}/unsettled-payments", by="another")).json["items"] == []
    await portal.settled(Settlement(receipt_no="R1", invoice_no="E1"))
    seen = (await portal.site.ask(portal.bill)).json
    assert (seen["status"], seen["settlement"], seen["receipt_no"], seen["invoice_no"]) == (
        "paid",
        "settled",
        "R1",
        "E1",
    )
    assert seen["split"] is None
    assert (await portal.site.ask(f"{OF}/unsettled-payments")).json["items"] == []
    assert (await portal.post(f"{portal.bill}/presettlement")).json["code"] == "already_paid"


@pytest.mark.parametrize("share_fen", [8800, 1000])
async def test_money_goes_back_once_when_a_list_tells_that_its_bill_is_cancelled(
    portal: Portal, share_fen: int
) -> None:
    """Of a bill that the insurance has paid for the most part: the patient's share, which is all that they have paid."""
    portal.site.ward.presettled = Settlement(amount_fen=share_fen)
    await portal.post(f"{portal.bill}/presettlement")
    await portal.pay(share_fen)
    await portal.settled()
    portal.site.ward.billed = [msgspec.structs.replace(BILL, status=BillStatus.CANCELLED)]
    for _ in range(2):
        [seen] = (await portal.site.ask(portal.bill.rpartition("/")[0])).json["items"]
    assert (seen["status"], [(r["amount_fen"], r["reason"]) for r in seen["refunds"]]) == (
        "cancelled",
        [(share_fen, "bill_cancelled")],
    )


async def test_payment_of_one_portal_is_not_shown_to_another_that_sees_the_bill(portal: Portal, store: Store) -> None:
    async with store.read(HOSPITAL) as tx:
        _, person = await own_patient(tx, CLIENT, portal.patient_id)
    theirs = await put_patient(store, person.record, client="another")
    await portal.pay(8800)
    await portal.pay(8800, trade_no="T2")  # the second of them goes back
    bill = portal.bill.replace(portal.patient_id, theirs)
    seen = (await portal.site.ask(bill, by="another")).json
    assert (seen["settlement"], seen["payments"], seen["refunds"]) == ("pending", [], [])
    [listed] = (await portal.site.ask(bill.rpartition("/")[0], by="another")).json["items"]
    assert (listed["payments"], listed["refunds"]) == ([], [])
    seen = (await portal.site.ask(portal.bill)).json
    assert ([p["trade_no"] for p in seen["payments"]], len(seen["refunds"])) == (["T1", "T2"], 1)


async def test_every_portal_of_the_patient_is_told_that_the_bill_is_paid_and_by_nobody_s_name(
    portal: Portal, store: Store
) -> None:
    """Else the other one goes on asking the patient to pay."""
    async with store.read(HOSPITAL) as tx:
        _, person = await own_patient(tx, CLIENT, portal.patient_id)
    theirs = await put_patient(store, person.record, client="another")
    await portal.pay(8800)
    await portal.settled()
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(events).where(events.c.type == "bill.changed").order_by(events.c.id))
    told = {r["client_id"]: msgspec.json.decode(r["payload"]) for r in rows}
    assert told == {
        CLIENT: {"bill_id": portal.bill_id, "status": "paid", "settled": True},
        "another": {"bill_id": portal.bill_id, "status": "paid", "patient_id": theirs},
    }


async def test_long_bill_of_a_merchant_is_read_beside_the_event_loop(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On it, 13 MB of lines would hold up every hold of the process for some hundred milliseconds."""
    threads: set[int] = set()
    monkeypatch.setattr(books, "check_years", lambda at: threads.add(threading.get_ident()))
    line = {"kind": "payment", "channel": "wechat", "amount_fen": 5, "at": "2031-03-03T06:00:00+08:00"}
    told = {}
    for count in (1, 4000):
        lines = [line | {"trade_no": f"T{n}"} for n in range(count)]
        told = (await portal.put(f"{OF}/merchant-bills/2031-03-03", {"lines": lines})).json
    assert told == {"date": "2031-03-03", "lines": 4000, "amount_fen": 20000, "foreign_lines": 0}
    assert threading.get_ident() in threads  # what is short stays on it
    assert len(threads) == 2


async def test_nothing_is_calculated_when_there_is_nothing_to_pay(portal: Portal) -> None:
    assert (await portal.post(f"{portal.bill}x/presettlement")).json["code"] == "bill_unknown"
    portal.site.ward.presettled = Settlement(amount_fen=9000)
    assert (await portal.post(f"{portal.bill}/presettlement")).json["code"] == "his_reply_invalid"
    await portal.pay(8800)
    assert (await portal.post(f"{portal.bill}/presettlement")).json["code"] == "already_paid"
    async with portal.site.store.write(HOSPITAL) as tx:
        await put_bill(tx, msgspec.structs.replace(BILL, id="B2", status=BillStatus.CANCELLED), currency="CNY")
        other = await put_bill(tx, msgspec.structs.replace(BILL, id="B2", status=BillStatus.CANCELLED), currency="CNY")
    path = portal.bill.replace(portal.bill_id, other.id)
    assert (await portal.post(f"{path}/presettlement")).json["code"] == "not_payable"


ALL_INSURED = Settlement(amount_fen=0, fund_fen=8000, account_fen=800)


async def test_bill_is_settled_without_a_payment_when_the_insurance_pays_all(portal: Portal, store: Store) -> None:
    portal.site.ward.presettled = ALL_INSURED
    assert (await portal.post(f"{portal.bill}/settlement")).json["code"] == "patient_share_due"  # nobody has asked yet
    assert (await portal.post(f"{portal.bill}/presettlement")).json["self_pay_fen"] == 0
    for _ in range(2):  # asked again it is the same one
        told = await portal.post(f"{portal.bill}/settlement")
        assert (told.status, told.json["settlement"], told.json["status"]) == (202, "pending", "open")
    async with store.read(HOSPITAL) as tx:
        assert [r["verb"] for r in await tx.all(select(outbox).where(outbox.c.line == f"bill:{portal.bill_id}"))] == [
            "settle_bill"
        ]
    assert (await portal.post(f"{portal.bill}/presettlement")).json["code"] == "already_paid"
    await portal.settled(Settlement(receipt_no="R1", invoice_no="E1"))
    seen = (await portal.site.ask(portal.bill)).json
    assert (seen["status"], seen["settlement"], seen["invoice_no"]) == ("paid", "settled", "E1")
    assert (seen["payments"], seen["refunds"]) == ([], [])
    assert (await portal.post(f"{portal.bill}/settlement")).json["settlement"] == "settled"


async def test_money_goes_back_when_the_insurance_settles_the_bill(portal: Portal) -> None:
    portal.site.ward.presettled = ALL_INSURED
    await portal.post(f"{portal.bill}/presettlement")
    await portal.post(f"{portal.bill}/settlement")
    paid = await portal.pay(8800)
    assert [p["unusable"] for p in paid["payments"]] == ["second_payment"]
    assert [r["amount_fen"] for r in paid["refunds"]] == [8800]


async def test_insured_bill_can_be_settled_or_paid_anew_when_the_hospital_refuses(portal: Portal, store: Store) -> None:
    portal.site.ward.presettled = ALL_INSURED
    await portal.post(f"{portal.bill}/presettlement")
    await portal.post(f"{portal.bill}/settlement")
    async with store.write(HOSPITAL) as tx:
        await tx.run(outbox.update().values(status="done"))
        bill = await load_bill(tx, portal.bill_id)
        assert bill is not None
        await settle_payment(tx, bill, accepted=False, settlement=None, client_id=CLIENT, code="busy_till")
    refused = (await portal.site.ask(portal.bill)).json
    assert (refused["status"], refused["settlement"], refused["refunds"]) == ("open", "rejected", [])
    assert (await portal.post(f"{portal.bill}/settlement")).json["settlement"] == "pending"


@pytest.mark.parametrize("share_fen", [1, 8800])
async def test_bill_is_not_settled_by_the_insurance_alone_when_the_patient_pays_a_fen(
    portal: Portal, share_fen: int
) -> None:
    portal.site.ward.presettled = Settlement(amount_fen=share_fen)
    await portal.post(f"{portal.bill}/presettlement")
    assert (await portal.post(f"{portal.bill}/settlement")).json["code"] == "patient_share_due"


async def test_bill_is_not_settled_by_the_insurance_alone_when_the_split_has_run_out(
    portal: Portal, wall: Wall
) -> None:
    portal.site.ward.presettled = ALL_INSURED
    await portal.post(f"{portal.bill}/presettlement")
    wall.now_ms += 600_000
    assert (await portal.post(f"{portal.bill}/settlement")).json["code"] == "patient_share_due"


async def test_observed_hospital_is_not_asked(store: Store) -> None:
    async with serve_fhir(store, make_hospital(mode=Mode.OBSERVE)) as site:
        portal = await open_portal(store, site)
        assert (await portal.post(f"{portal.bill}/presettlement")).json["code"] == "hospital_observe_only"
        assert (await portal.post(f"{portal.bill}/settlement")).json["code"] == "hospital_observe_only"


async def test_part_of_a_bill_goes_back_once_for_one_key(portal: Portal) -> None:
    ask = {"amount_fen": 800, "reason": "退一项"}
    path = f"{portal.bill}/refunds"
    assert (await portal.post(path, ask)).json["code"] == "idempotency_key_missing"
    await portal.pay(8800)
    assert (await portal.post(path, ask, key="k1")).json["code"] == "nothing_to_refund"
    await portal.settled()
    first = await portal.post(path, ask, key="k2")
    assert (first.status, first.json["status"], first.json["amount_fen"]) == (201, "refund_due", 800)
    assert (await portal.post(path, ask, key="k2")).json == first.json
    too_much = await portal.post(path, {**ask, "amount_fen": 8001}, key="k3")
    assert (too_much.status, too_much.json["code"], too_much.json["extra"]) == (
        409,
        "refund_too_large",
        {"left_fen": 8000},
    )
    assert (await portal.post(path, ask, key="k4", by="another")).json["code"] == "patient_unknown"
    owed = (await portal.site.ask(f"{OF}/open-refunds")).json["items"]
    assert [(r["id"], r["bill_id"], r["status"], r["his"]) for r in owed] == [
        (first.json["id"], portal.bill_id, "refund_due", "none")
    ]
    assert (await portal.site.ask(f"{OF}/open-refunds", by="another")).json["items"] == []
    result = await portal.post(f"{OF}/refunds/{first.json['id']}/result", {"status": "refunded"})
    assert (result.json["status"], result.json["his"]) == ("refunded", "pending")
    assert [r["amount_fen"] for r in (await portal.site.ask(portal.bill)).json["refunds"]] == [800]


async def test_portal_may_ask_nothing_back_when_the_hospital_keeps_that_to_itself(store: Store) -> None:
    async with serve_fhir(store, make_hospital()) as site:
        portal = await open_portal(store, site)
        await portal.pay(8800)
        await portal.settled()
        told = await portal.post(f"{portal.bill}/refunds", {"amount_fen": 1, "reason": "r"}, key="k1")
        assert told.json["code"] == "not_offered_by_hospital"


@pytest.fixture
def merging(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """While the hospital is asked, its A40 comes: the patient's record is merged into another one. What was asked is noted."""
    asked: list[str] = []

    def meanwhile(verb: str) -> None:
        answer = getattr(portal.site.ward, verb)

        async def ask(*arguments: Any, **how: Any) -> Any:
            asked.append(verb)
            async with portal.site.store.write(HOSPITAL) as tx:
                await merge_persons(tx, surviving_mrn="M2", retired_mrn="M1")
            return await answer(*arguments, **how)

        monkeypatch.setattr(portal.site.ward, verb, ask)

    for verb in ("presettlement", "bills", "reports"):
        meanwhile(verb)
    return asked


async def test_patient_finds_what_is_theirs_when_the_record_is_merged_while_the_hospital_is_asked(
    portal: Portal, store: Store, merging: list[str]
) -> None:
    async with store.write(HOSPITAL) as tx:
        await hear_patient(tx, msgspec.structs.replace(LI, mrn="M2"))
    portal.site.ward.presettled = Settlement(amount_fen=1000)
    told = await portal.post(f"{portal.bill}/presettlement")
    assert (told.status, told.json.get("self_pay_fen")) == (200, 1000)
    assert merging == ["presettlement"]


@pytest.mark.parametrize("what", ["bills", "reports"])
async def test_list_is_not_empty_when_the_record_is_merged_while_the_hospital_is_asked(
    portal: Portal, store: Store, merging: list[str], what: str
) -> None:
    async with store.write(HOSPITAL) as tx:
        await hear_patient(tx, msgspec.structs.replace(LI, mrn="M2"))
        await put_report(tx, Report(id="R1", kind=ReportKind.LAB, status=ReportStatus.FINAL, mrn="M1"))
    told = await portal.site.ask(f"{OF}/patients/{portal.patient_id}/{what}")
    assert (told.status, len(told.json["items"])) == (200, 1)
    assert merging == [what]
