"""What the simulated hospitals do when they are down, when they hang, and when two faults meet."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

import aiohttp
import pytest

from loadtest.simulators import fhir, hl7, hl7_cn, soap
from loadtest.simulators.control import Fault, Switchboard
from loadtest.simulators.hospital import Hospital

STARTS: dict[str, Any] = {"soap": soap.start, "fhir": fhir.start, "hl7": hl7.start, "hl7_cn": hl7_cn.start}
SQM = "MSH|^~\\&|A|B|C|D|20260101||SQM^S25^SQM_S25|1|P|2.5.1\rQRD|||||||||ALL\rQRF|SLOT|20260101|20260102\r"
ZRN = "MSH|^~\\&|A|B|C|D|20260101||ZHY^ZRN|1|P|2.4||||||GBK\rQRD|||||||||ALL\rQRF|HIS|20260101|20260102\r"
ASKED = {
    "soap": b"GET /csp/his/SelfRegService.cls?wsdl HTTP/1.1\r\nHost: a\r\n\r\n",
    "fhir": b"GET /fhir/metadata HTTP/1.1\r\nHost: a\r\n\r\n",
    "hl7": b"\x0b" + SQM.encode() + b"\x1c\r",
    "hl7_cn": b"\x0b" + ZRN.encode() + b"\x1c\r",
}
ENVELOPE = (
    b'<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body><QueryDepartment xmlns="http://tempuri.org">'
    b"<XMLRequest>&lt;Request&gt;&lt;TradeCode&gt;1012&lt;/TradeCode&gt;&lt;/Request&gt;</XMLRequest></QueryDepartment>"
    b"</e:Body></e:Envelope>"
)
HEAD = f"POST /csp/his/SelfRegService.cls HTTP/1.1\r\nHost: a\r\nContent-Length: {len(ENVELOPE)}\r\n\r\n"
CALL = {**ASKED, "soap": HEAD.encode() + ENVELOPE}


class Simulator(Protocol):
    port: int
    control_port: int
    board: Switchboard

    async def close(self) -> None: ...


@contextlib.asynccontextmanager
async def running(protocol: str) -> AsyncIterator[tuple[Simulator, aiohttp.ClientSession, str]]:
    simulator = await STARTS[protocol]()
    async with aiohttp.ClientSession() as session:
        try:
            yield simulator, session, f"http://127.0.0.1:{simulator.control_port}"
        finally:
            await simulator.close()


async def switch(session: aiohttp.ClientSession, control: str, mode: str) -> None:
    async with session.post(f"{control}/faults", json={"op": "*", "mode": mode}) as answer:
        assert answer.status == 200


async def heal(session: aiohttp.ClientSession, control: str) -> None:
    async with session.delete(f"{control}/faults") as answer:
        assert answer.status == 200


async def asked(port: int, request: bytes) -> bytes:
    """The beginning of the answer on a connection of its own; nothing where it is closed without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await reader.read(20)
    finally:
        writer.close()


@pytest.mark.parametrize("protocol", STARTS)
async def test_nobody_listens_while_a_hospital_is_down_and_all_is_as_before_afterwards(protocol: str) -> None:
    async with running(protocol) as (simulator, session, control):
        reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
        writer.write(ASKED[protocol])
        assert await reader.read(20)
        await switch(session, control, "down")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", simulator.port)
            await switch(session, control, "down")  # once more changes nothing
        async with session.get(f"{control}/pulse") as answer:
            assert (await answer.json())["running"] == 0
        await heal(session, control)
        assert await asked(simulator.port, ASKED[protocol])


@pytest.mark.parametrize("protocol", STARTS)
async def test_port_is_free_when_a_hospital_ends_while_it_is_down(protocol: str) -> None:
    async with running(protocol) as (simulator, session, control):
        await switch(session, control, "down")
        port = simulator.port
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", port)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("protocol", STARTS)
async def test_call_is_let_go_when_a_hospital_that_hangs_works_again(protocol: str) -> None:
    async with running(protocol) as (simulator, session, control):
        await switch(session, control, "hang")
        calls = [asyncio.create_task(asked(simulator.port, CALL[protocol])) for _ in range(2)]
        await asyncio.sleep(0.3)
        assert simulator.board.running == 2
        calls[0].cancel()  # who has gone away takes no place
        await asyncio.sleep(0.5)
        assert simulator.board.running == 1
        assert not calls[1].done()
        await heal(session, control)
        with contextlib.suppress(ConnectionResetError):
            assert await calls[1] == b""
        assert simulator.board.running == 0
        assert await asked(simulator.port, CALL[protocol])


async def test_no_more_calls_hang_than_callers_wait() -> None:
    """A connector that gives up a call and asks again at once keeps to what the hospital bears."""
    async with running("hl7") as (simulator, session, control):
        await switch(session, control, "hang")
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
            writer.write(CALL["hl7"])
            await asyncio.sleep(0.05)
            assert simulator.board.running == 1
            writer.close()
        assert simulator.board.most_at_once == 1


async def test_call_fails_after_its_delay_when_it_meets_both() -> None:
    board = Switchboard(Hospital("S", days=1))
    board.faults += [Fault("*", "fault"), Fault("*", "slow", delay_s=0.2)]
    began = time.monotonic()
    fault = await board.fault("lock_slot")
    assert fault is not None
    assert fault.mode == "fault"
    assert time.monotonic() - began >= 0.2


async def test_call_is_only_slow_when_the_failure_is_not_meant_for_it() -> None:
    board = Switchboard(Hospital("S", days=1))
    board.faults += [Fault("register", "fault"), Fault("*", "slow", delay_s=30.0)]
    async with asyncio.timeout(5):
        fault = await board.fault("lock_slot")
    assert fault is not None
    assert fault.mode == "slow"
