"""The HIS's clock as each connector measures it, over real sockets, at a HIS whose clock is an hour or so off."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable
from email.utils import format_datetime
from zoneinfo import ZoneInfo

import pytest
from aiohttp import web

from connectors import fhir, hl7v2, soap
from connectors.config import HospitalContext
from connectors.port import Connector, HisError
from loadtest.simulators.mllp import END, ER7, START, read_frame
from mappings.canonical import Patient
from monitoring.metrics import REGISTRY

ZONE = ZoneInfo("Asia/Shanghai")
ZHANG = Patient(name="张伟", id_type="id_card", id_number="11010519491231002X")
Told = Callable[[], str]


def offset_s(hospital_id: str) -> float | None:
    labels = {"hospital": hospital_id, "connector": "his"}
    found: float | None = REGISTRY.get_sample_value("hisbridge_his_clock_offset_seconds", labels)
    return found


def now(ahead_s: float) -> dt.datetime:
    """What a clock shows that is so far ahead."""
    return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=ahead_s)


@contextlib.asynccontextmanager
async def asked(connector: Connector) -> AsyncIterator[None]:
    """The connector has asked its HIS something; what it thinks of the answer is no matter here."""
    await connector.start()
    try:
        with contextlib.suppress(HisError):
            await connector.find_patient(ZHANG)
        yield
    finally:
        await connector.close()


@contextlib.asynccontextmanager
async def http_peer(headers: Callable[[], dict[str, str]]) -> AsyncIterator[str]:
    """Answers everything with an empty document and these headers; yields its URL."""

    async def handle(request: web.Request) -> web.Response:
        return web.Response(text="{}", content_type="application/fhir+json", headers=headers())

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


def http_connector(kind: str, hospital_id: str, url: str) -> Connector:
    hospital = HospitalContext(id=hospital_id, zone=ZONE)
    if kind == "fhir":
        return fhir.create(hospital, "his", fhir.Options(protocol="fhir", profile="fhir_r4", base_url=url))
    return soap.create(hospital, "his", soap.Options(protocol="soap", profile="dhc", endpoint=url))


@pytest.mark.parametrize("kind", ["fhir", "soap"])
@pytest.mark.parametrize("ahead_s", [-3_600, 0, 90])
async def test_offset_is_that_of_the_date_header_when_a_server_answers(kind: str, ahead_s: int) -> None:
    hospital_id = f"wire-{kind}-{ahead_s}"

    def headers() -> dict[str, str]:
        return {"Date": format_datetime(now(ahead_s), usegmt=True)}

    async with http_peer(headers) as url, asked(http_connector(kind, hospital_id, url)):
        assert offset_s(hospital_id) == pytest.approx(ahead_s, abs=1.5)


@pytest.mark.parametrize("kind", ["fhir", "soap"])
async def test_nothing_is_learned_when_a_cache_answers(kind: str) -> None:
    hospital_id = f"wire-{kind}-cache"

    def headers() -> dict[str, str]:
        return {"Date": format_datetime(now(-300), usegmt=True), "Age": "300"}

    async with http_peer(headers) as url, asked(http_connector(kind, hospital_id, url)):
        assert offset_s(hospital_id) is None


# --- HL7 v2 ------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def mllp_peer(told: Told) -> AsyncIterator[int]:
    """Refuses everything in a message whose MSH-7 is `told()`; yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (payload := await read_frame(reader)) is not None:
            asked_for = ER7(payload.decode())
            head = f"MSH|^~\\&|HIS|H|HB|X|{told()}||ACK^Q22^ACK|1|P|2.5.1||||||UNICODE UTF-8\r"
            writer.write(START + f"{head}MSA|AR|{asked_for.get('MSH', 10)}\r".encode() + END)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def mllp_connector(hospital_id: str, port: int) -> Connector:
    hospital = HospitalContext(id=hospital_id, zone=ZONE)
    return hl7v2.create(hospital, "his", hl7v2.Options(protocol="hl7v2", profile="hl7v2", host="127.0.0.1", port=port))


@pytest.mark.parametrize(
    ("written", "ahead_s", "within_s"),
    [
        (lambda: f"{now(3_600).astimezone(ZONE):%Y%m%d%H%M%S}", 3_600, 1.5),  # no offset: the hospital's zone
        (lambda: f"{now(-3_600):%Y%m%d%H%M%S}+0000", -3_600, 1.5),  # its own offset wins
        (lambda: f"{now(2).astimezone(ZONE):%Y%m%d%H%M%S.%f}"[:-3] + "+0800", 2, 0.5),
    ],
)
async def test_offset_is_that_of_msh7_when_the_his_replies(written: Told, ahead_s: float, within_s: float) -> None:
    hospital_id = f"wire-hl7-{ahead_s}"
    async with mllp_peer(written) as port, asked(mllp_connector(hospital_id, port)):
        assert offset_s(hospital_id) == pytest.approx(ahead_s, abs=within_s)


@pytest.mark.parametrize("written", ["", "202601050800", "20260105", "2026-01-05 08:00:00", "99999999999999"])
async def test_nothing_is_learned_when_msh7_tells_no_second(written: str) -> None:
    hospital_id = f"wire-hl7-{written}"
    async with mllp_peer(lambda: written) as port, asked(mllp_connector(hospital_id, port)):
        assert offset_s(hospital_id) is None
