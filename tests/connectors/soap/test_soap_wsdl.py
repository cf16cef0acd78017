"""The WSDL, read by zeep, and what happens without one."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from connectors.port import HisRefused
from connectors.soap import create, wsdl_cache
from connectors.soap.envelope import Call, SoapVersion
from connectors.soap.wsdl import BareService, WsdlError, read_service
from loadtest.simulators import soap, soap_dialects
from tests.connectors.soap.soap_hospital import HOSPITAL, PERSON, connected, hospital, options, switch

ROUND = b'<s:simpleType name="Round"><s:restriction base="s0:Round"/></s:simpleType></s:schema>'
WSDL = Path(soap_dialects.__file__).with_name("dhc.wsdl")


def test_calls_and_address_come_from_the_wsdl() -> None:
    service = read_service(WSDL.read_bytes(), str(WSDL))
    assert service.address == "http://localhost/csp/his/SelfRegService.cls"
    assert service.calls["LockOrder"] == Call(
        operation="{http://tempuri.org}LockOrder",
        arguments={"XMLRequest": "{http://tempuri.org}XMLRequest"},
        soap_action="http://tempuri.org/SelfRegService.LockOrder",
        version=SoapVersion.V11,
    )
    assert len(service.calls) == 17


def test_argument_has_no_namespace_when_the_schema_is_unqualified() -> None:
    data = WSDL.read_bytes().replace(b'elementFormDefault="qualified" ', b"")
    assert read_service(data, "x.wsdl").calls["LockOrder"].arguments == {"XMLRequest": "XMLRequest"}


def test_version_is_1_2_when_the_binding_says_so() -> None:
    data = WSDL.read_bytes().replace(b"schemas.xmlsoap.org/wsdl/soap/", b"schemas.xmlsoap.org/wsdl/soap12/")
    assert read_service(data, "x.wsdl").calls["LockOrder"].version is SoapVersion.V12


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<a/>",
        b"<html><body>login</body></html>",
        WSDL.read_bytes()[:3000],
        b'<!DOCTYPE d [<!ENTITY a "b">]>' + WSDL.read_bytes(),
        WSDL.read_bytes().replace(
            b"<types>", b'<import namespace="x" location="http://127.0.0.1:9/other.wsdl"/><types>'
        ),
        WSDL.read_bytes().replace(b"<types>", b'<import namespace="x" location="/etc/passwd"/><types>'),
        WSDL.read_bytes().replace(b'type="s:string"', b'type="s0:Nope"'),
        WSDL.read_bytes().replace(b'type="s:string"', b'type="s0:Round"').replace(b"</s:schema>", ROUND),
        WSDL.read_bytes().replace(b"soapAction=\"", b"soapAction=\"a&#10;X-Other: 1"),
        WSDL.read_bytes().replace(b"http://localhost/", b"http://localhost:99999/"),
    ],
    ids=["empty", "other xml", "html", "cut off", "dtd", "network import", "file import", "dangling type",
         "circular type", "a header in an action", "no address"],
)  # fmt: skip
def test_wsdl_is_refused_when_it_is_broken_or_reaches_out(data: bytes) -> None:
    with pytest.raises(WsdlError) as raised:
        read_service(data, "hospital.wsdl")
    assert "hospital.wsdl" in str(raised.value)


def test_bare_service_follows_the_convention() -> None:
    bare = BareService(namespace="urn:h", soap_action="{namespace}/S.{operation}", qualified=False)
    assert bare.call("Lock", ["code", "text"]) == Call(
        operation="{urn:h}Lock", arguments={"code": "code", "text": "text"}, soap_action="urn:h/S.Lock"
    )


async def test_calls_go_on_with_bare_settings_when_the_wsdl_is_missing(tmp_path: Path) -> None:
    simulator = await soap.start(days=1)
    try:
        with capture_logs() as logs:
            async with connected(wsdl=str(tmp_path / "none.wsdl"), endpoint=simulator.url) as his:
                assert len(await his.fetch_departments()) == 3
        (warning,) = [entry for entry in logs if entry["event"] == "wsdl_unreadable"]
        assert (warning["hospital"], warning["connector"], warning["log_level"]) == ("soap-demo", "his", "warning")
        assert "none.wsdl" in warning["reason"]
    finally:
        await simulator.close()


async def test_start_is_refused_when_the_wsdl_is_missing_and_nothing_else_tells_the_address(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"wsdl: there is no file .*none\.wsdl.* set `endpoint`"):
        async with connected(wsdl=str(tmp_path / "none.wsdl")):
            pass


async def test_wsdl_is_read_from_a_file_and_the_endpoint_overrides_its_address() -> None:
    simulator = await soap.start(days=1)
    try:
        with capture_logs() as logs:
            async with connected(wsdl=str(WSDL), endpoint=simulator.url) as his:
                assert len(await his.fetch_departments()) == 3
                assert his._endpoint._service is not None
        assert [entry for entry in logs if entry["log_level"] == "warning"] == []
    finally:
        await simulator.close()


async def test_wsdl_and_address_come_from_the_url_when_nothing_else_is_set() -> None:
    async with hospital() as (simulator, his):
        assert len(await his.fetch_departments()) == 3
        assert his._endpoint.address == simulator.url
        switch(simulator, "find_patient", "refuse")
        with pytest.raises(HisRefused):
            await his.find_patient(PERSON)


async def test_query_of_the_wsdl_url_is_not_logged_when_it_fails() -> None:
    app = web.Application()
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://user:secret@127.0.0.1:{runner.addresses[0][1]}/x?wsdl&token=secret"
    try:
        with capture_logs() as logs:
            async with connected(wsdl=url) as his:
                await his._endpoint.ready(3)
        (warning,) = [entry for entry in logs if entry["event"] == "wsdl_unreadable"]
        assert "404" in warning["reason"]
        assert "secret" not in str(warning)
    finally:
        await runner.cleanup()


def test_connector_is_refused_when_it_has_neither_endpoint_nor_wsdl() -> None:
    with pytest.raises(ValueError, match="endpoint"):
        create(HOSPITAL, "his", options())


async def test_last_wsdl_is_used_when_the_hospitals_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    answers = [web.Response(body=WSDL.read_bytes()), web.Response(status=503)]

    async def serve(request: web.Request) -> web.Response:
        return answers.pop(0)

    app = web.Application()
    app.router.add_get("/x", serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/x?wsdl"
    try:
        async with connected(wsdl=url) as his:
            await his._endpoint.ready(3)
        kept = wsdl_cache.file_of("soap-demo", "his", url)
        assert kept.read_bytes() == WSDL.read_bytes()
        with capture_logs() as logs:
            async with connected(wsdl=url) as his:
                await his._endpoint.ready(3)
                assert his._endpoint.call_of("LockOrder", ["XMLRequest"]).soap_action.endswith(
                    "SelfRegService.LockOrder"
                )
                assert his._endpoint.address == "http://localhost/csp/his/SelfRegService.cls"
        (warning,) = [entry for entry in logs if entry["event"] == "wsdl_unreadable"]
        assert warning["fallback"] == f"the one that was read last: {kept}"
        assert "503" in warning["reason"]
    finally:
        await runner.cleanup()


async def test_wsdl_is_used_and_that_is_told_when_it_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "file" / "folder"))
    with capture_logs() as logs:
        async with hospital() as (_, his):
            assert len(await his.fetch_departments()) == 3
            assert his._endpoint.typed_of("LockOrder") is not None
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["wsdl_not_kept"]


async def test_profiles_settings_are_used_when_the_kept_wsdl_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    url = "http://127.0.0.1:9/x?wsdl"
    wsdl_cache.file_of("soap-demo", "his", url).write_bytes(b"<html>")
    with capture_logs() as logs:
        async with connected(wsdl=url) as his:
            await his._endpoint.ready(3)
    assert [entry["fallback"] for entry in logs if entry["event"] == "wsdl_unreadable"] == [
        "the profile's bare settings"
    ]
