"""A portal's user lets go of a patient: nothing of theirs is seen any more, and nothing that is owed is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import select, update

from booking.billing import put_bill
from booking.bookings import expire_due
from booking.errors import Refusal
from booking.people import add_patient, hear_patient, unbind_patient
from booking.reporting import put_report
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import bookings, events, patients, payments, slots
from mappings.canonical import Bill, BillItem, Observation, Patient, Report, ReportKind, ReportStatus
from tests.booking.api.fhir.site import FhirSite, Told, serve_fhir
from tests.booking.world import (
    CLIENT,
    FEE_FEN,
    HOSPITAL,
    LI,
    ZHANG,
    booked,
    cancel,
    get,
    hold,
    locked,
    make_schedule,
    owed,
    pay,
    put_patient,
    put_slot,
    send_and_answer,
)
from tests.stores import Wall

OF = f"/v1/hospitals/{HOSPITAL}"
OTHER = "another"


class Site:
    """张伟 as a patient of two portals, with a bill and a report."""

    def __init__(self, site: FhirSite, mine: str, theirs: str) -> None:
        self.site, self.mine, self.theirs = site, mine, theirs

    async def ask(self, method: str, path: str, body: Any = None, *, by: str = CLIENT, key: str = "") -> Told:
        headers = {"Idempotency-Key": key or f"key-{path[-12:]}-{id(body)}", "Content-Type": "application/json"}
        return await self.site.ask(path, method, body, by=by, headers=headers)

    async def unbind(self, patient_id: str | None = None, *, by: str = CLIENT, user: str | None = None) -> Told:
        query = "" if user is None else f"?user_ref={user}"
        return await self.ask("DELETE", f"{OF}/patients/{patient_id or self.mine}{query}", by=by)

    def reads(self, patient_id: str) -> list[str]:
        """All by which the patient and what is theirs is read; those of the facade that find nothing are searches."""
        of = f"{OF}/patients/{patient_id}"
        return [of, f"{of}/reports", f"{of}/bills", f"{of}/registrations", f"Patient/{patient_id}"]

    def searches(self, patient_id: str) -> list[str]:
        return [
            f"DiagnosticReport?patient={patient_id}",
            f"Observation?patient={patient_id}",
            f"Patient?_id={patient_id}",
            "Patient?identifier=urn:hisbridge:user-ref|u1",
            f"Patient?identifier=urn:hisbridge:patient|{patient_id}",
            f"Patient?identifier=urn:oid:2.16.840.1.113883.4.330.156|{ZHANG.id_number}",
        ]


@pytest.fixture
async def site(store: Store, hospital: Hospital) -> AsyncIterator[Site]:
    async with serve_fhir(store, hospital) as running:
        mine, theirs = await put_patient(store), await put_patient(store, client=OTHER)
        async with store.write(HOSPITAL) as tx:
            await hear_patient(tx, msgspec.structs.replace(ZHANG, mrn="M1"))
            await put_bill(tx, Bill(id="B1", amount_fen=900, currency="CNY", mrn="M1"), currency="CNY")
            await put_report(tx, make_report())
        yield Site(running, mine, theirs)


def make_report(value: str = "7.2") -> Report:
    told = (Observation(name="WBC", value=value),)
    return Report(id="R1", kind=ReportKind.LAB, status=ReportStatus.FINAL, mrn="M1", observations=told)


async def test_nothing_of_the_patient_is_seen_after_it_and_the_other_portal_sees_all_the_same(site: Site) -> None:
    for path in (*site.reads(site.mine), *site.searches(site.mine)):
        told = await site.ask("GET", path)
        assert (told.status, b'"total":0' in told.body) == (200, False), path
    for _ in range(2):  # again changes nothing
        assert (await site.unbind()).status == 204
    for path in site.reads(site.mine):
        assert (await site.ask("GET", path)).status == 404, path
    for path in site.searches(site.mine):
        assert (await site.ask("GET", path)).resources == [], path
    for path in (*site.reads(site.theirs), *site.searches(site.theirs)):
        told = await site.ask("GET", path, by=OTHER)
        assert (told.status, b'"total":0' in told.body) == (200, False), path


async def test_patient_is_back_under_the_same_id_when_bound_again(site: Site) -> None:
    await site.unbind()
    body = {
        "user_ref": "u1", "name": ZHANG.name, "id_type": "id_card", "id_number": ZHANG.id_number, "phone": ZHANG.phone,
    }  # fmt: skip
    told = await site.ask("POST", f"{OF}/patients", body)
    assert (told.status, told.json["id"]) == (201, site.mine)
    for path in site.reads(site.mine):
        assert (await site.ask("GET", path)).status == 200, path


@pytest.mark.parametrize("user", [None, "u1"])
async def test_it_is_for_the_own_client_and_user_alone(site: Site, user: str | None) -> None:
    assert (await site.unbind(by=OTHER, user=user)).status == 404
    assert (await site.unbind(user="u2")).json["code"] == "patient_unknown"
    assert (await site.unbind("nobody")).status == 404
    assert (await site.ask("GET", f"{OF}/patients/{site.mine}")).status == 200
    assert (await site.unbind(user=user)).status == 204


async def test_bookings_are_named_that_must_end_first(site: Site, store: Store, hospital: Hospital) -> None:
    slot_id, other = await put_slot(store), await put_slot(store, schedule=make_schedule("S2"))
    held, kept = await locked(store, hospital, slot_id, site.mine), await booked(store, hospital, other, site.mine)
    told = await site.unbind()
    assert (told.status, told.json["code"], told.json["extra"]["booking_ids"]) == (
        409, "patient_has_bookings", sorted([held, kept]),
    )  # fmt: skip
    for booking_id in (held, kept):
        await cancel(store, hospital, booking_id)
        await send_and_answer(store, hospital, booking_id)
    assert (await site.unbind()).status == 204
    assert (await site.ask("GET", f"{OF}/bookings/{kept}")).json["state"] == "cancelled"  # the history stays


async def test_money_that_is_due_stays_payable_after_it(site: Site, store: Store, hospital: Hospital) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), site.mine)
    await cancel(store, hospital, booking_id)
    await send_and_answer(store, hospital, booking_id)
    assert (await site.unbind()).status == 204
    (refund,) = (await site.ask("GET", f"{OF}/bookings/{booking_id}")).json["refunds"]
    assert (refund["status"], refund["amount_fen"]) == ("refund_due", FEE_FEN)
    body = {"status": "refunded", "refund_trade_no": "RT1"}
    assert (await site.ask("POST", f"{OF}/refunds/{refund['id']}/result", body)).json["status"] == "refunded"
    assert (await get(store, booking_id)).payment_state == "refunded"


async def test_money_of_a_bill_is_recorded_though_the_patient_was_let_go_of_meanwhile(site: Site, store: Store) -> None:
    """It was taken, and a refusal would leave it on nobody's books; of the bill itself nothing more is shown."""
    async with store.write(HOSPITAL) as tx:
        items = (BillItem(name="HIV antibody", amount_fen=900),)
        whole = Bill(id="B1", amount_fen=900, currency="CNY", mrn="M1", title="Laboratory", items=items)
        await put_bill(tx, whole, currency="CNY")
    (bill,) = (await site.ask("GET", f"{OF}/patients/{site.mine}/bills")).json["items"]
    assert bill["items"][0]["name"] == "HIV antibody"
    await site.unbind()
    path = f"{OF}/patients/{site.mine}/bills/{bill['id']}"
    body = {"channel": "wechat", "trade_no": "T1", "amount_fen": 900, "paid_at": "2031-03-01T08:00:00+08:00"}
    told = await site.ask("POST", f"{path}/payments", body)
    assert (told.status, told.json["payments"][0]["trade_no"]) == (202, "T1")
    assert b"HIV" not in told.body
    assert b"Laboratory" not in told.body
    assert (await site.ask("GET", path)).status == 404
    async with store.write(HOSPITAL) as tx:
        await put_bill(tx, msgspec.structs.replace(whole, id="B2"), currency="CNY")
    (other,) = [
        b
        for b in (await site.ask("GET", f"{OF}/patients/{site.theirs}/bills", by=OTHER)).json["items"]
        if b["id"] != bill["id"]
    ]
    several = body | {"trade_no": "T3", "bills": [{"bill_id": other["id"], "amount_fen": 900}]}
    merged = await site.ask("POST", f"{OF}/patients/{site.mine}/bill-payments", several)
    assert (merged.status, b"HIV" in merged.body) == (202, False), merged.body
    stolen = await site.ask("POST", f"{path}/payments", body | {"trade_no": "T2"}, by=OTHER)
    assert (stolen.status, stolen.json["code"]) == (404, "patient_unknown")
    async with store.read(HOSPITAL) as tx:
        assert [(p["trade_no"], p["kept"]) for p in await tx.all(select(payments).order_by(payments.c.trade_no))] == [
            ("T1", True),
            ("T3", True),
        ]


async def test_late_money_books_nothing_for_the_unbound_and_goes_back(
    site: Site, store: Store, hospital: Hospital, wall: Wall
) -> None:
    slot_id = await put_slot(store)
    booking_id = await locked(store, hospital, slot_id, site.mine)
    wall.turn(hospital.pay_window_s)
    async with store.write(HOSPITAL) as tx:
        assert await expire_due(tx, hospital) == 1
    assert (await site.unbind()).status == 204
    paid = await pay(store, hospital, booking_id)
    assert not paid.kept
    assert (await get(store, booking_id)).state == "expired"
    assert [fen for _, fen, _ in await owed(store, booking_id)] == [FEE_FEN]


async def test_visit_that_is_over_holds_nobody_back_though_nobody_told_how_it_ended(
    site: Site, store: Store, hospital: Hospital
) -> None:
    slot_id = await put_slot(store)
    await booked(store, hospital, slot_id, site.mine)
    async with store.write(HOSPITAL) as tx:
        past = {"starts_at_ms": tx.now_ms - 3_600_000, "ends_at_ms": tx.now_ms}
        await tx.run(update(slots).where(slots.c.id == slot_id).values(past))
    assert (await site.unbind()).status == 204


async def test_nothing_can_be_held_for_the_unbound(site: Site, store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store)
    await site.unbind()
    with pytest.raises(Refusal, match="patient_unknown"):
        await hold(store, hospital, slot_id, site.mine)
    async with store.read(HOSPITAL) as tx:
        assert await tx.all(select(bookings.c.id)) == []


async def test_events_of_what_is_theirs_go_to_those_alone_who_have_them(site: Site, store: Store) -> None:
    await site.unbind()
    async with store.write(HOSPITAL) as tx:
        await tx.run(events.delete())
        await put_report(tx, make_report("9.9"))
        told = await tx.all(select(events.c.client_id, events.c.type))
    assert [(row["client_id"], row["type"]) for row in told] == [(OTHER, "report.changed")]


async def bind(store: Store, record: Patient, per_user: int) -> str:
    async with store.write(HOSPITAL) as tx:
        patient_id, _ = await add_patient(
            tx, client_id=CLIENT, user_ref="u1", record=record, links_by_command=False, per_user=per_user
        )
    return patient_id


async def test_user_s_limit_does_not_count_the_unbound_and_holds_for_who_comes_back(store: Store) -> None:
    zhang = await bind(store, ZHANG, 1)
    async with store.write(HOSPITAL) as tx:
        await unbind_patient(tx, CLIENT, zhang)
    await bind(store, LI, 1)
    with pytest.raises(Refusal, match="limit_reached"):
        await bind(store, ZHANG, 1)
    assert await bind(store, ZHANG, 2) == zhang
    async with store.read(HOSPITAL) as tx:
        assert len(await tx.all(select(patients.c.id).where(patients.c.unbound_ms.is_(None)))) == 2
