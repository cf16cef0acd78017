"""The forms of a list: composed or read through the store, plain or packed, whole or by pages, new or unchanged."""

from __future__ import annotations

import datetime as dt
import gzip
from collections.abc import AsyncIterator
from typing import Any

import pytest

from booking.api.listing import PACKED_FROM_BYTES
from booking.fetches import put_departments, put_practitioners, put_schedules
from booking.settings import Hospital
from booking.store.engine import Store
from mappings.canonical import Department, Practitioner
from monitoring.metrics import REGISTRY
from tests.booking.api.catalogue_site import Answered, Site, serve_catalogue
from tests.booking.world import DAY, HOSPITAL, ZONE, fetch, hold, make_schedule, make_slot, put_patient, put_slot
from tests.stores import BEGIN_MS, Wall

OF = "/v1/hospitals/h1"
DAYS = [DAY + dt.timedelta(days=n) for n in range(3)]
WHOLE = "from=2031-03-04&to=2031-03-06"


async def fill(store: Store) -> None:
    """Three days of two departments with two practitioners, ten slots each; one schedule is stopped, one not released."""
    opens_at = dt.datetime.fromtimestamp(BEGIN_MS / 1000, ZONE) + dt.timedelta(hours=3)
    async with store.write(HOSPITAL) as tx:
        for day in DAYS:
            for number in range(4):
                schedule = make_schedule(
                    f"S{number}", date=day, department_id=f"D{number // 2}", practitioner_id=f"P{number % 2}",
                    opens_at=opens_at if number == 3 else None, practitioner_name="王\"\\医生" if number else None,
                )  # fmt: skip
                await put_schedules(tx, [schedule])
                begins_at = [dt.datetime.combine(day, dt.time(8 + n), ZONE) for n in range(10)]
                await fetch(
                    tx,
                    *(
                        make_slot(n % 3, schedule_id=schedule.id, slot_id=str(n), date=day, starts_at=at,
                                  ends_at=at + dt.timedelta(minutes=30))
                        for n, at in enumerate(begins_at)
                    ),
                )  # fmt: skip


@pytest.fixture
async def sites(store: Store, hospital: Hospital) -> AsyncIterator[tuple[Site, Site]]:
    """The same store twice: with ready-made days, and read through."""
    await fill(store)
    async with (
        serve_catalogue(store, hospital) as ready,
        serve_catalogue(store, hospital, feeds=False) as through,
    ):
        yield ready, through


@pytest.mark.parametrize(
    ("query", "count"),
    [
        (WHOLE, 120),
        (f"{WHOLE}&limit=7", 7),
        (f"{WHOLE}&limit=120", 120),
        (f"{WHOLE}&limit=119", 119),
        ("from=2031-03-05&to=2031-03-05", 40),
        (f"{WHOLE}&department_id=D1", 60),
        (f"{WHOLE}&practitioner_id=P1", 60),
        (f"{WHOLE}&department_id=D0&practitioner_id=P1&limit=500", 30),
        (f"{WHOLE}&department_id=D9", 0),
        (f"{WHOLE}&department_id=", 0),
        ("from=2031-04-01&to=2031-07-01", 0),
        ("department_id=D0", 60),
    ],
)
async def test_bytes_are_the_same_when_composed_and_when_read_through(
    sites: tuple[Site, Site], query: str, count: int
) -> None:
    ready, through = [await site.ask(f"{OF}/slots?{query}") for site in sites]
    assert len(ready.items) == count
    assert ready.body == through.body
    assert ready.headers["ETag"] == through.headers["ETag"]


@pytest.mark.parametrize("limit", [1, 7, 40, 60])
@pytest.mark.parametrize("narrowed", ["", "&department_id=D1", "&practitioner_id=P0"])
async def test_pages_are_the_whole_list_when_put_together(sites: tuple[Site, Site], limit: int, narrowed: str) -> None:
    """Page by page from the two in turn: their cursors are the same."""
    query = f"{WHOLE}{narrowed}"
    whole = (await sites[0].ask(f"{OF}/slots?{query}&limit=500")).items
    assert [(i["starts_at"], i["id"]) for i in whole] == sorted((i["starts_at"], i["id"]) for i in whole)
    paged: list[dict[str, Any]] = []
    cursor, pages = "", 0
    while True:
        page = await sites[pages % 2].ask(f"{OF}/slots?{query}&limit={limit}{cursor}")
        paged += page.items
        pages += 1
        if page.json["next"] is None:
            break
        cursor = f"&cursor={page.json['next']}"
    assert paged == whole
    assert pages == -(-len(whole) // limit)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("from=2031-03-05&to=2031-03-04", "invalid_field"),
        ("from=2031-03-05&to=2031-07-04", "invalid_field"),
        ("cursor=e30", "cursor_invalid"),
    ],
)
async def test_query_is_refused_alike_every_time(sites: tuple[Site, Site], query: str, code: str) -> None:
    for site in (*sites, *sites):
        answer = await site.ask(f"{OF}/slots?{query}")
        assert (answer.status, answer.json["code"]) == (422, code)


async def test_night_slot_is_listed_once_when_it_begins_after_midnight(store: Store, hospital: Hospital) -> None:
    """Dated the evening before, beginning at half past midnight, between two pages that end around it."""
    after_midnight = dt.datetime.combine(DAY + dt.timedelta(days=1), dt.time(0, 30), ZONE)
    early = dt.datetime.combine(DAY + dt.timedelta(days=1), dt.time(0, 10), ZONE)
    await put_slot(store, slot_id="1")
    await put_slot(store, slot_id="2", starts_at=after_midnight, ends_at=after_midnight + dt.timedelta(minutes=30))
    next_day = make_schedule("S2", date=early.date(), department_id="D2")
    await put_slot(store, schedule=next_day, slot_id="3", date=early.date(), starts_at=early,
                   ends_at=early + dt.timedelta(minutes=10))  # fmt: skip
    async with serve_catalogue(store, hospital) as site:
        begins, cursor = [], ""
        for _ in range(3):
            page = await site.ask(f"{OF}/slots?{WHOLE}&limit=1{cursor}")
            begins += [i["starts_at"][11:16] for i in page.items]
            cursor = f"&cursor={page.json['next']}"
        assert begins == ["08:00", "00:10", "00:30"]
        assert page.json["next"] is None


# --- tags and packing -------------------------------------------------------------------------------------------------

LISTS = [f"{OF}/slots?{WHOLE}", f"{OF}/departments", f"{OF}/practitioners", "/v1/hospitals"]


@pytest.fixture
async def site(store: Store, hospital: Hospital) -> AsyncIterator[Site]:
    """One process, with every list filled."""
    await fill(store)
    async with store.write(HOSPITAL) as tx:
        await put_departments(tx, [Department(id=f"D{n}", name=f"第{n}诊室") for n in range(100)])
        await put_practitioners(tx, [Practitioner(id=f"P{n}", name=f"医生{n}") for n in range(100)])
    async with serve_catalogue(store, hospital) as it:
        yield it


@pytest.mark.parametrize("path", LISTS)
async def test_list_is_not_sent_again_when_it_has_not_changed(site: Site, path: str) -> None:
    first = await site.ask(path)
    etag = first.headers["ETag"]
    assert etag.startswith('W/"')
    for known in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
        again = await site.ask(path, if_none_match=known)
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", etag)
        assert again.headers["Vary"] == first.headers["Vary"] == "Accept-Encoding"
        assert again.headers["Cache-Control"] == first.headers["Cache-Control"] == "no-cache"
        assert "Content-Type" not in again.headers
    assert (await site.ask(path, if_none_match='"other"')).body == first.body


@pytest.mark.parametrize("path", LISTS)
async def test_head_has_the_fields_of_get_and_no_body(site: Site, path: str) -> None:
    get, head = await site.ask(path), await site.ask(path, "HEAD")
    assert (head.status, head.body) == (200, b"")
    for name in ("ETag", "Content-Length", "Content-Type", "Vary", "Cache-Control"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize("path", LISTS[:3])
async def test_packed_body_is_the_plain_one(site: Site, path: str) -> None:
    plain = await site.ask(path)
    assert len(plain.body) > PACKED_FROM_BYTES
    assert "Content-Encoding" not in plain.headers
    for accepted in ("gzip", "br, gzip;q=0.5", "*"):
        packed = await site.ask(path, accept_encoding=accepted)
        assert packed.headers["Content-Encoding"] == "gzip"
        assert int(packed.headers["Content-Length"]) == len(packed.body) < len(plain.body)
        assert gzip.decompress(packed.body) == plain.body
        assert packed.headers["ETag"] == plain.headers["ETag"]
    for accepted in ("identity", "gzip;q=0", "br"):
        assert (await site.ask(path, accept_encoding=accepted)).body == plain.body


async def test_small_body_is_not_packed(site: Site) -> None:
    answer = await site.ask("/v1/hospitals", accept_encoding="gzip")
    assert len(answer.body) < PACKED_FROM_BYTES
    assert "Content-Encoding" not in answer.headers


async def test_tag_changes_with_the_content_and_comes_back_with_it(store: Store, site: Site, wall: Wall) -> None:
    async def refetch(seats: int) -> Answered:
        wall.turn(1)
        async with store.write(HOSPITAL) as tx:
            begins_at = dt.datetime.combine(DAY, dt.time(8), ZONE)
            await fetch(tx, make_slot(seats, schedule_id="S0", slot_id="0", starts_at=begins_at))
        return await site.ask(f"{OF}/slots?{WHOLE}")

    first = await site.ask(f"{OF}/slots?{WHOLE}")
    changed = await refetch(9)
    assert changed.headers["ETag"] != first.headers["ETag"]
    assert (await site.ask(f"{OF}/slots?{WHOLE}", if_none_match=first.headers["ETag"])).status == 200
    assert (await refetch(0)).headers["ETag"] == first.headers["ETag"]


async def test_hospitals_have_another_tag_when_a_his_goes_down(site: Site) -> None:
    up = await site.ask("/v1/hospitals")
    site.his.status = "down"
    down = await site.ask("/v1/hospitals", if_none_match=up.headers["ETag"])
    assert [h["his_status"] for h in down.items] == ["down"]
    assert [(h["waitlist"], h["portal_refunds"]) for h in down.items] == [(False, False)]  # neither is in its settings


# --- what it costs ----------------------------------------------------------------------------------------------------


def read_count(result: str) -> float:
    return REGISTRY.get_sample_value("hisbridge_snapshot_reads_total", {"result": result}) or 0.0


async def test_reads_are_counted_by_where_they_came_from(store: Store, hospital: Hospital, wall: Wall) -> None:
    await fill(store)
    async with serve_catalogue(store, hospital) as site:
        await site.feed.catch_up(10)
        before = {result: read_count(result) for result in ("hit", "composed", "store")}
        for _ in range(10):
            await site.slots("from=2031-03-04&to=2031-03-04")
        await site.feed.catch_up(10)
        after = {result: read_count(result) - count for result, count in before.items()}
        assert after == {"hit": 9, "composed": 1, "store": 0}
        wall.turn(4 * 3600)  # the slots of two schedules open: composed anew, and read by nobody
        rebuilt = REGISTRY.get_sample_value("hisbridge_snapshot_rebuilds_total")
        await site.slots("from=2031-03-04&to=2031-03-04")
        assert read_count("composed") - before["composed"] == 2
        assert REGISTRY.get_sample_value("hisbridge_snapshot_rebuilds_total") == rebuilt


async def test_memory_is_bounded_and_answers_stay_right_when_everything_is_asked_for(
    store: Store, hospital: Hospital
) -> None:
    bound = 100_000
    await fill(store)
    async with (
        serve_catalogue(store, hospital, feeds=False) as through,
        serve_catalogue(store, hospital, snapshot_bytes=bound) as site,
    ):
        for limit in range(1, 60):
            query = f"{OF}/slots?{WHOLE}&limit={limit}"
            ready = await site.ask(query, accept_encoding="gzip")
            if limit % 20 == 0:
                plain = gzip.decompress(ready.body) if "Content-Encoding" in ready.headers else ready.body
                assert plain == (await through.ask(query)).body
            kept = [REGISTRY.get_sample_value("hisbridge_snapshot_bytes", {"kind": k}) for k in ("days", "answers")]
            assert sum(k or 0 for k in kept) <= bound


async def test_booking_of_a_patient_is_in_no_list(store: Store, hospital: Hospital) -> None:
    """What is kept is for everybody: it must hold nothing of anybody."""
    slot_id, patient_id = await put_slot(store, 5), await put_patient(store)
    booking = await hold(store, hospital, slot_id, patient_id)
    async with serve_catalogue(store, hospital) as site:
        body = (await site.ask(f"{OF}/slots?{WHOLE}")).body
        assert not [text for text in (booking.id, patient_id, booking.order_no) if text.encode() in body]
