"""Whether a resource fits a search: what each parameter looks at (the paths of the standard's registry), and how it compares."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from booking.api.fhir.search.criteria import (
    FOREVER_MS,
    Place,
    Span,
    Token,
    read_place,
    read_span,
    read_token,
    split_values,
    unescape,
)
from booking.api.fhir.search.requests import Criterion, SearchRequest
from booking.api.fhir.search.tables import KINDS
from booking.api.fhir.serving import Resource

Coding = tuple[str | None, str | None]


def fits(request: SearchRequest, resource: Resource, zone: dt.tzinfo, *, but: Iterable[str] = ()) -> bool:
    """Whether it fits every criterion; those named in `but` have been looked at elsewhere."""
    return all(_fits(request.kind, one, resource, zone) for one in request.criteria if one.name not in but)


def order_of(request: SearchRequest, zone: dt.tzinfo) -> Callable[[Resource], tuple[int | str, ...]]:
    """What resources stand in order by: their instants and ids where `_sort` asks for that, those without one last; else ids."""
    if not request.sort:
        return lambda resource: (str(resource["id"]),)
    look, sign = LOOKS[request.kind, request.sort.lstrip("-")], -1 if request.sort.startswith("-") else 1

    def order(resource: Resource) -> tuple[int | str, ...]:
        at_ms = next((_ms(text, zone) for text in look(resource)), None)
        return (FOREVER_MS if at_ms is None else sign * at_ms, str(resource["id"]))

    return order


def check_values(request: SearchRequest, zone: dt.tzinfo) -> None:
    """Raises ApiProblem invalid_field for a value that could fit nothing, because it cannot be read."""
    for one in request.criteria:
        match KINDS[request.kind].parameters[one.name].type:
            case "date":
                spans(one, zone)
            case "reference":
                places(one)


def _fits(kind: str, criterion: Criterion, resource: Resource, zone: dt.tzinfo) -> bool:
    look = LOOKS[kind, criterion.name]
    match KINDS[kind].parameters[criterion.name].type:
        case "token":
            return token_fits(criterion, look(resource))
        case "reference":
            told = [read_place(criterion.name, one) for one in look(resource)]
            return any(_same(wanted, is_) for wanted in places(criterion) for is_ in told)
        case "date":
            instants = [_ms(text, zone) for text in look(resource)]
            return any(span.fits(at_ms) for span in spans(criterion, zone) for at_ms in instants)
    return string_fits(criterion, look(resource))


@lru_cache(maxsize=256)  # asked for again with each resource that is looked at
def spans(criterion: Criterion, zone: dt.tzinfo) -> tuple[Span, ...]:
    return tuple(read_span(criterion.name, one, zone) for one in split_values(criterion.text))


@lru_cache(maxsize=256)
def places(criterion: Criterion) -> tuple[Place, ...]:
    return tuple(read_place(criterion.name, one) for one in split_values(criterion.text))


@lru_cache(maxsize=256)
def tokens(criterion: Criterion) -> tuple[Token, ...]:
    return tuple(read_token(one) for one in split_values(criterion.text))


def token_fits(criterion: Criterion, told: Iterable[Coding]) -> bool:
    """Whether any coding fits any alternative; `:not` turns it round."""
    codings = list(told)
    found = any(token.fits(*coding) for token in tokens(criterion) for coding in codings)
    return found != (criterion.modifier == "not")


def string_fits(criterion: Criterion, texts: Iterable[str]) -> bool:
    """The beginning, case aside; `:exact` the whole, `:contains` any part (search.html#string)."""
    known = list(texts)
    for wanted in map(unescape, split_values(criterion.text)):
        for text in known:
            match criterion.modifier:
                case "exact":
                    found = text == wanted
                case "contains":
                    found = wanted.casefold() in text.casefold()
                case _:
                    found = text.casefold().startswith(wanted.casefold())
            if found:
                return True
    return False


def _same(wanted: Place, told: Place) -> bool:
    return wanted.id == told.id and wanted.kind in (None, told.kind)


def _ms(text: str, zone: dt.tzinfo) -> int:
    at = dt.datetime.fromisoformat(text)
    return round((at if at.tzinfo else at.replace(tzinfo=zone)).timestamp() * 1000)


# --- what the parameters look at -----------------------------------------------------------------------------------


def _id(resource: Resource) -> Iterator[Coding]:
    yield None, resource["id"]


def _code(element: str) -> Callable[[Resource], Iterator[Coding]]:
    """A code, or a boolean in its words."""

    def look(resource: Resource) -> Iterator[Coding]:
        if element in resource:
            value = resource[element]
            yield None, str(value).lower() if isinstance(value, bool) else value

    return look


def _codings(element: str) -> Callable[[Resource], Iterator[Coding]]:
    """A CodeableConcept, or several."""

    def look(resource: Resource) -> Iterator[Coding]:
        told = resource.get(element, ())
        for concept in told if isinstance(told, list) else (told,):
            for coding in concept.get("coding", ()) if concept else ():
                yield coding.get("system"), coding.get("code")

    return look


def _identifiers(resource: Resource) -> Iterator[Coding]:
    for identifier in resource.get("identifier", ()):
        yield identifier.get("system"), identifier.get("value")


def references(resource: Resource, *path: str) -> Iterator[str]:
    """Every literal reference at a path of elements."""
    found: list[Any] = [resource]
    for element in path:
        told = [one.get(element) for one in found]
        found = [one for value in told if value for one in (value if isinstance(value, list) else (value,))]
    for reference in found:
        if "reference" in reference:
            yield reference["reference"]


def _references(*path: str) -> Callable[[Resource], Iterator[str]]:
    return lambda resource: references(resource, *path)


def _texts(*elements: str) -> Callable[[Resource], Iterator[str]]:
    """The element, or its `text` where it is a HumanName."""

    def look(resource: Resource) -> Iterator[str]:
        for element in elements:
            told = resource.get(element, ())
            if isinstance(told, str):
                yield told
            else:
                yield from (name["text"] for name in told if "text" in name)

    return look


def _instants(*path: str) -> Callable[[Resource], Iterator[str]]:
    def look(resource: Resource) -> Iterator[str]:
        found: Any = resource
        for element in path:
            found = found.get(element) if found else None
        if found:
            yield found

    return look


def _part_statuses(resource: Resource) -> Iterator[Coding]:
    for participant in resource.get("participant", ()):
        yield None, participant["status"]


def _address(resource: Resource) -> Iterator[str]:
    """The texts of an Address (search.html#string)."""
    for told in resource.get("address", {}).values():
        yield from told if isinstance(told, list) else (told,)


LOOKS: dict[tuple[str, str], Callable[[Resource], Iterable[Any]]] = {
    **{(kind, "_id"): _id for kind in KINDS},
    **{
        (kind, "_lastUpdated"): _instants("meta", "lastUpdated")
        for kind in ("Appointment", "Patient", "DiagnosticReport")
    },
    **{(kind, "identifier"): _identifiers for kind in KINDS},
    **{(kind, "status"): _code("status") for kind in ("Slot", "Appointment", "DiagnosticReport", "Observation")},
    **{(kind, "service-type"): _codings("serviceType") for kind in ("Slot", "Schedule", "Appointment")},
    **{(kind, "name"): _texts("name") for kind in ("Practitioner", "HealthcareService", "Location")},
    **{
        (kind, name): _references("subject")
        for kind in ("DiagnosticReport", "Observation")
        for name in ("patient", "subject")
    },
    **{(kind, "code"): _codings("code") for kind in ("DiagnosticReport", "Observation")},
    **{(kind, "date"): _instants("effectiveDateTime") for kind in ("DiagnosticReport", "Observation")},
    ("Slot", "schedule"): _references("schedule"),
    ("Slot", "start"): _instants("start"),
    ("Slot", "appointment-type"): _codings("appointmentType"),
    ("Schedule", "actor"): _references("actor"),
    ("Schedule", "date"): _instants("planningHorizon", "start"),
    **{
        (kind, "active"): _code("active")
        for kind in ("Schedule", "Practitioner", "PractitionerRole", "HealthcareService")
    },
    ("Appointment", "patient"): _references("participant", "actor"),
    ("Appointment", "actor"): _references("participant", "actor"),
    ("Appointment", "practitioner"): _references("participant", "actor"),
    ("Appointment", "date"): _instants("start"),
    ("Appointment", "slot"): _references("slot"),
    ("Appointment", "part-status"): _part_statuses,
    ("Appointment", "specialty"): _codings("specialty"),
    ("Appointment", "appointment-type"): _codings("appointmentType"),
    ("PractitionerRole", "practitioner"): _references("practitioner"),
    ("PractitionerRole", "service"): _references("healthcareService"),
    ("HealthcareService", "service-type"): _codings("type"),
    ("HealthcareService", "location"): _references("location"),
    ("Location", "status"): _code("status"),
    ("Location", "address"): _address,
    ("DiagnosticReport", "result"): _references("result"),
    ("DiagnosticReport", "category"): _codings("category"),
    ("DiagnosticReport", "issued"): _instants("issued"),
}
