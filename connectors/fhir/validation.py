"""Checks resources before they are mapped: fhir.resources' R4B models, and the rules that those do not check.

The models check shapes, and neither required bindings nor invariants: a Slot whose status is `banana`, or that ends before
it starts, passes them. R4B and R4 (4.0.1) agree on every resource that is read here. The package's default is R5,
under which an R4 body loses fields silently: the R4B modules are named explicitly.

    strict    one bad resource spoils the whole reply
    lenient   a bad resource is left out and told about
    off       no models; the rules below still leave out what is bad
"""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from connectors.fhir.documents import Json
from mappings.courtesy import courtesy

Mode = Literal["strict", "lenient", "off"]

# The models of fhir.resources.R4B by resource type: what this connector reads.
_MODELS = {
    "Appointment": "appointment",
    "Binary": "binary",
    "Bundle": "bundle",
    "ChargeItem": "chargeitem",
    "DiagnosticReport": "diagnosticreport",
    "HealthcareService": "healthcareservice",
    "Invoice": "invoice",
    "Location": "location",
    "Observation": "observation",
    "Patient": "patient",
    "PaymentNotice": "paymentnotice",
    "PaymentReconciliation": "paymentreconciliation",
    "Practitioner": "practitioner",
    "PractitionerRole": "practitionerrole",
    "Schedule": "schedule",
    "Slot": "slot",
}


def _codes(words: str) -> frozenset[str]:
    return frozenset(words.split())


# FHIR R4 (4.0.1) required bindings of the status elements that decisions are made on.
_FINANCIAL = frozenset({"active", "cancelled", "draft", "entered-in-error"})
_REPORT = _codes("registered partial preliminary final amended corrected appended cancelled entered-in-error unknown")
_STATUSES = {
    "Slot": _codes("busy free busy-unavailable busy-tentative entered-in-error"),
    "Appointment": _codes(
        "proposed pending booked arrived fulfilled cancelled noshow entered-in-error checked-in waitlist"
    ),
    "Invoice": _codes("draft issued balanced cancelled entered-in-error"),
    "ChargeItem": _codes("planned billable not-billable aborted billed entered-in-error unknown"),
    "PaymentNotice": _FINANCIAL,
    "PaymentReconciliation": _FINANCIAL,
    "DiagnosticReport": _REPORT,
    "Observation": _codes("registered preliminary final amended corrected cancelled entered-in-error unknown"),
}
# Types whose `end` must come after their `start` where both are given (for Appointment: invariant app-3 asks for both or none).
_TIMED = frozenset({"Slot", "Appointment"})
_OFF_LOOP_FROM = 10


class Flaw(msgspec.Struct, frozen=True):
    """Why one resource is left out: its place in the reply, its type and element names; never a value."""

    at: int
    resource_type: str
    reason: str


def rule_flaw(resource: Json) -> str | None:
    """Which rule of ours a resource breaks, or None."""
    kind = resource.get("resourceType")
    if not isinstance(kind, str):
        return "it has no resourceType"
    statuses = _STATUSES.get(kind)
    if statuses is not None and str(resource.get("status")) not in statuses:
        return "status is not a code of the required binding"
    if kind in _TIMED:
        return _time_flaw(resource, required=kind == "Slot")
    return None


def _time_flaw(resource: Json, *, required: bool) -> str | None:
    start, end = resource.get("start"), resource.get("end")
    if start is None and end is None and not required:
        return None
    try:
        starts_at, ends_at = dt.datetime.fromisoformat(str(start)), dt.datetime.fromisoformat(str(end))
    except ValueError:
        return "start and end are not two instants"
    if starts_at.tzinfo is None or ends_at.tzinfo is None:
        return "start or end has no offset"
    return "end is not after start" if ends_at <= starts_at else None


def model_flaw(resource: Json) -> str | None:
    """Where a resource departs from its R4B model, by element names, or None. Types without a model pass."""
    module = _MODELS.get(str(resource.get("resourceType")))
    if module is None:
        return None
    # With the models, by the first thread that needs them: the start does not.
    import pydantic

    model: Any = getattr(importlib.import_module(f"fhir.resources.R4B.{module}"), str(resource["resourceType"]))
    try:
        model.model_validate(resource)
    except pydantic.ValidationError as error:
        places = {".".join(str(part) for part in item["loc"]) for item in error.errors(include_input=False)[:5]}
        return "it departs from R4B at " + ", ".join(sorted(places))[:200]
    except (LookupError, TypeError):
        # The models look the type of what is contained up without asking whether there is such a type.
        return "it contains what is no resource of R4B"
    return None


def flaws_of(resources: Sequence[Json], mode: Mode, pause: Callable[[], None] | None = None) -> list[Flaw]:
    """The flaws of these resources under `mode`. Synchronous: a Bundle of 100 takes tens of milliseconds with models.

    `pause` is called before each.
    """
    found = []
    for at, resource in enumerate(resources):
        if pause is not None:
            pause()
        reason = rule_flaw(resource) or (model_flaw(resource) if mode != "off" else None)
        if reason is not None:
            kind = str(resource.get("resourceType"))
            found.append(Flaw(at, kind if kind in _MODELS else "another resource", reason))
    return found


async def check(resources: Sequence[Json], mode: Mode) -> list[Flaw]:
    """`flaws_of`, off the event loop where models are used or there is much to look at."""
    if mode == "off" and len(resources) < _OFF_LOOP_FROM:
        return flaws_of(resources, mode)
    return await asyncio.to_thread(lambda: flaws_of(resources, mode, courtesy()))
