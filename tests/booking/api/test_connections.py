"""Connections: how long they may take and idle, how many there may be, and callers who hang up."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

from booking.api.application import ApiOptions
from booking.api.auth import ApiClient
from booking.api.server import ConnectionLimits
from tests.booking.api.portal import BOOKINGS, NEWS, Keys, Portal, run_portal
from tests.booking.api.raw import Caller, call_raw, head, metric, until_metric
from tests.loop_clock import LoopClock

LIST = f"{BOOKINGS}?from=2026-01-05"
ENDED = "hisbridge_http_connections_ended_total"
REQUESTS = "hisbridge_http_requests_total"
OPEN = "hisbridge_http_connections"


MINUTE_S = 60.0  # each limit; where it counts it is passed by turning the clock


def options(*, keepalive_s: float = 10 * MINUTE_S, max_connections: int = 100) -> ApiOptions:
    """Limits of which a test shortens one."""
    limits = ConnectionLimits(keepalive_s=keepalive_s, head_timeout_s=MINUTE_S, max_connections=max_connections)
    return ApiOptions(connections=limits)


def post_slow() -> bytes:
    """A whole request that the portal holds back until it is told to go on."""
    body = json.dumps({"slot_id": "slow"})
    fields = ("Content-Type: application/json", "Idempotency-Key: k", f"Content-Length: {len(body)}")
    return head("POST", BOOKINGS, *fields) + body.encode()


class Drip:
    """A head that never ends, byte after byte. `drops` were sent."""

    def __init__(self, caller: Caller) -> None:
        self.drops = 0
        self._caller = caller
        self._more = asyncio.Event()

    async def run(self) -> None:
        endless = itertools.chain(head("GET", LIST, "X-Slow: ")[:-4], itertools.repeat(ord("a")))
        for byte in endless:
            await self._caller.send(bytes([byte]))
            self.drops += 1
            self._more.set()
            await asyncio.sleep(0.01)

    async def until_more(self) -> None:
        """Wait until some more have been sent."""
        enough = self.drops + 3
        while self.drops < enough:
            self._more.clear()
            await self._more.wait()


async def test_caller_is_cut_off_and_others_served_when_a_head_comes_drop_by_drop(clock: LoopClock) -> None:
    async with run_portal(options()) as portal, call_raw(portal) as slow:
        before = metric(ENDED, reason="head_timeout")
        drip = Drip(slow)
        dripping = asyncio.create_task(drip.run())
        ended = asyncio.create_task(slow.ended())
        for _ in range(2):  # the second time with half of its time gone: drops give it no more
            await drip.until_more()
            assert (await portal.get(LIST))[0] == 200
            assert not ended.done()
            clock.turn(MINUTE_S / 2)
        assert await ended == b""
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        assert (await portal.get(LIST))[0] == 200
        assert metric(ENDED, reason="head_timeout") == before + 1


async def test_caller_is_cut_off_when_it_says_nothing(clock: LoopClock) -> None:
    async with run_portal(options()) as portal, call_raw(portal) as silent:
        await until_metric(OPEN, 1)
        clock.turn(MINUTE_S)
        assert await silent.ended() == b""


async def test_caller_is_cut_off_when_a_later_head_stops_in_the_middle(clock: LoopClock) -> None:
    async with run_portal(options()) as portal, call_raw(portal) as caller:
        await caller.send(head("GET", LIST))
        assert (await caller.read()).status == 200
        await caller.send(head("GET", LIST)[:20])
        async with call_raw(portal):  # when it is there, so is what was sent before
            await until_metric(OPEN, 2)
        clock.turn(MINUTE_S)
        assert await caller.ended() == b""


async def test_idle_connection_is_kept_then_closed_when_its_time_is_over(clock: LoopClock) -> None:
    async with run_portal(options(keepalive_s=MINUTE_S)) as portal, call_raw(portal) as caller:
        for _ in range(3):
            clock.turn(MINUTE_S / 2)
            await caller.send(head("GET", LIST))
            assert (await caller.read()).status == 200
        ended = asyncio.create_task(caller.ended())
        while not ended.done():  # its time begins a moment after the answer has come
            clock.turn(MINUTE_S)
            await asyncio.sleep(0.01)
        assert ended.result() == b""


async def test_idle_connection_outlives_the_time_for_a_head_when_no_head_has_begun(clock: LoopClock) -> None:
    async with run_portal(options()) as portal, call_raw(portal) as caller:
        await caller.send(head("GET", LIST))
        await caller.read()
        async with call_raw(portal) as silent:
            await until_metric(OPEN, 2)
            clock.turn(MINUTE_S)
            await silent.ended()
        await caller.send(head("GET", LIST))
        assert (await caller.read()).status == 200


async def test_connection_is_refused_and_counted_when_there_are_too_many() -> None:
    async with run_portal(options(max_connections=2)) as portal:
        before = metric(ENDED, reason="full")
        async with call_raw(portal) as first, call_raw(portal):
            await first.send(head("GET", LIST))
            assert (await first.read()).status == 200
            await until_metric(OPEN, 2)
            async with call_raw(portal) as third:
                answer = await third.read()
                assert (answer.status, answer.code) == (503, "overloaded")
                assert (answer.fields["retry-after"], answer.fields["connection"]) == ("1", "close")
                assert await third.ended() == b""
            assert metric(ENDED, reason="full") == before + 1
            await first.send(head("GET", LIST))
            assert (await first.read()).status == 200
        await until_metric(OPEN, 0)
        assert (await portal.get(LIST))[0] == 200


async def test_change_is_carried_through_and_counted_when_its_caller_hangs_up(portal: Portal) -> None:
    labels = {"route": "/v1/hospitals/{hospital_id}/bookings", "method": "POST", "status": "499", "class": "gone"}
    before = metric(REQUESTS, **labels)
    async with call_raw(portal) as caller:
        await caller.send(post_slow())
        await portal.held.wait()
        caller.hang_up()
    await until_metric(OPEN, 0)  # the server knows that nobody waits any more
    assert portal.ended == []
    portal.release.set()
    await until_metric(REQUESTS, before + 1, **labels)
    assert portal.ended == ["held"]


async def test_wait_for_news_ends_when_its_caller_hangs_up(portal: Portal) -> None:
    labels = {"route": "/v1/hospitals/{hospital_id}/news", "method": "GET", "status": "499", "class": "gone"}
    before = metric(REQUESTS, **labels)
    async with call_raw(portal) as caller:
        await caller.send(head("GET", NEWS))
        await portal.held.wait()
        caller.hang_up()
    await until_metric(REQUESTS, before + 1, **labels)
    assert portal.ended == ["cancelled"]
    assert metric("hisbridge_http_requests_in_flight") == 0


async def test_caller_is_gone_when_it_hangs_up_within_its_body(portal: Portal) -> None:
    labels = {"route": "/v1/hospitals/{hospital_id}/bookings", "method": "POST", "status": "499", "class": "gone"}
    before = metric(REQUESTS, **labels)
    async with call_raw(portal) as caller:
        fields = ("Content-Type: application/json", "Idempotency-Key: k", "Content-Length: 500", "Expect: 100-continue")
        await caller.send(head("POST", BOOKINGS, *fields))
        assert (await caller.reader.readline()) == b"HTTP/1.1 100 Continue\r\n"
        caller.hang_up()
    await until_metric(REQUESTS, before + 1, **labels)


async def test_caller_is_gone_when_it_hangs_up_while_its_key_is_looked_up(
    portal: Portal, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    labels = {"route": "/v1/hospitals/{hospital_id}/bookings", "method": "POST", "status": "499", "class": "gone"}
    before, look_up, asked, go_on = metric(REQUESTS, **labels), Keys.lookup, asyncio.Event(), asyncio.Event()

    async def wait(keys: Keys, digest: str) -> ApiClient | None:
        asked.set()
        await go_on.wait()
        return await look_up(keys, digest)

    monkeypatch.setattr(Keys, "lookup", wait)
    async with call_raw(portal) as caller:
        await caller.send(post_slow())
        await asked.wait()
        caller.hang_up()
    await until_metric(OPEN, 0)
    go_on.set()
    await until_metric(REQUESTS, before + 1, **labels)
    assert portal.ended == []
    assert "request_failed" not in capfd.readouterr().err  # nobody need look into it
