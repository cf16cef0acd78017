"""`Appointment/$find` as an operation (IHE ITI Scheduling 1.0.1, ITI-115): its parameters, its pages, its Bundle."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec

from booking.api.context import Context
from booking.api.cursors import decode_cursor, encode_cursor
from booking.api.fhir.bases import bases_of
from booking.api.fhir.ids import code_of
from booking.api.fhir.outcomes import FHIR_JSON
from booking.api.fhir.parameters import Given, ParameterIn, ParametersIn, id_in, read_query
from booking.api.fhir.periods import span_of
from booking.api.fhir.proposals import Proposals, Wanted, proposal_renderer, whole
from booking.api.fhir.resources.elements import his_system
from booking.api.fhir.serving import base_of, invalid, read_parameters
from booking.api.routing import Call, Ready, make_ready
from booking.api.slot_lists import MAX_DAYS
from booking.feed import ChangeFeed
from booking.people import user_of
from booking.settings import Hospital
from booking.snapshots import Days

MOST = {
    "start": 1, "end": 1, "specialty": 50, "visit-type": 50, "practitioner": 50, "organization": 50,
    "location-string": 50, "location-reference": 50, "patient-reference": 1, "patient-resource": 1, "reason": 50,
    "referral-identifier": 1, "timing": 1, "insurance-reference": 50, "_count": 1, "page": 1,
}  # fmt: skip
"""The parameters of OperationDefinition appointment-find, and how often each may come; `page` is ours, in links."""
IGNORED = ("patient-resource", "reason", "referral-identifier", "timing", "insurance-reference")
"""What narrows nothing here: no hospital tells us what it depends on. The answer says so."""
_KINDS = {
    "start": "valueDateTime", "end": "valueDateTime", "practitioner": "valueReference", "organization": "valueReference",
    "location-reference": "valueReference", "patient-reference": "valueReference",
}  # fmt: skip
DEFAULT_COUNT, MOST_COUNT = 50, 500
_MS = 1000
_encode = msgspec.json.Encoder().encode


class Finding:
    """Answers `$find` by GET and POST."""

    def __init__(self, context: Context, feed: ChangeFeed) -> None:
        self._context = context
        days = Days(
            context.store,
            feed,
            render=lambda hospital_id: proposal_renderer(context.hospitals[hospital_id]),
            max_bytes=max(1_000_000, context.snapshot_bytes // 16),
            kind="fhir_proposals",
        )
        self._proposals = Proposals(context.store, days, feed)

    async def asked(self, call: Call[str, None]) -> Ready:
        """GET: the parameters stand in the query."""
        return await self._find(call, read_query(read_parameters(call.query), _KINDS))

    async def posted(self, call: Call[str, ParametersIn]) -> Ready:
        """POST: a Parameters resource; the query may add `_count`."""
        return await self._find(call, [*call.body.parameter, *read_query(read_parameters(call.query), _KINDS)])

    async def _find(self, call: Call[str, Any], parameters: Sequence[ParameterIn]) -> Ready:
        given = Given(parameters, MOST, bases_of(call, self._context.public_url))
        hospital = self._context.hospital(call)
        period, wanted = _wanted(given, hospital)
        patient_ids = given.references("patient-reference", "Patient")
        for patient_id in patient_ids:
            async with self._context.store.read(call.hospital_id, here=True) as tx:
                await user_of(tx, call.caller.id, patient_id)
        count = _count(given)
        after = None if (page := next(iter(given.texts("page")), None)) is None else decode_cursor(page, int, str)
        found = [] if wanted is None else await self._proposals.find(hospital, wanted)
        rest = [p for p in found if after is None or p[:2] > after] if after else found
        shown, base = rest[:count], base_of(call, self._context.public_url)
        entries = [
            b'{"fullUrl":%b,"resource":%b,"search":{"mode":"match"}}'
            % (_encode(f"{base}/Appointment/{p.slot_id.replace('_', '-', 1)}"), whole(p, patient_ids, period))
            for p in shown
        ]
        more = encode_cursor(*shown[-1][:2]) if 0 < len(shown) < len(rest) else None
        links = _links(f"{base}/Appointment/$find", parameters, more)
        outcome = _outcome(given, found=bool(found))
        if outcome:
            entries.append(b'{"resource":%b,"search":{"mode":"outcome"}}' % _encode(outcome))
        listed = b',"entry":[%b]' % b",".join(entries) if entries else b""  # an empty array is none (json.html)
        body = b'{"resourceType":"Bundle","type":"searchset","total":%d,"link":%b%b}' % (
            len(found),
            _encode(links),
            listed,
        )
        return make_ready(body, headers={"Content-Type": FHIR_JSON, "Cache-Control": "no-store"})


def _wanted(given: Given, hospital: Hospital) -> tuple[tuple[str, str], Wanted | None]:
    """The period that was asked for, and what is looked for; None where nothing can fit. Raises ApiProblem."""
    written: list[str] = []
    spans = []
    for name in ("start", "end"):
        text = given.date(name)
        if text is None:
            raise invalid(f"?{name}", "a dateTime: it is required")
        try:
            spans.append(span_of(text, hospital.zone))
        except ValueError:
            raise invalid(f"?{name}", "a FHIR date or dateTime") from None
        written.append(text)
    from_ms, until_ms = round(spans[0][0].timestamp() * _MS), round(spans[1][1].timestamp() * _MS)
    if until_ms < from_ms or until_ms - from_ms > MAX_DAYS * 86_400_000:
        raise invalid("?end", f"at most {MAX_DAYS} days after `start`")
    narrowed = [
        _departments(given, hospital),
        _practitioners(given, hospital),
        _coded(given.codes("visit-type"), his_system(hospital.id, "clinic-type")) if "visit-type" in given else None,
    ]
    fits = _is_here(given, hospital) and all(codes is None or codes for codes in narrowed)
    departments, practitioners, clinic_types = (codes or frozenset() for codes in narrowed)
    wanted = Wanted(from_ms, until_ms, departments, practitioners, clinic_types)
    return _asked(written, (spans[0][0], spans[1][1])), wanted if fits else None


def _asked(written: Sequence[str], span: tuple[dt.datetime, dt.datetime]) -> tuple[str, str]:
    """Dates of one precision as they were written, else instants: of others nobody can tell whether they are in order (per-1)."""
    start, end = written
    if len(start) == len(end) and "T" not in start:
        return start, end
    return span[0].isoformat(timespec="milliseconds"), span[1].isoformat(timespec="milliseconds")


def _departments(given: Given, hospital: Hospital) -> frozenset[str] | None:
    if "specialty" not in given:
        return None
    return _coded(given.codes("specialty"), his_system(hospital.id, "department"))


def _practitioners(given: Given, hospital: Hospital) -> frozenset[str] | None:
    if "practitioner" not in given:
        return None
    return _named(given, "practitioner", "Practitioner", his_system(hospital.id, "practitioner"))


def _coded(codes: Sequence[tuple[str | None, str]], system: str) -> frozenset[str]:
    """Those of our code system, or of none."""
    return frozenset(code for of, code in codes if of in (None, "", system))


def _named(given: Given, name: str, kind: str, system: str) -> frozenset[str]:
    """The HIS's codes behind references, literal or by identifier."""
    codes = set[str | None]()
    for told in given.either(name, kind):
        if told.reference is not None:
            codes.add(code_of(id_in(told.reference, kind, given.bases) or ""))
        elif told.identifier is not None and told.identifier.system in (None, "", system):
            codes.add(told.identifier.value)
    return frozenset(code for code in codes if code)


def _is_here(given: Given, hospital: Hospital) -> bool:
    """Whether the places that are named are this hospital's, or one of its campuses."""
    organizations = _named(given, "organization", "Organization", "urn:hisbridge:hospital")
    if "organization" in given and hospital.id not in organizations:
        return False
    locations = _named(given, "location-reference", "Location", "urn:hisbridge:campus")
    if "location-reference" in given and not locations & {hospital.id, *(c.id for c in hospital.campuses)}:
        return False
    texts = [text.casefold() for text in given.texts("location-string")]
    addresses = [c.address.casefold() for c in hospital.campuses if c.address]
    return not texts or any(text in address for text in texts for address in addresses)


def _count(given: Given) -> int:
    count = given.number("_count")
    if count is None:
        return DEFAULT_COUNT
    if count < 0:
        raise invalid("?_count", "a whole number from 0")
    return min(count, MOST_COUNT)


def _links(url: str, parameters: Sequence[ParameterIn], more: str | None) -> list[dict[str, str]]:
    """`self` and `next` as GETs: whoever posted Parameters pages by them all the same."""
    asked = [(p.name, text) for p in parameters if p.name != "page" and (text := _as_text(p)) is not None]
    links = [{"relation": "self", "url": f"{url}?{urlencode(asked)}"}]
    if more is not None:
        links.append({"relation": "next", "url": f"{url}?{urlencode([*asked, ('page', more)])}"})
    return links


def _as_text(parameter: ParameterIn) -> str | None:
    """A parameter as it stands in a query; None where it cannot, or narrows nothing."""
    if parameter.name in IGNORED:
        return None
    told, coding = parameter.valueReference, parameter.valueCoding
    if told is not None:
        return told.reference or (told.identifier.value if told.identifier else None)
    if coding is not None:
        return f"{coding.system or ''}|{coding.code}"
    numbers = (parameter.valueInteger, parameter.valuePositiveInt, parameter.valueUnsignedInt)
    number = next((n for n in numbers if n is not None), None)
    return (
        str(number) if number is not None else parameter.valueString or parameter.valueDateTime or parameter.valueDate
    )


def _outcome(given: Given, *, found: bool) -> dict[str, Any] | None:
    """What the asker should know: that nothing fits (the Bundle must not be empty), or what was not looked at."""
    said = []
    if not found:
        said.append(("informational", "no appointments are available for these criteria"))
    ignored = [name for name in IGNORED if name in given]
    if ignored:
        said.append(("not-supported", f"these parameters narrow nothing here: {', '.join(ignored)}"))
    if not said:
        return None
    issues = [
        {"severity": "warning" if code == "not-supported" else "information", "code": code, "details": {"text": text}}
        for code, text in said
    ]
    return {"resourceType": "OperationOutcome", "issue": issues}
