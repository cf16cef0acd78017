"""Canonical records as FHIR resources, by hand: the way back for the round trip. Shares nothing with the profiles."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any

from mappings.canonical import (
    Attachment,
    Bill,
    Department,
    Observation,
    Patient,
    Practitioner,
    Record,
    Registration,
    Report,
    Schedule,
    ScheduleStatus,
    Session,
    Settlement,
    Slot,
)

Json = dict[str, Any]
_STARTS = {Session.AM: "08:00:00", Session.PM: "14:00:00", Session.NIGHT: "19:00:00", Session.ALL_DAY: "08:00:00"}
_APPOINTMENT = {"locked": "pending", "registered": "booked", "checked_in": "arrived", "no_show": "noshow",
                "released": "cancelled", "waitlisted": "waitlist", "entered_in_error": "entered-in-error"}  # fmt: skip
_INVOICE = {"open": "issued", "paid": "balanced", "cancelled": "cancelled"}
ORDER_SYSTEM = "urn:hisbridge:order-no"


def written(record: Record, release: str, currency: str = "CNY") -> list[Json]:
    """The resources that tell this record, the one that is read first."""
    match record:
        case Department():
            return [_department(record)]
        case Practitioner():
            return [_role(record)]
        case Schedule():
            return _schedule(record, release)
        case Slot():
            return [_slot(record)]
        case Patient():
            return [_patient(record)]
        case Registration():
            return [_appointment(record)]
        case Bill():
            return [_invoice(record, release)]
        case Settlement():
            return _notice(record, currency)
        case Report():
            return [_report(record)]
    raise AssertionError(type(record).__name__)


def _bare(resource: Json) -> Json:
    return {name: value for name, value in resource.items() if value not in (None, [], {})}


def _reference(kind: str, number: str | None, display: str | None = None) -> Json | None:
    found = _bare({"reference": f"{kind}/{number}" if number else None, "display": display})
    return found or None


def _money(fen: int, currency: str) -> Json:
    return {"value": Decimal(fen) / 100, "currency": currency}


def _department(one: Department) -> Json:
    return _bare({
        "resourceType": "HealthcareService", "id": one.id, "name": one.name,
        "identifier": [{"value": one.his_refs["identifier"]}] if "identifier" in one.his_refs else None,
        "location": [{"display": one.campus}] if one.campus else None,
    })  # fmt: skip


def _role(one: Practitioner) -> Json:
    service = _reference("HealthcareService", one.department_id)
    return _bare({
        "resourceType": "PractitionerRole", "id": one.his_refs.get("role"),
        "practitioner": _reference("Practitioner", one.id, one.name),
        "healthcareService": [service] if service else None, "code": [{"text": one.title}] if one.title else None,
    })  # fmt: skip


def _slot(one: Slot) -> Json:
    stopped = one.status is ScheduleStatus.STOPPED
    status = "busy-unavailable" if stopped else "free" if one.seats_left else "busy"
    return {
        "resourceType": "Slot", "id": one.id, "schedule": _reference("Schedule", one.schedule_id), "status": status,
        "start": one.starts_at.isoformat(), "end": one.ends_at.isoformat(),
    }  # fmt: skip


def _schedule(one: Schedule, release: str) -> list[Json]:
    zone = "+08:00"
    kind = {"text": one.clinic_type}
    slot = _bare({
        "resourceType": "Slot", "id": "any", "schedule": _reference("Schedule", one.id),
        "status": "busy-unavailable" if one.status is ScheduleStatus.STOPPED else "free",
        "start": f"{one.date}T{_STARTS[one.session]}{zone}", "end": f"{one.date}T23:59:00{zone}",
        "appointmentType": ([kind] if release == "R5" else kind) if one.clinic_type else None,
    })  # fmt: skip
    actors = [
        _reference("HealthcareService", one.department_id, one.department_name),
        _reference("Practitioner", one.practitioner_id, one.practitioner_name) if one.practitioner_id else None,
        {"reference": "Location/any", "display": one.location} if one.location else None,
    ]
    return [slot, {"resourceType": "Schedule", "id": one.id, "actor": [actor for actor in actors if actor]}]


def _patient(one: Patient) -> Json:
    identifiers = [
        _bare({
            "value": item.value, "system": item.system,
            "type": {"coding": [{"code": item.type}]} if item.type else None,
        })
        for item in one.identifiers
    ]  # fmt: skip
    phone = {"system": "phone", "use": "mobile", "value": one.phone}
    return _bare({
        "resourceType": "Patient", "id": one.his_refs.get("patient"), "identifier": identifiers,
        "name": [{"use": "official", "text": one.name}], "telecom": [phone] if one.phone else None,
        "gender": one.sex.value, "birthDate": str(one.birth_date) if one.birth_date else None,
        "address": [{"text": one.address}] if one.address else None,
    })  # fmt: skip


def _appointment(one: Registration) -> Json:
    actors = [
        _reference("Patient", one.mrn),
        _reference("HealthcareService", one.department_id, one.department_name) if one.department_id else None,
        _reference("Practitioner", one.practitioner_id, one.practitioner_name) if one.practitioner_id else None,
        {"reference": "Location/any", "display": one.check_in_place} if one.check_in_place else None,
    ]
    order = {"system": ORDER_SYSTEM, "value": one.order_no}
    return _bare({
        "resourceType": "Appointment", "id": one.his_id, "identifier": [order] if one.order_no else None,
        "meta": {"versionId": one.his_refs["version"]} if "version" in one.his_refs else None,
        "status": _APPOINTMENT.get(one.status.value, one.status.value),
        "start": one.starts_at.isoformat() if one.starts_at else None,
        "end": one.ends_at.isoformat() if one.ends_at else None,
        "slot": [{"reference": one.his_refs["slot"]}] if "slot" in one.his_refs else None,
        "participant": [{"actor": actor, "status": "accepted"} for actor in actors if actor],
    })  # fmt: skip


def _invoice(one: Bill, release: str) -> Json:
    encounter = "encounter" if release == "R5" else "context"
    items = [
        _bare({
            "resourceType": "ChargeItem", "id": f"c{number}", "status": "billable",
            "subject": {"reference": "Patient/any"},
            "code": _bare({"text": item.name, "coding": [{"code": item.code}] if item.code else None}),
            "quantity": _bare({"value": Decimal(item.quantity) if item.quantity else None, "unit": item.unit}),
            encounter: _reference("Encounter", one.encounter_no),
        })
        for number, item in enumerate(one.items)
    ]  # fmt: skip
    lines = [
        {
            "chargeItemReference": {"reference": f"#c{number}"},
            "priceComponent": [{"type": "base", "amount": _money(item.amount_fen, one.currency)}],
        }
        for number, item in enumerate(one.items)
    ]
    return _bare({
        "resourceType": "Invoice", "id": one.his_refs.get("invoice"), "identifier": [{"value": one.id}],
        "status": _INVOICE[one.status.value], "subject": _reference("Patient", one.mrn),
        "type": {"text": one.title} if one.title else None,
        "account": {"reference": one.his_refs["account"]} if "account" in one.his_refs else None,
        "issuer": {"display": one.department_name} if one.department_name else None,
        "creation" if release == "R5" else "date": one.issued_at.isoformat() if one.issued_at else None,
        "contained": items, "lineItem": lines, "totalGross": _money(one.amount_fen, one.currency),
    })  # fmt: skip


def _notice(one: Settlement, currency: str) -> list[Json]:
    order = {"system": ORDER_SYSTEM, "value": one.order_no}
    payment = one.his_refs.get("payment_reconciliation")
    notice = _bare({
        "resourceType": "PaymentNotice", "id": one.receipt_no, "identifier": [order] if one.order_no else None,
        "status": "active", "request": {"reference": "Invoice/any"}, "created": "2026-01-05T08:00:00+08:00",
        "payment": {"reference": payment} if payment else {"display": "not told"},
        "recipient": {"display": "not told"},
        "amount": _money(one.amount_fen, currency) if one.amount_fen is not None else None,
    })  # fmt: skip
    return [
        notice,
        {"resourceType": "Invoice", "id": "any", "status": "balanced", "identifier": [{"value": one.bill_id}]},
    ]


def _report(one: Report) -> Json:
    lines = [_observation(number, line) for number, line in enumerate(one.observations)]
    return _bare({
        "resourceType": "DiagnosticReport", "id": one.his_refs.get("report"), "identifier": [{"value": one.id}],
        "status": _status(one.status.value),
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074",
                                  "code": "RAD" if one.kind.value == "exam" else "LAB"}]}],
        "code": _bare({"text": one.name, "coding": [{"code": one.code}] if one.code else None}) or {"text": "not told"},
        "subject": _reference("Patient", one.mrn),
        "issued": one.issued_at.isoformat() if one.issued_at else None,
        "effectiveDateTime": one.effective_at.isoformat() if one.effective_at else None,
        "conclusion": one.conclusion, "resultsInterpreter": [{"display": one.interpreter}] if one.interpreter else None,
        "contained": lines, "result": [{"reference": f"#{line['id']}"} for line in lines],
        "presentedForm": [_attachment(form) for form in one.attachments],
    })  # fmt: skip


def _status(word: str) -> str:
    return word.replace("_", "-")


def _observation(number: int, one: Observation) -> Json:
    value: Json = {"valueString": one.value}
    if one.unit is not None:
        value = {"valueQuantity": _bare({"value": Decimal(one.value) if one.value else None, "unit": one.unit})}
    return _bare({
        "resourceType": "Observation", "id": f"o{number}", "status": _status(one.status.value), **value,
        "code": _bare({"text": one.name, "coding": [{"code": one.code}] if one.code else None}),
        "referenceRange": [{"text": one.reference_range}] if one.reference_range else None,
        "interpretation": [{"coding": [{"code": one.flag}]}] if one.flag else None,
        "effectiveDateTime": one.observed_at.isoformat() if one.observed_at else None,
        "note": [{"text": one.note}] if one.note else None,
    })  # fmt: skip


def _attachment(one: Attachment) -> Json:
    data = base64.b64encode(one.data).decode() if one.data is not None else None
    return _bare({"contentType": one.content_type, "title": one.title, "data": data, "url": one.url})
