"""Reads from one hospital's FHIR server: request from the profile, pages gathered, resources checked, records mapped.

Everything here raises `HisError` and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from connectors.config import HospitalContext
from connectors.fhir import validation
from connectors.fhir.abilities import Abilities, assumed_in
from connectors.fhir.calls import Call, ParameterMissing, Request
from connectors.fhir.client import ExchangeError, FhirClient, Params, Reply, ReplyInvalid
from connectors.fhir.deadlines import Deadline
from connectors.fhir.documents import Document, Json
from connectors.fhir.outcomes import UNAUTHORISED, error_of_read, issues_of
from connectors.fhir.readings import Reading
from connectors.fhir.setting_aside import SettingAside
from connectors.fhir.sifter import Setup, Sifter
from connectors.fhir.sifting import MOST_TOLD, map_context
from connectors.fhir.statement import Statement, Statements
from connectors.port import HisError, HisRefused, HisReplyInvalid, HisUnavailable
from mappings.engine import MapContext, Mapped, MappingError
from mappings.profile import Profile
from monitoring.logs import get_logger

_log = get_logger(__name__)
# From so many resources on, mapping takes longer than a turn of the event loop may (5 ms).
_OFF_LOOP_FROM = 20


class Versioned:
    """One resource with the version that an update must name in If-Match."""

    __slots__ = ("if_match", "resource")

    def __init__(self, resource: Json, etag: str | None) -> None:
        self.resource = resource
        meta = resource.get("meta")
        version = meta.get("versionId") if isinstance(meta, dict) else None
        self.if_match = etag or (f'W/"{version}"' if version else None)


class Exchange:
    """What every verb needs: the client, the compiled calls, the context for mappings, how to check, what the server can."""

    def __init__(
        self,
        hospital: HospitalContext,
        name: str,
        client: FhirClient,
        calls: dict[str, Call],
        connection: dict[str, Any],
        rules: validation.Rules,
        profile: Profile,
    ) -> None:
        self.hospital = hospital
        self.name = name
        self.client = client
        self.calls = calls
        self.connection = connection
        self.rules = rules
        self.statements = Statements(client, rules.release)
        self._assumed = assumed_in(connection)
        self.sifter = Sifter(Setup(hospital=hospital, profile=profile, connection=connection, rules=rules))
        self.aside = SettingAside(client.record, client.peer)
        self._refusing: set[str] = set()

    def context(self) -> MapContext:
        """The facts around one message, with a fresh `new.uuid`."""
        return map_context(self.hospital, self.connection)

    def setting(self, name: str, default: float) -> float:
        """A number from the profile's `connection`."""
        value = self.connection.get(name, default)
        return float(value) if isinstance(value, int | float | str) else default

    async def abilities(self, deadline: Deadline) -> Abilities:
        """What the server can do beyond reading. Raises HisReplyInvalid for one of another version."""
        statement = await self.statements.known(deadline)
        return Abilities(statement=statement or Statement(), told=statement is not None, assumed=self._assumed)

    async def search(self, call: Call, request: Request, deadline: Deadline, *, whole: bool = False) -> Document:
        """Every resource that a search finds, over all pages, without repeats and without what validation leaves out.

        `whole`: one bad resource spoils the answer, because what was left out might be the very one that is looked for.
        """
        try:
            params = call.search_params(request, self.context())
        except (MappingError, ParameterMissing) as error:
            raise HisRefused(str(error), code="invalid_request") from error
        return await self.find(call, params, deadline, fresh=call.fresh, whole=whole)

    async def find(
        self,
        call: Call,
        params: Params,
        deadline: Deadline,
        *,
        fresh: bool = True,
        whole: bool = True,
        aside: bool = False,
    ) -> Document:
        """The same with parameters at hand. `aside`: the others go on, were there none.

        Where rows came or went between two pages the search is made once more; with `whole` that one must be whole.
        """
        entries, reading = await self._gather(call, params, deadline, fresh=fresh)
        if reading.pages > 1 and (reading.told_otherwise or (whole and not reading.is_whole)):
            self.warn("fhir_search_read_again", resource=call.resource, pages=reading.pages)
            entries, again = await self._gather(call, params, deadline, fresh=fresh)
            if whole and not (again.is_whole or again.confirms(reading)):
                raise HisReplyInvalid(f"the search for {call.resource} has changed while it was read")
        return await self._checked(entries, alone=whole, aside=aside)

    async def _gather(
        self, call: Call, params: Params, deadline: Deadline, *, fresh: bool
    ) -> tuple[list[Json], Reading]:
        """The entries of all pages, each once, and how the reading went."""
        try:
            pages = await self.client.read_pages(call.resource, params, deadline=deadline, fresh=fresh)
        except ExchangeError as error:
            raise read_failed(error) from error
        entries: dict[object, Json] = {}
        reading = Reading(call.resource)
        for page in pages:
            self.note(page, f"GET {call.resource}")
            if page.status != 200:
                raise error_of_read(page, call.codes, call.issue_types)
            for number, entry in enumerate(reading.note(page.body, entries_of_page(page.body, call, self.rules))):
                resource = entry["resource"]
                own = resource.get("id")
                key = (str(resource.get("resourceType")), own) if isinstance(own, str) else (id(page), number)
                entries.setdefault(key, entry)
        return list(entries.values()), reading

    async def ask(self, call: Call, path: str, body: Json, deadline: Deadline) -> Reply:
        """The reply to a POST that changes nothing."""
        try:
            reply = await self.client.create(path, body, deadline=deadline)
        except ExchangeError as error:
            raise read_failed(error) from error
        self.note(reply, f"POST {path}")
        if reply.status != 200:
            raise error_of_read(reply, call.codes, call.issue_types)
        return reply

    async def read(self, call: Call, request: Request, deadline: Deadline) -> Versioned | None:
        """One resource by its id, past every cache; None when the server has none or the id is not known."""
        try:
            resource_id = call.resource_id(request, self.context())
            if resource_id is None:
                return None
            path = f"{call.resource}/{resource_id}"
            reply = await self.client.read(path, deadline=deadline, fresh=True)
        except MappingError as error:
            raise HisRefused(str(error), code="invalid_request") from error
        except ExchangeError as error:
            raise read_failed(error) from error
        self.note(reply, f"GET {call.resource}")
        if reply.status in (404, 410):
            return None
        if reply.status != 200:
            raise error_of_read(reply, call.codes, call.issue_types)
        if not isinstance(reply.body, dict) or reply.body.get("resourceType") != call.resource:
            raise HisReplyInvalid(f"the reply is no {call.resource}")
        await self._checked([{"resource": reply.body}], alone=True)
        return Versioned(reply.body, reply.etag)

    async def map_all(self, call: Call, document: Document, *, whole: bool = False) -> list[Any]:
        """The records of a document. A record that cannot be mapped is left out and told in the log.

        Raises HisReplyInvalid when none of them can; with `whole` when one of them cannot.
        """
        mapped = await self._mapped(call, document)
        if mapped.problems and (whole or not mapped.records):
            raise HisReplyInvalid(str(mapped.problems[0]))
        return list(mapped.records)

    def note(self, reply: Reply, request: str) -> None:
        """Log once that the server does not let us make a request (as in `POST Appointment`), until it has let us again."""
        if reply.status in UNAUTHORISED and request not in self._refusing:
            self._refusing.add(request)
            _log.error(
                "fhir_not_authorised",
                hospital=self.hospital.id,
                connector=self.name,
                status=reply.status,
                request=request,
            )
        elif reply.status < 300:
            self._refusing.discard(request)

    async def _mapped(self, call: Call, document: Document) -> Mapped:
        if call.reply is None:
            raise HisReplyInvalid(f"the profile does not say how to read {call.resource}")
        context = self.context()
        if len(document.get("entry", ())) < _OFF_LOOP_FROM:
            mapped = call.reply.read(document, context)
        else:
            mapped = await asyncio.to_thread(call.reply.read_aside, document, context)
        self.tell_unmapped([str(problem) for problem in mapped.problems[:MOST_TOLD]], len(mapped.problems))
        return mapped

    async def map_resources(self, call: Call, resources: Sequence[Json]) -> list[Any]:
        """The records of resources at hand."""
        return await self.map_all(call, Document.of([{"resource": resource} for resource in resources]))

    async def _checked(self, entries: list[Json], *, alone: bool = False, aside: bool = False) -> Document:
        flaws = await validation.check([entry["resource"] for entry in entries], self.rules)
        self.leave_out(entries, flaws)
        if flaws and not aside and (alone or self.rules.mode == "strict" or len(flaws) == len(entries)):
            raise HisReplyInvalid(f"{flaws[0].resource_type}: {flaws[0].reason}")
        out = {flaw.at for flaw in flaws}
        kept = [entry for at, entry in enumerate(entries) if at not in out]
        return Document.of(kept, [entries[at]["resource"] for at in sorted(out)])

    def leave_out(self, entries: Sequence[Json], flaws: Sequence[validation.Flaw]) -> None:
        """Tell of resources that are not used, and set them aside in the message store."""
        for flaw in flaws[:MOST_TOLD]:
            self.warn("fhir_resource_left_out", resource=flaw.resource_type, reason=flaw.reason, of=len(flaws))
        for flaw in flaws:
            self.aside.set_aside(entries[flaw.at]["resource"], flaw)

    def tell_unmapped(self, problems: Sequence[str], count: int) -> None:
        """Tell of records that could not be mapped."""
        for problem in problems:
            self.warn("fhir_record_unmapped", problem=problem, of=count)

    def warn(self, event: str, **fields: Any) -> None:
        """Log something of this connector."""
        _log.warning(event, hospital=self.hospital.id, connector=self.name, **fields)


def entries_of_page(bundle: Any, call: Call, rules: validation.Rules) -> list[Json]:
    """The entries of one page of a search.

    An OperationOutcome among them is a remark, or, when severe, means that a part is missing; whatever else comes as an outcome
    (FHIR R4 valueset-search-entry-mode) is none of what was found. A Bundle with rules of its own must not be processed.
    """
    if not isinstance(bundle, dict) or bundle.get("resourceType") != "Bundle":
        raise HisReplyInvalid("the reply to a search is no Bundle")
    if "implicitRules" in bundle and not rules.understands(bundle["implicitRules"]):
        raise HisReplyInvalid("Bundle: implicitRules that are not understood")
    found = []
    entries = bundle.get("entry") or []
    if not isinstance(entries, list):
        raise HisReplyInvalid("the entries of the Bundle are no list")
    for entry in entries:
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if not isinstance(resource, dict):
            raise HisReplyInvalid("an entry of the Bundle has no resource")
        if resource.get("resourceType") == "OperationOutcome":
            if issues_of(resource):
                raise HisReplyInvalid(f"the search for {call.resource} was answered in part only")
            continue
        search = entry.get("search")
        if isinstance(search, dict) and search.get("mode") == "outcome":
            continue
        found.append(entry)
    return found


def read_failed(error: ExchangeError) -> HisError:
    """The port's error for an exchange that gave no usable reply to a read."""
    return HisReplyInvalid(str(error)) if isinstance(error, ReplyInvalid) else HisUnavailable(str(error))
