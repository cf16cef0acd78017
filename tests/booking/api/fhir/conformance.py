"""What FHIR R4 demands of a resource and fhir.resources does not check: required bindings and invariants, as tables.

Everything that the facade sends is checked by them (`emitted`). Each rule carries the key by which the standard names it; those
with another key are of the definitions of elements and data types.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

Json = dict[str, Any]

ISSUE_TYPES = frozenset(
    [
        "invalid", "structure", "required", "value", "invariant", "security", "login", "unknown", "expired", "forbidden",
        "suppressed", "processing", "not-supported", "duplicate", "multiple-matches", "not-found", "deleted", "too-long",
        "code-invalid", "extension", "too-costly", "business-rule", "conflict", "transient", "lock-error", "no-store",
        "exception", "timeout", "incomplete", "throttled", "informational",
    ]
)  # fmt: skip
_REPORT = ["registered", "partial", "preliminary", "final", "amended", "corrected", "appended", "cancelled", "entered-in-error",
           "unknown"]  # fmt: skip
_OBSERVATION = [
    "registered",
    "preliminary",
    "final",
    "amended",
    "corrected",
    "cancelled",
    "entered-in-error",
    "unknown",
]

BINDINGS: dict[str, frozenset[str]] = {
    "Slot.status": frozenset(["busy", "free", "busy-unavailable", "busy-tentative", "entered-in-error"]),
    "Appointment.status": frozenset(
        ["proposed", "pending", "booked", "arrived", "fulfilled", "cancelled", "noshow", "entered-in-error", "checked-in",
         "waitlist"]
    ),
    "Appointment.participant.status": frozenset(["accepted", "declined", "tentative", "needs-action"]),
    "Appointment.participant.required": frozenset(["required", "optional", "information-only"]),
    "Patient.gender": frozenset(["male", "female", "other", "unknown"]),
    "Practitioner.gender": frozenset(["male", "female", "other", "unknown"]),
    "Patient.telecom.system": frozenset(["phone", "fax", "email", "pager", "url", "sms", "other"]),
    "Location.status": frozenset(["active", "suspended", "inactive"]),
    "Location.mode": frozenset(["instance", "kind"]),
    "DiagnosticReport.status": frozenset(_REPORT),
    "Observation.status": frozenset(_OBSERVATION),
    "Bundle.type": frozenset(
        ["document", "message", "transaction", "transaction-response", "batch", "batch-response", "history", "searchset",
         "collection"]
    ),
    "Bundle.entry.search.mode": frozenset(["match", "include", "outcome"]),
    "OperationOutcome.issue.severity": frozenset(["fatal", "error", "warning", "information"]),
    "OperationOutcome.issue.code": ISSUE_TYPES,
    "CapabilityStatement.status": frozenset(["draft", "active", "retired", "unknown"]),
    "CapabilityStatement.kind": frozenset(["instance", "capability", "requirements"]),
    "CapabilityStatement.fhirVersion": frozenset(["4.0.1"]),
    "CapabilityStatement.rest.mode": frozenset(["client", "server"]),
    "CapabilityStatement.rest.resource.interaction.code": frozenset(
        ["read", "vread", "update", "patch", "delete", "history-instance", "history-type", "create", "search-type"]
    ),
    "CapabilityStatement.rest.resource.versioning": frozenset(["no-version", "versioned", "versioned-update"]),
    "CapabilityStatement.rest.resource.conditionalRead": frozenset(
        ["not-supported", "modified-since", "not-match", "full-support"]
    ),
    "CapabilityStatement.rest.resource.referencePolicy": frozenset(
        ["literal", "logical", "resolves", "enforced", "local"]
    ),
    "CapabilityStatement.rest.resource.searchParam.type": frozenset(
        ["number", "date", "string", "token", "reference", "composite", "quantity", "uri", "special"]
    ),
}  # fmt: skip
"""Elements with a required binding that we send, and the codes of their value sets (http://hl7.org/fhir/R4/terminologies-valuesets.html)."""


class Rule(NamedTuple):
    """An invariant: `holds` tells of a resource whether it is kept."""

    key: str
    says: str
    holds: Callable[[Json], bool]


def problems_of(resource: Json) -> list[str]:
    """What a resource breaks, by key or path, never with its values. Those in a Bundle are not looked at."""
    kind = str(resource.get("resourceType"))
    found = [rule.key for rule in (*_ALL, *RULES.get(kind, ())) if not rule.holds(resource)]
    for path, codes in BINDINGS.items():
        if path.startswith(kind + "."):
            found += [path for value in _at(resource, path.split(".")[1:]) if value not in codes]
    return found


def _at(value: Any, path: list[str]) -> Iterator[Any]:
    """Every value at a path of elements."""
    if isinstance(value, list):
        for one in value:
            yield from _at(one, path)
    elif not path:
        yield value
    elif isinstance(value, dict) and path[0] in value:
        yield from _at(value[path[0]], path[1:])


def _walk(value: Any) -> Iterator[Json]:
    """Every element that has elements, this one and those below it, resources in a Bundle aside."""
    if isinstance(value, list):
        for one in value:
            yield from _walk(one)
    elif isinstance(value, dict):
        yield value
        for name, one in value.items():
            if name != "resource":
                yield from _walk(one)


_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")


def _instant(text: str) -> dt.datetime:
    """A date, dateTime or instant; one without an offset counts as UTC, which is enough to compare two of a kind."""
    at = dt.datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=dt.UTC)


def _in_order(element: Json) -> bool:
    """Of two precisions nobody can tell (FHIRPath gives the empty collection), so they are not in order either."""
    start, end = element.get("start"), element.get("end")
    if start is None or end is None or not isinstance(start, str):
        return True
    if "T" in start and "T" in end:
        return _instant(start) <= _instant(end)
    return len(start) == len(end) and start <= end


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, dict):
        for name, one in value.items():
            if name != "resource":
                yield from _texts(one)


def _is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {})


_ALL = (
    Rule("id", "1 to 64 of A-Z a-z 0-9 - .", lambda r: "id" not in r or _ID.fullmatch(str(r["id"])) is not None),
    Rule("ele-1", "every element has a value or children; JSON has neither null nor empty (json.html)",
         lambda r: not any(_is_empty(v) for e in _walk(r) for v in e.values())),
    Rule("ext-1", "an extension has either extensions or a value",
         lambda r: all(
             ("extension" in x) != any(n.startswith("value") for n in x)
             for e in _walk(r) for x in e.get("extension", ())
         )),
    Rule("ext-url", "an extension's url is absolute",
         lambda r: all(_URI.fullmatch(x["url"]) for e in _walk(r) for x in e.get("extension", ()))),
    Rule("ref-1", "a reference within the resource has what it names contained",
         lambda r: not any(str(e.get("reference", "")).startswith("#") for e in _walk(r))),
    Rule("reference", "[type]/[id], or absolute",
         lambda r: all(
             _URI.fullmatch(e["reference"]) or re.fullmatch(r"[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64}", e["reference"])
             for e in _walk(r) if isinstance(e.get("reference"), str)
         )),
    Rule("per-1", "a period does not end before it starts", lambda r: all(_in_order(e) for e in _walk(r))),
    Rule("string", "no control characters but tab and line ends (datatypes.html#string)",
         lambda r: not any(re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", text) for text in _texts(r))),
    Rule("coding-system", "an absolute URI",
         lambda r: all(_URI.fullmatch(e["system"]) for e in _walk(r) if "code" in e and isinstance(e.get("system"), str))),
    Rule("code", "no white space at its ends, and single ones between (datatypes.html#code)",
         lambda r: all(e["code"] == " ".join(e["code"].split()) for e in _walk(r) if isinstance(e.get("code"), str))),
)  # fmt: skip


def _slot_spans(slot: Json) -> bool:
    return _instant(slot["start"]) < _instant(slot["end"])


def _participants(appointment: Json) -> Iterable[Json]:
    told: Iterable[Json] = appointment.get("participant", ())
    return told


def _entries(bundle: Json) -> Iterable[Json]:
    told: Iterable[Json] = bundle.get("entry", ())
    return told


def _rests(statement: Json) -> Iterable[Json]:
    told: Iterable[Json] = statement.get("rest", ())
    return told


def _has_value(observation: Json) -> bool:
    return any(name.startswith("value") for name in observation)


def _unique(values: Iterable[Any]) -> bool:
    listed = list(values)
    return len(listed) == len(set(listed))


RULES: dict[str, tuple[Rule, ...]] = {
    "Slot": (
        Rule("slot-span", "it ends after it starts", _slot_spans),
        Rule("slot-schedule", "1..1", lambda r: "reference" in r["schedule"]),
    ),
    "Schedule": (Rule("schedule-actor", "1..*", lambda r: bool(r.get("actor"))),),
    "Appointment": (
        Rule("app-1", "either the type or the actor of a participant is told",
             lambda r: all("type" in p or "actor" in p for p in _participants(r))),
        Rule("app-2", "either start and end are told, or neither", lambda r: ("start" in r) == ("end" in r)),
        Rule("app-3", "only proposed, cancelled and waitlisted ones can be without start and end",
             lambda r: ("start" in r and "end" in r) or r["status"] in ("proposed", "cancelled", "waitlist")),
        Rule("app-4", "a reason of cancelling is only for those cancelled, or of which nobody came",
             lambda r: "cancelationReason" not in r or r["status"] in ("cancelled", "noshow")),
        Rule("appointment-participant", "1..*", lambda r: bool(r.get("participant"))),
        Rule("appointment-span", "it ends after it starts",
             lambda r: "start" not in r or _instant(r["start"]) < _instant(r["end"])),
        Rule("appointment-minutes", "positiveInt", lambda r: r.get("minutesDuration", 1) >= 1),
    ),
    "Patient": (
        Rule("pat-1", "a contact has a name or a way to reach it",
             lambda r: all({"name", "telecom", "address", "organization"} & set(c) for c in r.get("contact", ()))),
        Rule("cpt-2", "a contact point with a value has a system",
             lambda r: all("system" in t for t in r.get("telecom", ()) if "value" in t)),
    ),
    "Observation": (
        Rule("obs-6", "an absent reason only without a value",
             lambda r: not ("dataAbsentReason" in r and _has_value(r))),
        Rule("obs-3", "a range has low, high or a text",
             lambda r: all({"low", "high", "text"} & set(one) for one in r.get("referenceRange", ()))),
    ),
    "DiagnosticReport": (
        Rule("attachment", "what is fetched has a type",
             lambda r: all("contentType" in one for one in r.get("presentedForm", ()) if "url" in one or "data" in one)),
    ),
    "Bundle": (
        Rule("bdl-1", "a total only in a searchset or a history",
             lambda r: "total" not in r or r["type"] in ("searchset", "history")),
        Rule("bdl-2", "search only in a searchset",
             lambda r: r["type"] == "searchset" or not any("search" in e for e in _entries(r))),
        Rule("bdl-7", "fullUrl is unique", lambda r: _unique(e["fullUrl"] for e in _entries(r) if "fullUrl" in e)),
        Rule("bdl-8", "fullUrl is no reference to a version",
             lambda r: not any("/_history/" in e.get("fullUrl", "") for e in _entries(r))),
        Rule("bundle-fullUrl", "every resource has one, absolute, and it ends with its type and id; outcomes aside",
             lambda r: all(_names_itself(e) for e in _entries(r) if e.get("search", {}).get("mode") != "outcome")),
        Rule("bundle-self", "a searchset tells what was searched",
             lambda r: r["type"] != "searchset" or any(link["relation"] == "self" for link in r.get("link", ()))),
        Rule("bundle-links", "each relation once", lambda r: _unique(link["relation"] for link in r.get("link", ()))),
        Rule("bundle-total", "no fewer than there are matches",
             lambda r: r.get("total", 1 << 31) >= sum(e.get("search", {}).get("mode") == "match" for e in _entries(r))),
    ),
    "OperationOutcome": (Rule("outcome-issue", "1..*", lambda r: bool(r.get("issue"))),),
    "CapabilityStatement": (
        Rule("cpb-1", "it has a REST, messaging or document element", lambda r: bool(r.get("rest"))),
        Rule("cpb-2", "it has a description, software or implementation",
             lambda r: bool({"description", "software", "implementation"} & set(r))),
        Rule("cpb-14", "an instance tells of its implementation",
             lambda r: r["kind"] != "instance" or "implementation" in r),
        Rule("cpb-9", "a type is told once",
             lambda r: all(_unique(one["type"] for one in rest.get("resource", ())) for rest in _rests(r))),
        Rule("cpb-12", "names of search parameters are unique",
             lambda r: all(
                 _unique(p["name"] for p in one.get("searchParam", ())) for rest in _rests(r) for one in rest["resource"]
             )),
    ),
}  # fmt: skip
"""Invariants by type (the resource's page in http://hl7.org/fhir/R4/, section Constraints)."""


def _names_itself(entry: Json) -> bool:
    resource = entry["resource"]
    url = str(entry.get("fullUrl", ""))
    return _URI.fullmatch(url) is not None and url.endswith(f"/{resource['resourceType']}/{resource['id']}")
