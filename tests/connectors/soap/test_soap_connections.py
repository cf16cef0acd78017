"""Connections to a hospital: kept alive, few, by TLS with certificates of both sides; each verb with a time-out of its own."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from connectors.port import Accepted, HisUnavailable, Rejected, Unknown
from tests.connectors.hl7v2.wire.authority import Authority, Pair
from tests.connectors.soap.golden.dhc_doors import done
from tests.connectors.soap.soap_hospital import connected, enveloped, golden_order


class Counted:
    """Answers "done" after `delay_s`, and keeps from which port each request came and how many connections there were at once."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.ports: list[int] = []
        self.names: list[str] = []
        self.open = self.most = 0

    async def handle(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        self.ports.append(request.transport.get_extra_info("peername")[1])
        cert = request.transport.get_extra_info("peercert") or {}
        self.names += [value for part in cert.get("subject", ()) for key, value in part if key == "commonName"]
        self.open += 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(self.delay_s)
        self.open -= 1
        return web.Response(text=enveloped(done()), content_type="text/xml", charset="utf-8")


@contextlib.asynccontextmanager
async def serving(counted: Counted, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Its address."""
    app = web.Application()
    app.router.add_post("/his", counted.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{runner.addresses[0][1]}/his"
    finally:
        await runner.cleanup()


async def test_calls_share_one_connection_when_they_follow_each_other() -> None:
    counted = Counted()
    async with serving(counted) as url, connected(endpoint=url) as his:
        for _ in range(5):
            await his.ping()
    assert len(counted.ports) == 5
    assert len(set(counted.ports)) == 1


async def test_connection_is_a_new_one_when_it_was_idle_for_too_long() -> None:
    counted = Counted()
    async with serving(counted) as url, connected(endpoint=url, keepalive_s=0.1) as his:
        await his.ping()
        await asyncio.sleep(0.5)
        await his.ping()
    assert len(set(counted.ports)) == 2


async def test_connections_are_no_more_than_allowed_when_many_calls_come_at_once() -> None:
    counted = Counted(delay_s=0.05)
    async with serving(counted) as url, connected(endpoint=url, max_connections=2) as his:
        await asyncio.gather(*(his.ping() for _ in range(8)))
    assert counted.most == 2
    assert len(set(counted.ports)) == 2


async def test_verb_has_its_own_time_out() -> None:
    counted = Counted(delay_s=1.0)
    timeouts = {"fetch_departments": 0.2, "unlock_slot": 0.2, "cancel_registration": 30.0}
    async with serving(counted) as url, connected(endpoint=url, timeout_s=timeouts) as his:
        with pytest.raises(HisUnavailable):
            await his.fetch_departments()
        assert isinstance(await his.unlock_slot(golden_order()), Unknown)
        assert await his.cancel_registration(golden_order()) == Accepted()


async def test_hospital_is_called_directly_when_the_environment_names_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    counted = Counted()
    async with serving(counted) as url, connected(endpoint=url) as his:
        await his.ping()
    assert len(counted.ports) == 1


# --- TLS ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def his_authority(tmp_path: Path) -> Authority:
    """Who signs for the hospital."""
    (tmp_path / "his").mkdir()
    return Authority(tmp_path / "his")


@pytest.fixture
def our_authority(tmp_path: Path) -> Authority:
    """Who signs for us."""
    (tmp_path / "ours").mkdir()
    return Authority(tmp_path / "ours")


def wants(theirs: Pair, ours: Authority) -> ssl.SSLContext:
    """A server that wants a certificate of this authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(theirs.cert_file, theirs.key_file)
    context.load_verify_locations(ours.ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_certificate_is_shown_when_the_hospital_wants_one(
    his_authority: Authority, our_authority: Authority
) -> None:
    counted, us = Counted(), our_authority.sign("us")
    ours = {"tls_client_cert_file": str(us.cert_file), "tls_client_key_file": str(us.key_file)}
    async with (
        serving(counted, wants(his_authority.sign("his"), our_authority)) as url,
        connected(endpoint=url, ca_file=str(his_authority.ca_file), **ours) as his,
    ):
        assert await his.unlock_slot(golden_order()) == Accepted()
    assert counted.names == ["us"]


async def test_nothing_is_done_when_the_hospital_wants_a_certificate_and_we_have_none(
    his_authority: Authority, our_authority: Authority
) -> None:
    counted = Counted()
    async with (
        serving(counted, wants(his_authority.sign("his"), our_authority)) as url,
        connected(endpoint=url, ca_file=str(his_authority.ca_file)) as his,
    ):
        with pytest.raises(HisUnavailable):
            await his.ping()
        assert not isinstance(await his.unlock_slot(golden_order()), Accepted)
    assert counted.ports == []


@pytest.mark.parametrize("trusted", [True, False], ids=["another authority", "the system's"])
async def test_nothing_is_sent_when_nobody_vouches_for_the_hospital(
    his_authority: Authority, our_authority: Authority, trusted: bool
) -> None:
    counted = Counted()
    given = {"ca_file": str(our_authority.ca_file)} if trusted else {}
    async with (
        serving(counted, wants(his_authority.sign("his"), our_authority)) as url,
        connected(endpoint=url, **given) as his,
    ):
        outcome = await his.unlock_slot(golden_order())
        assert isinstance(outcome, Rejected)
        assert (outcome.code, outcome.retryable) == ("not_sent", True)
    assert counted.ports == []
