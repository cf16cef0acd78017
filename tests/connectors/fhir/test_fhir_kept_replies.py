"""What was read before is asked for by its ETag, and is not sent again while it is the same."""

from __future__ import annotations

import json
from time import monotonic

import pytest
from aiohttp import web

from connectors.fhir import kept
from connectors.fhir.deadlines import Deadline
from connectors.port import HisError
from loadtest.simulators import fhir_resources as make
from tests.connectors.fhir.fhir_hospital import (
    STATEMENT,
    booked_order,
    canned,
    connected,
    fhir_json,
    hospital,
    window,
)


class Server:
    """One Invoice per id with a version, and its own statement. `answered` are (path, If-None-Match, status)."""

    def __init__(self) -> None:
        self.version = 1
        self.tagged = True
        self.answered: list[tuple[str, str | None, int]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        asked, etag = request.headers.get("If-None-Match"), f'W/"{self.version}"'
        status = 304 if asked == etag else 200
        self.answered.append((request.path.rpartition("/")[2], asked, status))
        if status == 304:
            return web.Response(status=304, headers={"ETag": etag})
        if request.path.endswith("/metadata"):
            return fhir_json(json.dumps(STATEMENT), ETag=etag)
        body = {"resourceType": "Invoice", "id": "i", "status": "issued", "meta": {"versionId": str(self.version)}}
        return fhir_json(json.dumps(body), ETag=etag) if self.tagged else fhir_json(json.dumps(body))


async def test_resource_is_the_one_of_before_when_the_server_says_that_it_is_the_same() -> None:
    server = Server()
    async with canned(server.handle, statement=None) as base_url, connected(base_url) as connector:
        replies = [await connector._client.read("Invoice/i", deadline=Deadline(5), fresh=True) for _ in range(2)]
        server.version = 2
        replies.append(await connector._client.read("Invoice/i", deadline=Deadline(5), fresh=True))
    assert [(reply.status, reply.body["meta"]["versionId"]) for reply in replies] == [
        (200, "1"),
        (200, "1"),
        (200, "2"),
    ]
    assert [(asked, status) for _, asked, status in server.answered] == [(None, 200), ('W/"1"', 304), ('W/"1"', 200)]


async def test_statement_is_asked_for_by_its_etag_when_it_is_known() -> None:
    server = Server()
    async with canned(server.handle, statement=None) as base_url, connected(base_url) as connector:
        await connector.ping()
        await connector.ping()
    assert server.answered == [("metadata", None, 200), ("metadata", 'W/"1"', 304)]


async def test_nothing_is_kept_when_the_server_gives_no_etag() -> None:
    server = Server()
    server.tagged = False
    async with canned(server.handle, statement=None) as base_url, connected(base_url) as connector:
        for _ in range(2):
            await connector._client.read("Invoice/i", deadline=Deadline(5))
    assert [asked for _, asked, _ in server.answered] == [None, None]


async def test_what_is_kept_is_bounded_when_many_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is no room for is asked for whole; the first ones stay, or a long search would push out its own beginning."""
    monkeypatch.setattr(kept, "MOST_KEPT", 3)
    server = Server()
    async with canned(server.handle, statement=None) as base_url, connected(base_url) as connector:
        for _ in range(2):
            for number in range(5):
                await connector._client.read(f"Invoice/i{number}", deadline=Deadline(5))
        assert len(connector._client.kept) == 3
    assert [asked for _, asked, _ in server.answered] == [None] * 5 + ['W/"1"'] * 3 + [None] * 2


def test_room_is_counted_in_bytes_and_comes_back_when_something_is_not_asked_for_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(kept, "monotonic", lambda: now)
    monkeypatch.setattr(kept, "MOST_KEPT_BYTES", 10)
    replies: kept.Kept[str] = kept.Kept()
    replies.keep("a", "1", b"xxxx")
    replies.keep("b", "1", b"xxxx")
    replies.keep("c", "1", b"xxxx")
    assert [replies.known(key) is not None for key in "abc"] == [True, True, False]
    replies.keep("b", "2", b"yyy")
    assert replies.size_bytes == 7
    now = kept.IDLE_S - 1
    replies.confirm("a")
    now = kept.IDLE_S
    replies.keep("c", "1", b"xxxx")
    assert (len(replies), replies.size_bytes) == (2, 8)  # b was idle, a was not
    assert replies.known("a") is None  # but too old to be believed: it is asked for whole
    assert replies.known("c") is not None


# --- searches --------------------------------------------------------------------------------------------------------


async def test_only_what_has_changed_is_sent_again_when_slots_are_fetched_again() -> None:
    """60 Slots are two pages of 50 at most; one seat of the second is taken between the fetches."""
    async with hospital(days=1, seats=2, connection={"page_size": 20}) as (simulator, connector):
        first = await connector.fetch_slots(window(), [])
        pages = simulator.board.calls["fetch_slots"]
        assert pages > 2
        assert simulator.unchanged == 0
        assert await connector.fetch_slots(window(), []) == first
        assert simulator.unchanged == pages
        *_, last = simulator.hospital.segments.values()
        simulator.store.blocked[make.slot_id(last, 0)] = "busy"
        again = await connector.fetch_slots(window(), [])
        assert simulator.unchanged == 2 * pages - 1
    changed = [(was.seats_left, now.seats_left) for was, now in zip(first, again, strict=True) if was != now]
    assert changed == [(2, 1)]


async def test_answer_that_a_write_hangs_on_is_always_asked_for_whole() -> None:
    async with hospital() as (simulator, connector):
        order = await booked_order(connector)
        for _ in range(2):
            found = await connector.fetch_registration(order)
            assert found is not None
        asked = [headers for _, path, headers in simulator.requests if path.startswith("/fhir/Appointment?")]
    assert len(asked) >= 2
    assert all("If-None-Match" not in headers and headers["Cache-Control"] == "no-cache" for headers in asked)


async def test_etag_is_believed_for_an_hour_when_a_server_never_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    async with canned(server.handle, statement=None) as base_url, connected(base_url) as connector:
        for age_s in (0, kept.WHOLE_EVERY_S - 60, kept.WHOLE_EVERY_S + 60):
            monkeypatch.setattr(kept, "monotonic", lambda age_s=age_s: monotonic() + age_s)
            await connector._client.read("Invoice/i", deadline=Deadline(5))
    assert [asked for _, asked, _ in server.answered] == [None, 'W/"1"', None]


async def test_search_is_made_anew_when_a_kept_page_leads_to_what_the_server_has_let_go() -> None:
    """Pages by a cursor that the server forgets: the first page is unchanged, and its `next` is 410."""
    cursor, asked = 1, list[str | None]()

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("If-None-Match"))
        told = request.query.get("_cursor")
        if told is not None:
            page = {"resourceType": "Bundle", "type": "searchset", "entry": []}
            return fhir_json(json.dumps(page)) if told == str(cursor) else web.Response(status=410)
        if asked[-1] == 'W/"same"':
            return web.Response(status=304)
        follows = {"relation": "next", "url": f"{request.path}?_cursor={cursor}"}
        return fhir_json(
            json.dumps({"resourceType": "Bundle", "type": "searchset", "link": [follows]}), ETag='W/"same"'
        )

    async with canned(handle) as base_url, connected(base_url) as connector:
        assert await connector.fetch_departments() == []
        cursor = 2
        with pytest.raises(HisError):
            await connector.fetch_departments()
        assert await connector.fetch_departments() == []
    assert asked == [None, None, 'W/"same"', None, None, None]
