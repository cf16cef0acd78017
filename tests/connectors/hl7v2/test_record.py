"""What the message store is told of HL7 v2 on the wire: every request with its answer, and whatever was not taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from zoneinfo import ZoneInfo

import pytest

from connectors.config import HospitalContext
from connectors.hl7v2 import Options, create
from connectors.hl7v2.connector import HL7v2Connector
from connectors.port import Acknowledged, Direction, Exchanged, HisError, Inbound, Passed, ReadsAgain, Recording, Stored
from loadtest.simulators.mllp import END, ER7, START, read_frame
from mappings.canonical import Patient

HOSPITAL = HospitalContext(id="h1", zone=ZoneInfo("Asia/Shanghai"))


def ack(asked: ER7, code: str = "AA", named: str | None = None) -> bytes:
    name = asked.get("MSH", 10) if named is None else named
    return f"MSH|^~\\&|HIS|||||20261130070000||RSP^K22|R1|P|2.5.1\rMSA|{code}|{name}\rQAK|1|NF\r".encode()


@asynccontextmanager
async def his(*answers: Callable[[ER7], list[bytes]]) -> AsyncIterator[int]:
    """A HIS that answers its n-th request with what the n-th of these says."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (payload := await read_frame(reader)) is not None:
            for answer in left.pop(0)(ER7(payload.decode())) if left else []:
                writer.write(START + answer + END)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def connected(
    port: int | None = None, listen: bool = False
) -> AsyncIterator[tuple[HL7v2Connector, list[Exchanged | Acknowledged]]]:
    told: list[Exchanged | Acknowledged] = []
    options = Options(
        protocol="hl7v2", profile="hl7v2@1", host=None if port is None else "127.0.0.1", port=port, connections=1,
        listen_host="127.0.0.1", listen_port=0 if listen else None, timeout_s={"find_patient": 0.5},
    )  # fmt: skip
    connector = create(HOSPITAL, "main", options)
    assert isinstance(connector, Recording)
    assert isinstance(connector, ReadsAgain)
    connector.record_exchanges(told.append)
    await connector.start()
    try:
        yield connector, told
    finally:
        await connector.close()


async def ask(connector: HL7v2Connector) -> None:
    with suppress(HisError):
        await connector.find_patient(Patient(name="张伟", mrn="M1"))


async def test_request_and_answer_are_told_when_the_his_has_answered() -> None:
    async with his(lambda asked: [ack(asked)]) as port, connected(port) as (connector, told):
        await ask(connector)
    (one,) = told
    assert isinstance(one, Exchanged)
    assert (one.direction, one.state, one.verb, one.message_type) == (
        Direction.OUT,
        Passed.DONE,
        "find_patient",
        "QBP^Q22",
    )
    assert (one.mrn, one.answer_code, one.connector, one.peer) == ("M1", "AA", "main", f"127.0.0.1:{port}")
    assert one.request.startswith(b"MSH|")
    assert one.control_id.encode() in one.request
    assert one.answer == ack(ER7(one.request.decode()))
    assert 0 <= one.ended - one.began < 60


async def test_refusal_is_told_as_failed_when_the_his_says_no() -> None:
    async with his(lambda asked: [ack(asked, "AR")]) as port, connected(port) as (connector, told):
        await ask(connector)
    (one,) = told
    assert isinstance(one, Exchanged)
    assert (one.state, one.answer_code, one.error) == (Passed.FAILED, "AR", "answered AR")


async def test_outcome_is_told_as_unknown_and_the_late_answer_kept_when_it_comes_too_late() -> None:
    async with (
        his(lambda asked: [ack(asked, named="SOMEBODY"), b"garbage \xff"]) as port,
        connected(port) as (connector, told),
    ):
        await ask(connector)
    kept = [one for one in told if isinstance(one, Exchanged)]
    strays = [one for one in kept if one.direction is Direction.IN]
    (asked,) = [one for one in kept if one.direction is Direction.OUT]
    assert (asked.state, asked.answer, asked.error) == (Passed.UNKNOWN, None, "no answer within the time-out")
    assert [(one.state, one.control_id, one.message_type) for one in strays] == [
        (Passed.REFUSED, "SOMEBODY", "ACK"), (Passed.REFUSED, "", "other"),
    ]  # fmt: skip
    assert strays[1].request == b"garbage \xff"


async def test_request_is_told_as_failed_when_nothing_left() -> None:
    async with his() as port:
        pass
    async with connected(port) as (connector, told):
        await ask(connector)
    (one,) = told
    assert isinstance(one, Exchanged)
    assert (one.state, one.answer, one.answer_code) == (Passed.FAILED, None, None)


PATIENT = "PID|1||M7^^^H^MR||张^伟||19900101|M"


@pytest.mark.parametrize(
    ("message", "handler_says", "state", "code"),
    [
        (f"MSH|^~\\&|HIS||||20261130||ADT^A08^ADT_A01|C1|P|2.5.1\r{PATIENT}\r", Stored(), None, "AA"),
        (f"MSH|^~\\&|HIS||||20261130||ADT^A08^ADT_A01|C1|P|2.5.1\r{PATIENT}\r", Stored(duplicate=True), "duplicate", "AA"),
        (f"MSH|^~\\&|HIS||||20261130||ADT^A08^ADT_A01|C1|T|2.5.1\r{PATIENT}\r", Stored(), "refused", "AR"),
        (f"MSH|^~\\&|HIS||||20261130||BAR^P01|C1|P|2.5.1\r{PATIENT}\r", Stored(), "refused", "AR"),
        ("MSH|^~\\&|HIS||||20261130||ACK|C1|P|2.5.1\rMSA|AA|X\r", Stored(), "refused", None),
    ],
)  # fmt: skip
async def test_what_was_answered_is_told_when_a_message_has_come(
    message: str, handler_says: Stored, state: str | None, code: str | None
) -> None:
    seen: list[Inbound] = []

    async def handle(inbound: Inbound) -> Stored:
        seen.append(inbound)
        return handler_says

    async with connected(listen=True) as (connector, told):
        await connector.serve(handle)
        reader, writer = await asyncio.open_connection("127.0.0.1", connector.listen_port)
        writer.write(START + message.encode() + END)
        if code is not None:
            assert await asyncio.wait_for(read_frame(reader), 10) is not None
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 10)
        writer.close()
    (one,) = told
    if state is None:
        assert one == Acknowledged(connector="main", dedup_key=seen[0].dedup_key, answer_code=str(code))
        return
    assert isinstance(one, Exchanged)
    assert (one.direction, one.state, one.control_id) == (Direction.IN, Passed(state), "C1")
    assert one.answer_code == (code or "none")
    assert one.request == message.encode()
    assert one.error


async def test_message_is_read_again_by_the_present_profile() -> None:
    good = f"MSH|^~\\&|HIS||||20261130||ADT^A08^ADT_A01|C1|P|2.5.1\r{PATIENT}\r".encode()
    bad = good.replace(b"19900101", b"19901399")
    async with connected(listen=True) as (connector, _):
        read = connector.read_again(good, "his:1")
        assert isinstance(read, Inbound)
        assert read.problem is None
        assert len(read.events) == 1
        read = connector.read_again(bad, "his:1")
        assert isinstance(read, Inbound)
        assert read.problem is not None
        assert (read.mrn, read.events) == ("M7", ())
        assert not isinstance(connector.read_again(b"hello", "his:1"), Inbound)
