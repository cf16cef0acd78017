"""Searching slots: by the standard's parameters, by pages, whole and in part, from ready-made days and through the store."""

from __future__ import annotations

import datetime as dt
from urllib.parse import quote

import pytest

from booking.api.fhir.search import slots
from booking.fetches import put_schedules
from booking.store.engine import Store
from tests.booking.api.fhir.site import FhirSite
from tests.booking.world import DAY, HOSPITAL, ZONE, fetch, hold, make_hospital, make_schedule, make_slot, put_patient

DAYS = [DAY + dt.timedelta(days=n) for n in range(3)]
WHOLE = f"start=ge{DAYS[0]}&start=le{DAYS[2]}"
AT = "T09:00:00%2B08:00"


async def fill(store: Store) -> None:
    """Three days, two clinics with two doctors each, ten slots for each doctor on each day; every third is sold out."""
    async with store.write(HOSPITAL) as tx:
        for day in DAYS:
            for number in range(4):
                schedule = make_schedule(
                    f"S{number}", date=day, department_id=f"D{number // 2}", practitioner_id=f"P{number}",
                    clinic_type="专家" if number == 1 else None,
                )  # fmt: skip
                await put_schedules(tx, [schedule])
                starts = [dt.datetime.combine(day, dt.time(8 + n), ZONE) for n in range(10)]
                slots = [
                    make_slot(n % 3, schedule_id=schedule.id, slot_id=str(n), date=day, starts_at=at,
                              ends_at=at + dt.timedelta(minutes=30))
                    for n, at in enumerate(starts)
                ]  # fmt: skip
                await fetch(tx, *slots)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        (WHOLE, 120),
        (f"start={DAY}", 40),
        (f"start=ge{DAY}&start=lt{DAYS[1]}", 40),
        (f"start=gt{DAY}", 80),
        (f"start=ge{DAYS[2]}", 40),
        (f"start=lt{DAYS[1]}", 40),
        (f"start=ne{DAY}", 80),
        (f"start=sa{DAY}&start=eb{DAYS[2]}", 40),
        (f"start={DAY}{AT}", 4),
        (f"start=ge{DAY}{AT}&start=lt{DAYS[1]}", 36),
        (f"start={DAY},{DAYS[2]}", 80),
        (f"start={DAY:%Y-%m}", 120),
        (f"start={DAY:%Y}", 120),
        (f"{WHOLE}&status=free", 3 * 4 * 6),
        (f"{WHOLE}&status=busy", 3 * 4 * 4),
        (f"{WHOLE}&status=free,busy", 120),
        (f"{WHOLE}&status:not=free", 48),
        (f"{WHOLE}&status=http://hl7.org/fhir/slotstatus|free", 0),
        (f"{WHOLE}&status=nonsense", 0),
        (f"{WHOLE}&service-type=D1", 60),
        (f"{WHOLE}&service-type=urn:hisbridge:h1:department|D1", 60),
        (f"{WHOLE}&service-type=urn:other|D1", 0),
        (f"{WHOLE}&service-type=D0,D1", 120),
        (f"{WHOLE}&service-type:not=D0", 60),
        (f"{WHOLE}&appointment-type=专家", 30),
        (f"{WHOLE}&schedule.actor=Practitioner/P1", 30),
        (f"{WHOLE}&schedule.actor=P1,P3", 60),
        (f"{WHOLE}&schedule.actor=HealthcareService/D0", 60),
        (f"{WHOLE}&schedule.actor:Practitioner=D0", 0),
        (f"{WHOLE}&schedule=Schedule/none", 0),
        (f"{WHOLE}&nonsense=1", 120),
        (f"{WHOLE}&status=", 120),
    ],
)
async def test_slots_are_those_that_fit_when_searched(site: FhirSite, query: str, count: int) -> None:
    await fill(site.store)
    await site.parts.feed.catch_up(10)
    answer = await site.ask(f"Slot?{quote(query, safe=',:&=%|/.')}&_count=500")
    assert len(answer.resources) == count
    assert answer.json["total"] == count
    ids = [slot["id"] for slot in answer.resources]
    assert len(set(ids)) == count
    assert [e["fullUrl"].rpartition("/fhir/R4/")[2] for e in answer.json.get("entry", ())] == [f"Slot/{i}" for i in ids]


async def test_slots_of_a_schedule_are_found_when_named_in_any_form(site: FhirSite) -> None:
    await fill(site.store)
    await site.parts.feed.catch_up(10)
    slot = (await site.ask(f"Slot?start={DAY}&service-type=D1")).resources[0]
    of = slot["schedule"]["reference"]
    base = (await site.ask("metadata")).json["implementation"]["url"]
    assert (await site.ask(f"Slot?start={DAY}&schedule={quote(f'http://other.example/fhir/R4/{of}')}")).resources == []
    for form in (of, of.partition("/")[2], f"{base}/{of}"):
        found = (await site.ask(f"Slot?start={DAY}&schedule={quote(form)}")).resources
        assert len(found) == 10
        assert {one["schedule"]["reference"] for one in found} == {of}
    by_id = await site.ask(f"Slot?_id={slot['id']},sl-none")
    assert by_id.resources == [slot]
    assert (await site.ask(f"Slot?identifier={slot['identifier'][0]['value']}")).resources == [slot]
    assert (await site.ask(f"Slot?identifier=urn:hisbridge:slot|{slot['identifier'][0]['value']}")).resources == [slot]
    assert (await site.ask(f"Slot/{slot['id']}")).json == slot


async def test_days_from_today_on_are_meant_when_no_start_is_given(site: FhirSite) -> None:
    await fill(site.store)
    await site.parts.feed.catch_up(10)
    answer = await site.ask("Slot?status=free")
    told = answer.link("self")
    assert told is not None
    today = dt.datetime.fromtimestamp(site.parts.feed.store_now_ms(HOSPITAL) / 1000, ZONE).date()
    assert f"start=ge{today}" in told
    assert f"start=le{today + dt.timedelta(days=7)}" in told


@pytest.mark.parametrize(
    ("query", "strict", "code"),
    [
        ("nonsense=1", True, "unknown_field"),
        ("start=yesterday", False, "invalid_field"),
        ("start=2031-13-01", False, "invalid_field"),
        ("start=9999-12-31T23:59:60Z", False, "invalid_field"),
        ("start:missing=true", False, "invalid_field"),
        ("status:above=free", False, "invalid_field"),
        ("schedule=a%20b", False, "invalid_field"),
        ("_count=-1", False, "invalid_field"),
        ("_count=x", False, "invalid_field"),
        ("_summary=maybe", False, "invalid_field"),
        ("_total=all", False, "invalid_field"),
        ("_cursor=xyz", False, "cursor_invalid"),
        ("_include=Slot:nothing", True, "invalid_field"),
        ("_elements=status&_summary=true", False, "invalid_field"),
    ],
)
async def test_search_is_refused_when_it_cannot_be_understood(
    site: FhirSite, query: str, strict: bool, code: str
) -> None:
    answer = await site.ask(f"Slot?{query}", headers={"Prefer": "handling=strict"} if strict else {})
    assert (answer.status, answer.code) == (400, code)


async def test_unknown_parameter_is_left_out_of_the_self_link_when_handling_is_lenient(site: FhirSite) -> None:
    answer = await site.ask(f"Slot?nonsense=1&start={DAY}", headers={"Prefer": "handling=lenient"})
    assert answer.status == 200
    assert "nonsense" not in str(answer.link("self"))


async def test_pages_hold_every_slot_once_when_followed(site: FhirSite) -> None:
    await fill(site.store)
    await site.parts.feed.catch_up(10)
    pages = await site.pages(f"Slot?{WHOLE}&_count=7")
    ids = [slot["id"] for page in pages for slot in page.resources]
    assert [len(page.resources) for page in pages] == [7] * 17 + [1]
    assert len(set(ids)) == len(ids) == 120


@pytest.mark.parametrize("query", [f"{WHOLE}&_count=0", f"{WHOLE}&_summary=count"])
async def test_number_alone_is_told_when_asked_for(site: FhirSite, query: str) -> None:
    await fill(site.store)
    await site.parts.feed.catch_up(10)
    answer = await site.ask(f"Slot?{query}")
    assert answer.json["total"] == 120
    assert "entry" not in answer.json


async def test_total_is_told_with_the_first_page_when_asked_for(site: FhirSite) -> None:
    await fill(site.store)
    await site.parts.feed.catch_up(10)
    assert (await site.ask(f"Slot?{WHOLE}&_count=5&_total=accurate")).json["total"] == 120
    assert "total" not in (await site.ask(f"Slot?{WHOLE}&_count=5")).json


async def test_slots_are_found_through_the_store_when_days_are_many_or_unknown(site: FhirSite) -> None:
    await fill(site.store)
    pages = await site.pages("Slot?start=ge2020-01-01&_count=50")
    assert [len(page.resources) for page in pages] == [50, 50, 20]
    assert len({slot["id"] for page in pages for slot in page.resources}) == 120


async def test_page_is_304_and_then_new_when_a_seat_is_taken(site: FhirSite) -> None:
    await fill(site.store)
    await site.parts.feed.catch_up(10)
    query = f"Slot?start={DAY}&_count=500"
    first = await site.ask(query)
    same = await site.ask(query, headers={"If-None-Match": first.headers["ETag"]})
    assert (same.status, same.body) == (304, b"")
    slot = next(one for one in first.resources if one["extension"][0]["valueInteger"] == 1)
    patient_id = await put_patient(site.store)
    await hold(site.store, make_hospital(), slot["identifier"][0]["value"], patient_id)
    await site.parts.feed.catch_up(10)
    after = await site.ask(query, headers={"If-None-Match": first.headers["ETag"]})
    assert after.status == 200
    assert {one["id"]: one["status"] for one in after.resources}[slot["id"]] == "busy"


async def test_schedules_and_actors_come_along_when_included(site: FhirSite) -> None:
    await fill(site.store)
    await site.parts.feed.catch_up(10)
    answer = await site.ask(f"Slot?start={DAY}&_include=Slot:schedule&_include:iterate=Schedule:actor")
    assert len(answer.resources) == 40
    kinds = [one["resourceType"] for one in answer.included]
    assert (kinds.count("Schedule"), kinds.count("Practitioner"), kinds.count("HealthcareService")) == (4, 4, 2)
    assert len({(one["resourceType"], one["id"]) for one in answer.included}) == 10


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("_elements=status", {"schedule", "status", "start", "end"}),
        ("_elements=Slot.identifier", {"identifier", "schedule", "status", "start", "end"}),
        ("_summary=true", {"identifier", "serviceType", "schedule", "status", "start", "end"}),
        ("_summary=text", {"schedule", "status", "start", "end"}),
        ("_summary=data", {"extension", "identifier", "serviceType", "schedule", "status", "start", "end"}),
    ],
)
async def test_parts_are_marked_and_keep_what_is_mandatory_when_asked_for(
    site: FhirSite, query: str, kept: set[str]
) -> None:
    await fill(site.store)
    await site.parts.feed.catch_up(10)
    whole = (await site.ask(f"Slot?start={DAY}&service-type=D1")).resources[0]
    part = (await site.ask(f"Slot?start={DAY}&service-type=D1&{query}")).resources[0]
    assert set(part) == {"resourceType", "id", "meta", *kept}
    assert part["meta"]["tag"][0]["code"] == "SUBSETTED"
    assert part["meta"]["versionId"] == whole["meta"]["versionId"]
    read = (await site.ask(f"Slot/{whole['id']}?{query}")).json
    assert read == part


async def test_search_by_post_finds_the_same_when_sent_as_a_form(site: FhirSite) -> None:
    await fill(site.store)
    await site.parts.feed.catch_up(10)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    posted = await site.ask("Slot/_search?service-type=D1", "POST", f"start={DAY}".encode(), headers=form)
    assert posted.json == (await site.ask(f"Slot?service-type=D1&start={DAY}")).json
    assert len(posted.resources) == 20


@pytest.mark.parametrize("query", [f"{WHOLE}&status=busy", "start=ge2020-01-01&status=busy"])
async def test_page_is_short_and_goes_on_when_much_had_to_be_looked_at(
    site: FhirSite, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    await fill(site.store)
    await site.parts.feed.catch_up(10)
    monkeypatch.setattr(slots, "MOST_LOOKED_AT", 35)
    monkeypatch.setattr(slots, "_AT_ONCE", 35)
    monkeypatch.setattr(slots, "DAYS_AT_ONCE", 1)
    pages = await site.pages(f"Slot?{query}&_count=50")
    assert len(pages) > 2
    ids = [slot["id"] for page in pages for slot in page.resources]
    assert len(set(ids)) == len(ids) == 48
    assert (await site.ask(f"Slot?{query}&_count=0")).json["total"] == 48
