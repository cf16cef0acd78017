"""A slot of ours as a FHIR Slot: one Slot for a segment with all its seats."""

from __future__ import annotations

from typing import Any

from booking.api.fhir.codes import SLOT_STATUS
from booking.api.fhir.ids import row_id_to_fhir
from booking.api.fhir.resources.elements import (
    EXTENSION,
    SLOT_CAPACITY,
    SLOT_SYSTEM,
    concept,
    department_concept,
    his_system,
    instant,
    reference,
)
from booking.api.fhir.serving import Resource
from booking.catalog import remaining_of, slot_status
from booking.settings import Hospital


def slot_resource(hospital: Hospital, row: dict[str, Any], now_ms: int) -> Resource:
    """A row of `catalog.list_slots` as it is at an instant."""
    zone, status = hospital.zone, slot_status(row, now_ms)
    resource: Resource = {"resourceType": "Slot", "id": row_id_to_fhir(row["id"])}
    resource["extension"] = _extensions(hospital, row, status)
    resource["identifier"] = [{"system": SLOT_SYSTEM, "value": row["id"]}]
    resource["serviceType"] = [department_concept(hospital.id, row["department_id"], row["department_name"])]
    if row["clinic_type"]:
        resource["appointmentType"] = concept(
            his_system(hospital.id, "clinic-type"), row["clinic_type"], row["clinic_type"]
        )
    resource["schedule"] = reference("Schedule", row_id_to_fhir(row["schedule_id"]))
    resource["status"] = SLOT_STATUS[status]
    resource["start"] = instant(row["starts_at_ms"], zone)
    resource["end"] = instant(row["ends_at_ms"], zone)
    return resource


def _extensions(hospital: Hospital, row: dict[str, Any], status: str) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = [
        {"url": SLOT_CAPACITY, "valueInteger": 0 if status == "stopped" else remaining_of(row)}
    ]
    if row["fee_fen"] is not None:
        told.append({"url": EXTENSION + "fee", "valueMoney": money(row["fee_fen"], hospital.currency)})
    if status == "not_released":
        told.append({"url": EXTENSION + "opens-at", "valueInstant": instant(row["opens_at_ms"], hospital.zone)})
    return told


def money(amount_fen: int, currency: str) -> dict[str, Any]:
    """Money of R4. Its value is a decimal: two digits are exact in it up to 10^13."""
    return {"value": round(amount_fen / 100, 2), "currency": currency}
