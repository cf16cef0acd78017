"""Plays a row of the wire suite: bytes of a peer over a real socket, the connector as it is served, a handler that notes."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from zoneinfo import ZoneInfo

from connectors.config import HospitalContext
from connectors.hl7v2 import HL7v2Connector, Options, create
from connectors.port import Inbound, InboundAnswer
from loadtest.simulators.mllp import END, ER7, START
from monitoring.metrics import REGISTRY

from .rows import STORED, Anew, Answer, Await, Close, HalfClose, Pause, Reset, Row, Step, adt, framed

HANG_S = 20.0  # nothing that a row waits for takes so long: it hangs
ANSWERED_S = 10.0
PROBE = "PROBE"
COUNTERS = (
    "mllp_connections_ended",
    "mllp_connections_refused",
    "mllp_handshakes_failed",
    "mllp_throttled",
    "inbound_messages",
    "decode_fallbacks",
    "inbound_oddities",
)
"""Whose movements a row must name, every one of them."""

_numbers = itertools.count(1)


@dataclass
class Seen:
    """What became of a row."""

    answers: list[Answer] = field(default_factory=list)
    lives: bool = False
    handled: list[str] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)
    served: bool = False


class Handler:
    """Notes what it is given; answers as the row says."""

    def __init__(self, row: Row) -> None:
        self.taken: list[str] = []
        self._results = {name: list(results) for name, results in row.results.items()}

    async def __call__(self, inbound: Inbound) -> InboundAnswer:
        self.taken.append(inbound.control_id)
        results: list[InboundAnswer | Exception] = self._results.get(inbound.control_id, [STORED])
        result = results.pop(0) if len(results) > 1 else results[0]
        if isinstance(result, Exception):
            raise result
        return result


class Peer:
    """The other end of one connection, and of those that follow it."""

    def __init__(self, port: int, row: Row, tls: ssl.SSLContext | None) -> None:
        self._port = port
        self._row = row
        self._tls = tls
        self.answers: list[ER7] = []
        self.over = False
        self._reading: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def connect(self) -> None:
        name = None if self._tls is None else "localhost"
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self._port, local_addr=(self._row.source, 0), ssl=self._tls, server_hostname=name
        )
        self.over = False
        self._reading = asyncio.create_task(self._read(self._reader))

    async def play(self, steps: Sequence[Step]) -> None:
        """Raises ConnectionError when the listener has closed while the peer still sends."""
        for step in steps:
            match step:
                case bytes():
                    self._writer.write(step)
                    await self._writer.drain()
                    await asyncio.sleep(0)  # a write of its own: not joined with the next
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                case Await(answers):
                    await self._until(partial(self._has, answers))
                case HalfClose():
                    self._writer.write_eof()
                case Close():
                    await self.close()
                case Reset():
                    await self._reset()
                case Anew():
                    await self.close()
                    await self.connect()

    async def close(self) -> None:
        if self._reading is None:
            return  # it could not connect
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)
        if self._reading is not None:
            await self._reading

    async def probe(self) -> bool:
        """Whether a plain message is answered on this connection. Its answer is taken out of `answers`."""
        if self._writer.is_closing():
            return False
        try:
            self._writer.write(framed(adt(PROBE)))
            await self._writer.drain()
        except OSError:
            return False
        await self._until(lambda: self._probed() is not None, or_over=True)
        answer = self._probed()
        if answer is None:
            return False
        self.answers.remove(answer)
        return True

    async def wait_for(self, answers: int) -> None:
        """As a peer that sends nothing before it has its answers. One that gets fewer goes on all the same."""
        try:
            async with asyncio.timeout(ANSWERED_S):
                await self._until(partial(self._has, answers), or_over=True)
        except TimeoutError:
            pass  # the comparison tells

    async def ended(self) -> bool:
        """Whether the listener closes the connection."""
        await self._until(lambda: self.over)
        return True

    def _has(self, answers: int) -> bool:
        return len(self.answers) >= answers

    def _probed(self) -> ER7 | None:
        return next((answer for answer in self.answers if answer.get("MSA", 2) == PROBE), None)

    async def _reset(self) -> None:
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)
        if self._reading is not None:
            await self._reading

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while opening := await reader.read(1):
                assert opening == START, "something came outside a frame"
                payload = (await reader.readuntil(END))[: -len(END)]
                self.answers.append(ER7(payload.decode(self._row.codec)))
                self._news.set()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.over = True
            self._news.set()

    async def _until(self, done: Callable[[], bool], *, or_over: bool = False) -> None:
        async with asyncio.timeout(HANG_S):
            while not done() and not (or_over and self.over):
                self._news.clear()
                await self._news.wait()


async def play(
    row: Row,
    *,
    server_tls: dict[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    served_tls: ssl.SSLContext | None = None,
) -> Seen:
    """Play one row against a connector of its own.

    `server_tls`: further options; `tls`: how the peer connects; `served_tls`: how the other one does afterwards, if not alike.
    """
    hospital = HospitalContext(id=f"wire-{next(_numbers)}", zone=ZoneInfo("Asia/Shanghai"))
    settings = {"profile": "hl7v2", "listen_port": 0, **row.options, **(server_tls or {})}
    connector = create(hospital, "his", Options(protocol="hl7v2", **settings))  # type: ignore[arg-type]
    handler, seen = Handler(row), Seen()
    await connector.serve(handler)
    try:
        peer = Peer(connector.listen_port, row, tls)
        await _converse(peer, row, seen)
        seen.served = await _is_served(connector, row, tls if served_tls is None else served_tls)
    finally:
        await connector.close()
    seen.handled = [name for name in handler.taken if name != PROBE]
    seen.counted = _moved(hospital.id, connector.name)
    return seen


def check(row: Row, seen: Seen) -> None:
    """Compare what came with what the row says."""
    assert seen.answers == list(row.answers)
    assert seen.lives == row.lives
    assert seen.handled == list(row.handled)
    assert seen.counted == dict(row.counted)
    assert seen.served, "nobody else is served any more"


async def _converse(peer: Peer, row: Row, seen: Seen) -> None:
    try:
        await peer.connect()
        await peer.play(row.steps)
        await peer.wait_for(len(row.answers))
        await asyncio.sleep(0.05)  # what follows a message that was put off without a pause is put off too
        seen.lives = await peer.probe() if row.lives else not await peer.ended()
    except TimeoutError:
        raise  # an OSError too: what was waited for does not come
    except OSError:  # so is ssl.SSLError
        seen.lives = False
    finally:
        await peer.close()
    seen.answers = [
        _as_expected(answer, row.answers[n] if n < len(row.answers) else None) for n, answer in enumerate(peer.answers)
    ]


def _as_expected(answer: ER7, expected: Answer | None) -> Answer:
    """What came, in the terms of what is expected at this place."""
    named: str | None = answer.get("MSA", 2)
    fields: tuple[tuple[str, int, int, str], ...] = ()
    if expected is not None:
        named = None if expected.named is None else named
        fields = tuple((name, n, part, answer.get(name, n, part)) for name, n, part, _ in expected.fields)
    location = "^".join(answer.get("ERR", 2, part) for part in range(1, 7)).rstrip("^")
    return Answer(answer.get("MSA", 1), named, answer.get("ERR", 3) or None, location or None, fields)


def _moved(hospital_id: str, connector: str) -> dict[str, int]:
    """The counters of this connector that are not 0, over all types of messages; the probe's own leave none.

    Connections that the peer has closed, or that were closed with the connector, are as many as there were.
    """
    moved: Counter[str] = Counter()
    for family in REGISTRY.collect():
        name = family.name.removeprefix("hisbridge_")
        if name not in COUNTERS:
            continue
        for sample in family.samples:
            labels = dict(sample.labels)
            if (labels.pop("hospital"), labels.pop("connector")) == (hospital_id, connector) and sample.value:
                labels.pop("type", None)
                moved["/".join((name, *labels.values()))] += int(sample.value)
    for as_expected in ("peer", "stopping"):
        del moved[f"mllp_connections_ended/{as_expected}"]
    return dict(moved)


async def _is_served(connector: HL7v2Connector, row: Row, tls: ssl.SSLContext | None) -> bool:
    """Whether another peer, of this very host, is answered."""
    other = Peer(connector.listen_port, Row(f"after {row.name}", row.group, ()), tls)
    await other.connect()
    try:
        return await other.probe()
    finally:
        await other.close()
