"""How each kind is found; slots have a way of their own (`slots`)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence

from booking import bookings as rules
from booking import catalog, people, reporting
from booking.api.fhir.lookups import (
    LOOK_UPS,
    department_rows,
    practitioner_rows,
    show_bookings,
)
from booking.api.fhir.resources.elements import ORDER_SYSTEM, SCHEDULE_SYSTEM
from booking.api.fhir.resources.people import patient_resource, practitioner_resource, role_resource
from booking.api.fhir.resources.places import location_resource, service_resource
from booking.api.fhir.resources.report import observation_resources, report_resource
from booking.api.fhir.resources.schedule import schedule_resource
from booking.api.fhir.search.criteria import FOREVER_MS, split_values, unescape
from booking.api.fhir.search.fits import check_values, places, spans, tokens
from booking.api.fhir.search.identified import patients_named, without_chains
from booking.api.fhir.search.requests import SearchRequest
from booking.api.fhir.search.scanning import Found, Key, Row, page_of, page_of_many, scan, sort_all
from booking.api.fhir.seen import SeenReports
from booking.api.fhir.serving import Resource, invalid
from booking.api.fhir.view import View
from booking.named import schedules_named
from booking.report_reads import Outcome
from booking.store.engine import Tx

Finder = Callable[[Tx, View, SearchRequest], Awaitable[Found]]


async def by_ids(tx: Tx, view: View, request: SearchRequest) -> Found:
    """What `_id` names, of any kind, where it fits the rest too."""
    ids = [unescape(one) for one in split_values(request.texts("_id")[0].text)]
    return page_of(request, await LOOK_UPS[request.kind](tx, view, list(dict.fromkeys(ids))), view.zone)


async def schedules(tx: Tx, view: View, request: SearchRequest) -> Found:
    if request.texts("identifier"):
        named = await schedules_named(tx, values_of(request, SCHEDULE_SYSTEM))
        return page_of(request, (schedule_resource(view.hospital, row) for row in named.values()), view.zone)
    first, last = dates_of(request, "date", view)

    async def batch(after: Key | None, limit: int) -> Sequence[Row]:
        rows = await catalog.list_schedules(
            tx, date_from=first, date_to=last, after=None if after is None else (after[0], after[1]), limit=limit
        )
        return [((row["date"], row["id"]), schedule_resource(view.hospital, row)) for row in rows]

    return await scan(request, batch, view.zone, parts=2)


def dates_of(request: SearchRequest, name: str, view: View) -> tuple[dt.date | None, dt.date | None]:
    """The days that can fit every date of the search; None: no end. One more on each side: an instant's day is the zone's."""
    from_ms, until_ms = -FOREVER_MS, FOREVER_MS
    for criterion in request.texts(name):
        bounds = [span.bounds() for span in spans(criterion, view.zone)]
        from_ms, until_ms = max(from_ms, min(b[0] for b in bounds)), min(until_ms, max(b[1] for b in bounds))
    one = dt.timedelta(days=1)
    first = None if from_ms <= -FOREVER_MS else _day(from_ms, view) - one
    return first, None if until_ms >= FOREVER_MS else _day(until_ms, view) + one


def _day(at_ms: int, view: View) -> dt.date:
    return dt.datetime.fromtimestamp(at_ms / 1000, view.zone).date()


async def appointments(tx: Tx, view: View, request: SearchRequest) -> Found:
    if request.texts("identifier"):
        wanted = values_of(request, ORDER_SYSTEM)
        found = [await rules.own_by_order_no(tx, view.client_id, one) for one in wanted]
        return page_of(request, await show_bookings(tx, view, [b for b in found if b is not None]), view.zone)
    patient_id = _only_patient(request)

    async def batch(after: Key | None, limit: int) -> Sequence[Row]:
        found = await rules.find_bookings(
            tx, view.client_id, patient_id=patient_id, after=None if after is None else after[0], limit=limit
        )
        shown = {one["id"]: one for one in await show_bookings(tx, view, found)}
        return [((b.id,), shown.get(b.id, _NOTHING)) for b in found]

    if request.sort:
        return await sort_all(request, batch, view.zone)
    return await scan(request, batch, view.zone, few=patient_id is not None)  # ITI-118, 2:3.118.4.2.2: always a total


_NOTHING: Resource = {"resourceType": "Appointment", "id": "", "status": ""}


def _only_patient(request: SearchRequest) -> str | None:
    """The patient, where the search is for one alone: then an index finds the bookings."""
    for name in ("patient", "actor"):
        for criterion in request.texts(name):
            named = places(criterion)
            if len(named) == 1 and (name == "patient" or named[0].kind == "Patient"):
                return named[0].id
    return None


def values_of(request: SearchRequest, system: str) -> list[str]:
    """The values of the first `identifier` that are in this namespace, or in none that was named."""
    wanted = tokens(request.texts("identifier")[0])
    return list(dict.fromkeys(t.code for t in wanted if t.code and t.system in (None, system)))


async def patients(tx: Tx, view: View, request: SearchRequest) -> Found:
    """A client's own, by what it knows of them: nobody can list."""
    if not request.texts("identifier"):
        raise invalid("?identifier", "an identifier, or `_id`: patients cannot be listed")
    found = {}
    for token in tokens(request.texts("identifier")[0]):
        for row, person in await patients_named(tx, view, token):
            found[row["id"]] = patient_resource(view.hospital, row, person)
    return page_of(request, found.values(), view.zone, but=("identifier",))


async def practitioners(tx: Tx, view: View, request: SearchRequest) -> Found:
    rows = await practitioner_rows(tx, view)
    return await page_of_many(request, rows, lambda row: (practitioner_resource(view.hospital, row),), view.zone)


async def roles(tx: Tx, view: View, request: SearchRequest) -> Found:
    names = {row["id"]: row["name"] for row in await department_rows(tx, view)}
    rows = await practitioner_rows(tx, view)
    return await page_of_many(
        request, rows, lambda row: (role_resource(view.hospital, row, names.get(row["department_id"])),), view.zone
    )


async def services(tx: Tx, view: View, request: SearchRequest) -> Found:
    rows = await department_rows(tx, view)
    return await page_of_many(request, rows, lambda row: (service_resource(view.hospital, row),), view.zone)


async def places_of_hospital(tx: Tx, view: View, request: SearchRequest) -> Found:
    return page_of(request, (location_resource(view.hospital, c) for c in view.hospital.campuses), view.zone)


async def reports(tx: Tx, view: View, request: SearchRequest) -> Found:
    patient_id, rows = await _reports(tx, view, request)
    return await page_of_many(request, rows, lambda row: (report_resource(view, row, patient_id),), view.zone)


async def observations(tx: Tx, view: View, request: SearchRequest) -> Found:
    patient_id, rows = await _reports(tx, view, request)
    return await page_of_many(request, rows, lambda row: observation_resources(view, row, patient_id), view.zone)


async def _reports(tx: Tx, view: View, request: SearchRequest) -> tuple[str, list[reporting.ReportRow]]:
    patient_id = patient_of(request)
    own, seen = await people.own_patients(tx, view.client_id, patient_id), view.seen or SeenReports()
    if not own:
        seen.refused(Outcome.NOT_THEIRS, patient_id=patient_id, person_id=await people.person_of(tx, patient_id))
        return patient_id, []
    patient, person = own[0]
    rows = await reporting.reports_of(tx, person, view.hospital.reports)
    seen.asked_of(patient, person.id)
    for row in rows:
        seen.own(row, patient, person.id)
    return patient_id, rows


def patient_of(request: SearchRequest) -> str:
    """Whose reports are asked for. Raises ApiProblem where no patient is named, or several are."""
    named = {place for name in ("patient", "subject") for one in request.texts(name) for place in places(one)}
    ids = {place.id for place in named if place.kind in (None, "Patient")}
    if len(ids) != 1:
        raise invalid("?patient", "one patient (or _id)")
    return ids.pop()


FINDERS: dict[str, Finder] = {
    "Schedule": schedules,
    "Appointment": appointments,
    "Patient": patients,
    "Practitioner": practitioners,
    "PractitionerRole": roles,
    "HealthcareService": services,
    "Location": places_of_hospital,
    "DiagnosticReport": reports,
    "Observation": observations,
}


async def find(tx: Tx, view: View, request: SearchRequest) -> Found:
    """The page that a search asks for. Raises ApiProblem, StoreUnavailable."""
    check_values(request, view.zone)
    meant = await without_chains(tx, view, request)
    if meant is None:
        return Found([], total=0)
    finder = by_ids if meant.texts("_id") else FINDERS[meant.kind]
    return await finder(tx, view, meant)
