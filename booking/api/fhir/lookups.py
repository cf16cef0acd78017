"""Resources by their ids, of every kind: what reads, `_id` and `_include` have in common.

Each looks up many at once and leaves out what does not exist or is not the client's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from booking import catalog, people, reporting
from booking.api.fhir.ids import code_of, code_to_fhir, row_id_of, row_id_to_fhir
from booking.api.fhir.resources.appointment import appointment_resource
from booking.api.fhir.resources.people import patient_resource, practitioner_resource, role_resource
from booking.api.fhir.resources.places import location_resource, service_resource
from booking.api.fhir.resources.report import observation_resources, report_resource
from booking.api.fhir.resources.schedule import schedule_resource
from booking.api.fhir.resources.slot import slot_resource
from booking.api.fhir.seen import SeenReports
from booking.api.fhir.serving import Resource
from booking.api.fhir.view import View
from booking.bookings import own_booking
from booking.errors import Refusal
from booking.named import schedules_named, slots_named
from booking.records import Booking, Person
from booking.report_reads import Outcome
from booking.store.engine import Tx

LookUp = Callable[[Tx, View, Sequence[str]], Awaitable[list[Resource]]]


async def slots(tx: Tx, view: View, ids: Sequence[str]) -> list[Resource]:
    rows = await slots_named(tx, [row_id_of(one) for one in ids])
    return [slot_resource(view.hospital, row, view.now_ms) for row in rows.values()]


async def schedules(tx: Tx, view: View, ids: Sequence[str]) -> list[Resource]:
    rows = await schedules_named(tx, [row_id_of(one) for one in ids])
    return [schedule_resource(view.hospital, row) for row in rows.values()]


async def appointments(tx: Tx, view: View, ids: Sequence[str]) -> list[Resource]:
    found: list[Booking] = []
    for one in dict.fromkeys(ids):
        try:
            found.append(await own_booking(tx, view.client_id, one))
        except Refusal:
            continue
    return await show_bookings(tx, view, found)


async def show_bookings(tx: Tx, view: View, bookings: Sequence[Booking]) -> list[Resource]:
    """Bookings with their slots; the slot of a booking is kept for good."""
    rows = await slots_named(tx, [booking.slot_id for booking in bookings])
    return [appointment_resource(view.hospital, b, rows[b.slot_id]) for b in bookings if b.slot_id in rows]


async def patients(tx: Tx, view: View, ids: Sequence[str]) -> list[Resource]:
    found = [own for one in dict.fromkeys(ids) for own in await people.own_patients(tx, view.client_id, one)]
    return [patient_resource(view.hospital, row, person) for row, person in found]


async def department_rows(tx: Tx, view: View) -> list[dict[str, Any]]:
    """All departments by id: those that the HIS lists, and those that only its schedules name."""
    rows = {row["id"]: row for row in (await catalog.named_by_schedules(tx, view.today, view.horizon))[0]}
    rows |= {row["id"]: row for row in await catalog.list_departments(tx)}
    return [rows[key] for key in sorted(rows)]


async def practitioner_rows(tx: Tx, view: View) -> list[dict[str, Any]]:
    """All practitioners by id: those that the HIS lists, and those that only its schedules name."""
    rows = {row["id"]: row for row in (await catalog.named_by_schedules(tx, view.today, view.horizon))[1]}
    rows |= {row["id"]: row for row in await catalog.list_practitioners(tx, None)}
    return [rows[key] for key in sorted(rows)]


def _named(rows: Iterable[dict[str, Any]], ids: Sequence[str]) -> list[dict[str, Any]]:
    known = {row["id"]: row for row in rows}
    codes = (code_of(one, known) for one in ids)
    return [known[code] for code in dict.fromkeys(codes) if code is not None and code in known]


async def practitioners(tx: Tx, view: View, ids: Sequence[str]) -> list[Resource]:
    return [practitioner_resource(view.hospital, row) for row in _named(await practitioner_rows(tx, view), ids)]


async def roles(tx: Tx, view: View, ids: Sequence[str]) -> list[Resource]:
    names = {row["id"]: row["name"] for row in await department_rows(tx, view)}
    rows = _named(await practitioner_rows(tx, view), ids)
    return [role_resource(view.hospital, row, names.get(row["department_id"])) for row in rows]


async def services(tx: Tx, view: View, ids: Sequence[str]) -> list[Resource]:
    return [service_resource(view.hospital, row) for row in _named(await department_rows(tx, view), ids)]


async def locations(tx: Tx, view: View, ids: Sequence[str]) -> list[Resource]:
    wanted = set(ids)
    return [location_resource(view.hospital, c) for c in view.hospital.campuses if code_to_fhir(c.id) in wanted]


async def own_report(tx: Tx, view: View, fhir_id: str) -> tuple[reporting.ReportRow, str, Any] | None:
    """A report of one of the client's patients, that patient's id, and the person. What becomes of it is noted in the view."""
    row, seen = await reporting.load_report(tx, row_id_of(fhir_id)), view.seen or SeenReports()
    own = None if row is None else await people.patient_of_client(tx, view.client_id, row.mrn_digest)
    if row is None:
        seen.refused(Outcome.UNKNOWN, fhir_id)
        return None
    if own is None:
        seen.refused(Outcome.NOT_THEIRS, row.id, person_id=await people.owner_ids(tx, row.mrn_digest))
        return None
    if not reporting.is_released(tx, row, view.hospital.reports):
        seen.refused(Outcome.NOT_RELEASED, row.id, patient_id=own[0]["id"], person_id=own[1].id)
        return None
    seen.own(row, *_handle(own))
    return row, own[0]["id"], own[1]


def _handle(own: tuple[dict[str, str], Person]) -> tuple[dict[str, str], str]:
    return own[0], own[1].id


async def reports(tx: Tx, view: View, ids: Sequence[str]) -> list[Resource]:
    found = [await own_report(tx, view, one) for one in dict.fromkeys(ids)]
    return [report_resource(view, one[0], one[1]) for one in found if one is not None]


async def observations(tx: Tx, view: View, ids: Sequence[str]) -> list[Resource]:
    """Of several of one report, the report is read once."""
    found: list[Resource] = []
    wanted = set(ids)
    for report_id in dict.fromkeys(one.rpartition(".")[0] for one in ids):
        own = await own_report(tx, view, report_id) if report_id else None
        if own is not None and row_id_to_fhir(own[0].id) == report_id:
            found += [one for one in observation_resources(view, own[0], own[1]) if one["id"] in wanted]
    return found


LOOK_UPS: dict[str, LookUp] = {
    "Slot": slots,
    "Schedule": schedules,
    "Appointment": appointments,
    "Patient": patients,
    "Practitioner": practitioners,
    "PractitionerRole": roles,
    "HealthcareService": services,
    "Location": locations,
    "DiagnosticReport": reports,
    "Observation": observations,
}
