"""Two portals, one patient: neither sees what it may not, on any route that there is.

The requests are made from the route table, so that a route that is added is held to it by itself. Both portals have the same
person as a patient of theirs; one of them also has another person. What is the person's (bills, reports, visits) both may see.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from booking.api.fhir.routes import fhir_routes
from booking.api.routes import api_routes
from booking.api.routing import Route
from booking.billing import put_bill
from booking.people import hear_patient
from booking.reporting import put_report
from booking.rules.settings import BookingRules, WaitlistRule
from booking.store.engine import Store
from booking.store.tables import bookings, events, idempotency_keys, patients, payments, refunds, waitlist, webhooks
from mappings.canonical import Attachment, Bill, Report, ReportKind, ReportStatus
from tests.booking.api.fhir.site import FhirSite, Told, serve_fhir
from tests.booking.world import (
    CLIENT,
    DAY,
    FEE_FEN,
    HOSPITAL,
    LI,
    ZHANG,
    hold,
    make_hospital,
    make_schedule,
    put_patient,
    put_slot,
    schedule_id_of,
)

OTHER = "another"
OF = f"/v1/hospitals/{HOSPITAL}"
THINGS = ("booking_id", "patient_id", "bill_id", "report_id", "refund_id", "webhook_id", "entry_id", "id")
OF_THE_HOSPITAL = frozenset({"reconciliation"})
"""Scopes of the hospital's own accountants: the money of all portals is what they are for."""


class Both:
    """Two portals at one hospital. `ids` are the first one's things, `marks` the texts that the second must never read."""

    def __init__(self, site: FhirSite) -> None:
        self.site = site
        self.ids: dict[str, list[str]] = {}
        self.marks: set[str] = set()
        self.theirs = ""  # the second portal's patient: the same person
        self.slot_id = ""

    async def ask(self, method: str, path: str, body: Any = None, *, by: str = OTHER) -> Told:
        fhir = path.startswith("/fhir")
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        if body is not None:
            headers["Content-Type"] = "application/fhir+json" if fhir else "application/json"
        return await self.site.ask(path, method, body, by=by, headers=headers)

    def routes(self) -> list[Route]:
        context = self.site.parts.context
        return [r for r in (*api_routes(context), *fhir_routes(context)) if r.scopes is not None]

    def paths(self, route: Route) -> list[str]:
        """Addresses of a route with the first portal's things in all places, and with the second's patient where one is."""
        fit: list[list[str]] = []
        for name in route.path_parameters:
            if name == "patient_id":
                fit.append([*self.ids[name], self.theirs])
            elif name == "id":
                fit.append([i for ids in self.ids.values() for i in ids])
            else:
                fit.append(self.ids.get(name, [self._other(name)]))
        return [
            route.path.format(**dict(zip(route.path_parameters, chosen, strict=True)))
            for chosen in itertools.product(*fit)
        ]

    @staticmethod
    def _other(name: str) -> str:
        return {"hospital_id": HOSPITAL, "date": str(DAY), "n": "1", "version": "1"}.get(name, "x")

    def body(self, route: Route) -> Any:
        """What the second portal could send about the first one's things."""
        if route.request is None:
            return None
        if "/fhir/" in route.path:
            if route.path.endswith("/{id}"):
                return {"resourceType": "Appointment", "status": "cancelled"}
            return {
                "resourceType": "Parameters",
                "parameter": [
                    {"name": "appointment-reference", "valueReference": {"reference": f"Appointment/{self.booking}"}},
                    {"name": "patient-reference", "valueReference": {"reference": f"Patient/{self.patient}"}},
                ],
            }
        known = {
            "user_ref": "user-of-b", "slot_id": self.slot_id, "patient_id": self.patient, "booking_id": self.booking,
            "channel": "wechat", "trade_no": "T-of-b", "amount_fen": FEE_FEN, "paid_at": "2031-03-01T08:00:00+08:00",
            "reason": "ill", "status": "refunded", "refund_trade_no": "RT-of-b", "url": "http://127.0.0.1:9/b",
            "waitlist_entry_id": self.ids["entry_id"][0], "schedule_id": schedule_id_of(make_schedule("S3")),
            "bills": [{"bill_id": self.ids["bill_id"][0], "amount_fen": FEE_FEN}],
            "name": "王芳", "id_type": "passport", "id_number": "E99999999", "phone": "13700003333", "lines": [],
        }  # fmt: skip
        asked = route.request
        is_body = isinstance(asked, type) and issubclass(asked, msgspec.Struct)  # a file is no body
        fields = msgspec.structs.fields(asked) if is_body else ()
        return {f.encode_name: known[f.encode_name] for f in fields if f.encode_name in known}

    @property
    def booking(self) -> str:
        return self.ids["booking_id"][0]

    @property
    def patient(self) -> str:
        return self.ids["patient_id"][0]

    def leaked(self, told: Told, sent: str) -> set[str]:
        """What it must not read; what it has sent itself tells it nothing."""
        text = told.body.decode("utf-8", "replace") + str(dict(told.headers))
        return {mark for mark in self.marks if mark in text and mark not in sent}


@pytest.fixture
async def both(store: Store) -> AsyncIterator[Both]:
    hospital = make_hospital(rules=BookingRules(waitlist=WaitlistRule()))
    async with serve_fhir(store, hospital) as site:
        it = Both(site)
        zhang, li = [await put_patient(store, record, user="user-of-a") for record in (ZHANG, LI)]
        it.theirs = await put_patient(store, ZHANG, client=OTHER, user="user-of-b")
        async with store.write(HOSPITAL) as tx:
            for record, mrn in ((ZHANG, "M1"), (LI, "M2")):
                await hear_patient(tx, msgspec.structs.replace(record, mrn=mrn))
                await put_bill(tx, Bill(id=f"B-{mrn}", amount_fen=900, currency="CNY", mrn=mrn), currency="CNY")
                await put_report(tx, make_report(mrn))
        slot_id, it.slot_id = await put_slot(store), await put_slot(store, schedule=make_schedule("S2"))
        booking = await hold(store, hospital, slot_id, zhang)
        of = f"{OF}/bookings/{booking.id}"
        for trade_no in ("T-of-a", "T-again"):  # paid twice: one of them must go back
            paid = {
                "channel": "wechat",
                "trade_no": trade_no,
                "amount_fen": FEE_FEN,
                "paid_at": "2031-03-01T08:00:00+08:00",
            }
            assert (await it.ask("POST", f"{of}/payments", paid, by=CLIENT)).status < 300
        webhook = (await it.ask("POST", "/v1/webhooks", {"url": "http://127.0.0.1:9/a"}, by=CLIENT)).json
        mine = {
            name: (await it.ask("GET", f"{OF}/patients/{li}/{name}", by=CLIENT)).json["items"][0]["id"]
            for name in ("bills", "reports")
        }
        async with store.read(HOSPITAL) as tx:
            owed = [r["id"] for r in await tx.all(select(refunds.c.id))]
        assert owed
        await put_slot(store, 0, schedule=make_schedule("S3"))
        session = {"patient_id": li, "schedule_id": schedule_id_of(make_schedule("S3"))}
        waits = (await it.ask("POST", f"{OF}/waitlist", session, by=CLIENT)).json
        it.ids = {
            "booking_id": [booking.id], "patient_id": [zhang, li], "bill_id": [mine["bills"]],
            "report_id": [mine["reports"]], "refund_id": owed, "webhook_id": [webhook["id"]],
            "entry_id": [waits["id"]],
        }  # fmt: skip
        it.marks = {i for ids in it.ids.values() for i in ids} | {
            "user-of-a", "T-of-a", "T-again", "http://127.0.0.1:9/a", webhook["secret"], booking.order_no, "R-M2",
        }  # fmt: skip
        await site.parts.feed.catch_up(10)
        yield it


def make_report(mrn: str) -> Report:
    page = Attachment(content_type="application/pdf", data=b"%PDF-1.7 " + mrn.encode())
    return Report(
        id=f"R-{mrn}", kind=ReportKind.LAB, status=ReportStatus.FINAL, mrn=mrn, name=f"R-{mrn}", attachments=(page,)
    )


async def belongings(store: Store) -> list[list[dict[str, Any]]]:
    """Every row of the first portal's."""
    async with store.read(HOSPITAL) as tx:
        return [
            await tx.all(select(t).where(t.c.client_id == CLIENT).order_by(*t.primary_key.columns))
            for t in (bookings, payments, refunds, webhooks, patients, idempotency_keys, waitlist)
        ]


async def test_second_portal_sees_and_moves_nothing_of_the_first_ones_on_any_route(
    both: Both, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("booking.api.money_routes.MADE_WITHIN_S", 0.1)  # nobody compares the books here
    before, asked, faults = await belongings(store), 0, []
    for route in both.routes():
        for path in both.paths(route):
            body = both.body(route)
            told = await both.ask(route.method, path, body)
            asked += 1
            if route.scopes and route.scopes <= OF_THE_HOSPITAL:
                refused = await both.ask(route.method, path, body, by="booker")
                assert (refused.status, refused.json["code"]) == (403, "forbidden_scope"), path
                continue
            leaked = both.leaked(told, path + msgspec.json.encode(body).decode())
            names_a_thing = any(i in path for ids in both.ids.values() for i in ids)
            if leaked or told.status >= 500 or (names_a_thing and told.status < 400):
                faults.append((route.method, path, told.status, leaked))
            if names_a_thing and not path.startswith("/fhir") and told.status != 404:
                faults.append((route.method, path, told.status, set()))
    assert not faults
    assert asked > 100
    assert await belongings(store) == before


LISTS = [
    f"{OF}/bookings", f"{OF}/bookings?user_ref=user-of-a", f"{OF}/bookings?patient_id={{patient}}", "/v1/webhooks",
    f"{OF}/waitlist?patient_id={{patient}}", f"{OF}/waitlist?patient_id={{li}}",
    "/fhir/R4/Appointment", "/fhir/R4/Appointment?patient=Patient/{patient}", "/fhir/R4/Patient?_id={patient}",
    "/fhir/R4/Appointment?_id={booking}&_include=Appointment:patient", "/fhir/R4/DiagnosticReport?patient={li}",
    "/fhir/R4/Observation?patient={li}", "/fhir/R4/Patient?identifier=urn:oid:2.16.840.1.113883.4.330.156|" + str(LI.id_number),
    "/fhir/R4/Patient?identifier=urn:hisbridge:user-ref|user-of-a",
]  # fmt: skip


async def test_second_portal_finds_nothing_of_the_first_ones_by_any_search(both: Both) -> None:
    for template in LISTS:
        path = template.format(patient=both.patient, li=both.ids["patient_id"][1], booking=both.booking)
        told = await both.ask("GET", path)
        assert told.status in (200, 400, 404), told.body
        assert not both.leaked(told, path), path


async def test_first_portal_reads_all_of_that_by_the_same_addresses(both: Both) -> None:
    """Else the test above would have looked for what nobody is told."""
    read: set[str] = set()
    for route in both.routes():
        if route.method == "GET":
            for path in both.paths(route):
                read |= both.leaked(await both.ask("GET", path, by=CLIENT), "")
    secret = {mark for mark in both.marks if mark.startswith("whsec_")}  # shown once
    assert both.marks - read == secret


async def test_both_portals_see_what_is_the_persons_and_each_its_own_events(both: Both, store: Store) -> None:
    for patient_id, client in ((both.patient, CLIENT), (both.theirs, OTHER)):
        for name in ("bills", "reports"):
            told = await both.ask("GET", f"{OF}/patients/{patient_id}/{name}", by=client)
            assert len(told.json["items"]) == 1, name
    body = {"user_ref": "user-of-b", "slot_id": both.slot_id, "patient_id": both.theirs}
    booked = (await both.ask("POST", f"{OF}/bookings", body)).json
    assert (await both.ask("GET", f"{OF}/bookings/{booked['id']}", by=CLIENT)).status == 404
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(events.c.client_id, events.c.payload))
    told_to = {client: "".join(r["payload"] for r in rows if r["client_id"] == client) for client in (CLIENT, OTHER)}
    assert booked["id"] in told_to[OTHER]
    assert both.booking in told_to[CLIENT]
    assert not any(mark in told_to[OTHER] for mark in both.marks)
    assert booked["id"] not in told_to[CLIENT]


async def test_same_seat_is_not_sold_to_the_person_twice_and_whose_booking_it_is_stays_unsaid(both: Both) -> None:
    async with both.site.store.read(HOSPITAL) as tx:
        (row,) = await tx.all(select(bookings.c.slot_id))
    body = {"user_ref": "user-of-b", "slot_id": row["slot_id"], "patient_id": both.theirs}
    told = await both.ask("POST", f"{OF}/bookings", body)
    assert (told.status, told.json["code"]) == (409, "duplicate_booking")
    assert not both.leaked(told, str(body))
