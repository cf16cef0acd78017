"""The shipped SOAP profiles, their calls as the connector writes them, and the peers that read those."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, settings

from connectors.port import (
    Verb,
)
from connectors.soap import Options
from connectors.soap.endpoint import Endpoint
from connectors.soap.options import read_connection, read_secrets
from connectors.soap.speech import Speech
from connectors.soap.verbs import Case, compile_verbs
from connectors.soap.wire import Wire
from connectors.soap.wsdl import BareService
from loadtest.simulators.hospital import Hospital
from loadtest.simulators.soap_dialects import DIALECTS
from loadtest.simulators.soap_dialects.speaking import Ledger
from mappings.context import MapContext
from mappings.profile import SHIPPED, Profile, load_profile
from tests.connectors.soap.reading_back import Peer, flat, flat_named, text_of
from tests.connectors.soap.soap_hospital import (
    HOSPITAL,
    ZONE,
)
from tests.connectors.soap.spoken import SPOKEN

LOOSE = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=50)


def shipped() -> list[str]:
    files = sorted(SHIPPED.glob("*/profile.yaml"))
    return [file.parent.name for file in files if re.search(r"^protocol: soap$", file.read_text("utf-8"), re.MULTILINE)]


GIVEN = {one.profile.partition("@")[0]: one for one in SPOKEN}
PROFILES = [
    *(pytest.param(name, False, id=name) for name in shipped()),
    *(pytest.param(name, True, id=f"{name} by WSDL") for name, one in GIVEN.items() if one.by_wsdl),
]


def options_of(name: str, wsdl: Path | None, **given: Any) -> Options:
    options = {"endpoint": "http://127.0.0.1:9/", "wsdl": None if wsdl is None else str(wsdl)}
    if name in GIVEN:
        options |= GIVEN[name].options
    return Options(protocol="soap", profile=name, **(options | given))


def wsdl_of(name: str, by_wsdl: bool, folder: Path) -> Path | None:
    """The simulated hospital's WSDL, as a file."""
    if not by_wsdl:
        return None
    dialect = DIALECTS[GIVEN[name].name](Hospital("S"), Ledger(lock_s=1, later=lambda delay_s, action: None))
    file = folder / "his.wsdl"
    file.write_text(dialect.wsdl("http://127.0.0.1:9/") or "", "utf-8")
    return file


class Written:
    """A profile's calls, written as the connector writes them, and the peer that reads them."""

    def __init__(self, name: str, wsdl: Path | None = None) -> None:
        self.profile: Profile = load_profile(name)
        self.options = options_of(name, wsdl)
        self.connection, self.merged = read_connection(self.profile, self.options.settings)
        keys = read_secrets(self.options.secret_files)
        self.wire = Wire(self.profile, self.connection, keys)
        self.peer = Peer(self.merged, keys)
        self.verbs = compile_verbs(self.profile, self.merged)
        self.by_types = wsdl is not None and self.peer.form == "typed"
        endpoint = asyncio.run(self._endpoint())
        self.speech = Speech(endpoint, self.wire, self.connection, max_chars=1_000_000)
        raw = (SHIPPED / name / "profile.yaml").read_text("utf-8") + str(self.profile.raw)
        self.refs = sorted(set(re.findall(r"his_refs\.(\w+)", raw)))

    async def _endpoint(self) -> Endpoint:
        connection, options = self.connection, self.options
        bare = BareService(
            namespace=connection.namespace,
            qualified=connection.argument_qualified,
            soap_action=connection.soap_action,
            version=connection.soap_version,
        )
        endpoint = Endpoint(
            hospital_id="", connector="", wsdl=options.wsdl, address=options.endpoint, bare=bare, cdata=connection.cdata
        )
        async with aiohttp.ClientSession() as session:
            endpoint.load(session, [case.operation for verb in self.verbs.values() for case in verb.cases])
            await endpoint.ready(60)
        return endpoint

    def cases(self) -> Iterator[tuple[Verb, Case, Any, bool]]:
        """Each call: of which verb, compiled, its request as the profile has it, and whether it is a `then`."""
        for name, verb in self.verbs.items():
            spec, call = verb.spec, verb.spec.call
            own = [{"request": spec.request, "first": call.get("first")}]
            entries = (*(listed(call, "cases") or own), *listed(call, "also"))
            for case, entry in zip((*verb.cases, *verb.also), entries, strict=True):
                yield Verb(name), case, entry["request"], False
                if case.first is not None:
                    yield Verb(name), case.first.case, entry["first"]["request"], False
            if verb.then is not None and spec.then is not None:
                yield Verb(name), verb.then.case, spec.then["request"], True

    def write(self, case: Case, request: Any) -> tuple[Any, bytes]:
        """The request's tree, and the bytes of its call."""
        ctx = MapContext(
            hospital_id=HOSPITAL.id,
            zone=ZONE,
            currency="CNY",
            now=dt.datetime(2026, 1, 5, 8, tzinfo=ZONE),
            connection=self.merged,
            extra={"page.number": 2, "page.offset": 100, "page.size": 100},
        )
        return case.request.write(request, ctx), self.speech.write(case, request, ctx).body or b""

    def as_read(self, tree: Any) -> list[tuple[str, str]]:
        """The tree as it must be read."""
        if self.peer.form == "packed":
            return [("", text_of(value)) for value in tree.values()] or [("", "")]
        return self.ordered([one for name, inner in tree.items() for one in flat_named(name, inner, "")])

    def ordered(self, found: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The WSDL's types have their own order, and leave out what is empty."""
        return sorted(one for one in found if one[1]) if self.by_types else found

    def read(self, body: bytes, case: Case) -> list[tuple[str, str]]:
        found = self.peer.read(body, case.trade)
        if isinstance(found, list):
            return [("", value) for value in found]
        if self.peer.form == "typed":
            return self.ordered([one for child in found for one in flat(child)])
        return flat(found)


def listed(call: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Calls of a verb, which may stand under names."""
    calls = call.get(key, [])
    return list(calls.values() if isinstance(calls, dict) else calls)
