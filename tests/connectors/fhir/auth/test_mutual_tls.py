"""TLS with an authority of the hospital's own, and a certificate of ours that the server demands."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from connectors.port import HisUnavailable
from tests.connectors.fhir.fhir_hospital import connected, fhir_json
from tests.connectors.hl7v2.wire.authority import Authority

CAPABILITIES = '{"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1"}'


@contextlib.asynccontextmanager
async def tls_server(his: Authority, ours: Authority, seen: list[str]) -> AsyncIterator[str]:
    """A server that wants a certificate of `ours`, and keeps the name and the serial number of each."""
    pair = his.sign("his")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert_file, pair.key_file)
    context.load_verify_locations(ours.ca_file)
    context.verify_mode = ssl.CERT_REQUIRED

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        seen.append(request.transport.get_extra_info("peercert")["serialNumber"])
        return fhir_json(CAPABILITIES)

    app = web.Application()
    app.router.add_get("/fhir/metadata", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield f"https://127.0.0.1:{runner.addresses[0][1]}/fhir"
    finally:
        await runner.cleanup()


def folder(path: Path) -> Path:
    path.mkdir()
    return path


async def test_renewed_certificate_is_shown_at_the_next_call_without_a_restart(tmp_path: Path) -> None:
    his, ours = Authority(folder(tmp_path / "his")), Authority(folder(tmp_path / "ours"))
    pair = ours.sign("us")
    seen: list[str] = []
    async with (
        tls_server(his, ours, seen) as base_url,
        connected(
            base_url,
            ca_file=str(his.ca_file),
            tls_client_cert_file=str(pair.cert_file),
            tls_client_key_file=str(pair.key_file),
        ) as connector,
    ):
        await connector.ping()
        await connector.ping()
        ours.sign("us")
        await connector.ping()
        assert seen[0] == seen[1] != seen[2]
        pair.cert_file.write_text("half copied")
        await connector.ping()
        assert seen[3] == seen[2]


async def test_server_is_not_spoken_to_when_another_authority_signed_its_certificate(tmp_path: Path) -> None:
    his, ours = Authority(folder(tmp_path / "his")), Authority(folder(tmp_path / "ours"))
    (tmp_path / "token").write_text("ours")
    seen: list[str] = []
    async with (
        tls_server(his, ours, seen) as base_url,
        connected(base_url, ca_file=str(ours.ca_file), token_file=str(tmp_path / "token")) as connector,
    ):
        with pytest.raises(HisUnavailable, match="Certificate"):
            await connector.ping()
    assert seen == []


async def test_call_fails_when_the_server_wants_a_certificate_and_we_show_none(tmp_path: Path) -> None:
    his, ours = Authority(folder(tmp_path / "his")), Authority(folder(tmp_path / "ours"))
    seen: list[str] = []
    async with tls_server(his, ours, seen) as base_url, connected(base_url, ca_file=str(his.ca_file)) as connector:
        with pytest.raises(HisUnavailable):
            await connector.ping()
    assert seen == []
