"""Reads of single resources: `GET [base]/[type]/[id]` (FHIR R4 http.html#read), and of their present version (#vread)."""

from __future__ import annotations

from typing import Any

from booking.api.context import Context
from booking.api.fhir.ids import row_id_to_fhir
from booking.api.fhir.lookups import LOOK_UPS, own_report
from booking.api.fhir.resources.report import observation_resources, report_resource
from booking.api.fhir.search.requests import read_search
from booking.api.fhir.search.tables import KINDS
from booking.api.fhir.seen import SeenReports
from booking.api.fhir.serving import (
    Resource,
    base_of,
    fhir_route,
    prefers,
    read_parameters,
    reply_resource,
    unknown_resource,
    version_of,
)
from booking.api.fhir.subsets import subset
from booking.api.fhir.view import View
from booking.api.problems import ApiProblem
from booking.api.report_routes import ReportHandlers
from booking.api.routing import Call, Handler, Ready, RequestClass, Route
from booking.report_reads import Outcome, ReadLog
from booking.reporting import ReportRow
from booking.store.engine import Tx


def view_of(context: Context, call: Call[Any, Any], now_ms: int) -> View:
    """What this request may see."""
    base = base_of(call, context.public_url)
    return View(context.hospital(call), call.caller.id, now_ms, base, call.caller.scopes, SeenReports())


class Reads:
    """One resource of each kind."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._reports = ReportHandlers(context)
        self._reads = context.reads or ReadLog(context.store)

    def of(self, kind: str) -> Handler:
        """The handler for a kind."""

        async def read(call: Call[str, None]) -> Ready:
            async with self._context.store.read(call.hospital_id) as tx:
                view = view_of(self._context, call, tx.now_ms)
                found = await LOOK_UPS[kind](tx, view, [call.path["id"]])
            return await self._recorded(call, view, kind, next(iter(found), None))

        return read

    async def _recorded(self, call: Call[str, None], view: View, kind: str, resource: Resource | None) -> Ready:
        """The answer; a read of a report is on the record before it leaves, and a refusal too."""
        seen = view.seen or SeenReports()
        try:
            answer = reply_read(call, kind, resource)
        except ApiProblem:
            await self._reads.record(call.hospital_id, *seen.missed(call))
            raise
        outcome = Outcome.UNCHANGED if answer.status == 304 else Outcome.GIVEN
        shown = () if resource is None else (resource,)
        await self._reads.record(call.hospital_id, *seen.record(call, shown, outcome))
        return answer

    async def report(self, call: Call[str, None]) -> Ready:
        """As `/v1`: the hospital is asked for the report as it is now."""
        view, found = await self._now(call, call.path["id"])
        resource = None if found is None else report_resource(view, *found)
        return await self._recorded(call, view, "DiagnosticReport", resource)

    async def observation(self, call: Call[str, None]) -> Ready:
        """A line of a report: who reads it reads the report, as the hospital tells it now."""
        view, found = await self._now(call, call.path["id"].rpartition(".")[0])
        lines = [] if found is None else observation_resources(view, *found)
        resource = next((line for line in lines if line["id"] == call.path["id"]), None)
        return await self._recorded(call, view, "Observation", resource)

    async def _now(self, call: Call[str, None], fhir_id: str) -> tuple[View, tuple[ReportRow, str] | None]:
        """One of the client's reports and the id of its patient; what was looked at is noted in the view."""
        async with self._context.store.read(call.hospital_id) as tx:
            view = view_of(self._context, call, tx.now_ms)
            own = await own_report(tx, view, fhir_id) if fhir_id else None
        if own is None or row_id_to_fhir(own[0].id) != fhir_id:
            return view, None
        row = await self._reports.complete(call.hospital_id, own[2], own[0], call.left_s())
        if view.seen is not None:
            view.seen.completed(row)
        return view, (row, own[1])


def reply_read(call: Call[str, Any], kind: str, resource: Resource | None) -> Ready:
    """The resource, or the part of it that is asked for. Raises ApiProblem(resource_unknown), also for an earlier version."""
    if resource is None or resource["id"] != call.path["id"]:
        raise unknown_resource(kind, call.path["id"])
    version = call.path.get("version")
    if version is not None and version != version_of(resource):
        raise ApiProblem("resource_unknown", f"Of {kind} there is the present version alone: no history is kept.")
    shape = tuple(one for one in read_parameters(call.query) if one[0] in ("_summary", "_elements"))
    strict = prefers(call.request.headers, "handling", ("strict", "lenient")) == "strict"
    request = read_search(kind, read_parameters(call.query) if strict else shape, strict=strict)
    return reply_resource(call.request.headers, resource, part=lambda whole: subset(whole, request))


async def find_one(tx: Tx, view: View, kind: str, fhir_id: str) -> Resource:
    """One resource of a kind. Raises ApiProblem(resource_unknown)."""
    found = await LOOK_UPS[kind](tx, view, [fhir_id])
    if not found:
        raise unknown_resource(kind, fhir_id)
    return found[0]


def read_routes(context: Context) -> list[Route]:
    """The routes of this group."""
    reads, routes = Reads(context), list[Route]()
    for kind in KINDS.values():
        live = {"DiagnosticReport": reads.report, "Observation": reads.observation}.get(kind.name)
        handler = live or reads.of(kind.name)
        for path in ("{id}", "{id}/_history/{version}"):
            routes += fhir_route(
                "GET",
                f"{kind.name}/{path}",
                handler,
                scopes=(kind.scope,),
                request_class=RequestClass.LIVE if live else RequestClass.READ,
                heeds_wait=live is not None,
            )
    return routes
