"""Servers of other people's libraries behind one face: hospitals that book, take payments and know whomever they are asked for.

Each reads the request and builds its answer with its own library: SRR with SCH-25 Booked to SRM, RSP with one PID to QBP, ACK to
anything else.
"""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import hl7
import hl7.mllp
from hl7apy.core import Message
from hl7apy.mllp import AbstractHandler, MLLPServer
from hl7apy.parser import parse_message

from loadtest.ports import free_port
from tests.connectors.node import Program

PATIENCE_S = 10


class Seen(NamedTuple):
    """What a server's own parser found in a request: MSH-9.1, ARQ-1.1 or FT1-2, and PID-5.1."""

    kind: str
    key: str
    name: str


class Server(Protocol):
    """One foreign server. `hangs_up`: whether it closes each connection after its first answer, whatever it is told."""

    port: int
    hangs_up: bool

    async def start(self) -> None: ...
    async def behave(self, *, delay_ms: int = 0, hang_up: bool = False) -> None:
        """How to answer from now on: after so long, and whether to close the connection afterwards."""

    async def seen(self) -> list[Seen]:
        """What has come since the last call."""

    async def close(self) -> None: ...


class PythonHL7Server:
    """python-hl7's asyncio server."""

    hangs_up = False

    def __init__(self) -> None:
        self.port = 0
        self._seen: list[Seen] = []
        self._delay_ms, self._hang_up = 0, False
        self._server: Any = None
        self._writers: list[Any] = []

    async def start(self) -> None:
        self._server = await hl7.mllp.start_hl7_server(self._serve, "127.0.0.1", 0, encoding="utf-8")
        self.port = self._server.sockets[0].getsockname()[1]

    async def behave(self, *, delay_ms: int = 0, hang_up: bool = False) -> None:
        self._delay_ms, self._hang_up = delay_ms, hang_up

    async def seen(self) -> list[Seen]:
        found, self._seen = self._seen, []
        return found

    async def close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: Any, writer: Any) -> None:
        self._writers.append(writer)
        try:
            while True:
                request = await reader.readmessage()
                answer = self._answer(request)
                await asyncio.sleep(self._delay_ms / 1000)
                writer.writemessage(answer)
                await writer.drain()
                if self._hang_up:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    def _answer(self, request: Any) -> Any:
        names = {str(segment[0]) for segment in request}
        kind = str(request["MSH.F9.R1.C1"])
        key = str(request["ARQ.F1.R1.C1"]) if "ARQ" in names else str(request["FT1.F2.R1"]) if "FT1" in names else ""
        self._seen.append(Seen(kind, key, str(request["PID.F5.R1.C1"]) if "PID" in names else ""))
        answer = request.create_ack("AA")
        if kind == "SRM":
            answer["MSH.F9.R1.C1"], answer["MSH.F9.R1.C3"] = "SRR", "SRR_S01"
            schedule = answer.create_segment([answer.create_field(["SCH"])])
            for field, value in ((1, key), (2, f"P{len(self._seen)}"), (25, "Booked")):
                schedule.assign_field(value, field)
            answer.append(schedule)
        elif kind == "QBP":
            answer["MSH.F9.R1.C1"], answer["MSH.F9.R1.C2"], answer["MSH.F9.R1.C3"] = "RSP", "K22", "RSP_K21"
            number, name = request["QPD.F3.R1.C2"], request["QPD.F3.R3.C2"]
            found = hl7.parse(f"MSH|^~\\&|\rPID|1||P100^^^H^MR~{number}^^^CHN^NI||{name}\r")
            answer.append(found.segment("PID"))
        return answer


class HL7apyServer:
    """hl7apy's threaded server: one message a connection, which it closes after its answer."""

    hangs_up = True

    def __init__(self) -> None:
        self._seen: list[Seen] = []
        self._delay_ms = 0
        handlers = dict.fromkeys(_HL7APY_ANSWERS, (_HL7apyHandler, self))
        self._server = MLLPServer("127.0.0.1", 0, handlers, timeout=PATIENCE_S)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    async def start(self) -> None:
        self._thread.start()

    async def behave(self, *, delay_ms: int = 0, hang_up: bool = False) -> None:
        self._delay_ms = delay_ms

    async def seen(self) -> list[Seen]:
        found, self._seen = self._seen, []
        return found

    async def close(self) -> None:
        await asyncio.to_thread(self._server.shutdown)
        await asyncio.to_thread(self._server.server_close)
        await asyncio.to_thread(self._thread.join)

    def answer(self, text: str) -> str:
        request = parse_message(text, find_groups=False)
        kind = request.msh.msh_9.msh_9_1.to_er7()
        key = request.arq.arq_1.to_er7() if request.arq else request.ft1.ft1_2.to_er7() if request.ft1 else ""
        self._seen.append(Seen(kind, key, request.pid.pid_5.pid_5_1.to_er7() if request.pid else ""))
        time.sleep(self._delay_ms / 1000)
        structure, trigger = _HL7APY_ANSWERS[request.msh.msh_9.to_er7()]
        answer = Message(structure, version="2.5.1")
        answer.msh.msh_9, answer.msh.msh_10, answer.msh.msh_11 = trigger, f"A{len(self._seen)}", "P"
        answer.msa.msa_1, answer.msa.msa_2 = "AA", request.msh.msh_10.to_er7()
        if kind == "SRM":
            schedule = answer.add_group("SRR_S01_SCHEDULE").sch
            schedule.sch_1, schedule.sch_2, schedule.sch_25 = key, f"A{len(self._seen)}", "Booked"
        elif kind == "QBP":
            answer.qak.qak_1, answer.qak.qak_2 = request.qpd.qpd_2.to_er7(), "OK"
            answer.qpd = request.qpd.to_er7()
            number, _, name = (asked.to_er7().partition("^")[2] for asked in request.qpd.qpd_3)
            found = answer.add_group("RSP_K21_QUERY_RESPONSE")
            found.pid = f"PID|1||A100^^^H^MR~{number}^^^CHN^NI||{name}"
        return str(answer.to_mllp())


_HL7APY_ANSWERS = {
    "SRM^S01^SRM_S01": ("SRR_S01", "SRR^S01^SRR_S01"),
    "DFT^P03^DFT_P03": ("ACK", "ACK^P03^ACK"),
    "QBP^Q22^QBP_Q21": ("RSP_K21", "RSP^K22^RSP_K21"),
}


class _HL7apyHandler(AbstractHandler):  # type: ignore[misc]
    def __init__(self, message: str, server: HL7apyServer) -> None:
        super().__init__(message)
        self._server = server

    def reply(self) -> str:
        return self._server.answer(self.incoming_message)


class NodeServer:
    """A server of the folder npm. `manners` are for its `listen`."""

    hangs_up = False

    def __init__(self, folder: Path, program: str, **manners: Any) -> None:
        self._program = Program(folder, program)
        self._manners = manners
        self.port = free_port()

    async def start(self) -> None:
        await asyncio.to_thread(self._program.call, "listen", port=self.port, encoding="utf-8", **self._manners)

    async def behave(self, *, delay_ms: int = 0, hang_up: bool = False) -> None:
        await asyncio.to_thread(self._program.call, "behave", changes={"delay_ms": delay_ms, "hang_up": hang_up})

    async def seen(self) -> list[Seen]:
        return [Seen(**one) for one in await asyncio.to_thread(self._program.call, "seen")]

    async def close(self) -> None:
        await asyncio.to_thread(self._program.call, "close")
        await asyncio.to_thread(self._program.end)
