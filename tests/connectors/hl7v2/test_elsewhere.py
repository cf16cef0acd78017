"""Large messages are read in a process of their own: started on demand, ended with the connector, done without when lost."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.hl7v2 import HL7v2Connector
from connectors.hl7v2.elsewhere import Elsewhere, Lost
from connectors.hl7v2.receiver import ELSEWHERE_BYTES
from connectors.port import Inbound, Stored
from loadtest.simulators.mllp import END, ER7, START, read_frame
from mappings.canonical import ReportIssued

from .conftest import MakeConnector
from .loop_turns import turns_are_short

DOCUMENT = bytes(range(256)) * 1200
"""307,200 bytes, in Base64 more than what is read in the service's own process."""


def report(control_id: str, name: str = "张伟") -> bytes:
    body = base64.b64encode(DOCUMENT).decode()
    text = (
        f"MSH|^~\\&|LIS|H1|HB|X|20260105080000+0800||ORU^R01^ORU_R01|{control_id}|P|2.5.1||||||UNICODE UTF-8\r"
        f"PID|1||100^^^H^MR||{name}\r"
        "OBR|1||L1|24331-1^Lipids|||20260105070000|||||||||||||||20260105080000|||F\r"
        f"OBX|1|ED|PDF^Report||LIS^AP^PDF^Base64^{body}||||||F\r"
    )
    return text.encode()


class Served:
    """A connector that is served, and what its handler was given."""

    def __init__(self, connector: HL7v2Connector) -> None:
        self.connector = connector
        self.taken: list[Inbound] = []

    async def take(self, inbound: Inbound) -> Stored:
        self.taken.append(inbound)
        return Stored()

    @property
    def elsewhere(self) -> Elsewhere:
        receiver = self.connector._receiver
        assert receiver is not None
        return receiver.elsewhere

    async def ask(self, *messages: bytes) -> list[str]:
        """MSA-1 of the answers, in order, on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.connector.listen_port)
        writer.write(b"".join(START + message + END for message in messages))
        codes = []
        for _ in messages:
            payload = await asyncio.wait_for(read_frame(reader), 60)
            assert payload is not None
            codes.append(ER7(payload.decode()).get("MSA", 1))
        writer.close()
        await writer.wait_closed()
        return codes


@pytest.fixture
async def served(make_connector: MakeConnector) -> AsyncIterator[Served]:
    made = Served(make_connector("hl7v2", listen_port=0))
    await made.connector.serve(made.take)
    yield made
    await made.connector.close()


def is_there(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def check_document(inbound: Inbound, raw: bytes) -> None:
    (event,) = inbound.events
    assert isinstance(event, ReportIssued)
    assert [one.data for one in event.report.attachments] == [DOCUMENT]
    assert (inbound.raw, inbound.problem, event.report.issued_at is not None) == (raw, None, True)


async def test_large_message_says_the_same_when_it_is_read_in_another_process(
    served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # where the service was started says nothing about where its code is
    message = report("M1")
    assert len(message) > ELSEWHERE_BYTES
    assert await served.ask(message) == ["AA"]
    process_id = served.elsewhere.process_id
    assert process_id is not None
    assert os.getpriority(os.PRIO_PROCESS, process_id) == 10
    check_document(served.taken[0], message)
    # The same process takes the next one, and makes of it what reading here does.
    assert await served.ask(report("M2")) == ["AA"]
    assert served.elsewhere.process_id == process_id
    receiver = served.connector._receiver
    assert receiver is not None
    assert receiver.reader.read(message, served.taken[0].peer).inbound == served.taken[0]


async def test_event_loop_is_not_held_when_a_large_message_has_thousands_of_results(served: Served) -> None:
    head, _, _ = report("M1").rpartition(b"OBX|")
    many = head + b"".join(b"OBX|%d|NM|N%d^Result||1.5|g/L|1-2|N|||F\r" % (n, n) for n in range(20_000))
    assert len(many) > ELSEWHERE_BYTES
    with turns_are_short(10_000):
        assert await served.ask(many) == ["AA"]
    (event,) = served.taken[0].events
    assert isinstance(event, ReportIssued)
    assert [one.code for one in event.report.observations] == [f"N{n}" for n in range(20_000)]


async def test_process_ends_with_the_connector(served: Served) -> None:
    await served.ask(report("M1"))
    process_id = served.elsewhere.process_id
    assert process_id is not None
    await served.connector.close()
    assert not is_there(process_id)


async def test_large_message_is_read_all_the_same_when_its_process_was_killed(served: Served) -> None:
    await served.ask(report("M1"))
    process_id = served.elsewhere.process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGSTOP)  # it holds the next message, and is killed with it
    asking = asyncio.create_task(served.ask(report("M2")))
    await asyncio.sleep(0.2)
    os.kill(process_id, signal.SIGKILL)
    assert await asking == ["AA"]
    check_document(served.taken[1], report("M2"))
    assert served.elsewhere.process_id is None
    assert await served.ask(report("M3")) == ["AA"]
    assert [inbound.control_id for inbound in served.taken] == ["M1", "M2", "M3"]


async def test_several_large_messages_are_read_one_at_a_time_and_in_the_order_of_their_connection(
    served: Served,
) -> None:
    assert list(
        await asyncio.gather(
            served.ask(report("A1"), report("A2")), served.ask(report("B1"), b"MSH|^~\\&|" + b"x" * ELSEWHERE_BYTES)
        )
    ) == [["AA", "AA"], ["AA", "AR"]]
    taken = [inbound.control_id for inbound in served.taken]
    assert sorted(taken) == ["A1", "A2", "B1"]
    assert taken.index("A1") < taken.index("A2")


@pytest.fixture
async def elsewhere(served: Served) -> AsyncIterator[Elsewhere]:
    made = Elsewhere(served.elsewhere.setup, idle_s=0.1, again_after_s=0.0)
    yield made
    await made.close()


async def test_process_ends_when_nobody_needs_it_and_comes_back_when_somebody_does(elsewhere: Elsewhere) -> None:
    await elsewhere.ask(report("M1"), "peer", within_s=60)
    first = elsewhere.process_id
    assert first is not None
    async with asyncio.timeout(10):
        while elsewhere.process_id is not None or is_there(first):  # noqa: ASYNC110 - nobody tells that a process is gone
            await asyncio.sleep(0.02)
    read = await elsewhere.ask(report("M2"), "peer", within_s=60)
    assert read.inbound.control_id == "M2"


async def test_answer_is_not_taken_for_the_next_one_s_when_its_asker_was_cancelled(elsewhere: Elsewhere) -> None:
    await elsewhere.ask(report("M0"), "peer", within_s=60)
    first = elsewhere.process_id
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    gone = asyncio.create_task(elsewhere.ask(report("M1"), "peer", within_s=60))
    await asyncio.sleep(0.1)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    read = await elsewhere.ask(report("M2"), "peer", within_s=60)
    assert read.inbound.control_id == "M2"
    assert elsewhere.process_id != first


async def test_process_is_lost_when_it_takes_too_long(elsewhere: Elsewhere) -> None:
    await elsewhere.ask(report("M0"), "peer", within_s=60)
    first = elsewhere.process_id
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    with pytest.raises(Lost):
        await elsewhere.ask(report("M1"), "peer", within_s=0.1)
    read = await elsewhere.ask(report("M2"), "peer", within_s=60)
    assert read.inbound.control_id == "M2"


ORPHAN = """
import asyncio, os, signal, sys
from connectors.hl7v2.elsewhere import Elsewhere, Setup

async def main():
    elsewhere = Elsewhere(Setup(job="validate"))
    await elsewhere.ask(b"MSH|^~\\\\&|HIS|H|HB|X|20260105||ADT^A08|1|P|2.5.1\\\\r", "UNICODE UTF-8", within_s=60)
    print(elsewhere.process_id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_process_ends_when_the_service_is_killed() -> None:
    pipe = asyncio.subprocess.PIPE
    service = await asyncio.create_subprocess_exec(sys.executable, "-c", ORPHAN, stdout=pipe, stderr=pipe)
    # The process has the service's stderr too: that ends when both have.
    told, errors = await asyncio.wait_for(service.communicate(), 60)
    assert (service.returncode, errors) == (-signal.SIGKILL, b"")
    assert int(told) > 0
