"""The same hospital as FHIR R5 says it: between this server's own R4 resources and those on the wire.

From each resource's page, "R4 Diff" (https://hl7.org/fhir/R5/). Only what this hospital tells or takes is here. An element that
R5 does not have is refused, as a server of that release does.
"""

from __future__ import annotations

from typing import Any

from loadtest.simulators.hospital import Refusal

Json = dict[str, Any]

# What R4 calls it, and R5 no longer has.
_GONE = {
    "Appointment": {"cancelationReason", "comment", "reasonCode", "reasonReference"},
    "PaymentNotice": {"provider"},
    "PaymentReconciliation": {"paymentDate", "paymentAmount", "detail"},
}
_NEW = {"Appointment": {"cancellationReason", "note", "reason", "subject"}}
_RECONCILED = {"date": "paymentDate", "amount": "paymentAmount"}


def to_r5(resource: Json) -> Json:
    """A resource of this server as R5 has it; a Bundle with all that is in it."""
    kind = resource.get("resourceType")
    if kind == "Bundle":
        entries = [{**entry, "resource": to_r5(entry["resource"])} for entry in resource["entry"]]
        return {**resource, "entry": entries}
    if kind == "CapabilityStatement":
        return {**resource, "fhirVersion": "5.0.0"}
    if kind == "Slot":
        return {**resource, "serviceType": [{"concept": {"text": "outpatient"}}]}
    if kind == "Invoice":
        return {("creation" if name == "date" else name): value for name, value in resource.items()}
    if kind == "ChargeItem":
        price = {"type": "base", "amount": resource["priceOverride"]}
        return {name: value for name, value in resource.items() if name != "priceOverride"} | {
            "totalPriceComponent": price
        }
    if kind == "PaymentReconciliation":
        return _renamed(resource, {old: new for new, old in _RECONCILED.items()} | {"detail": "allocation"})
    return resource


def from_r5(resource: Json) -> Json:
    """What was posted, as this server keeps it. Raises Refusal `bad` for what R5 does not have, or demands."""
    kind = str(resource.get("resourceType"))
    if gone := _GONE.get(kind, set()) & set(resource):
        raise Refusal("bad", f"R5 has no {', '.join(sorted(gone))}")
    if kind == "Appointment":
        for one in resource.get("participant", ()):
            if not isinstance(one.get("required", True), bool):
                raise Refusal("bad", "participant.required is a boolean")
    if kind == "PaymentReconciliation":
        missing = [name for name in ("type", "status", "created", "date", "amount") if name not in resource]
        if missing:
            raise Refusal("bad", f"{', '.join(missing)} is missing")
        return _renamed(resource, _RECONCILED | {"allocation": "detail"})
    return resource


def check_r4(resource: Json) -> None:
    """Raises Refusal `bad` for an element that only R5 has."""
    if new := _NEW.get(str(resource.get("resourceType")), set()) & set(resource):
        raise Refusal("bad", f"R4 has no {', '.join(sorted(new))}")


def _renamed(resource: Json, names: dict[str, str]) -> Json:
    return {names.get(name, name): value for name, value in resource.items()}
