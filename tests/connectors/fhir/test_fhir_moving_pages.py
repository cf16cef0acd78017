"""Rows that come and go while the pages of a search are read: what is missed stops nothing, what is stopped is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from connectors.fhir.deadlines import Deadline
from connectors.port import HisReplyInvalid
from tests.connectors.fhir.fhir_hospital import canned, connected
from tests.connectors.fhir.test_fhir_replies import WINDOW, bundle
from tests.connectors.fhir.test_fhir_streams import SCHEDULES, slot

PAGE = 10
Rows = list[dict[str, Any]]
Moves = dict[int, Callable[[Rows], None]]


def one_free() -> Rows:
    """A morning of 24 Slots, of which one is free: the first of the second page."""
    return [slot(n, "s0", "free" if n == PAGE else "busy-unavailable") for n in range(24)]


class Server:
    """Slots in pages by offset. `moves` change the rows before the page whose number they have, counted over all readings.

    `total`: what Bundle.total says of so many rows; None leaves it out.
    """

    def __init__(self, rows: Rows, total: Callable[[int], int] | None, moves: Moves) -> None:
        self.rows, self.total, self.moves = rows, total, moves
        self.asked = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/Schedule"):
            return bundle(*SCHEDULES)
        if self.asked in self.moves:
            self.moves[self.asked](self.rows)
        self.asked += 1
        at = int(request.query.get("at", "0"))
        more = {"next": f"Slot?at={at + PAGE}"} if len(self.rows) > at + PAGE else {}
        total = None if self.total is None else self.total(len(self.rows))
        return bundle(*self.rows[at : at + PAGE], total=total, **more)


def exactly(count: int) -> int:
    return count


def drop_first(rows: Rows) -> None:
    del rows[0]


def put_first(rows: Rows) -> None:
    rows.insert(0, slot(0, "s0", "busy-unavailable", id=f"new-{len(rows)}"))


TOTALS = pytest.mark.parametrize("total", [exactly, None], ids=["total", "no total"])


@TOTALS
@pytest.mark.parametrize(
    ("moves", "readings"),
    [
        pytest.param({}, 1, id="still"),
        pytest.param({1: drop_first}, 2, id="one goes"),
        pytest.param({1: put_first}, 1, id="one comes"),
    ],
)
async def test_session_is_not_stopped_when_its_free_slot_is_missed(
    total: Callable[[int], int] | None, moves: Moves, readings: int
) -> None:
    """Where one goes from before the second page, that page begins behind the free Slot."""
    server = Server(one_free(), total, moves)
    async with canned(server.handle) as base_url, connected(base_url) as connector:
        found = await connector.fetch_inventory(WINDOW)
    assert [stop.starts_at for stop in found.stops if stop.scope == "schedule"] == []
    assert {one.status for one in found.schedules} == {"open"}
    assert sum(one.seats_left for one in found.slots) == 1
    assert server.asked >= readings * 3


async def test_nothing_is_stopped_when_the_pages_never_stand_still() -> None:
    """Of every reading the free Slot is missed, and so both say that the morning is stopped."""
    rows = one_free()
    gone = rows[0]

    def bring_back(rows: Rows) -> None:
        rows.insert(0, gone)

    moves: Moves = {n: drop_first if n % 3 == 1 else bring_back for n in range(1, 20) if n % 3 != 2}
    server = Server(rows, exactly, moves)
    async with canned(server.handle) as base_url, connected(base_url) as connector:
        found = await connector.fetch_inventory(WINDOW)
        assert found.stops == []
        assert {one.status for one in found.schedules} == {"open"}
        assert sum(one.seats_left for one in found.slots) == 0
        assert await connector.fetch_stops(WINDOW) == []
    assert server.asked == 12


@pytest.mark.parametrize(
    ("total", "believed"),
    [
        pytest.param(exactly, True, id="as many as came"),
        pytest.param(None, True, id="untold"),
        pytest.param(lambda count: count - 5, True, id="never right, and the same rows twice"),
        pytest.param(lambda count: count + 5, False, id="more than came: there are others"),
    ],
)
async def test_stop_is_believed_when_two_readings_agree_and_nothing_is_missing(
    total: Callable[[int], int] | None, believed: bool
) -> None:
    rows = [slot(n, "s0", "busy-unavailable") for n in range(24)]
    server = Server(rows, total, {})
    async with canned(server.handle) as base_url, connected(base_url) as connector:
        found = await connector.fetch_inventory(WINDOW)
        assert {stop.schedule_id for stop in found.stops} == ({"s0"} if believed else set())
        assert {one.status for one in found.schedules} == ({"stopped"} if believed else {"open"})
        first, server.asked = server.asked, 0
        assert first == (3 if total is exactly else 6)
        assert (await connector.fetch_inventory(WINDOW)).stops == found.stops
    assert server.asked == (6 if not believed else 3)  # what was told once needs no proof again


async def test_real_stop_is_seen_when_rows_come_while_it_is_read() -> None:
    server = Server([slot(n, "s0", "busy-unavailable") for n in range(24)], exactly, {1: put_first})
    async with canned(server.handle) as base_url, connected(base_url) as connector:
        found = await connector.fetch_inventory(WINDOW)
    assert {stop.schedule_id for stop in found.stops} == {"s0"}
    assert len(found.slots) == 24


async def test_search_fails_when_the_server_gives_the_same_page_for_ever() -> None:
    asked = 0

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return bundle(slot(0, "s0"), next=f"Slot?at={asked}")

    async with canned(handle) as base_url, connected(base_url) as connector:
        with pytest.raises(HisReplyInvalid, match="same page again"):
            await connector.fetch_slots(WINDOW, [])
    assert asked <= 6


# --- searches that are gathered whole --------------------------------------------------------------------------------


def departments() -> Rows:
    return [{"resourceType": "HealthcareService", "id": f"d{n}", "name": f"{n}科"} for n in range(24)]


async def found_by(server: Server, *, whole: bool) -> list[str]:
    async with canned(server.handle) as base_url, connected(base_url) as connector:
        exchange = connector._exchange
        document = await exchange.find(exchange.calls["fetch_departments"], [], Deadline(10), whole=whole)
    return [entry["resource"]["id"] for entry in document["entry"]]


@pytest.mark.parametrize("whole", [True, False])
async def test_row_that_fell_between_two_pages_is_found_by_a_second_reading(whole: bool) -> None:
    server = Server(departments(), exactly, {1: drop_first})
    assert await found_by(server, whole=whole) == [f"d{n}" for n in range(1, 24)]
    assert server.asked == 6


@pytest.mark.parametrize(
    ("total", "moves", "whole", "readings"),
    [
        pytest.param(exactly, {}, True, 1, id="total that fits"),
        pytest.param(None, {}, False, 1, id="no total, and nothing hangs on it"),
        pytest.param(None, {}, True, 2, id="no total, and the same rows twice"),
        pytest.param(lambda count: count - 3, {}, True, 2, id="total that never fits, and the same rows twice"),
    ],
)
async def test_search_is_made_again_only_when_something_may_be_missing(
    total: Callable[[int], int] | None, moves: Moves, whole: bool, readings: int
) -> None:
    server = Server(departments(), total, moves)
    assert await found_by(server, whole=whole) == [f"d{n}" for n in range(24)]
    assert server.asked == 3 * readings


@pytest.mark.parametrize("total", [exactly, None], ids=["total", "no total"])
async def test_answer_that_must_be_whole_is_refused_when_the_pages_never_stand_still(
    total: Callable[[int], int] | None,
) -> None:
    server = Server(departments(), total, {1: drop_first, 4: drop_first})
    with pytest.raises(HisReplyInvalid, match="has changed while it was read"):
        await found_by(server, whole=True)
