"""The files of SMART Scheduling Links as bytes: Location, Schedule and Slot, a resource a line (its specification.md).

Only `free` and `busy` are told: what is not on sale now is busy to a harvester. A hospital without campuses is one Location.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from booking.api.fhir.ids import code_to_fhir, row_id_to_fhir
from booking.api.fhir.resources.elements import SLOT_CAPACITY, department_concept, his_system, instant, reference
from booking.catalog import remaining_of, slot_status
from booking.settings import Campus, Hospital

Row = dict[str, Any]
_encode = msgspec.json.Encoder().encode


def locations(hospital: Hospital, base: str) -> bytes:
    """The campuses of the settings. The address that a harvester may show is `base` where no telephone is known."""
    return _lines(_location(hospital, campus, base) for campus in _campuses(hospital))


def schedules(hospital: Hospital, rows: Iterable[Row], departments: Mapping[str, str | None]) -> bytes:
    """Rows of `catalog.list_schedules`; `departments` tells the campus of each, by its id or its name."""
    return _lines(_schedule(hospital, row, departments.get(row["department_id"])) for row in rows)


def slots(hospital: Hospital, rows: Iterable[Row], now_ms: int) -> bytes:
    """Rows of `catalog.list_slots` as they are at an instant."""
    return _lines(_slot(hospital, row, now_ms) for row in rows)


def manifest(base: str, transaction_time: dt.datetime, files: Iterable[tuple[str, str]]) -> bytes:
    """The manifest: `files` are pairs of a resource type and a file's name."""
    url = f"{base}/$bulk-publish"
    return _encode(
        {
            "transactionTime": transaction_time.isoformat(timespec="milliseconds"),
            "request": url,
            "output": [{"type": kind, "url": f"{url}/{name}"} for kind, name in files],
            "error": [],
        }
    )


def _lines(resources: Iterable[Row]) -> bytes:
    return b"".join(_encode(resource) + b"\n" for resource in resources)


def _campuses(hospital: Hospital) -> tuple[Campus, ...]:
    return hospital.campuses or (Campus(id=hospital.id, name=hospital.name),)


def _location(hospital: Hospital, campus: Campus, base: str) -> Row:
    telecom = [{"system": "url", "value": base}]
    if campus.phone:
        telecom.insert(0, {"system": "phone", "value": campus.phone})
    address: Row = {} if campus.address is None else {"line": [campus.address]}
    parts = (("city", campus.city), ("state", campus.state), ("postalCode", campus.postal_code))
    address |= {name: value for name, value in parts if value}
    resource = {
        "resourceType": "Location",
        "id": code_to_fhir(campus.id),
        "identifier": [{"system": his_system(hospital.id, "campus"), "value": campus.id}],
        "name": campus.name,
        "telecom": telecom,
    }
    return {**resource, "address": address} if address else resource


def _schedule(hospital: Hospital, row: Row, at: str | None) -> Row:
    campuses = _campuses(hospital)
    campus = next((c for c in campuses if at in (c.id, c.name)), campuses[0])
    told: Row = {
        "resourceType": "Schedule",
        "id": row_id_to_fhir(row["id"]),
        "active": row["status"] == "open",
        "serviceType": [department_concept(hospital.id, row["department_id"], row["department_name"])],
        "actor": [reference("Location", code_to_fhir(campus.id))],
        "planningHorizon": {"start": row["date"], "end": row["date"]},
    }
    names = [row["practitioner_name"], row["clinic_type"]]
    comment = ", ".join(name for name in names if name)
    return {**told, "comment": comment} if comment else told


def _slot(hospital: Hospital, row: Row, now_ms: int) -> Row:
    is_free = slot_status(row, now_ms) == "open"
    told: Row = {
        "resourceType": "Slot",
        "id": row_id_to_fhir(row["id"]),
        "schedule": reference("Schedule", row_id_to_fhir(row["schedule_id"])),
        "status": "free" if is_free else "busy",
        "start": instant(row["starts_at_ms"], hospital.zone),
        "end": instant(row["ends_at_ms"], hospital.zone),
    }
    return {**told, "extension": [{"url": SLOT_CAPACITY, "valueInteger": remaining_of(row)}]} if is_free else told
