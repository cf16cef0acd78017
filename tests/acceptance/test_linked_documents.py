"""A report over MLLP into the running service that names its picture by an address (OBX-2 = RP), and how a portal gets it."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

import service
from booking.keys import SCOPE, add_key
from booking.secrets import new_data_key, new_digest_key
from loadtest.simulators.mllp import header, segment
from tests.acceptance.test_corpus_replay import KEY, SETTINGS, Bridge
from tests.acceptance.test_large_reports import registered

PICTURE = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8_000
asked: list[str] = []


@pytest.fixture
async def pacs() -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path_qs)
        return web.Response(body=PICTURE, content_type="image/jpeg")

    asked.clear()
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    yield f"http://{host}:{port}"
    await runner.cleanup()


@pytest.fixture
async def bridge(tmp_path: Path, pacs: str) -> AsyncIterator[Bridge]:
    (tmp_path / "data.key").write_text(new_data_key())
    (tmp_path / "digest.key").write_text(new_digest_key())
    config = tmp_path / "hisbridge.toml"
    links = f'\n[hospital.cny.reports]\nlinks = ["{pacs}/wado/"]\n'
    config.write_text(SETTINGS.format(folder=tmp_path.as_posix()) + links, encoding="utf-8")
    running = service.Service(service.read_settings(config))
    await running.start()
    async with running.store.write(SCOPE) as tx:
        await add_key(tx, KEY, client_id="portal", name="portal", scopes=["patients", "reports"], hospitals=None)
    async with aiohttp.ClientSession() as session:
        yield Bridge(running, session)
    await running.stop()


def pointing(*addresses: str) -> bytes:
    """A CT with a reference pointer for each of these (v2.5.1 ch. 2.A.65), `&` escaped as in any field."""
    now = dt.datetime.now(dt.UTC)
    stamp = f"{now:%Y%m%d%H%M%S}+0000"
    parts = [
        header("ORU^R01^ORU_R01", "RP1", now, "UNICODE UTF-8"),
        segment("PID", f3="M00000001^^^SIM^MR", f5="患者1"),
        segment("ORC", f1="RE", f3="CT1"),
        segment("OBR", f1="1", f3="CT1", f4="CT^胸部CT平扫^L", f7=stamp, f22=stamp, f24="RAD", f25="F"),
    ]
    for n, address in enumerate(addresses, 1):
        pointer = address.replace("&", "\\T\\") + "^PACS^IM^JPEG"
        parts.append(segment("OBX", f1=str(n), f2="RP", f3="IMG^影像^L", f5=pointer, f11="F", f14=stamp))
    return "\r".join([*parts, ""]).encode()


async def test_portal_reads_a_picture_that_the_report_names_and_nothing_else_is_called(
    bridge: Bridge, pacs: str
) -> None:
    message = pointing(f"{pacs}/wado/ct?study=7&page=2", f"{pacs}/admin/stop", f"{pacs}/wado/..%2fadmin/stop")
    acks = await bridge.send("cny", registered("患者1", "M00000001"), message)
    assert [ack.get("MSA", 1) for ack in acks] == ["AA", "AA"]
    patient = await bridge.bind("cny", "患者1", "M00000001")
    (listed,) = (await bridge.call("GET", f"/cny/patients/{patient}/reports"))["items"]
    of = f"/cny/patients/{patient}/reports/{listed['id']}/attachments"
    status, headers, body = await bridge.fetch(f"{of}/1")
    assert (status, headers["Content-Type"], headers["Content-Length"]) == (200, "image/jpeg", str(len(PICTURE)))
    assert hashlib.sha256(body).digest() == hashlib.sha256(PICTURE).digest()
    for n in (2, 3):
        status, answer = await bridge.ask("GET", f"{of}/{n}")
        assert answer["code"] == "not_offered_by_hospital"
    assert asked == ["/wado/ct?study=7&page=2"]
