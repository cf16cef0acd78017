"""FHIR -> canonical -> FHIR: every field that docs/dialects/fhir_fields.md claims is the same afterwards, for both releases."""

from __future__ import annotations

import base64
import datetime as dt
import functools
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.fhir.calls import compile_calls
from connectors.fhir.documents import Document, decode_json, encode_json
from connectors.fhir.paths import FhirPaths
from connectors.fhir.releases import RELEASES
from connectors.fhir.validation import Rules, flaws_of
from mappings.engine import MapContext
from mappings.profile import load_profile
from tests.connectors.fhir.written_back import written
from tests.docs.fhir_fields import Claim, claims_of

ZONE = ZoneInfo("Asia/Shanghai")
PROFILES = {release: load_profile(f"fhir_{release.lower()}") for release in ("R4", "R5")}
CALLS = {release: compile_calls(profile) for release, profile in PROFILES.items()}
CLAIMS = {release: claims_of(profile) for release, profile in PROFILES.items()}
Json = dict[str, Any]


def survives(release: str, verb: str, *resources: Json, currency: str = "CNY") -> None:
    """Read, write, read again: the records are equal, and so is what each claim's paths find."""
    there = Document.of([{"resource": one} for one in resources])
    reply = CALLS[release][verb].reply
    assert reply is not None
    context = MapContext(hospital_id="h", zone=ZONE, currency=currency, now=dt.datetime.now(dt.UTC))
    first = reply.read(there, context)
    assert first.problems == ()
    assert len(first.records) == 1
    back = [decode_json(encode_json(one).decode()) for one in written(first.records[0], release, currency)]
    assert flaws_of(back[:1], Rules(mode="strict", release=RELEASES[release])) == []
    again = Document.of([{"resource": one} for one in back])
    assert reply.read(again, context).records == first.records
    for claim in CLAIMS[release]:
        if claim.verb == verb and (claim.raw or claim.table):
            before, after = values(release, claim, there), values(release, claim, again)
            assert after == before, (claim.resource, claim.field)


def values(release: str, claim: Claim, root: Document) -> list[Any]:
    """What a claim finds, item by item of the lists around it, without what spelling adds."""
    nodes: list[Any] = [root]
    for each in claim.each:
        nodes = [found for node in nodes for found in path_of(release, each)(root, node)]
    if claim.record == "Identifier":
        nodes = [node for node in nodes if node.get("value")]  # one without a value identifies nobody
    texts = [next(texts_at(release, claim, root, node), None) for node in nodes]
    return [claim.default if text is None else meant(release, claim, text) for text in texts]


def texts_at(release: str, claim: Claim, root: Document, node: Any) -> Iterator[str]:
    for path in claim.paths:
        for found in path_of(release, path)(root, node):
            if text := FhirPaths().text(found):
                yield text


@functools.cache
def path_of(release: str, path: str) -> Callable[[Any, Any], list[Any]]:
    return FhirPaths(PROFILES[release].connection).compile(path)


def meant(release: str, claim: Claim, text: str) -> Any:
    if claim.table is not None:
        return PROFILES[release].tables[claim.table].get(text, claim.otherwise)
    if claim.kept == "the instant":
        moment = dt.datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=ZONE)).astimezone(dt.UTC)
    if claim.kept == "the id":
        return text.partition("/_history/")[0].rpartition("/")[2]
    if claim.kept == "the bytes":
        return base64.b64decode(text)
    try:
        return Decimal(text).normalize()
    except InvalidOperation:
        return text


# --- the corpus ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "names", "currency"),
    [
        ("fetch_departments", ["r4-HealthcareService-example"], "CNY"),
        ("fetch_practitioners", ["r4-PractitionerRole-example"], "CNY"),
        ("fetch_schedules", ["r4-Slot-example", "r4-Schedule-example", "r4-Location-1"], "CNY"),
        ("fetch_slots", ["r4-Slot-example"], "CNY"),
        ("fetch_slots", ["r4-Slot-1"], "CNY"),
        ("find_patient", ["r4-Patient-example"], "CNY"),
        ("find_patient", ["ihe-example-patient"], "CNY"),
        ("fetch_registration", ["r4-Appointment-example"], "CNY"),
        ("fetch_registration", ["r4-Appointment-2docs"], "CNY"),
        ("fetch_registration", ["ihe-example-appointment"], "CNY"),
        ("fetch_bills", ["r4-Invoice-example", "r4-ChargeItem-example"], "EUR"),
        ("fetch_reports", ["r4-DiagnosticReport-102"], "CNY"),
        ("fetch_reports", ["r4-DiagnosticReport-ultrasound"], "CNY"),
    ],
    ids=lambda value: value[0].partition("-")[2] if isinstance(value, list) else value,
)
def test_example_of_the_corpus_survives_when_it_is_read_and_written(
    corpus: Path, verb: str, names: list[str], currency: str
) -> None:
    resources = [decode_json((corpus / "fhir" / f"{name}.json").read_text(encoding="utf-8")) for name in names]
    survives("R4", verb, *resources, currency=currency)


def test_payment_notice_of_the_corpus_survives_when_its_invoice_is_balanced(corpus: Path) -> None:
    notice = decode_json((corpus / "fhir" / "r4-PaymentNotice-77654.json").read_text(encoding="utf-8"))
    balanced = {"resourceType": "Invoice", "id": "i", "status": "balanced", "identifier": [{"value": "B1"}]}
    survives("R4", "fetch_settlement", {**notice, "request": {"reference": "Invoice/i"}}, balanced, currency="USD")


def test_lipids_of_the_corpus_survive_when_they_are_read_and_written(corpus: Path) -> None:
    bundle = decode_json((corpus / "fhir" / "r4-Bundle-lipids.json").read_text(encoding="utf-8"))
    resources = [entry["resource"] for entry in bundle["entry"]]
    survives("R4", "fetch_reports", *resources)


# --- generated -------------------------------------------------------------------------------------------------------

ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.-]{0,20}", fullmatch=True)
words = st.text(st.characters(categories=("Lu", "Ll", "Lo", "Nd"), codec="gb18030"), min_size=1, max_size=12)
starts = st.datetimes(dt.datetime(2026, 1, 1), dt.datetime(2026, 12, 31)).map(
    lambda moment: moment.replace(microsecond=0, tzinfo=ZONE)
)
instants = starts.map(dt.datetime.isoformat)
cents = st.integers(0, 10**9).map(lambda fen: Decimal(fen) / 100)
coding = st.lists(st.just({"code": "A1", "display": "甲"}), max_size=2)
codings = st.fixed_dictionaries({}, optional={"text": words, "coding": coding})
concepts = codings.filter(lambda one: one.get("text") or one.get("coding"))


def reference(kind: str) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries({"reference": ids.map(lambda one: f"{kind}/{one}")}, optional={"display": words})


@st.composite
def periods(draw: st.DrawFn) -> Json:
    start = draw(starts)
    return {"start": start.isoformat(), "end": (start + dt.timedelta(minutes=draw(st.integers(1, 200)))).isoformat()}


@st.composite
def slots(draw: st.DrawFn) -> Json:
    status = draw(st.sampled_from(["free", "busy", "busy-unavailable", "busy-tentative", "entered-in-error"]))
    own = {"resourceType": "Slot", "id": draw(ids), "status": status, "schedule": draw(reference("Schedule"))}
    return {**own, **draw(periods())}


@st.composite
def appointments(draw: st.DrawFn) -> Json:
    status = draw(st.sampled_from(["pending", "booked", "arrived", "fulfilled", "cancelled", "noshow", "waitlist"]))
    kinds = draw(st.lists(st.sampled_from(["Patient", "Practitioner", "HealthcareService"]), min_size=1, unique=True))
    order = {"system": "urn:hisbridge:order-no", "value": draw(ids)}
    own = {
        "resourceType": "Appointment",
        "id": draw(ids),
        "status": status,
        "identifier": [order],
        "slot": [draw(reference("Slot"))],
        "participant": [{"actor": draw(reference(kind)), "status": "accepted"} for kind in kinds],
    }
    return {**own, **draw(periods())}


patients = st.fixed_dictionaries(
    {"resourceType": st.just("Patient"), "id": ids, "name": words.map(lambda name: [{"text": name}])},
    optional={
        "identifier": ids.map(
            lambda value: [{"system": "urn:x", "value": value, "type": {"coding": [{"code": "NI"}]}}]
        ),
        "telecom": ids.map(lambda value: [{"system": "email", "value": "x"}, {"system": "phone", "value": value}]),
        "gender": st.sampled_from(["male", "female", "other", "unknown"]),
        "birthDate": st.dates(dt.date(1900, 1, 1), dt.date(2026, 1, 1)).map(str),
        "address": words.map(lambda text: [{"text": text}]),
    },
)


@st.composite
def invoices(draw: st.DrawFn, release: str) -> tuple[Json, ...]:
    lines, items = [], []
    encounter = draw(reference("Encounter"))
    for number in range(draw(st.integers(0, 3))):
        amount = {"value": draw(cents), "currency": "CNY"}
        lines.append(
            {
                "chargeItemReference": {"reference": f"ChargeItem/c{number}"},
                "priceComponent": [{"type": "base", "amount": amount}],
            }
        )
        item = {"code": draw(concepts), "quantity": {"value": draw(st.integers(1, 9)), "unit": "次"}}
        context = {"encounter" if release == "R5" else "context": encounter}
        items.append({"resourceType": "ChargeItem", "id": f"c{number}", "status": "billable", **item, **context})
    own = {
        "resourceType": "Invoice",
        "id": draw(ids),
        "identifier": [{"value": draw(ids)}],
        "status": draw(st.sampled_from(["issued", "balanced", "cancelled"])),
        "subject": draw(reference("Patient")),
        "issuer": {"display": draw(words)},
        "type": draw(concepts),
        "account": {"reference": "Account/a"},
        "creation" if release == "R5" else "date": draw(instants),
        "lineItem": lines,
        "totalGross": {"value": draw(cents), "currency": "CNY"},
    }
    return own, *items


@st.composite
def reports(draw: st.DrawFn, release: str) -> tuple[Json, ...]:
    statuses = ["preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error", "unknown"]
    lines = [
        {
            "resourceType": "Observation",
            "id": f"o{number}",
            "status": draw(st.sampled_from(statuses)),
            "code": draw(concepts),
            "effectiveDateTime": draw(instants),
            "interpretation": [{"coding": [{"code": draw(st.sampled_from(["H", "L", "N"]))}]}],
            **draw(
                st.one_of(
                    words.map(lambda text: {"valueString": text}),
                    cents.map(lambda value: {"valueQuantity": {"value": value, "unit": "g/L"}}),
                )
            ),
        }
        for number in range(draw(st.integers(0, 3)))
    ]
    form = {"contentType": "text/plain", "title": draw(words), "data": base64.b64encode(draw(words).encode()).decode()}
    own = {
        "resourceType": "DiagnosticReport",
        "id": draw(ids),
        "identifier": [{"value": draw(ids)}],
        "status": draw(st.sampled_from([*statuses, "appended", *(["modified"] if release == "R5" else [])])),
        "code": draw(concepts),
        "subject": draw(reference("Patient")),
        "issued": draw(instants),
        "effectiveDateTime": draw(instants),
        "conclusion": draw(words),
        "result": [{"reference": f"Observation/{line['id']}"} for line in lines],
        "presentedForm": [form],
    }
    return own, *lines


MADE: dict[str, Callable[[str], st.SearchStrategy[tuple[Json, ...]]]] = {
    "fetch_slots": lambda _: st.tuples(slots()),
    "fetch_registration": lambda _: st.tuples(appointments()),
    "find_patient": lambda _: st.tuples(patients),
    "fetch_bills": invoices,
    "fetch_reports": reports,
}


@pytest.mark.parametrize("verb", MADE)
@pytest.mark.parametrize("release", ["R4", "R5"])
@given(data=st.data())
def test_generated_resource_survives_when_it_is_read_and_written(release: str, verb: str, data: st.DataObject) -> None:
    survives(release, verb, *data.draw(MADE[verb](release)))
