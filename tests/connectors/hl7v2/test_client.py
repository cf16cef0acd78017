"""The requesting side against a HIS that answers wrongly on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from connectors.hl7v2.client import LinePool, NoAnswer, NotSent, backoff_s
from loadtest.simulators.mllp import END, START, read_frame

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class FakeHis:
    """A listener whose answers a test writes by hand."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.received: list[bytes] = []
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        while (payload := await read_frame(reader)) is not None:
            self.received.append(payload)
            if self.answer is not None:
                await self.answer(payload, writer)
        writer.close()


def ack(control_id: str, code: str = "AA") -> bytes:
    return START + f"MSH|^~\\&|H|||||ACK|9|P|2.5.1\rMSA|{code}|{control_id}\r".encode() + END


def request(control_id: str) -> bytes:
    return f"MSH|^~\\&|HB||||||SRM^S01|{control_id}|P|2.5.1\r".encode()


@pytest.fixture
async def his() -> AsyncIterator[FakeHis]:
    fake = FakeHis()
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    yield fake
    server.close()
    for writer in fake.writers:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    await server.wait_closed()


@pytest.fixture
def up() -> list[bool]:
    return []


@pytest.fixture
async def pool(his: FakeHis, up: list[bool]) -> AsyncIterator[LinePool]:
    made = make_pool(his.port, up)
    yield made
    await made.close()


def make_pool(port: int, up: list[bool], connections: int = 1) -> LinePool:
    return LinePool(
        "127.0.0.1",
        port,
        connections=connections,
        connect_timeout_s=2.0,
        max_message_bytes=10_000,
        charset="UNICODE UTF-8",
        on_up=up.append,
        on_fallback=lambda codec: None,
        on_stray=lambda kind: None,
        chance=lambda: 0.0,
    )


async def test_answer_is_taken_by_its_id_when_others_come_before_it(his: FakeHis, pool: LinePool) -> None:
    async def confuse(payload: bytes, writer: asyncio.StreamWriter) -> None:
        number = payload.split(b"|")[9].decode()
        writer.write(b"junk" + ack("SOMEBODY") + START + b"<html>" + END + ack("M1") + ack(""))
        writer.write(START + b"x" * 20_000 + END + ack(number))
        await writer.drain()

    his.answer = confuse
    reply = await pool.request(request("M1"), "M1", 2.0)
    assert reply.value("MSA", 2) == "M1"
    reply = await pool.request(request("M2"), "M2", 2.0)
    assert (reply.value("MSA", 1), reply.value("MSA", 2)) == ("AA", "M2")
    # First request: junk, foreign, html; its own answer ends it; then "" (foreign), too large, the same answer again.
    assert pool.stray_answers["late"] >= 2
    assert pool.stray_answers["foreign"] >= 3
    assert pool.stray_answers["garbage"] >= 3
    assert pool.stray_answers["too_large"] >= 1
    assert his.connections == 1


async def test_late_answer_is_not_credited_to_the_next_request(his: FakeHis, pool: LinePool) -> None:
    async def one_behind(payload: bytes, writer: asyncio.StreamWriter) -> None:
        number = payload.split(b"|")[9].decode()
        if number == "M1":
            return
        writer.write(ack("M1", "AR"))
        await asyncio.sleep(0.05)
        writer.write(ack(number))
        await writer.drain()

    his.answer = one_behind
    with pytest.raises(NoAnswer):
        await pool.request(request("M1"), "M1", 0.1)
    assert (await pool.request(request("M2"), "M2", 2.0)).value("MSA", 1) == "AA"
    assert pool.stray_answers == {"late": 1}


async def test_request_has_no_answer_when_the_connection_breaks_after_it_left(his: FakeHis, pool: LinePool) -> None:
    async def hang_up(payload: bytes, writer: asyncio.StreamWriter) -> None:
        writer.close()

    his.answer = hang_up
    with pytest.raises(NoAnswer):
        await pool.request(request("M1"), "M1", 2.0)
    assert len(his.received) == 1


async def test_connection_is_made_anew_when_the_his_closed_it_while_idle(
    his: FakeHis, pool: LinePool, up: list[bool]
) -> None:
    async def answer(payload: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(ack(payload.split(b"|")[9].decode()))

    his.answer = answer
    await pool.request(request("M1"), "M1", 2.0)
    his.writers[0].close()
    async with asyncio.timeout(2):
        while up[-1]:  # noqa: ASYNC110 - the pool tells by calling, not by an event
            await asyncio.sleep(0.01)
    # Nothing was written into the dead connection: the request is sent once, on a new one.
    await pool.request(request("M2"), "M2", 2.0)
    assert (his.connections, len(his.received), up[-1]) == (2, 2, True)


async def test_nothing_is_sent_when_there_is_no_listener_and_the_next_try_waits(up: list[bool]) -> None:
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    pool = make_pool(port, up)
    with pytest.raises(NotSent, match="no connection"):
        await pool.request(request("M1"), "M1", 1.0)
    with pytest.raises(NotSent, match="a moment ago"):
        await pool.request(request("M2"), "M2", 1.0)
    assert up == [False]
    fake = FakeHis()

    async def answer(payload: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(ack(payload.split(b"|")[9].decode()))

    fake.answer = answer
    server = await asyncio.start_server(fake.serve, "127.0.0.1", port)
    await asyncio.sleep(backoff_s(1, 1.0))
    await pool.request(request("M3"), "M3", 2.0)
    await pool.close()
    server.close()
    await server.wait_closed()


async def test_nothing_is_sent_when_every_connection_is_busy(his: FakeHis, pool: LinePool) -> None:
    busy = asyncio.create_task(pool.request(request("M1"), "M1", 0.5))
    await asyncio.sleep(0.05)
    with pytest.raises(NotSent, match="busy"):
        await pool.request(request("M2"), "M2", 0.1)
    with pytest.raises(NoAnswer):
        await busy
    assert [payload.split(b"|")[9] for payload in his.received] == [b"M1"]


async def test_connection_is_given_back_when_a_request_is_cancelled(his: FakeHis, pool: LinePool) -> None:
    task = asyncio.create_task(pool.request(request("M1"), "M1", 5.0))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def answer(payload: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(ack(payload.split(b"|")[9].decode()))

    his.answer = answer
    assert (await pool.request(request("M2"), "M2", 2.0)).value("MSA", 2) == "M2"


async def test_commit_acknowledgement_is_passed_over_when_the_application_s_own_follows(
    his: FakeHis, pool: LinePool
) -> None:
    async def enhanced(payload: bytes, writer: asyncio.StreamWriter) -> None:
        number = payload.split(b"|")[9].decode()
        writer.write(ack(number, "CA") + ack(number, "AA"))

    his.answer = enhanced
    reply = await pool.request(request("M1"), "M1", 2.0, skip_commit=True)
    assert reply.value("MSA", 1) == "AA"


@pytest.mark.parametrize(("failures", "chance", "expected"), [(1, 0, 0.1), (1, 1, 0.2), (3, 1, 0.8), (99, 1, 10.0)])
def test_backoff_doubles_up_to_a_limit(failures: int, chance: float, expected: float) -> None:
    assert backoff_s(failures, chance) == pytest.approx(expected)
