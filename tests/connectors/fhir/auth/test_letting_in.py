"""How we are let in: what is shown, when it is renewed, and to whom it is never shown."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from connectors.fhir import FhirConnector, Options, create
from connectors.port import Accepted, HisError, HisRefused, HisReplyInvalid, HisUnavailable, Rejected
from loadtest.simulators import fhir
from loadtest.simulators.fhir_tokens import TokenDesk
from mappings.canonical import Attachment
from monitoring.metrics import REGISTRY
from tests.connectors.fhir.auth.conftest import Clock
from tests.connectors.fhir.fhir_hospital import HOSPITAL, canned, connected, fhir_json, order_for, window

SECRET = "s3cret: of/ours+"


@contextlib.asynccontextmanager
async def by_secret(
    folder: Path, *, expires_in: Any = 300, **given: Any
) -> AsyncIterator[tuple[fhir.FhirSimulator, FhirConnector, TokenDesk]]:
    desk = TokenDesk(secret=SECRET, expires_in=expires_in)
    simulator = await fhir.start(days=1, seats=2, tokens=desk)
    (folder / "secret").write_text(f"{SECRET}\n")
    options: dict[str, Any] = {
        "auth": "client_credentials",
        "client_id": "hisbridge",
        "client_secret_file": str(folder / "secret"),
        "token_url": f"http://127.0.0.1:{simulator.port}/oauth2/token",
    }
    try:
        async with connected(simulator.base_url, **options | given) as connector:
            yield simulator, connector, desk
    finally:
        await simulator.close()


def tokens_counted(result: str) -> float:
    labels = {"hospital": HOSPITAL.id, "connector": "his", "result": result}
    return REGISTRY.get_sample_value("hisbridge_fhir_tokens_total", labels) or 0.0


# --- basic and bearer ------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def guarded(shown: list[str | None], good: set[str]) -> AsyncIterator[str]:
    async def handler(request: web.Request) -> web.StreamResponse:
        header = request.headers.get("Authorization")
        shown.append(header)
        if header not in good:
            return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})
        return fhir_json('{"resourceType": "Bundle", "type": "searchset"}')

    async with canned(handler) as base_url:
        yield base_url


async def test_name_and_password_are_shown_as_basic_in_utf8(tmp_path: Path) -> None:
    """RFC 7617 section 2.1: with the charset UTF-8, `test:123£` is `dGVzdDoxMjPCow==`."""
    (tmp_path / "password").write_text("123£\n", encoding="utf-8")
    shown: list[str | None] = []
    async with (
        guarded(shown, {"Basic dGVzdDoxMjPCow=="}) as base_url,
        connected(base_url, auth="basic", username="test", password_file=str(tmp_path / "password")) as connector,
    ):
        await connector.fetch_departments()
    assert shown == ["Basic dGVzdDoxMjPCow=="]


async def test_token_is_read_anew_and_the_call_repeated_when_it_was_replaced_in_its_file(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    shown: list[str | None] = []
    good = {"Bearer old"}
    async with guarded(shown, good) as base_url, connected(base_url, token_file=str(token)) as connector:
        await connector.fetch_departments()
        token.write_text("new")
        good.clear()
        good.add("Bearer new")
        await connector.fetch_departments()
        assert shown == ["Bearer old", "Bearer old", "Bearer new"]
        good.clear()
        with pytest.raises(HisRefused, match="HTTP 401"):
            await connector.fetch_departments()
        assert shown[3:] == ["Bearer new"]  # the file says nothing else: not asked again


# --- access tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["basic", "form"])
async def test_secret_is_shown_to_the_token_server_and_the_token_to_the_server(way: str, tmp_path: Path) -> None:
    async with by_secret(tmp_path, client_auth=way) as (simulator, connector, desk):
        await connector.ping()
        assert desk.given == ["token-1"]
        assert ("authorization" if way == "form" else "client_secret") not in {k for k, v in desk.asked[0].items() if v}
        assert [headers["Authorization"] for _, _, headers in simulator.requests] == ["Bearer token-1"]


async def test_one_token_is_asked_for_when_forty_calls_wait_for_it(tmp_path: Path, clock: Clock) -> None:
    given = tokens_counted("given")
    async with by_secret(tmp_path) as (_, connector, desk):
        await asyncio.gather(*(connector.ping() for _ in range(40)))
        assert len(desk.given) == 1
        desk.expire()
        clock.forward(301)
        await asyncio.gather(*(connector.ping() for _ in range(40)))
        assert len(desk.given) == 2
    assert tokens_counted("given") == given + 2


async def test_token_is_renewed_before_its_end_when_the_server_tells_it(tmp_path: Path, clock: Clock) -> None:
    """Of a hundred seconds a fifth is the margin: after 80 s there is a new one, and no request is refused meanwhile."""
    async with by_secret(tmp_path, expires_in=100) as (simulator, connector, desk):
        await connector.ping()
        clock.forward(60)
        await connector.ping()
        assert len(desk.given) == 1
        clock.forward(20)
        await connector.ping()
        assert len(desk.given) == 2
        assert len(simulator.requests) == 3


async def test_write_is_done_once_when_its_token_has_expired_on_the_way(tmp_path: Path, clock: Clock) -> None:
    async with by_secret(tmp_path) as (simulator, connector, desk):
        order = await order_for(connector)
        clock.forward(60)
        desk.expire()
        assert isinstance(await connector.book(order), Accepted)
        assert len(desk.given) == 2
        assert len(simulator.hospital.visits) == 1


async def test_server_is_not_asked_for_token_after_token_when_it_refuses_each(tmp_path: Path) -> None:
    async with by_secret(tmp_path) as (_, connector, desk):
        await connector.ping()
        desk.lets_in = False
        for _ in range(20):
            with pytest.raises(HisError):
                await connector.ping()
        assert len(desk.given) == 1


@pytest.mark.parametrize(
    "reply",
    [
        lambda: web.json_response({"error": "invalid_client"}, status=401),
        lambda: web.Response(status=503),
        lambda: web.Response(text="<html>", content_type="text/html"),
        lambda: web.json_response({"access_token": "a\r\nX: y", "token_type": "bearer"}),
        lambda: web.json_response({"access_token": "t", "token_type": "mac"}),
        lambda: web.json_response({"access_token": 7, "token_type": "bearer"}),
        lambda: web.json_response([]),
        lambda: web.Response(body=b"x" * 200_000),
        lambda: web.Response(status=302, headers={"Location": "http://evil.example/"}),
    ],
)
async def test_write_is_not_sent_and_comes_again_when_there_is_no_token(
    reply: Any, tmp_path: Path, clock: Clock
) -> None:
    async with by_secret(tmp_path) as (simulator, connector, desk):
        order = await order_for(connector)
        clock.forward(301)
        asked = len(simulator.requests)
        refused = tokens_counted("not_given")
        desk.refusals += [reply()]
        outcome = await connector.book(order)
        assert isinstance(outcome, Rejected)
        assert (outcome.code, outcome.retryable) == ("not_sent", True)
        assert SECRET not in outcome.text
        with pytest.raises(HisUnavailable):
            await connector.ping()  # within the pause, and the token server is not asked
        assert len(simulator.requests) == asked
        assert not desk.refusals
        assert tokens_counted("not_given") == refused + 1


@pytest.mark.parametrize("expires_in", [None, "300", "soon", -5, 0, 1e12, True, -(10**400)])
async def test_token_is_used_whatever_is_said_of_its_end(expires_in: Any, tmp_path: Path) -> None:
    async with by_secret(tmp_path, expires_in=expires_in) as (_, connector, desk):
        await connector.ping()
        assert len(desk.given) == 1


async def test_old_token_is_used_while_it_is_good_when_no_new_one_is_given(tmp_path: Path, clock: Clock) -> None:
    async with by_secret(tmp_path, expires_in=100) as (_, connector, desk):
        await connector.ping()
        clock.forward(80)
        desk.refusals.append(web.Response(status=503))
        await connector.ping()
        assert desk.given == ["token-1"]


# --- to whom nothing is shown ----------------------------------------------------------------------------------------


async def test_token_goes_nowhere_else_when_links_redirects_and_attachments_lead_away(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("ours")
    strangers: list[str] = []

    async def stranger(request: web.Request) -> web.StreamResponse:
        strangers.append(request.path)
        return fhir_json("{}")

    async with canned(stranger, statement=None) as elsewhere:

        async def handler(request: web.Request) -> web.StreamResponse:
            if request.path.endswith("HealthcareService"):
                return web.Response(status=307, headers={"Location": f"{elsewhere}/HealthcareService"})
            link = [{"relation": "next", "url": f"{elsewhere}/Slot?page=2"}]
            return fhir_json(msgspec.json.encode({"resourceType": "Bundle", "type": "searchset", "link": link}))

        async with (
            canned(handler) as base_url,
            connected(base_url, token_file=str(tmp_path / "token")) as connector,
        ):
            with pytest.raises(HisReplyInvalid):
                await connector.fetch_departments()
            with pytest.raises(HisReplyInvalid, match="another server"):
                await connector.fetch_slots(window(), ())
            for url in (f"{elsewhere}/Binary/1", elsewhere.replace("http:", "") + "/Binary/1", f"{base_url}x/Binary/1"):
                with pytest.raises(HisReplyInvalid, match="another server"):
                    await connector.fetch_attachment(Attachment(content_type="application/pdf", url=url))
    assert strangers == []


async def test_log_and_repr_hold_no_secret_when_everything_is_refused(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with by_secret(tmp_path) as (_, connector, desk):
        await connector.ping()
        desk.expire()
        clock.forward(60)
        desk.refusals.append(web.json_response({"error": SECRET, "error_description": "token-1"}, status=400))
        with pytest.raises(HisError) as told:
            await connector.ping()
        text = f"{told.value}{capsys.readouterr()}{caplog.text}{connector!r}"
    basic = base64.b64encode(f"hisbridge:{SECRET}".encode()).decode()
    for secret in (SECRET, "token-1", basic):
        assert secret not in text


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"auth": "basic", "username": "a:b", "password_env": "HOME"}, "without a colon"),
        ({"auth": "basic", "username": "a"}, "set one of password_file and password_env"),
        ({"auth": "bearer"}, "set one of token_file and token_env"),
        ({"token_env": "HISBRIDGE_NO_SUCH"}, "the environment has no HISBRIDGE_NO_SUCH"),
        ({"auth": "none", "token_env": "HOME"}, "token_env is not used with auth = 'none'"),
        ({"auth": "client_credentials", "client_id": "a", "client_secret_env": "HOME"}, "needs token_url"),
        ({"auth": "client_credentials", "token_url": "http://x/t", "client_secret_env": "HOME"}, "needs client_id"),
        ({"auth": "smart", "client_id": "a", "scope": "system/*.rs"}, "needs signing_key_files"),
        ({"auth": "smart", "client_id": "a", "signing_key_files": ["/none"], "scope": "s"}, "No such file"),
        ({"auth": "smart", "client_id": "a", "token_url": "ftp://x"}, "token_url: an address"),
        ({"ca_file": "/none"}, "base_url is without it"),
        ({"base_url": "https://his.example/fhir", "tls_client_key_file": "/k"}, "needs tls_client_cert_file"),
        ({"base_url": "https://his.example/fhir", "ca_file": "/none"}, "authorities /none"),
        (
            {"base_url": "https://h/f", "auth": "smart", "client_id": "a", "token_url": "http://h/t"},
            "token_url is without TLS",
        ),
    ],
)
def test_settings_are_refused_when_they_cannot_be_meant(given: dict[str, Any], why: str) -> None:
    options = {"protocol": "fhir", "profile": "fhir_r4@1", "base_url": "http://his.example/fhir"} | given
    with pytest.raises(ValueError, match=why):
        create(HOSPITAL, "his", Options(**options))
