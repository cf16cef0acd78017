"""A HIS that follows a script, and the connector that asks it: rows of the wire suite for the asking side.

A row says what the HIS does on its first connection, its second and so on (afterwards it answers everything with AA), how often
the connector is asked, and what each outcome is. The verb is `settle_bill`, DFT^P03, whose answer is MSA alone.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

from connectors.config import HospitalContext
from connectors.hl7v2 import HL7v2Connector, Options, create
from connectors.port import Accepted, BillPayment, Outcome, Rejected, Unknown
from loadtest.simulators.mllp import END, START, read_frame
from mappings.canonical import Bill, Patient, Payment
from monitoring.metrics import REGISTRY

from .rows import GROUPS, Close, HalfClose, Pause, Reset

HANG_S = 20.0  # nothing that a row waits for takes so long: it hangs
_numbers = itertools.count(1)


# --- what the HIS does -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hear:
    """Wait for a request."""


@dataclass(frozen=True)
class HearPart:
    """Wait for the first `size` bytes of a request."""

    size: int = 20


@dataclass(frozen=True)
class HearAck:
    """Wait for an acknowledgement of ours; noted in `Seen.acks` as MSA-1 and MSA-2."""


Act = Hear | HearPart | HearAck | Pause | Close | HalfClose | Reset | bytes
"""Bytes are sent as they are; in them @ID@ is MSH-10 of the last request, @LAST@ that of the one before."""


def answer(code: str = "AA", named: str = "@ID@", *, own_id: str = "H1", accept: str = "", body: str = "") -> bytes:
    """A framed answer. `accept` is its MSH-15."""
    return framed(plain(code, named, own_id=own_id, accept=accept, body=body))


def plain(code: str = "AA", named: str = "@ID@", *, own_id: str = "H1", accept: str = "", body: str = "") -> bytes:
    head = f"MSH|^~\\&|HIS|H1|HB||20260105080000||ACK^P03|{own_id}|P|2.5.1|||{accept}"
    return f"{head}\rMSA|{code}|{named}\r{body}".encode()


def framed(payload: bytes) -> bytes:
    return START + payload + END


# --- rows --------------------------------------------------------------------------------------------------------------

DONE = "done"
NOT_SENT = "rejected not_sent, again"


def unknown(reason: str) -> str:
    return f"unknown: {reason}"


def rejected(code: str, text: str = "", *, again: bool = False) -> str:
    return f"rejected {code}{', again' if again else ''}{': ' + text if text else ''}"


@dataclass(frozen=True)
class HisRow:
    """One case.

    `script`: what the HIS does, by connection. `outcomes`: of the calls, one after the other, as `said_of` tells them.
    `pauses_s`: before each call after the first. `heard`: how many requests reached the HIS in all. `connections`: how many it
    was offered, None: whatever they are. `counted`: answers that answered nothing. `acks`: acknowledgements that we sent.
    `mode`: MSH-15 and MSH-16 of the requests. `kept`: the connector keeps a connection beside the calls, as the service has it.
    `believed`: whether HIS and connector come together at all, so that a further call must be answered.
    """

    name: str
    group: str
    script: tuple[tuple[Act, ...], ...]
    outcomes: tuple[str, ...]
    heard: int | None = None
    connections: int | None = None
    counted: Mapping[str, int] = field(default_factory=dict)
    acks: tuple[tuple[str, str], ...] = ()
    pauses_s: float = 0.0
    mode: tuple[str, str] = ("", "")
    options: Mapping[str, object] = field(default_factory=dict)
    kept: bool = False
    believed: bool = True

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f"{self.name}: no group is called {self.group}")

    def __str__(self) -> str:
        return self.name


@dataclass
class Seen:
    """What became of a row."""

    outcomes: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    connections: int = 0
    acks: list[tuple[str, str]] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)
    served: bool = False


def said_of(outcome: Outcome) -> str:
    """An outcome in the words of a row."""
    match outcome:
        case Accepted():
            return DONE
        case Rejected(code="not_sent", retryable=True):
            return NOT_SENT
        case Rejected(code=code, text=text, retryable=again):
            return rejected(code, text, again=again)
        case Unknown(reason=reason):
            return unknown(reason)


class ScriptedHis:
    """Plays the script."""

    def __init__(self, row: HisRow, seen: Seen) -> None:
        self._script = row.script
        self._seen = seen
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, tls: ssl.SSLContext | None) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        number, self._seen.connections = self._seen.connections, self._seen.connections + 1
        try:
            for act in self._script[number] if number < len(self._script) else ():
                await self._act(act, reader, writer)
            while await self._hear(reader):
                writer.write(self._told(answer()))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _act(self, act: Act, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match act:
            case Hear():
                if not await self._hear(reader):
                    raise ConnectionError
            case HearPart(size):
                await reader.readexactly(size)
            case HearAck():
                ack = (await read_frame(reader) or b"").split(b"\rMSA|")[1].split(b"\r")[0].decode().split("|")
                self._seen.acks.append((ack[0], ack[1]))
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Close():
                writer.close()
                raise ConnectionError
            case HalfClose():
                writer.write_eof()
            case Reset():
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                raise ConnectionError
            case bytes():
                writer.write(self._told(act))
                await writer.drain()
                await asyncio.sleep(0.01)  # a segment of its own

    async def _hear(self, reader: asyncio.StreamReader) -> bool:
        payload = await read_frame(reader)
        if payload is not None:
            self._seen.heard.append(payload.split(b"|")[9].decode())
        return payload is not None

    def _told(self, data: bytes) -> bytes:
        last, before = [*["", ""], *self._seen.heard][-1:-3:-1]
        return data.replace(b"@ID@", last.encode()).replace(b"@LAST@", before.encode())


# --- playing -----------------------------------------------------------------------------------------------------------

PROFILE = """name: {name}
version: 1
protocol: hl7v2
extends: hl7v2@1
verbs:
  settle_bill:
    request: [{{MSH-15: {accept}, MSH-16: {application}}}, {{FT1-1: 1, FT1-2: {{from: payment.trade_no}}}}]
"""


async def play(
    row: HisRow,
    folder: Path,
    *,
    his_tls: ssl.SSLContext | None = None,
    options: Mapping[str, object] | None = None,
    before_calls: Callable[[], None] = lambda: None,
) -> Seen:
    """Play one row. `his_tls`: how the HIS listens; `options`: of the connector, which is made before `before_calls`."""
    seen, number = Seen(), next(_numbers)
    hospital = HospitalContext(id=f"his-{number}", zone=ZoneInfo("Asia/Shanghai"))
    his = ScriptedHis(row, seen)
    server = await his.listen(his_tls)
    settings: dict[str, object] = {
        "profile": _profile(row, folder, f"wire_{number}"),
        "host": "127.0.0.1",
        "port": server.sockets[0].getsockname()[1],
        "connections": 1,
        "timeout_s": {"settle_bill": 0.5},
        **row.options,
        **(options or {}),
    }
    connector: HL7v2Connector | None = None
    try:
        connector = create(hospital, "his", Options(protocol="hl7v2", **settings), profiles_dir=folder)  # type: ignore[arg-type]
        before_calls()
        if row.kept:
            await connector.start()
            await asyncio.sleep(row.pauses_s)
        for call in range(len(row.outcomes)):
            if call:
                await asyncio.sleep(row.pauses_s)
            seen.outcomes.append(said_of(await _settle(connector)))
        seen.counted = _strays(hospital.id)
        heard, connections = len(seen.heard), seen.connections
        seen.served = not row.believed or await _is_served(connector)
        seen.heard, seen.connections = seen.heard[:heard], connections
    finally:
        if connector is not None:
            await connector.close()
        server.close()
        await his.close()
        await server.wait_closed()
    return seen


def check(row: HisRow, seen: Seen) -> None:
    """Compare what came with what the row says."""
    assert seen.outcomes == list(row.outcomes)
    assert row.heard is None or len(seen.heard) == row.heard
    assert row.connections is None or seen.connections == row.connections
    assert seen.counted == dict(row.counted)
    assert seen.acks == list(row.acks)
    assert seen.served, "nothing reaches the HIS any more"


def _profile(row: HisRow, folder: Path, name: str) -> str:
    if row.mode == ("", ""):
        return "hl7v2"
    (folder / name).mkdir()
    text = PROFILE.format(name=name, accept=row.mode[0] or '""', application=row.mode[1] or '""')
    (folder / name / "profile.yaml").write_text(text, encoding="utf-8")
    return name


async def _settle(connector: HL7v2Connector) -> Outcome:
    paid_at = dt.datetime(2026, 1, 5, 8, 0, tzinfo=ZoneInfo("Asia/Shanghai"))
    payment = Payment(channel="WECHAT", trade_no="4200000001", amount_fen=100, paid_at=paid_at)
    bill, patient = Bill(id="B1", amount_fen=100, currency="CNY"), Patient(name="ZHANG WEI", mrn="100")
    return await connector.settle_bill(BillPayment(order_no="9" * 20, bill=bill, patient=patient, payment=payment))


async def _is_served(connector: HL7v2Connector) -> bool:
    """Whether a further call is answered, once the script is over and pauses between tries are, too."""
    async with asyncio.timeout(HANG_S):
        while not isinstance(await _settle(connector), Accepted):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.05)
    return True


def _strays(hospital_id: str) -> dict[str, int]:
    found: Counter[str] = Counter()
    for family in REGISTRY.collect():
        for sample in family.samples if family.name == "hisbridge_inbound_messages" else ():
            if sample.labels["hospital"] == hospital_id and sample.value:
                found[sample.labels["result"]] += int(sample.value)
    return dict(found)
