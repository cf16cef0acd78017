"""A filled store is one that the product could have come to: judged by its own rules, on both engines."""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from booking.lifecycle import LIVE_STATES, must_not_be, occupies
from booking.records import booking_from_row, person_from_row
from booking.store.crypto import Vault
from booking.store.engine import Store
from booking.store.tables import bookings, persons
from loadtest.bench.fill.layout import DAY_MS, LEAST_SLOTS, Layout, uuid7
from loadtest.bench.fill.rows import CROWD_SEATS, Rows
from loadtest.bench.fill.sealing import Sealer
from loadtest.bench.fill.stores import CannotFill, ColumnFacts, Database, choose_columns, open_database
from tests.stores import UrlOf, opened

DATA_KEY, DIGEST_KEY = b"\x01" * 32, b"d" * 32
NOW_MS = round(dt.datetime(2031, 3, 3, 9, tzinfo=dt.UTC).timestamp() * 1000)
SMALL = Layout(slots=900, bookings=2_000, crowd=150, now_ms=NOW_MS)


@pytest.fixture
def sealer(tmp_path: Path) -> Sealer:
    data, digest = tmp_path / "data.key", tmp_path / "digest.key"
    data.write_text(f"k1:{base64.b64encode(DATA_KEY).decode()}\n")
    digest.write_text(base64.b64encode(DIGEST_KEY).decode() + "\n")
    return Sealer(data, digest, SMALL.hospital_id)


@pytest.fixture
def url(database: UrlOf) -> str:
    return database("store")


@pytest.fixture
async def filled(url: str, sealer: Sealer) -> Database:
    store = open_database(url)
    await store.fill(Rows(SMALL, sealer).tables(), hospital_id=SMALL.hospital_id)
    return store


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with opened(url, wall=lambda: NOW_MS, vault=Vault({"k1": DATA_KEY}, DIGEST_KEY)) as it:
        yield it


async def one(store: Database, sql: str, *arguments: Any) -> Any:
    return (await store.rows(sql, *arguments))[0][0]


async def test_there_is_as_much_as_was_asked_for_when_filled(filled: Database) -> None:
    assert await one(filled, "SELECT count(*) FROM slots") == 900
    assert await one(filled, "SELECT count(*) FROM bookings") == 2_000
    assert await one(filled, "SELECT count(*) FROM bookings WHERE live") == 100  # one in twenty
    assert await one(filled, "SELECT count(*) FROM patients WHERE client_id = 'bench-portal'") == 150
    assert await one(filled, "SELECT count(*) FROM idempotency_keys WHERE created_ms > ?", NOW_MS - DAY_MS) == 100


async def test_every_department_day_has_thirty_slots_when_filled(filled: Database) -> None:
    counts = await filled.rows(
        "SELECT sc.date, sc.department_id, count(*) FROM slots s JOIN schedules sc ON sc.id = s.schedule_id"
        " AND sc.date = s.date GROUP BY sc.date, sc.department_id"
    )
    assert len(counts) == 30
    assert {count for _, _, count in counts} == {30}


async def test_seats_are_consistent_when_filled(filled: Database) -> None:
    wrong = await filled.rows(
        "SELECT s.id FROM slots s WHERE s.unreflected <>"
        " (SELECT count(*) FROM bookings b WHERE b.slot_id = s.id AND b.occupies AND b.charged)"
    )
    assert wrong == []
    assert await one(filled, "SELECT sum(unreflected) FROM slots") == 10  # every tenth live one is still a hold
    wrong = await filled.rows(
        "SELECT sc.id FROM schedules sc WHERE sc.taken <>"
        " (SELECT count(*) FROM bookings b WHERE b.schedule_id = sc.id AND b.occupies)"
    )
    assert wrong == []


LEADS_TO = (
    ("slots", "schedule_id", "schedules"),
    ("schedules", "department_id", "departments"),
    ("schedules", "practitioner_id", "practitioners"),
    ("person_mrns", "person_id", "persons"),
    ("patients", "person_id", "persons"),
    ("bookings", "slot_id", "slots"),
    ("bookings", "patient_id", "patients"),
    ("payments", "booking_id", "bookings"),
    ("outbox", "subject_id", "bookings"),
)


async def test_ids_lead_somewhere_when_filled(filled: Database) -> None:
    for table, column, other in LEADS_TO:
        lost = f"SELECT count(*) FROM {table} t WHERE NOT EXISTS (SELECT 1 FROM {other} o WHERE o.id = t.{column})"
        assert await one(filled, f"SELECT count(*) FROM {table}") > 0
        assert await one(filled, lost) == 0, (table, column)


async def test_bookings_are_of_their_slots_schedule_and_their_patients_person_when_filled(filled: Database) -> None:
    joined = (
        "SELECT count(*) FROM bookings b JOIN slots s ON s.id = b.slot_id JOIN patients p ON p.id = b.patient_id"
        " WHERE b.schedule_id = s.schedule_id AND b.person_id = p.person_id AND b.client_id = p.client_id"
    )
    assert await one(filled, joined) == 2_000


async def test_the_products_rules_hold_for_every_booking_when_filled(filled: Database, store: Store) -> None:
    async with store.read(SMALL.hospital_id) as tx:
        found = [booking_from_row(tx, row) for row in await tx.all(bookings.select())]
    for booking in found:
        assert must_not_be(booking.axes, booking.payment_state) == []
        assert booking.live == (booking.state in LIVE_STATES)
        assert booking.occupies == occupies(booking.axes)
        assert re.fullmatch(r"[1-9]\d{19}", booking.order_no)
        assert booking.expires_at_ms is None or booking.expires_at_ms > NOW_MS


async def test_sealed_values_open_and_digests_agree_when_the_product_reads_them(filled: Database, store: Store) -> None:
    async with store.read(SMALL.hospital_id) as tx:
        for row in await tx.all(persons.select()):
            person = person_from_row(tx, row)
            assert person.record.mrn is not None
            assert person.mrn_digest == tx.digest("mrn", person.record.mrn)
        for row in await tx.all(text("SELECT sealed_body FROM idempotency_keys")):
            assert json.loads(tx.unseal(row["sealed_body"], "idempotency_keys", "body"))["state"] == "held"


async def test_the_crowds_day_is_untouched_and_has_room_when_filled(filled: Database) -> None:
    tomorrow = (SMALL.today + dt.timedelta(days=1)).isoformat()
    of = (
        "SELECT count(*), min(s.his_left), max(s.unreflected), (SELECT count(*) FROM bookings b JOIN schedules x"
        " ON x.id = b.schedule_id WHERE x.department_id = ? AND x.date = ?) FROM slots s JOIN schedules sc"
        " ON sc.id = s.schedule_id WHERE sc.department_id = ? AND sc.date = ?"
    )
    assert await filled.rows(of, "D000", tomorrow, "D000", tomorrow) == [(30, CROWD_SEATS, 0, 0)]
    assert await filled.rows(of, "D001", tomorrow, "D001", tomorrow) == [(30, 0, 0, 0)]


async def test_nothing_falls_due_or_is_forgotten_when_the_program_starts(filled: Database) -> None:
    month_ms = NOW_MS - 30 * DAY_MS
    assert await one(filled, "SELECT count(*) FROM outbox WHERE status <> 'done' OR updated_ms < ?", month_ms) == 0
    assert await one(filled, "SELECT count(*) FROM events WHERE seq IS NULL OR created_ms < ?", month_ms) == 0
    old = (SMALL.today - dt.timedelta(days=30)).isoformat()
    unbooked = (
        "SELECT count(*) FROM slots s WHERE s.date < ? AND NOT EXISTS (SELECT 1 FROM bookings b WHERE b.slot_id = s.id)"
    )
    assert await one(filled, unbooked, old) == 0


async def test_events_are_numbered_in_the_order_of_their_time_when_filled(filled: Database) -> None:
    told = await filled.rows("SELECT seq, created_ms FROM events ORDER BY seq")
    assert [seq for seq, _ in told] == list(range(1, len(told) + 1))
    assert [at for _, at in told] == sorted(at for _, at in told)


INDEXES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'index' ORDER BY name",
    "postgresql": "SELECT indexname FROM pg_indexes WHERE schemaname = current_schema() ORDER BY indexname",
}


async def test_all_indexes_are_back_when_filled(engine: str, url: str, sealer: Sealer) -> None:
    store = open_database(url)
    before = await store.rows(INDEXES[engine])
    await store.fill(Rows(SMALL, sealer).tables(), hospital_id=SMALL.hospital_id)
    assert await store.rows(INDEXES[engine]) == before
    assert len(before) > 20


async def test_nothing_changes_when_the_store_has_this_hospital_already(filled: Database, sealer: Sealer) -> None:
    with pytest.raises(CannotFill, match="fill a fresh store"):
        await filled.fill(Rows(SMALL, sealer).tables(), hospital_id=SMALL.hospital_id)
    assert await one(filled, "SELECT count(*) FROM slots") == 900


def test_a_column_that_nobody_fills_is_named_when_the_schema_requires_it() -> None:
    known = [ColumnFacts("id", True), ColumnFacts("novel", True), ColumnFacts("note", False)]
    with pytest.raises(CannotFill, match="slots requires novel"):
        choose_columns("slots", known, {"id": 1, "gone": 2})
    assert choose_columns("slots", known[::2], {"id": 1, "gone": 2}) == ["id"]


def test_a_layout_is_refused_when_it_has_too_few_slots() -> None:
    with pytest.raises(ValueError, match="at least"):
        Layout(slots=LEAST_SLOTS - 1, bookings=1, crowd=1, now_ms=NOW_MS)


@pytest.mark.parametrize("slots", [LEAST_SLOTS, 1_000, 100_000])
def test_sixteen_days_can_be_read_when_the_store_is_small_or_large(slots: int) -> None:
    layout = Layout(slots=slots, bookings=slots, crowd=10, now_ms=NOW_MS)
    days = layout.days_to_read(16)
    assert len(set(days)) == 16
    tomorrow = (layout.today + dt.timedelta(days=1)).isoformat()
    assert not {("D000", tomorrow), ("D001", tomorrow)} & set(days)


def test_live_bookings_are_one_for_each_person_when_there_are_many() -> None:
    layout = Layout(slots=10_000, bookings=20_000, crowd=10, now_ms=NOW_MS)
    persons_of = [visit.person for visit in layout.live_visits()]
    assert len(set(persons_of)) == len(persons_of) == 1_000


def _ids() -> Iterator[str]:
    for number in range(5_000):
        yield uuid7(NOW_MS + number // 1_000, number)


def test_ids_are_uuids_of_version_7_in_the_order_of_their_time_when_made() -> None:
    ids = list(_ids())
    assert len(set(ids)) == 5_000
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", i) for i in ids)
    assert max(ids[:1_000]) < min(ids[1_000:2_000])
    assert int(ids[0].replace("-", "")[:12], 16) == NOW_MS
