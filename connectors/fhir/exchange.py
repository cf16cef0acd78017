"""Reads from one hospital's FHIR server: request from the profile, pages gathered, resources checked, records mapped.

Everything here raises `HisError` and nothing else.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

from connectors.config import HospitalContext
from connectors.fhir import validation
from connectors.fhir.abilities import Abilities, assumed_in
from connectors.fhir.calls import Call, ParameterMissing, Request
from connectors.fhir.client import ExchangeError, FhirClient, Params, Reply, ReplyInvalid
from connectors.fhir.deadlines import Deadline
from connectors.fhir.documents import Document, Json
from connectors.fhir.inventory import schedule_of, without_stops
from connectors.fhir.outcomes import UNAUTHORISED, error_of_read, issues_of
from connectors.fhir.statement import Statement, Statements
from connectors.port import HisError, HisRefused, HisReplyInvalid, HisUnavailable
from mappings.courtesy import courtesy
from mappings.engine import MapContext, Mapped, MappingError
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
    ) -> None:
        self.hospital = hospital
        self.name = name
        self.client = client
        self.calls = calls
        self.connection = connection
        self.rules = rules
        self.statements = Statements(client, rules.release)
        self._assumed = assumed_in(connection)
        self._refusing: set[str] = set()

    def context(self) -> MapContext:
        """The facts around one message, with a fresh `new.uuid`."""
        return MapContext(
            hospital_id=self.hospital.id,
            zone=self.hospital.zone,
            currency=self.hospital.currency,
            now=dt.datetime.now(self.hospital.zone),
            connection=self.connection,
            extra={"new.uuid": str(uuid.uuid4())},
        )

    def setting(self, name: str, default: float) -> float:
        """A number from the profile's `connection`."""
        value = self.connection.get(name, default)
        return float(value) if isinstance(value, int | float | str) else default

    async def abilities(self, deadline: Deadline) -> Abilities:
        """What the server can do beyond reading. Raises HisReplyInvalid for one of another version."""
        statement = await self.statements.known(deadline)
        return Abilities(statement=statement or Statement(), assumed=self._assumed)

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
        self, call: Call, params: Params, deadline: Deadline, *, fresh: bool = True, whole: bool = True
    ) -> Document:
        """The same with parameters at hand."""
        try:
            pages = await self.client.read_pages(call.resource, params, deadline=deadline, fresh=fresh)
        except ExchangeError as error:
            raise _read_failed(error) from error
        entries: dict[object, Json] = {}
        for page in pages:
            self.note(page, f"GET {call.resource}")
            if page.status != 200:
                raise error_of_read(page, call.codes)
            for number, entry in enumerate(_entries(page.body, call)):
                resource = entry["resource"]
                own = resource.get("id")
                key = (str(resource.get("resourceType")), own) if isinstance(own, str) else (id(page), number)
                entries.setdefault(key, entry)
        return await self._checked(list(entries.values()), alone=whole)

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
            raise _read_failed(error) from error
        self.note(reply, f"GET {call.resource}")
        if reply.status in (404, 410):
            return None
        if reply.status != 200:
            raise error_of_read(reply, call.codes)
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

    async def map_slots(self, call: Call, document: Document) -> list[Any]:
        """The records that a document's Slots give; none is stopped whose Schedule has a Slot that was left out.

        A Slot that cannot be read may be the free one: that all others are unavailable stops nothing. Where it does not even
        say whose it is, nothing is stopped.
        """
        mapped = await self._mapped(call, document)
        if mapped.problems and not mapped.records:
            raise HisReplyInvalid(str(mapped.problems[0]))
        doubted = {schedule_of(one) for one in document.left_out if _may_be_slot(one)}
        if not mapped.problems and not doubted:
            return list(mapped.records)
        records, in_doubt = await asyncio.to_thread(self._map_by_schedule, call, document, doubted)
        self._warn("fhir_stops_not_inferred", schedules=in_doubt)
        return records

    def _map_by_schedule(self, call: Call, document: Document, doubted: set[str | None]) -> tuple[list[Any], int]:
        """The records, Schedule by Schedule, and how many of these are in doubt. Synchronous, and rarely called for."""
        groups: dict[str | None, list[Json]] = {}
        others: list[Json] = []
        for entry in document["entry"]:
            resource = entry["resource"]
            is_slot = resource.get("resourceType") == "Slot"
            (groups.setdefault(schedule_of(resource), []) if is_slot else others).append(entry)
        context, found, in_doubt = self.context(), list[Any](), 0
        pause = courtesy()
        for schedule, slots in groups.items():
            assert call.reply is not None  # noqa: S101 - it has been used on the whole document
            mapped = call.reply.read_aside(Document.of([*others, *slots]), context, pause)
            if mapped.problems or schedule in doubted or None in doubted:
                in_doubt += 1
                found += without_stops(mapped.records)
            else:
                found += mapped.records
        return found, in_doubt

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
        for problem in mapped.problems[:10]:
            self._warn("fhir_record_unmapped", problem=str(problem), of=len(mapped.problems))
        return mapped

    async def map_resources(self, call: Call, resources: Sequence[Json]) -> list[Any]:
        """The records of resources at hand."""
        return await self.map_all(call, Document.of([{"resource": resource} for resource in resources]))

    async def _checked(self, entries: list[Json], *, alone: bool = False) -> Document:
        flaws = await validation.check([entry["resource"] for entry in entries], self.rules)
        for flaw in flaws[:10]:
            self._warn("fhir_resource_left_out", resource=flaw.resource_type, reason=flaw.reason, of=len(flaws))
        if flaws and (alone or self.rules.mode == "strict" or len(flaws) == len(entries)):
            raise HisReplyInvalid(f"{flaws[0].resource_type}: {flaws[0].reason}")
        out = {flaw.at for flaw in flaws}
        kept = [entry for at, entry in enumerate(entries) if at not in out]
        return Document.of(kept, [entries[at]["resource"] for at in sorted(out)])

    def _warn(self, event: str, **fields: Any) -> None:
        _log.warning(event, hospital=self.hospital.id, connector=self.name, **fields)


def _entries(bundle: Any, call: Call) -> list[Json]:
    """The resources of one page; an OperationOutcome among them is a remark, or, when severe, means a part is missing."""
    if not isinstance(bundle, dict) or bundle.get("resourceType") != "Bundle":
        raise HisReplyInvalid("the reply to a search is no Bundle")
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
        found.append(entry)
    return found


def _may_be_slot(resource: Json) -> bool:
    kind = resource.get("resourceType")
    return kind == "Slot" or not isinstance(kind, str)


def _read_failed(error: ExchangeError) -> HisError:
    return HisReplyInvalid(str(error)) if isinstance(error, ReplyInvalid) else HisUnavailable(str(error))
