"""Documents that a report names by an address, from the hospital's own server to the portal: on real sockets, as they come."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from booking.people import hear_patient
from booking.report_reads import WantedReads, find_reads
from booking.report_rules import ReportRule
from booking.reporting import put_report
from booking.store.engine import Store
from mappings.canonical import Attachment, Report, ReportKind, ReportStatus
from scheduler_sync.report_links import PIECE_BYTES, HospitalLinks
from tests.booking.api.fhir.site import FhirSite, Told, serve_fhir
from tests.booking.world import CLIENT, HOSPITAL, ZHANG, make_hospital, put_patient
from tests.scheduler_sync.peer import until
from tests.stores import BEGIN_MS

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)  # no store is concerned
PICTURE = bytes(range(256)) * 4 * 1024  # a megabyte: four pieces
MOST = 3_000_000


class Pacs:
    """A server of pictures. `asked` are the paths, `stuck` holds a second half back, `open` is how many are being sent."""

    def __init__(self) -> None:
        self.base = ""
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.stuck = asyncio.Event()
        self.open = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        self.headers.append(dict(request.headers))
        name = request.match_info["name"]
        simple = {
            "whole": lambda: web.Response(body=PICTURE, content_type="image/png"),
            "odd": lambda: web.Response(body=PICTURE, headers={"Content-Type": "text/x; a=<script>"}),
            "empty": lambda: web.Response(body=b"", content_type="image/png"),
            "gone": lambda: web.Response(status=404),
            "shut": lambda: web.Response(status=401),
            "busy": lambda: web.Response(status=503),
            "moved": lambda: web.Response(status=302, headers={"Location": f"{self.base}whole"}),
            "packed": lambda: web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"}),
        }
        if name in simple:
            return simple[name]()
        answer = web.StreamResponse()
        size = {"large": MOST + 1, "breaks": len(PICTURE), "halves": len(PICTURE)}.get(name)
        answer.content_length = size
        self.open += 1
        try:
            await answer.prepare(request)
            if name == "endless":
                while True:
                    await answer.write(PICTURE)
            await answer.write(PICTURE[: len(PICTURE) // 2])
            if name == "breaks" and request.transport is not None:
                request.transport.abort()
                return answer
            if name == "halves":
                await self.stuck.wait()
            await answer.write(PICTURE[len(PICTURE) // 2 :])
            return answer
        finally:
            self.open -= 1


@pytest.fixture
async def pacs() -> AsyncIterator[Pacs]:
    it = Pacs()
    app = web.Application()
    app.router.add_get("/images/{name}", it.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    it.base = f"http://{host}:{port}/images/"
    yield it
    it.stuck.set()
    await runner.cleanup()


class Clinic:
    """张伟's report with one document at an address."""

    def __init__(self, site: FhirSite, pacs: Pacs, patient_id: str) -> None:
        self.site, self.pacs, self.patient_id = site, pacs, patient_id

    async def tell(self, name: str, content_type: str = "image/jpeg") -> str:
        """The address at which the portal has it."""
        url = name if ":" in name else self.pacs.base + name
        page = Attachment(content_type=content_type, url=url)
        report = Report(id="R1", kind=ReportKind.EXAM, status=ReportStatus.FINAL, mrn="M1", attachments=(page,))
        async with self.site.store.write(HOSPITAL) as tx:
            row = await put_report(tx, report, occurred_ms=BEGIN_MS)
        return f"/v1/hospitals/{HOSPITAL}/patients/{self.patient_id}/reports/{row.id}/attachments/1"

    async def get(self, name: str, content_type: str = "image/jpeg") -> Told:
        return await self.site.ask(await self.tell(name, content_type))


@asynccontextmanager
async def clinic_at(store: Store, pacs: Pacs, *links: str, **options: Any) -> AsyncIterator[Clinic]:
    fetching = HospitalLinks(**options)
    hospital = make_hospital(reports=ReportRule(links=links))
    try:
        async with serve_fhir(store, hospital, links=fetching) as site:
            site.ward.off = {"fetch_reports", "fetch_report"}
            patient_id = await put_patient(store)
            async with store.write(HOSPITAL) as tx:
                await hear_patient(tx, msgspec.structs.replace(ZHANG, mrn="M1"))
            yield Clinic(site, pacs, patient_id)
    finally:
        await fetching.close()


@pytest.fixture
async def clinic(store: Store, pacs: Pacs) -> AsyncIterator[Clinic]:
    async with clinic_at(store, pacs, pacs.base, read_s=0.5, first_s=5, most_bytes=MOST) as it:
        yield it


@pytest.mark.parametrize(
    ("name", "told_type", "shown_type"),
    [
        ("whole", "image/jpeg", "image/jpeg"),
        ("whole", "application/octet-stream", "image/png"),
        ("odd", "application/octet-stream", "text/x"),
        ("no-size", "image/jpeg", "image/jpeg"),
    ],
)
async def test_portal_gets_every_byte_and_a_type_fit_for_it(
    clinic: Clinic, name: str, told_type: str, shown_type: str
) -> None:
    told = await clinic.get(name, told_type)
    assert (told.status, told.body == PICTURE, told.headers["Content-Type"]) == (200, True, shown_type)
    assert told.headers.get("Content-Length") == (None if name == "no-size" else str(len(PICTURE)))
    assert (told.headers["Content-Disposition"], told.headers["X-Content-Type-Options"]) == ("attachment", "nosniff")
    assert clinic.pacs.asked == [f"/images/{name}"]
    assert clinic.pacs.headers[0]["Accept-Encoding"] == "identity"
    assert "Authorization" not in clinic.pacs.headers[0]  # the portal's key is none of its business


async def test_empty_document_is_one_too(clinic: Clinic) -> None:
    told = await clinic.get("empty")
    assert (told.status, told.body) == (200, b"")


async def test_first_half_is_there_before_the_server_has_sent_the_second(clinic: Clinic) -> None:
    url = await clinic.tell("halves")
    headers = {"Authorization": f"Bearer {CLIENT}"}
    async with asyncio.timeout(20), clinic.site.session.get(url, headers=headers) as answer:
        first = await answer.content.readexactly(PIECE_BYTES)
        assert clinic.pacs.open == 1
        clinic.pacs.stuck.set()
        assert first + await answer.read() == PICTURE


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("gone", 409, "his_refused"),
        ("shut", 409, "his_refused"),
        ("moved", 409, "his_refused"),
        ("busy", 503, "his_unavailable"),
        ("packed", 502, "his_reply_invalid"),
        ("large", 502, "his_reply_invalid"),
    ],
)
async def test_answer_is_defined_when_the_server_does_not_give_it(
    clinic: Clinic, name: str, status: int, code: str
) -> None:
    told = await clinic.get(name)
    assert (told.status, told.json["code"]) == (status, code), told.body
    assert clinic.pacs.base not in told.body.decode()
    assert clinic.pacs.asked == [f"/images/{name}"]  # a redirect is not followed


async def test_server_that_is_away_is_no_fault_of_ours(store: Store, pacs: Pacs) -> None:
    async with clinic_at(store, pacs, "http://127.0.0.1:1/images/") as it:
        told = await it.get("http://127.0.0.1:1/images/x")
    assert (told.status, told.json["code"]) == (503, "his_unavailable")


@pytest.mark.parametrize("name", ["breaks", "halves", "endless"])
async def test_portal_does_not_take_a_part_for_the_whole_when_it_breaks_off(clinic: Clinic, name: str) -> None:
    """The connection is lost, nothing comes for half a second, or more comes than any document may have."""
    headers = {"Authorization": f"Bearer {CLIENT}"}
    async with asyncio.timeout(20), clinic.site.session.get(await clinic.tell(name), headers=headers) as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    clinic.pacs.stuck.set()

    async def ended() -> bool:
        return clinic.pacs.open == 0

    await until(ended)
    assert (await clinic.get("whole")).body == PICTURE  # and the next one comes


async def test_server_is_let_go_when_the_portal_goes_away(clinic: Clinic) -> None:
    url = await clinic.tell("halves")
    async with clinic.site.session.get(url, headers={"Authorization": f"Bearer {CLIENT}"}) as answer:
        await answer.content.readexactly(PIECE_BYTES)
        answer.close()
    clinic.pacs.stuck.set()

    async def ended() -> bool:
        gc.collect()
        return clinic.pacs.open == 0

    await until(ended)


async def test_nobody_is_asked_when_the_address_lies_elsewhere(store: Store, pacs: Pacs) -> None:
    async with clinic_at(store, pacs, pacs.base.replace("/images/", "/other/")) as it:
        it.site.ward.off |= {"fetch_attachment"}
        told = await it.get("whole")
    assert pacs.asked == []
    assert told.status != 200 or told.body == b""


async def test_read_is_on_record_and_another_portal_gets_nothing(clinic: Clinic, store: Store) -> None:
    url = await clinic.tell("whole")
    assert (await clinic.site.ask(url, by="another")).status == 404
    assert clinic.pacs.asked == []
    assert (await clinic.site.ask(url)).status == 200
    async with store.read(HOSPITAL) as tx:
        reads = await find_reads(tx, WantedReads())
    assert [(r.client_id, r.outcome, r.reports.endswith(":1/1")) for r in reads] == [
        (CLIENT, "given", True), ("another", "not_theirs", False),
    ]  # fmt: skip
