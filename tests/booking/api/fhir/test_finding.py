"""`$find` (IHE ITI-115): what could be booked, by which criteria, in pages."""

from __future__ import annotations

import datetime as dt
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from booking.settings import Hospital, Mode
from booking.store.engine import Store
from tests.booking.api.fhir.calling import PERIOD, call, found, parameters
from tests.booking.api.fhir.site import FhirSite, serve_fhir
from tests.booking.world import LI, ZONE, hold, make_schedule, put_patient, put_slot

DEPARTMENT = "urn:hisbridge:h1:department"


def ids(resources: list[dict[str, Any]]) -> list[str]:
    return [resource["id"] for resource in resources]


async def test_proposal_is_complete_when_a_slot_is_open(site: FhirSite) -> None:
    slot_id = (await put_slot(site.store)).replace("_", "-")
    told = await call(site, "find", **PERIOD)
    [proposal] = told.resources
    assert told.json["total"] == 1
    assert (proposal["id"], proposal["status"]) == (slot_id, "proposed")
    assert (proposal["start"], proposal["end"]) == ("2031-03-04T08:00:00+08:00", "2031-03-04T08:30:00+08:00")
    assert proposal["minutesDuration"] == 30
    assert proposal["slot"] == [{"reference": f"Slot/{slot_id}"}]
    assert proposal["requestedPeriod"] == [{"start": PERIOD["start"], "end": PERIOD["end"]}]
    assert [p["actor"]["reference"] for p in proposal["participant"]] == ["HealthcareService/D1", "Practitioner/P1"]
    assert told.json["entry"][0]["fullUrl"].endswith(f"/fhir/R4/Appointment/{slot_id}")


async def test_nothing_is_proposed_when_it_cannot_be_booked(site: FhirSite, hospital: Hospital) -> None:
    """Held (ITI-115: SHALL NOT), not released, stopped, without a known fee."""
    opens_at = dt.datetime(2031, 3, 3, 15, tzinfo=ZONE)
    slot_id, patient_id = await put_slot(site.store, 1), await put_patient(site.store)
    await put_slot(site.store, schedule=make_schedule("S2", opens_at=opens_at), slot_id="2")
    await put_slot(site.store, schedule=make_schedule("S3", fee_fen=None), slot_id="3")
    await put_slot(site.store, 0, schedule=make_schedule("S4"), slot_id="4")
    assert ids(await found(site)) == [slot_id.replace("_", "-")]
    await hold(site.store, hospital, slot_id, patient_id)
    await site.parts.feed.catch_up(10)
    empty = await call(site, "find", **PERIOD)
    assert (empty.status, empty.json["total"], empty.resources) == (200, 0, [])
    [outcome] = [entry["resource"] for entry in empty.json["entry"]]
    assert outcome["issue"][0]["severity"] == "information"


@pytest.mark.parametrize(
    ("criteria", "hours"),
    [
        ({}, {8, 10, 14}),
        ({"practitioner": "Practitioner/P1"}, {8}),
        ({"practitioner": ["Practitioner/P1", "Practitioner/P2"]}, {8, 10}),
        ({"practitioner": "Practitioner/P9"}, set()),
        ({"practitioner": {"valueReference": {"identifier": {"value": "P2"}}}}, {10}),
        ({"practitioner": {"valueReference": {"identifier": {"system": "urn:other", "value": "P2"}}}}, set()),
        ({"specialty": f"{DEPARTMENT}|D2"}, {14}),
        ({"specialty": "D2"}, {14}),
        ({"specialty": "http://snomed.info/sct|D2"}, set()),
        ({"specialty": {"valueCoding": {"system": DEPARTMENT, "code": "D1"}}}, {8, 10}),
        ({"visit_type": "urn:hisbridge:h1:clinic-type|专家"}, {10}),
        ({"organization": {"valueReference": {"identifier": {"value": "h1"}}}}, {8, 10, 14}),
        ({"organization": "Organization/elsewhere"}, set()),
        ({"start": "2031-03-04T09:00:00+08:00"}, {10, 14}),
        ({"start": "2031-03-04T02:00:00Z", "end": "2031-03-04T02:30:00Z"}, {10}),
        ({"start": "2031-03-04T02:00:00Z", "end": "2031-03-04T02:29:59Z"}, set()),
        ({"start": "2031-03", "end": "2031-03"}, {8, 10, 14}),
        ({"start": "2031-03-05", "end": "2031-03-06"}, set()),
    ],
)
@pytest.mark.parametrize("feeds", [True, False], ids=["snapshots", "store"])
async def test_proposals_fit_the_criteria(
    site: FhirSite, monkeypatch: pytest.MonkeyPatch, criteria: dict[str, Any], hours: set[int], feeds: bool
) -> None:
    if not feeds:
        monkeypatch.setattr(site.parts.feed, "is_fresh", lambda hospital_id: False)
    await put_slot(site.store, hour=8)
    second = make_schedule("S2", practitioner_id="P2", clinic_type="专家")
    await put_slot(site.store, schedule=second, slot_id="2", hour=10)
    await put_slot(
        site.store, schedule=make_schedule("S3", practitioner_id=None, department_id="D2"), slot_id="3", hour=14
    )
    await site.parts.feed.catch_up(10)
    proposals = await found(site, **criteria)
    assert {int(p["start"][11:13]) for p in proposals} == hours
    if not set(criteria) & {"practitioner", "specialty", "organization", "visit_type"}:
        query = "&".join(f"{name}={value.replace('+', '%2B')}" for name, value in {**PERIOD, **criteria}.items())
        assert ids((await site.ask(f"Appointment/$find?{query}")).resources) == ids(proposals)


async def test_pages_are_complete_and_without_repeats_when_next_is_followed(site: FhirSite) -> None:
    for n in range(7):
        await put_slot(site.store, schedule=make_schedule(f"S{n}"), slot_id=str(n), hour=8 + n // 3)
    await site.parts.feed.catch_up(10)
    whole = await found(site)
    first = await call(site, "find", **PERIOD, _count=3)
    pages, following = [first], first.link("next")
    while following is not None:
        url = urlsplit(following)
        pages.append(await site.ask(f"{url.path}?{url.query}"))
        following = pages[-1].link("next")
    assert [len(page.resources) for page in pages] == [3, 3, 1]
    assert [page.json["total"] for page in pages] == [7, 7, 7]
    assert [r for page in pages for r in ids(page.resources)] == ids(whole)
    number = await call(site, "find", **PERIOD, _count=0)
    assert (number.json["total"], "entry" in number.json) == (7, False)


async def test_patient_takes_part_when_it_is_named_and_own(site: FhirSite) -> None:
    await put_slot(site.store)
    mine, theirs = await put_patient(site.store), await put_patient(site.store, LI, client="another", user="u9")
    [proposal] = await found(site, patient_reference=f"Patient/{mine}")
    assert proposal["participant"][-1]["actor"] == {"reference": f"Patient/{mine}"}
    told = await call(site, "find", **PERIOD, patient_reference=f"Patient/{theirs}")
    assert (told.status, told.code) == (404, "patient_unknown")


async def test_what_narrows_nothing_is_named_when_it_is_given(site: FhirSite) -> None:
    await put_slot(site.store)
    told = await call(site, "find", **PERIOD, reason="urn:x|1", referral_identifier={"valueIdentifier": {"value": "r"}})
    assert len(told.resources) == 1
    [issue] = told.json["entry"][-1]["resource"]["issue"]
    assert (issue["severity"], "reason, referral-identifier" in issue["details"]["text"]) == ("warning", True)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"start": "2031-03-04"}, "invalid_field"),
        ({"end": "2031-03-04"}, "invalid_field"),
        ({"start": "2031-03-04", "end": "2031-02-30"}, "invalid_field"),
        ({"start": "tomorrow", "end": "2031-03-04"}, "invalid_field"),
        ({"start": "0001-01-01", "end": "9999-12-31"}, "invalid_field"),
        ({"start": "2031-03-04", "end": "2031-12-04"}, "invalid_field"),
        ({"start": "2031-03-04", "end": "2031-03-03"}, "invalid_field"),
        ({**PERIOD, "start": ["2031-03-04", "2031-03-04"]}, "invalid_field"),
        ({**PERIOD, "practitionar": "Practitioner/P1"}, "unknown_field"),
        ({**PERIOD, "practitioner": "Patient/P1"}, "invalid_field"),
        ({**PERIOD, "_count": "many"}, "invalid_field"),
        ({**PERIOD, "page": "W10"}, "cursor_invalid"),
    ],
)
async def test_criteria_are_refused_when_they_cannot_be_read(site: FhirSite, given: dict[str, Any], code: str) -> None:
    told = await call(site, "find", **given)
    assert (told.status, told.code) == (400, code)


async def test_hospital_is_searched_when_it_only_shows(store: Store, hospital: Hospital) -> None:
    """What it does not sell, a hold refuses: `$find` proposes as the lists of /v1 show."""
    await put_slot(store)
    patient_id = await put_patient(store)
    shown = msgspec.structs.replace(hospital, mode=Mode.OBSERVE)
    async with serve_fhir(store, shown) as site:
        [proposal] = await found(site)
        told = await call(
            site,
            "hold",
            appointment_reference=f"Appointment/{proposal['id']}",
            patient_reference=f"Patient/{patient_id}",
        )
        assert (told.status, told.code) == (409, "hospital_observe_only")


async def test_parameters_are_taken_as_plain_json_when_the_caller_says_so(site: FhirSite) -> None:
    await put_slot(site.store)
    told = await site.ask(
        "Appointment/$find", "POST", parameters(**PERIOD), headers={"Content-Type": "application/json"}
    )
    assert told.json["total"] == 1
    assert (await site.ask("Appointment/%24find", "POST", parameters(**PERIOD))).json["total"] == 1
