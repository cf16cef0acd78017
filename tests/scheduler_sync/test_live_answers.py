"""What a portal is shown of a HIS's live answers, over HTTP: never another's, never out of turn."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from booking.api.application import ApiOptions, build_server
from booking.api.auth import SCOPES, Authenticator
from booking.api.context import translate
from booking.api.parts import ApiParts
from booking.api.routes import api_routes
from booking.billing import put_bill
from booking.keys import SCOPE, StoredKeys, add_key
from booking.people import hear_patient, link_person, merge_persons, own_patient
from booking.settings import Hospital, Mode, Service
from booking.store.engine import Store
from mappings.canonical import Bill, Observation, Patient, Report, ReportKind, ReportStatus
from monitoring.health import Health
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.live import LiveReads
from tests.booking.world import HOSPITAL, ZHANG, make_hospital, put_patient, put_slot
from tests.scheduler_sync.peer import Peer

HEADING = Report(id="R1", kind=ReportKind.LAB, status=ReportStatus.FINAL, mrn="M1", name="血常规")
WHOLE = msgspec.structs.replace(HEADING, observations=(Observation(name="白细胞", value="6.1"),))


class Ward(Peer):
    """A HIS whose lists and answers a test writes."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[Report] = []
        self.bills: list[Bill] = []
        self.report: Report | None = None
        self.gate = asyncio.Event()  # closed: it takes its time over lists of reports
        self.gate.set()
        self.asked = 0
        self.told = 0

    async def fetch_reports(self, patient: Patient) -> Sequence[Report]:
        self.asked += 1
        await self.gate.wait()
        self.told += 1
        return self.reports

    async def fetch_report(self, patient: Patient, report_id: str) -> Report | None:
        return self.report

    async def fetch_bills(self, patient: Patient) -> Sequence[Bill]:
        return self.bills


class Site:
    """The API over one ward, as a portal calls it."""

    def __init__(self, session: aiohttp.ClientSession, store: Store, ward: Ward, patient_id: str) -> None:
        self.session, self.store, self.ward = session, store, ward
        self.of = f"/v1/hospitals/{HOSPITAL}/patients/{patient_id}"

    async def ask(
        self, method: str, path: str, body: Any = None, *, key: str = "mine", prefer: Sequence[str] = ()
    ) -> tuple[int, Any]:
        """`prefer`: as many fields."""
        headers = [("Authorization", f"Bearer {key}"), ("Idempotency-Key", uuid.uuid4().hex)]
        headers += [("Prefer", value) for value in prefer]
        async with self.session.request(method, path, json=body, headers=headers) as response:
            data = await response.read()
        return response.status, msgspec.json.decode(data) if data else None

    async def get(self, path: str) -> Any:
        status, body = await self.ask("GET", path)
        assert status == 200, body
        return body


@pytest.fixture
def hospital() -> Hospital:
    return make_hospital()


@pytest.fixture
async def site(store: Store, hospital: Hospital) -> AsyncIterator[Site]:
    ward = Ward()
    hospitals = {HOSPITAL: hospital}
    parts = ApiParts(store, hospitals, LiveReads({HOSPITAL: HospitalLink(hospital, {"peer": ward})}), Service())
    async with store.write(SCOPE) as tx:
        for key, client in (("mine", "portal"), ("theirs", "another")):
            await add_key(tx, key, client_id=client, name=client, scopes=list(SCOPES), hospitals=None)
    patient_id = await put_patient(store)
    async with store.write(HOSPITAL) as tx:
        _, person = await own_patient(tx, "portal", patient_id)
        await link_person(tx, person, msgspec.structs.replace(ZHANG, mrn="M1"))
    server = build_server(
        api_routes(parts.context),
        authenticator=Authenticator(StoredKeys(store)),
        hospital_known={HOSPITAL}.__contains__,
        translate=translate,
        health=Health(),
        options=ApiOptions(),
    )
    await parts.start()
    runner = web.ServerRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
            yield Site(session, store, ward, patient_id)
    finally:
        await runner.cleanup()
        await parts.close()


async def listed(site: Site) -> list[dict[str, Any]]:
    return list((await site.get(f"{site.of}/reports"))["items"])


# --- reports -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"mrn": "M2"}, {"id": "R2"}, {"id": "R2", "mrn": "M2"}])
async def test_heading_is_all_that_is_shown_when_the_hospital_answers_with_another_report(
    site: Site, change: dict[str, Any]
) -> None:
    site.ward.reports = [HEADING]
    (row,) = await listed(site)
    site.ward.report = msgspec.structs.replace(WHOLE, **change)
    shown = await site.get(f"{site.of}/reports/{row['id']}")
    assert (shown["id"], shown["name"], shown["observations"]) == (row["id"], "血常规", [])
    assert [r["id"] for r in await listed(site)] == [row["id"]]


@pytest.mark.parametrize("mrn", ["M1", None])
async def test_results_are_shown_when_the_hospital_answers_with_the_report(site: Site, mrn: str | None) -> None:
    site.ward.reports = [HEADING]
    (row,) = await listed(site)
    site.ward.report = msgspec.structs.replace(WHOLE, mrn=mrn)
    shown = await site.get(f"{site.of}/reports/{row['id']}")
    assert [o["value"] for o in shown["observations"]] == ["6.1"]


async def test_results_are_shown_when_the_hospital_answers_under_a_merged_number(site: Site) -> None:
    site.ward.reports = [HEADING]
    (row,) = await listed(site)
    async with site.store.write(HOSPITAL) as tx:
        await hear_patient(tx, Patient(name="张伟", mrn="M9"))
        await merge_persons(tx, surviving_mrn="M9", retired_mrn="M1")
    site.ward.report = msgspec.structs.replace(WHOLE, mrn="M9")
    shown = await site.get(f"{site.of}/reports/{row['id']}")
    assert (shown["id"], [o["value"] for o in shown["observations"]]) == (row["id"], ["6.1"])


async def test_list_and_report_leave_each_other_alone_when_they_are_read_in_turn(site: Site) -> None:
    site.ward.reports, site.ward.report = [HEADING], WHOLE
    versions = []
    for _ in range(3):
        (row,) = await listed(site)
        versions.append((await site.get(f"{site.of}/reports/{row['id']}"))["version"])
    assert versions == [2, 2, 2]


async def test_what_the_list_says_of_another_is_left_out_when_it_comes(site: Site) -> None:
    site.ward.reports = [HEADING, msgspec.structs.replace(HEADING, id="R2", mrn="M2")]
    site.ward.bills = [
        Bill(id="B1", amount_fen=100, currency="CNY", mrn="M1"),
        Bill(id="B2", amount_fen=200, currency="CNY", mrn="M2"),
    ]
    assert len(await listed(site)) == 1
    assert [b["amount_fen"] for b in (await site.get(f"{site.of}/bills"))["items"]] == [100]
    other = await put_patient(site.store, msgspec.structs.replace(ZHANG, id_number="110101198507150029", name="李娜"))
    async with site.store.write(HOSPITAL) as tx:
        _, person = await own_patient(tx, "portal", other)
        await link_person(tx, person, Patient(name="李娜", mrn="M2"))
    site.ward.reports = []
    assert (await site.get(f"/v1/hospitals/{HOSPITAL}/patients/{other}/reports"))["items"] == []


# --- bills at a hospital that is only observed ---------------------------------------------------------------------------


@pytest.mark.parametrize("hospital", [make_hospital(mode=Mode.OBSERVE)])
async def test_bill_money_goes_back_when_nothing_may_be_written_to_the_hospital(site: Site) -> None:
    async with site.store.write(HOSPITAL) as tx:
        bill = await put_bill(tx, Bill(id="B1", amount_fen=100, currency="CNY", mrn="M1"), currency="CNY")
    money = {"channel": "wechat", "trade_no": "T1", "amount_fen": 100, "paid_at": "2031-03-03T08:00:00+08:00"}
    status, shown = await site.ask("POST", f"{site.of}/bills/{bill.id}/payments", money)
    assert status == 202
    assert [p["unusable"] for p in shown["payments"]] == ["hospital_observe_only"]
    assert [(r["status"], r["reason"]) for r in shown["refunds"]] == [("refund_due", "hospital_observe_only")]


# --- webhooks ------------------------------------------------------------------------------------------------------------


async def test_webhooks_are_listed_without_secrets_and_removed_when_asked(site: Site) -> None:
    url = "https://portal.example/hook"
    _, made = await site.ask("POST", "/v1/webhooks", {"url": url})
    assert (await site.get("/v1/webhooks"))["items"] == [
        {"id": made["id"], "url": url, "status": "active", "failures": 0, "failing_since": None}
    ]
    path = f"/v1/webhooks/{made['id']}"
    assert (await site.ask("GET", "/v1/webhooks", key="theirs"))[1]["items"] == []
    assert (await site.ask("DELETE", path, key="theirs"))[0] == 404
    assert await site.ask("DELETE", path) == (204, None)
    assert (await site.ask("DELETE", path))[0] == 404
    assert (await site.get("/v1/webhooks"))["items"] == []


# --- a caller who waits no longer --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefer", [["wait=1"], ["respond-async", "wait=1"]]
)  # RFC 7240, section 2: several are one list
async def test_caller_is_told_and_the_call_goes_on_when_the_hospital_takes_longer_than_the_caller_waits(
    site: Site, prefer: list[str]
) -> None:
    site.ward.gate.clear()
    async with asyncio.timeout(20):
        status, problem = await site.ask("GET", f"{site.of}/reports", prefer=prefer)
    assert (status, problem["code"], problem["retryable"]) == (503, "his_unavailable", True)
    assert (site.ward.asked, site.ward.told) == (1, 0)
    site.ward.gate.set()
    while not site.ward.told:  # noqa: ASYNC110 - what has been asked is not cut off
        await asyncio.sleep(0.01)


async def test_hospital_is_not_asked_when_no_place_became_free_while_the_caller_waited(site: Site) -> None:
    site.ward.gate.clear()
    fill = [asyncio.create_task(site.ask("GET", f"{site.of}/reports")) for _ in range(4)]  # its places, all of them
    while site.ward.asked < 4:  # noqa: ASYNC110 - the ward has no event for it
        await asyncio.sleep(0.01)
    status, problem = await site.ask("GET", f"{site.of}/reports", prefer=["wait=1"])
    assert (status, problem["code"]) == (503, "his_unavailable")
    site.ward.gate.set()
    assert [status for status, _ in await asyncio.gather(*fill)] == [200] * 4
    assert site.ward.asked == 4


async def test_hold_is_turned_away_undecided_when_its_caller_waits_no_longer(site: Site, store: Store) -> None:
    slot_id = await put_slot(store)
    body = {"user_ref": "u1", "slot_id": slot_id, "patient_id": site.of.rpartition("/")[2]}
    bookings = f"/v1/hospitals/{HOSPITAL}/bookings"
    turn = store.turn(HOSPITAL)
    await turn.acquire(timeout_s=5)  # somebody else writes
    first = asyncio.create_task(site.ask("POST", bookings, {**body, "patient_id": "nobody"}, prefer=["wait=1"]))
    await asyncio.sleep(0.2)  # now it is in a batch, which waits for its turn
    status, problem = await site.ask("POST", bookings, body, prefer=["respond-async, wait=1"])
    assert (status, problem["code"], problem["retryable"]) == (503, "overloaded", True)
    turn.release()
    assert (await first)[1]["code"] == "patient_unknown"
    assert (await site.ask("POST", bookings, body))[0] == 201
