"""Whatever is asked has an answer, and whatever changes while pages are read, each slot that stays comes exactly once."""

from __future__ import annotations

import datetime as dt
import itertools
import shutil
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from booking.api.fhir import searches, serving
from booking.api.fhir.finding import MOST
from booking.api.fhir.search import requests
from booking.api.fhir.search.tables import KINDS, RESULT_PARAMETERS
from booking.catalog import slot_key
from booking.errors import Refusal
from booking.fetches import put_schedules
from booking.store.engine import Store
from mappings.canonical import ScheduleStatus
from tests.booking.api.fhir.site import FhirSite, serve_fhir
from tests.booking.world import (
    DAY,
    HOSPITAL,
    ZONE,
    fetch,
    hold,
    make_hospital,
    make_schedule,
    make_slot,
    put_patient,
    put_slot,
)
from tests.stores import Wall, opened, run_apart

_PIECES = st.sampled_from(
    ["ge", "lt", "ap", "ne", "2031", "2031-03", "2031-03-04", "2031-02-30", "0001", "9999-12-31", "T08:00", ":00", "Z", "+08:00",
     "Slot/", "sl-", "Practitioner/P1", "http://h/fhir/", "urn:hisbridge:slot", "|", ",", "\\", "$", "D1", "free", "busy", "x-me",
     "h-0", "%", "&", "=", "\x00", "\ud7ff", "病", "1e9", "-1", "0", "9" * 20, "*", ":", "Slot:schedule", "true", "count",
     "-date", "start", "_lastUpdated"]
)  # fmt: skip
_TEXT = st.lists(_PIECES, max_size=5).map("".join) | st.text(max_size=20)
_NAMES = st.sampled_from([*MOST, *(name for kind in KINDS.values() for name in kind.parameters), *RESULT_PARAMETERS])
_MODIFIERS = st.sampled_from(["", "", "", ":not", ":missing", ":exact", ":contains", ":Practitioner", ":", "::"])
_PARAMETERS = st.lists(st.tuples(st.builds("".join, st.tuples(_NAMES, _MODIFIERS)) | _TEXT, _TEXT), max_size=5)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    searches=st.lists(st.tuples(st.sampled_from(sorted(KINDS)), _PARAMETERS, st.booleans()), min_size=4, max_size=12)
)
def test_no_search_is_an_error_of_ours_whatever_its_parameters(
    sqlite_originals: Path, tmp_path: Path, searches: list[tuple[str, list[tuple[str, str]], bool]]
) -> None:
    async def ask(site: FhirSite) -> None:
        await fill(site.store, 4)
        await site.parts.feed.catch_up(10)
        for kind, parameters, strict in searches:
            query = urlencode(parameters, quote_via=quote, errors="replace")
            prefer = {"Prefer": "handling=strict"} if strict else {}
            answer = await site.ask(f"{kind}?{query}", headers=prefer)
            allowed = (200, 400, 406) if any(name == "_format" for name, _ in parameters) else (200, 400)
            assert answer.status in allowed, (kind, parameters, answer.body)
            if answer.status == 200 and answer.link("next") is not None:
                assert (await site.ask(str(answer.link("next")))).status == 200
            form = {"Content-Type": "application/x-www-form-urlencoded", **prefer}
            posted = await site.ask(f"{kind}/_search", "POST", query.encode(), headers=form)
            assert posted.status == answer.status
        for _, parameters, _ in searches[:4]:
            query = urlencode(parameters, quote_via=quote, errors="replace")
            proposed = await site.ask(f"Appointment/$find?start={DAY}&end={DAY}&{query}")
            assert proposed.status in (200, 400, 404, 406), (parameters, proposed.body)

    served(sqlite_originals, tmp_path, ask)


async def test_long_searches_are_answered_and_not_kept_when_they_come_as_forms(site: FhirSite) -> None:
    """`_search` is for what is too long for an address: up to 32 KiB, and none of it stays in memory."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    await site.ask("Slot/_search", "POST", b"status=free", headers=form)  # an address without parameters is remembered
    kept = [cache.cache_info().currsize for cache in CACHES]
    for n in range(3):
        values = ",".join(f"{n}-{value:060d}" for value in range(199))
        for kind in ("Slot", "Practitioner"):
            told = await site.ask(f"{kind}/_search", "POST", f"identifier={values}".encode(), headers=form)
            assert told.resources == []
        told = await site.ask("Slot/_search", "POST", f"service-type={values}".encode(), headers=form)
        assert told.resources == []
    assert [cache.cache_info().currsize for cache in CACHES] == kept
    for text, status in ((f"schedule=http://x/{'a,' * 16_000}", 400), ("status=" + "a" * 32_768, 413)):
        assert (await site.ask("Slot/_search", "POST", text.encode(), headers=form)).status == status


CACHES: tuple[Any, ...] = (serving._read_short, requests._read_short, searches._short_from_today)


CHANGES = st.sampled_from(["sell", "stop", "move", "more"])


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(2, 9),
    slots=st.integers(5, 24),
    changes=st.lists(st.tuples(CHANGES, st.integers(0, 23)), max_size=8),
    ready=st.booleans(),
    by_start=st.booleans(),
)
def test_each_slot_that_stays_comes_once_when_slots_change_between_pages(
    sqlite_originals: Path,
    tmp_path: Path,
    count: int,
    slots: int,
    changes: list[tuple[str, int]],
    ready: bool,
    by_start: bool,
) -> None:
    """`move`: its HIS gives it another hour; `more`: a new slot beside it; `ready`: from ready-made days or through the store;
    `by_start`: in the order of starts, in which what moves has no place of its own.
    """

    async def page(site: FhirSite) -> None:
        before = await fill(site.store, slots)
        await site.parts.feed.catch_up(10)
        query = f"start=ge{DAY}&start=le{DAY + dt.timedelta(days=2)}" if ready else "start=ge2030-01-01"
        answer = await site.ask(f"Slot?{query}&_count={count}" + ("&_sort=start" if by_start else ""))
        shown = answer.resources
        left = [one for one in changes if not (by_start and one[0] == "move")]
        while (following := answer.link("next")) is not None:
            if left:
                await change(site.store, *left.pop())
                await site.parts.feed.catch_up(10)
            answer = await site.ask(following)
            shown += answer.resources
            assert len(shown) <= 200, "paging does not end"
        seen = [one["id"] for one in shown]
        if by_start:
            assert shown == sorted(shown, key=lambda one: (one["start"], one["id"]))
        assert len(set(seen)) == len(seen), "a slot came twice"
        assert set(before) <= set(seen), "a slot was left out"

    served(sqlite_originals, tmp_path, page)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 3),
    bookings=st.integers(2, 5),
    cancelled=st.lists(st.integers(0, 4), max_size=3),
    query=st.sampled_from(["", "&_sort=date", "&_sort=-date", "&_total=accurate", "&_elements=status"]),
)
def test_each_appointment_comes_once_when_bookings_change_between_pages(
    sqlite_originals: Path, tmp_path: Path, count: int, bookings: int, cancelled: list[int], query: str
) -> None:
    """Between two pages one is cancelled, and another one is made."""

    async def page(site: FhirSite) -> None:
        patient_id, made = await put_patient(site.store), list[str]()

        async def book(number: int) -> None:
            schedule = make_schedule(f"B{number}", date=DAY + dt.timedelta(days=number))
            slot_id = await put_slot(site.store, schedule=schedule, slot_id=f"b{number}", date=schedule.date)
            made.append((await hold(site.store, make_hospital(), slot_id, patient_id)).id)

        for number in range(bookings):
            await book(number)
        before, left = list(made), list(cancelled)
        answer = await site.ask(f"Appointment?patient={patient_id}&_count={count}{query}")
        seen = [one["id"] for one in answer.resources]
        while (following := answer.link("next")) is not None:
            if left:
                wish = {"resourceType": "Appointment", "id": before[left.pop() % bookings], "status": "cancelled"}
                assert (await site.ask(f"Appointment/{wish['id']}", "PUT", wish)).status == 200
                await book(len(made))
            answer = await site.ask(following)
            seen += [one["id"] for one in answer.resources]
            assert len(seen) <= 50, "paging does not end"
        assert len(set(seen)) == len(seen), "one came twice"
        assert set(before) <= set(seen), "one was left out"

    served(sqlite_originals, tmp_path, page)


# --- the site ----------------------------------------------------------------------------------------------------------


def served(originals: Path, folder: Path, work: Callable[[FhirSite], Coroutine[Any, Any, None]]) -> None:
    """Run `work` with a site of its own, in a loop of its own: each example has a store that nobody has touched."""

    async def run() -> None:
        url = f"sqlite:///{shutil.copy(originals / 'store.db', folder / f'{next(_numbers)}.db')}"
        async with opened(url, wall=Wall()) as store, serve_fhir(store, make_hospital()) as site:
            await work(site)

    run_apart(run())


_numbers = itertools.count()


def _slot(number: int, seats: int = 2, hour: int | None = None, **changes: Any) -> Any:
    day = DAY + dt.timedelta(days=number % 3)
    at = dt.datetime.combine(day, dt.time(hour if hour is not None else 8 + number // 3), ZONE)
    return make_slot(
        seats, schedule_id=f"S{number % 2}", slot_id=str(number), date=day, starts_at=at,
        ends_at=at + dt.timedelta(minutes=30), **changes,
    )  # fmt: skip


async def fill(store: Store, slots: int) -> list[str]:
    """So many slots on three days; their FHIR ids."""
    async with store.write(HOSPITAL) as tx:
        for day in range(3):
            date = DAY + dt.timedelta(days=day)
            await put_schedules(tx, [make_schedule(f"S{n}", date=date, department_id=f"D{n}") for n in range(2)])
        await fetch(tx, *(_slot(number) for number in range(slots)))
    return [slot_key(HOSPITAL, _slot(number)).replace("_", "-", 1) for number in range(slots)]


async def change(store: Store, what: str, number: int) -> None:
    """Something happens to a slot, or beside it."""
    if what == "sell":
        patient_id = await put_patient(store)
        with suppress(Refusal):  # sold before, by this patient, or not there
            await hold(store, make_hospital(), slot_key(HOSPITAL, _slot(number)), patient_id)
        return
    async with store.write(HOSPITAL) as tx:
        match what:
            case "stop":
                await fetch(tx, _slot(number, 0, status=ScheduleStatus.STOPPED))
            case "move":
                await fetch(tx, _slot(number, 1, hour=(9 + number) % 15))
            case "more":
                await fetch(tx, _slot(number + 24))
