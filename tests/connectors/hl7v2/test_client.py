"""The requesting side against a HIS that answers wrongly on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from connectors.hl7v2.client import LinePool, NoAnswer, NotSent, backoff_s
from connectors.hl7v2.dialing import Address, Dialer
from loadtest.ports import free_port
from loadtest.simulators.mllp import END, START, read_frame
from tests.connectors.hl7v2.conftest import MakeConnector
from tests.connectors.hl7v2.scripted import FakeHis, ack, answer_all, make_pool, number_of, request


@pytest.fixture
async def his() -> AsyncIterator[FakeHis]:
    async with FakeHis().listening() as fake:
        yield fake


@pytest.fixture
def up() -> list[bool]:
    return []


@pytest.fixture
async def pool(his: FakeHis, up: list[bool]) -> AsyncIterator[LinePool]:
    made = make_pool(his.port, up)
    yield made
    await made.close()


async def test_answer_is_taken_by_its_id_when_others_come_before_it(his: FakeHis, pool: LinePool) -> None:
    async def confuse(payload: bytes, writer: asyncio.StreamWriter) -> None:
        number = number_of(payload)
        writer.write(b"junk" + ack("SOMEBODY") + START + b"<html>" + END + ack("M1"))
        writer.write(START + b"x" * 20_000 + END + ack(number))
        await writer.drain()

    his.answer = confuse
    reply = await pool.request(request("M1"), 2.0)
    assert reply.value("MSA", 2) == "M1"
    reply = await pool.request(request("M2"), 2.0)
    assert (reply.value("MSA", 1), reply.value("MSA", 2)) == ("AA", "M2")
    # First request: junk, foreign, html; its own answer ends it; then too large, the same answer again. Second: the same, but
    # the first one's answer comes a third time before the second's own; what follows that may be unread yet.
    assert pool.stray_answers["duplicate"] >= 2
    assert pool.stray_answers["foreign"] == 2
    assert pool.stray_answers["garbage"] == 4
    assert pool.stray_answers["too_large"] >= 1
    assert his.connections == 1


async def test_late_answer_is_not_credited_to_the_next_request(his: FakeHis, pool: LinePool) -> None:
    async def one_behind(payload: bytes, writer: asyncio.StreamWriter) -> None:
        number = number_of(payload)
        if number == "M1":
            return
        writer.write(ack("M1", "AR"))
        await asyncio.sleep(0.05)
        writer.write(ack(number))
        await writer.drain()

    his.answer = one_behind
    with pytest.raises(NoAnswer):
        await pool.request(request("M1"), 0.1)
    assert (await pool.request(request("M2"), 2.0)).value("MSA", 1) == "AA"
    assert pool.stray_answers == {"late": 1}


async def test_request_has_no_answer_when_the_connection_breaks_after_it_left(his: FakeHis, pool: LinePool) -> None:
    async def hang_up(payload: bytes, writer: asyncio.StreamWriter) -> None:
        writer.close()

    his.answer = hang_up
    with pytest.raises(NoAnswer):
        await pool.request(request("M1"), 2.0)
    assert len(his.received) == 1


async def test_connection_is_made_anew_when_the_his_closed_it_while_idle(
    his: FakeHis, pool: LinePool, up: list[bool]
) -> None:
    his.answer = answer_all
    await pool.request(request("M1"), 2.0)
    his.writers[0].close()
    await his.writers[0].wait_closed()
    # Nothing is written into the dead connection, whether the loop has seen its end or not: the request is sent once.
    await pool.request(request("M2"), 2.0)
    assert (his.connections, len(his.received), up[-1]) == (2, 2, True)


async def test_nothing_is_sent_when_there_is_no_listener_and_the_next_try_waits(up: list[bool]) -> None:
    port = free_port()
    pool = make_pool(port, up)
    with pytest.raises(NotSent, match="no connection"):
        await pool.request(request("M1"), 1.0)
    with pytest.raises(NotSent, match="a moment ago: ConnectionRefusedError"):
        await pool.request(request("M2"), 1.0)
    assert up == [False]
    async with FakeHis(answer_all).listening(port):
        await asyncio.sleep(backoff_s(1, 1.0))
        await pool.request(request("M3"), 2.0)
        await pool.close()


async def test_nothing_is_sent_when_every_connection_is_busy(his: FakeHis, pool: LinePool) -> None:
    busy = asyncio.create_task(pool.request(request("M1"), 0.5))
    await asyncio.sleep(0.05)
    with pytest.raises(NotSent, match="busy"):
        await pool.request(request("M2"), 0.1)
    with pytest.raises(NoAnswer):
        await busy
    assert [payload.split(b"|")[9] for payload in his.received] == [b"M1"]


async def test_locks_of_a_release_go_over_all_connections_and_one_at_a_time_on_each() -> None:
    """The HIS answers none before it has one on each connection: any two behind each other would wait for ever."""
    connections, locks = 15, 300
    together = asyncio.Barrier(connections)
    early: list[bytes] = []
    serving: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        payload = await read_frame(reader)
        while payload is not None:
            following = asyncio.ensure_future(read_frame(reader))
            await together.wait()
            if following.done():
                early.append(payload)
            writer.write(ack(number_of(payload)))
            payload = await following
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    pool = make_pool(server.sockets[0].getsockname()[1], [], connections=connections)
    names = [f"L{n}" for n in range(locks)]
    replies = await asyncio.gather(*(pool.request(request(name), 30.0) for name in names))
    assert [reply.value("MSA", 2) for reply in replies] == names
    assert early == []
    await pool.close()
    await asyncio.gather(*filter(None, serving))
    server.close()
    await server.wait_closed()


async def test_connection_is_given_back_when_a_request_is_cancelled(his: FakeHis, pool: LinePool) -> None:
    task = asyncio.create_task(pool.request(request("M1"), 5.0))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    his.answer = answer_all
    assert (await pool.request(request("M2"), 2.0)).value("MSA", 2) == "M2"


async def test_commit_acknowledgement_is_passed_over_when_the_application_s_own_follows(
    his: FakeHis, pool: LinePool
) -> None:
    async def enhanced(payload: bytes, writer: asyncio.StreamWriter) -> None:
        number = number_of(payload)
        writer.write(ack(number, "CA") + ack(number, "AA"))

    his.answer = enhanced
    reply = await pool.request(request("M1", skip_commit=True), 2.0)
    assert reply.value("MSA", 1) == "AA"


@pytest.mark.parametrize(("failures", "chance", "expected"), [(1, 0, 0.1), (1, 1, 0.2), (3, 1, 0.8), (99, 1, 10.0)])
def test_backoff_doubles_up_to_a_limit(failures: int, chance: float, expected: float) -> None:
    assert backoff_s(failures, chance) == pytest.approx(expected)


@pytest.mark.parametrize(("chance", "longer_than_s", "at_most_s"), [(0.0, 0.0, 0.1), (1.0, 0.1, 0.2)])
async def test_next_try_waits_as_chance_has_it_when_the_his_could_not_be_reached(
    chance: float, longer_than_s: float, at_most_s: float
) -> None:
    dialer = Dialer(Address(host="127.0.0.1", port=free_port(), connect_timeout_s=2.0), lambda: chance)
    with pytest.raises(NotSent):
        await dialer.connect()
    assert longer_than_s < dialer.retry_in_s <= at_most_s


async def test_two_that_lost_a_his_together_do_not_come_back_together(make_connector: MakeConnector) -> None:
    pools = [make_connector("hl7v2", host="127.0.0.1", port=1).pool for _ in range(8)]
    waits_s = {pool._dialer.wait_s(5) for pool in pools if isinstance(pool, LinePool)}
    assert len(waits_s) == 8
    assert all(1.6 <= wait_s <= 3.2 for wait_s in waits_s)
