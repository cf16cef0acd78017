"""The simulated SOAP hospital as a process, and its laboratory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest

from connectors.soap.wsdl import read_service
from loadtest.simulators import soap
from loadtest.simulators.hospital import Hospital
from loadtest.simulators.lis import LabSystem, PushFailed, oru_r01


class Listener:
    """An MLLP listener that keeps what it gets and acknowledges with `code`; an empty code: it hangs up."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.messages: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            frame = await reader.readuntil(b"\x1c\x0d")
            message = frame[1:-2].decode("utf-8")
            self.messages.append(message)
            control_id = message.split("|")[9]
            if self.code:
                writer.write(f"\x0bMSH|^~\\&|A|B|||1||ACK|1|P|2.5.1\rMSA|{self.code}|{control_id}\r\x1c\r".encode())
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def listening(code: str = "AA") -> AsyncIterator[Listener]:
    listener = Listener(code)
    server = await asyncio.start_server(listener.serve, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    try:
        yield listener
    finally:
        server.close()
        await server.wait_closed()


async def test_report_is_pushed_with_its_patient_when_it_is_issued() -> None:
    async with listening() as listener, aiohttp.ClientSession() as session:
        simulator = await soap.start(days=1, push=("127.0.0.1", listener.port))
        try:
            person = simulator.hospital.create_person("张伟", "11010119900307123X")
            url = f"http://127.0.0.1:{simulator.control_port}/report"
            async with session.post(url, json={"mrn": person.mrn}) as reply:
                number = (await reply.json())["no"]
        finally:
            await simulator.close()
    (message,) = listener.messages
    segments = [line.split("|") for line in message.rstrip("\r").split("\r")]
    assert [s[0] for s in segments] == ["MSH", "PID", "OBR", "OBX", "OBX"]
    msh, pid, obr, obx = segments[0], segments[1], segments[2], segments[3]
    assert (msh[8], msh[11], msh[17]) == ("ORU^R01^ORU_R01", "2.5.1", "UNICODE UTF-8")  # MSH-9, -12, -18
    assert pid[3] == f"{person.mrn}^^^HIS^MR"
    assert pid[5] == "张伟"
    assert (obr[3], obr[4], obr[25]) == (f"{number}^LIS", "CBC^血常规^L", "F")
    assert len(obr[22]) == len("20260105080000+0800")
    assert obx[1:9] == ["1", "NM", "WBC^白细胞^L", "", "11.2", "10*9/L", "3.5-9.5", "H"]
    assert obx[11] == "F"


@pytest.mark.parametrize("code", ["AE", ""])
async def test_push_fails_when_it_is_not_acknowledged(code: str) -> None:
    hospital = Hospital("S", days=1)
    person = hospital.create_person("张伟", "1")
    async with listening(code) as listener:
        with pytest.raises(PushFailed):
            await LabSystem("127.0.0.1", listener.port, sender="S").push(hospital.report(person.mrn), person)
    assert len(listener.messages) == 1


def test_delimiters_are_escaped_when_a_name_holds_them() -> None:
    hospital = Hospital("S", days=1)
    person = hospital.create_person("A|B^C&D~E\\F", "1")
    message = oru_r01(hospital.report(person.mrn, status="corrected"), person, sender="S", control_id="1")
    assert "||A\\F\\B\\S\\C\\T\\D\\R\\E\\E\\F\r" in message
    assert "|LAB|C\r" in message


async def test_wsdl_names_the_address_it_was_asked_at() -> None:
    simulator = await soap.start(days=1)
    try:
        async with aiohttp.ClientSession() as session, session.get(simulator.url + "?WSDL") as reply:
            service = read_service(await reply.read(), "x.wsdl")
        assert service.address == simulator.url
    finally:
        await simulator.close()


@pytest.mark.parametrize("body", [b"", b"<a/>", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'])
async def test_simulator_answers_a_client_fault_when_the_request_is_unreadable(body: bytes) -> None:
    simulator = await soap.start(days=1)
    try:
        async with aiohttp.ClientSession() as session, session.post(simulator.url, data=body) as reply:
            assert reply.status == 500
            assert "SOAP-ENV:Client" in await reply.text()
    finally:
        await simulator.close()


async def test_process_says_that_it_is_ready_and_ends_on_sigterm() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtest.simulators.soap", "--days", "1", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    ready = json.loads(await process.stdout.readline())
    assert ready["ready"] is True
    async with aiohttp.ClientSession() as session, session.get(ready["wsdl"]) as reply:
        assert reply.status == 200
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{ready['control_port']}/state") as reply,
    ):
        assert (await reply.json())["oversold"] == 0
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
