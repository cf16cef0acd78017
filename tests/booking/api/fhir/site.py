"""The whole API with its facade over a store, on a socket: what a portal that speaks FHIR sees."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from booking.api.application import ApiOptions, build_server
from booking.api.auth import SCOPES, ApiClient, Authenticator, digest_api_key
from booking.api.context import translate
from booking.api.fhir.routes import fhir_routes, only_hospital
from booking.api.parts import ApiParts
from booking.api.routes import api_routes
from booking.ports import Documents, Links
from booking.settings import Hospital, Service
from booking.store.engine import Store
from mappings.canonical import Attachment, Bill, Patient, Report, Settlement
from monitoring.health import Health
from tests.booking.api.fhir.emitted import check_emitted
from tests.booking.world import CLIENT, HOSPITAL

BASE = "/fhir/R4"
_keys = itertools.count(1)


class Ward:
    """A HIS that offers everything, and answers live questions with what a test has put here."""

    def __init__(self) -> None:
        self.reported: list[Report] = []
        self.presettled = Settlement()
        self.billed: list[Bill] = []
        self.off: set[str] = set()

    def capabilities(self, hospital_id: str) -> dict[str, str]:
        verbs = (
            "ping", "lock_slot", "book", "register", "cancel_registration", "find_patient", "create_patient", "fetch_reports",
            "fetch_report", "fetch_bills", "settle_bill", "presettle_bill", "refund", "fetch_registration",
        )  # fmt: skip
        return {verb: "off" if verb in self.off else "native" for verb in verbs}

    def his_status(self, hospital_id: str) -> str:
        return "up"

    async def bills(self, hospital_id: str, patient: Patient, *, within_s: float | None = None) -> list[Bill]:
        return self.billed

    async def presettlement(
        self, hospital_id: str, bill: Bill, patient: Patient, order_no: str, *, within_s: float | None = None
    ) -> Settlement:
        return self.presettled

    async def reports(self, hospital_id: str, patient: Patient, *, within_s: float | None = None) -> list[Report]:
        return self.reported

    async def report(
        self, hospital_id: str, patient: Patient, report_id: str, *, within_s: float | None = None
    ) -> Report | None:
        return next((report for report in self.reported if report.id == report_id), None)

    async def attachment(
        self, hospital_id: str, attachment: Attachment, *, within_s: float | None = None
    ) -> Attachment:
        return attachment


class Keys:
    """`portal` and `another` may do all, `both` at two hospitals, `booker` no patients, `reader` nothing."""

    clients: Mapping[str, ApiClient] = {
        digest_api_key(name): ApiClient(id=name, name=name, scopes=frozenset(scopes), hospitals=hospitals)
        for name, scopes, hospitals in (
            (CLIENT, SCOPES, None),
            ("another", SCOPES, None),
            ("both", SCOPES, frozenset({HOSPITAL, "h2"})),
            ("one", SCOPES, frozenset({HOSPITAL})),
            ("reader", (), None),
            ("booker", ("booking",), None),
        )
    }

    async def lookup(self, digest: str) -> ApiClient | None:
        return self.clients.get(digest)


class Told:
    """An answer: what came, and the resource in it."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        """Our code in an OperationOutcome."""
        return str(self.issue["details"]["coding"][0]["code"])

    @property
    def issue(self) -> dict[str, Any]:
        """The first issue of a failure: of an OperationOutcome, or of the only entry of a Bundle (`$book`)."""
        told = self.json
        if told["resourceType"] == "Bundle":
            [entry] = told["entry"]
            assert entry["search"] == {"mode": "outcome"}
            told = entry["resource"]
        assert told["resourceType"] == "OperationOutcome", self.body
        return dict(told["issue"][0])

    @property
    def resources(self) -> list[dict[str, Any]]:
        """The matches of a searchset."""
        assert self.status == 200, self.body
        return [e["resource"] for e in self.json.get("entry", ()) if e.get("search", {}).get("mode") == "match"]

    @property
    def included(self) -> list[dict[str, Any]]:
        return [e["resource"] for e in self.json.get("entry", ()) if e.get("search", {}).get("mode") == "include"]

    def link(self, relation: str) -> str | None:
        return next((link["url"] for link in self.json["link"] if link["relation"] == relation), None)


class FhirSite:
    """One process. Everything that it emits is validated: see `emitted`."""

    def __init__(
        self, session: aiohttp.ClientSession, store: Store, ward: Ward, parts: ApiParts, health: Health
    ) -> None:
        self.session = session
        self.health = health
        self.store = store
        self.ward = ward
        self.parts = parts

    async def ask(
        self,
        path: str,
        method: str = "GET",
        body: Any = None,
        *,
        by: str | None = CLIENT,
        headers: Mapping[str, str] | None = None,
    ) -> Told:
        """`path` behind the base, or whole; `body` a resource, or bytes as they are sent."""
        url = path if path.startswith(("/", "http")) else f"{BASE}/{path}"
        sent = {"Content-Type": "application/fhir+json"} if body is not None else {}
        sent |= {} if by is None else {"Authorization": f"Bearer {by}"}
        data = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        async with self.session.request(method, url, data=data, headers=sent | dict(headers or {})) as answer:
            told = Told(answer.status, answer.headers, await answer.read())
        if "/fhir/R4" in url:
            check_emitted(told.status, told.headers, told.body, has_body=method != "HEAD")
        return told

    async def pages(self, path: str, *, most: int = 100) -> list[Told]:
        """This page and all that its next links lead to, as they are given."""
        pages = [await self.ask(path)]
        while (following := pages[-1].link("next")) is not None:
            assert len(pages) < most, "paging does not end"
            pages.append(await self.ask(following))
        return pages


@asynccontextmanager
async def serve_fhir(
    store: Store,
    *hospitals: Hospital,
    options: ApiOptions | None = None,
    documents: Documents | None = None,
    links: Links | None = None,
    **service: Any,
) -> AsyncIterator[FhirSite]:
    """Serve these hospitals from the store. The feed's first poll has ended."""
    async with AsyncExitStack() as stack:
        ward, known, health = Ward(), {hospital.id: hospital for hospital in hospitals}, Health()
        parts = ApiParts(store, known, ward, Service(**service), documents=documents, links=links)
        server = build_server(
            [*api_routes(parts.context), *fhir_routes(parts.context)],
            authenticator=Authenticator(Keys()),
            hospital_known=known.__contains__,
            hospital_of_key=only_hospital(known),
            translate=translate,
            health=health,
            options=options or ApiOptions(),
        )
        stack.push_async_callback(parts.close)
        await parts.start()
        await parts.feed.catch_up(10)
        runner = web.ServerRunner(server)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        session = await stack.enter_async_context(aiohttp.ClientSession(f"http://{host}:{port}"))
        yield FhirSite(session, store, ward, parts, health)
