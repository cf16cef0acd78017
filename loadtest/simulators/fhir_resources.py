"""The simulated hospital's things as FHIR R4 resources: pure functions from its words to JSON."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

from loadtest.simulators.hospital import Charge, Doctor, Hospital, LabReport, Person, Plan, Segment, Visit

Json = dict[str, Any]

ID_SYSTEM = "urn:oid:2.16.840.1.113883.4.330.156"
ORDER_SYSTEM = "urn:hisbridge:order-no"
TRADE_SYSTEM = "urn:hisbridge:trade-no"
NUMBERS = "http://fhir-demo.example/numbers"
FEE = "http://fhir-demo.example/StructureDefinition/fee"
QUEUE = "http://fhir-demo.example/StructureDefinition/queue-number"
APPOINTMENT_STATUS = {"locked": "pending", "registered": "booked", "released": "cancelled"}


def money(fen: int) -> Json:
    return {"value": float(Decimal(fen) / 100), "currency": "CNY"}


def fen(amount: Json) -> int:
    return int((Decimal(str(amount["value"])) * 100).to_integral_value())


def issue(code: str, detail: str, text: str, severity: str = "error") -> Json:
    return {
        "resourceType": "OperationOutcome",
        "issue": [
            {
                "severity": severity,
                "code": code,
                "details": {
                    "coding": [{"system": "http://fhir-demo.example/refusals", "code": detail}],
                    "text": text,
                },
            }
        ],
    }


READ_ONLY = (
    "HealthcareService",
    "PractitionerRole",
    "Schedule",
    "Slot",
    "Invoice",
    "ChargeItem",
    "DiagnosticReport",
    "Binary",
)
WRITABLE = ("Patient", "Appointment", "PaymentReconciliation", "PaymentNotice")


def capability_statement(offers: frozenset[str] = frozenset()) -> Json:
    """`offers`: see `loadtest.simulators.fhir.OFFERS`."""
    read = [{"code": "read"}, {"code": "search-type"}]
    written = [*read, {"code": "create"}, {"code": "update"}]
    resources: list[Json] = [{"type": kind, "interaction": read} for kind in READ_ONLY]
    if "transaction" in offers:
        next(one for one in resources if one["type"] == "Slot")["interaction"] = [*read, {"code": "update"}]
    resources += [{"type": kind, "interaction": written, "conditionalCreate": True} for kind in WRITABLE]
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2026-01-01",
        "kind": "instance",
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json"],
        "rest": [{"mode": "server", "resource": resources, **_more(offers)}],
    }


def _more(offers: frozenset[str]) -> Json:
    definition = "https://profiles.ihe.net/ITI/Scheduling/OperationDefinition/appointment-"
    names = [name for name in ("find", "hold", "book") if name in offers]
    more: Json = {"operation": [{"name": name, "definition": f"{definition}{name}"} for name in names]} if names else {}
    return {**more, "interaction": [{"code": "transaction"}]} if "transaction" in offers else more


def healthcare_service(code: str, name: str) -> Json:
    return {
        "resourceType": "HealthcareService",
        "id": code,
        "identifier": [{"system": NUMBERS, "value": code}],
        "active": True,
        "name": name,
    }


def practitioner(doctor: Doctor) -> Json:
    return {"resourceType": "Practitioner", "id": doctor.code, "active": True, "name": [{"text": doctor.name}]}


def practitioner_role(doctor: Doctor) -> Json:
    return {
        "resourceType": "PractitionerRole",
        "id": f"role-{doctor.code}",
        "active": True,
        "practitioner": {"reference": f"Practitioner/{doctor.code}", "display": doctor.name},
        "healthcareService": [{"reference": f"HealthcareService/{doctor.dept}"}],
        "code": [{"text": doctor.title}],
    }


def schedule_id(plan: Plan) -> str:
    """One FHIR Schedule is all of a doctor's plans: it spans days and sessions."""
    return f"sch-{plan.was_doctors or plan.doctor}"


def schedule(hospital: Hospital, doctor: Doctor) -> Json:
    plans = [plan for plan in hospital.plans.values() if (plan.was_doctors or plan.doctor) == doctor.code]
    own = {plan.code for plan in plans}
    segments = [segment for segment in hospital.segments.values() if segment.plan in own]
    return {
        "resourceType": "Schedule",
        "id": f"sch-{doctor.code}",
        "extension": [{"url": FEE, "valueMoney": money(plans[0].fee_fen)}] if plans else [],
        "active": True,
        "actor": [
            {"reference": f"Practitioner/{doctor.code}", "display": doctor.name},
            {"reference": f"HealthcareService/{doctor.dept}", "display": hospital.departments[doctor.dept]},
        ],
        "planningHorizon": {
            "start": min(segment.start for segment in segments).isoformat(),
            "end": max(segment.end for segment in segments).isoformat(),
        },
    }


def slot_id(segment: Segment, seat: int) -> str:
    return f"{segment.code.replace('||', '-')}.{seat + 1}"


def slot(plan: Plan, segment: Segment, seat: int, status: str) -> Json:
    return {
        "resourceType": "Slot",
        "id": slot_id(segment, seat),
        "schedule": {"reference": f"Schedule/{schedule_id(plan)}"},
        "status": status,
        "start": segment.start.isoformat(),
        "end": segment.end.isoformat(),
    }


def patient(person: Person) -> Json:
    found: Json = {
        "resourceType": "Patient",
        "id": person.mrn,
        "identifier": [
            _typed("MR", NUMBERS, person.mrn),
            _typed("NI", ID_SYSTEM, person.id_number),
        ],
        "active": True,
        "name": [{"use": "official", "text": person.name}],
    }
    if person.phone:
        found["telecom"] = [{"system": "phone", "use": "mobile", "value": person.phone}]
    if person.sex:
        found["gender"] = person.sex
    if person.birth_date:
        found["birthDate"] = person.birth_date
    return found


def _typed(code: str, system: str, value: str) -> Json:
    coding = {"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": code}
    return {"type": {"coding": [coding]}, "system": system, "value": value}


def appointment(posted: Json, visit: Visit, version: int) -> Json:
    """The Appointment as it was posted, with what the hospital adds and its own word on the status."""
    own = [item for item in posted.get("extension", ()) if item.get("url") not in (FEE, QUEUE)]
    return {
        **posted,
        "id": visit.no,
        "meta": {"versionId": str(version)},
        "extension": [
            *own,
            {"url": QUEUE, "valueString": visit.queue_no},
            {"url": FEE, "valueMoney": money(visit.fee_fen)},
        ],
        "status": APPOINTMENT_STATUS[visit.state],
    }


def invoice(charge: Charge) -> Json:
    return {
        "resourceType": "Invoice",
        "id": charge.no,
        "identifier": [{"system": NUMBERS, "value": charge.no}],
        "status": "balanced" if charge.state == "paid" else "issued",
        "subject": {"reference": f"Patient/{charge.mrn}"},
        "date": "2026-01-05T09:00:00+08:00",
        "lineItem": [
            {
                "sequence": number,
                "chargeItemReference": {"reference": f"ChargeItem/{charge.no}-{number}"},
                "priceComponent": [{"type": "base", "amount": money(price)}],
            }
            for number, (_, price) in enumerate(charge.items, 1)
        ],
        "totalNet": money(charge.total_fen),
        "totalGross": money(charge.total_fen),
    }


def charge_items(charge: Charge) -> list[Json]:
    return [
        {
            "resourceType": "ChargeItem",
            "id": f"{charge.no}-{number}",
            "status": "billable",
            "code": {"text": name},
            "subject": {"reference": f"Patient/{charge.mrn}"},
            "quantity": {"value": 1},
            "priceOverride": money(price),
        }
        for number, (name, price) in enumerate(charge.items, 1)
    ]


def diagnostic_report(report: LabReport) -> Json:
    issued = (report.issued or dt.datetime.now(dt.UTC)).isoformat()
    return {
        "resourceType": "DiagnosticReport",
        "id": f"dr-{report.no}",
        "identifier": [{"system": NUMBERS, "value": report.no}],
        "status": report.status,
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "LAB"}]}],
        "code": {"text": report.name},
        "subject": {"reference": f"Patient/{report.mrn}"},
        "effectiveDateTime": issued,
        "issued": issued,
        "result": [{"reference": f"Observation/{report.no}-{n}"} for n in range(1, len(report.results) + 1)],
        "presentedForm": [{"contentType": "application/pdf", "title": report.name, "url": f"Binary/{report.no}"}],
    }


def observations(report: LabReport) -> list[Json]:
    return [
        {
            "resourceType": "Observation",
            "id": f"{report.no}-{number}",
            "status": "final",
            "code": {"coding": [{"system": NUMBERS, "code": result["code"]}], "text": result["name"]},
            "subject": {"reference": f"Patient/{report.mrn}"},
            "valueQuantity": {"value": json.loads(result["value"]), "unit": result["unit"]},
            "referenceRange": [{"text": result["range"]}],
            "interpretation": [
                {
                    "coding": [
                        {
                            "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation",
                            "code": result["flag"],
                        }
                    ]
                }
            ],
        }
        for number, result in enumerate(report.results, 1)
    ]


def document(report: LabReport, size: int = 0) -> bytes:
    """A document of `size` bytes at least."""
    return f"%PDF-1.4\n% {report.no}\n%%EOF\n".encode().ljust(size, b"\n")


def is_refund(body: Json) -> bool:
    """A PaymentReconciliation that takes a payment back; R5 calls its details allocations."""
    details = body.get("detail") or body.get("allocation") or [{}]
    codings = (details[0].get("type") or {}).get("coding") or [{}]
    return bool(codings[0].get("code") == "adjustment")
