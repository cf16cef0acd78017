"""Requests that are answered without a task of their own: what comes behind them, and how their connections end.

That their answers are those of all others is shown by every other test here, which runs both ways.
"""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from booking.api.application import ApiOptions
from booking.api.server import Connection
from booking.api.wire import Answer
from tests.booking.api.portal import SNAPSHOT, SNAPSHOT_BODY, Portal, run_portal
from tests.booking.api.raw import call_raw, head, metric, until_metric
from tests.booking.api.test_connections import LIST, OPEN, options, post_slow

REQUESTS = "hisbridge_http_requests_total"
ASKED = f"{LIST}&limit=1"  # the handler must be asked


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each request that was looked at, whether it was answered without a task."""
    seen: list[bool] = []
    take = Connection._take

    def watch(connection: Connection) -> bool:
        seen.append(take(connection))
        return seen[-1]

    monkeypatch.setattr(Connection, "_take", watch)
    return seen


async def test_both_ways_follow_each_other_on_one_connection(taken: list[bool]) -> None:
    async with run_portal(at_once=True) as portal, call_raw(portal) as caller:
        for target in (ASKED, LIST, LIST, ASKED, LIST):  # the first one brings the key into memory
            await caller.send(head("GET", target))
            assert (await caller.read()).status == 200
    assert taken == [False, True, True, False, True]


async def test_requests_behind_one_that_waits_are_answered_after_it_and_in_order(taken: list[bool]) -> None:
    async with run_portal(at_once=True) as portal, call_raw(portal) as caller:
        await portal.get(ASKED)
        await caller.send(post_slow())
        await portal.held.wait()
        await caller.send(head("GET", LIST, "X-Request-Id: behind-1")[:30])
        await asyncio.sleep(0.02)
        await caller.send(
            head("GET", LIST, "X-Request-Id: behind-1")[30:] + head("GET", LIST, "X-Request-Id: behind-2")
        )
        await asyncio.sleep(0.02)
        portal.release.set()
        assert (await caller.read()).status == 201
        assert [(await caller.read()).fields["x-request-id"] for _ in range(2)] == ["behind-1", "behind-2"]
        await caller.send(head("GET", LIST))
        assert (await caller.read()).status == 200
    assert True in taken


async def test_no_more_is_read_while_one_waits_than_fits_into_the_sockets() -> None:
    async def flood() -> None:
        while True:
            await caller.send(head("GET", LIST) * 1_000)

    async with run_portal(at_once=True) as portal, call_raw(portal) as caller:
        await portal.get(ASKED)
        await caller.send(post_slow())
        await portal.held.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flood(), 0.5)
        caller.hang_up()
        portal.release.set()


async def test_caller_who_takes_nothing_is_not_read_from_either() -> None:
    async with run_portal(at_once=True) as portal, call_raw(portal) as caller:
        await portal.get(ASKED)
        labels = {
            "route": SNAPSHOT.replace("hl7-demo", "{hospital_id}"),
            "method": "GET",
            "status": "200",
            "class": "ok",
        }
        before = metric(REQUESTS, **labels)
        for _ in range(20):
            await caller.send(head("GET", SNAPSHOT))
        await asyncio.sleep(0.3)
        assert metric(REQUESTS, **labels) - before < 5  # 7 MB each: the sockets hold less than two
        for _ in range(20):
            assert (await caller.read()).body == SNAPSHOT_BODY


async def test_connection_is_not_idle_while_one_waits() -> None:
    async with run_portal(options(keepalive_s=0.1), at_once=True) as portal, call_raw(portal) as caller:
        await portal.get(ASKED)
        await caller.send(post_slow())
        await portal.held.wait()
        await asyncio.sleep(0.4)
        portal.release.set()
        assert (await caller.read()).status == 201
        assert await caller.ended() == b""  # and then it is


async def test_answer_is_given_and_the_connection_closed_when_the_server_leaves_meanwhile() -> None:
    async with run_portal(at_once=True) as portal, call_raw(portal) as caller:
        await portal.get(ASKED)
        await caller.send(post_slow())
        await portal.held.wait()
        portal.health.start_leaving()
        portal.release.set()
        answer = await caller.read()
        assert (answer.status, answer.fields["connection"]) == (201, "close")
        assert await caller.ended() == b""


async def test_server_waits_for_the_answer_when_it_shuts_down() -> None:
    async def release_soon(portal: Portal) -> None:
        await asyncio.sleep(0.2)
        portal.release.set()

    async with run_portal(at_once=True) as portal:
        await portal.get(ASKED)
        reader, writer = await asyncio.open_connection(*portal.address)
        writer.write(post_slow())
        await portal.held.wait()
        releasing = asyncio.create_task(release_soon(portal))
    await releasing
    assert (await reader.readline()).startswith(b"HTTP/1.1 201")
    writer.close()


async def test_server_does_not_wait_for_a_caller_who_hangs_up_instead_of_taking_the_answer() -> None:
    loop = asyncio.get_running_loop()
    async with run_portal(at_once=True) as portal:
        await portal.get(ASKED)
        reader, writer = await asyncio.open_connection(*portal.address)
        cast(asyncio.Transport, writer.transport).pause_reading()
        writer.write(head("GET", SNAPSHOT))
        await asyncio.sleep(0.2)
        loop.call_later(0.3, writer.transport.abort)
        began_s = loop.time()
    assert loop.time() - began_s < 30  # and not the minute that the server gives to whoever still takes something
    assert reader is not None


async def test_nothing_is_left_when_the_caller_hangs_up_with_more_behind() -> None:
    async with run_portal(at_once=True) as portal:
        await portal.get(ASKED)
        async with call_raw(portal) as caller:
            await caller.send(post_slow())
            await portal.held.wait()
            await caller.send(head("GET", LIST))
            await asyncio.sleep(0.02)
            caller.hang_up()
        await until_metric(OPEN, 1)  # the session's own
        portal.release.set()
        await asyncio.sleep(0.05)
        assert portal.ended == ["held"]
        assert metric("hisbridge_http_requests_in_flight") == 0


async def test_request_is_counted_once_against_its_rate_when_the_handler_must_be_asked() -> None:
    rate = ApiOptions(client_rate_per_s=0.001, client_burst=3)
    async with run_portal(rate, at_once=True) as portal:
        assert [(await portal.get(ASKED))[0] for _ in range(4)] == [200, 200, 200, 429]


@pytest.mark.parametrize(
    "sent",
    [
        head("GET", LIST, "Connection: close"),
        head("GET", LIST, version="1.0"),
        head("HEAD", LIST),
        head("GET", LIST.replace("hl7-demo", "hl7%2Ddemo")),
        head("GET", LIST, "Connection: Upgrade", "Upgrade: websocket"),
    ],
)
async def test_unusual_request_is_left_to_its_task(taken: list[bool], sent: bytes) -> None:
    async with run_portal(at_once=True) as portal:
        await portal.get(ASKED)
        taken.clear()
        async with call_raw(portal) as caller:
            await caller.send(sent)
            assert (await caller.read(head_only=sent.startswith(b"HEAD"))).status == 200
        assert True not in taken


async def test_request_whose_body_comes_later_is_left_to_its_task(taken: list[bool]) -> None:
    async with run_portal(at_once=True) as portal, call_raw(portal) as caller:
        await portal.get(ASKED)
        taken.clear()
        whole = post_slow()
        await caller.send(whole[:-5])
        await asyncio.sleep(0.02)
        await caller.send(whole[-5:])
        portal.release.set()
        assert (await caller.read()).status == 201
    assert taken == [False]


async def test_request_is_taken_when_it_comes_as_the_answer_before_leaves(
    taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is with quick callers: aiohttp's task, which gave that answer, has not come round to waiting again."""
    write_eof = Answer.write_eof

    async def followed(answer: Answer) -> None:
        await write_eof(answer)
        connection = cast(Connection, answer._request.protocol)
        request = head("GET", LIST, "X-Request-Id: behind-1")
        for part in (request[:20], request[20:]):
            asyncio.get_running_loop().call_soon(connection.data_received, part)

    async with run_portal(at_once=True) as portal, call_raw(portal) as caller:
        await portal.get(ASKED)
        monkeypatch.setattr(Answer, "write_eof", followed)
        taken.clear()
        await caller.send(head("GET", ASKED))
        assert (await caller.read()).status == 200
        assert (await caller.read()).fields["x-request-id"] == "behind-1"
        await caller.send(head("GET", LIST))
        assert (await caller.read()).status == 200
    assert taken == [False, True, True]
