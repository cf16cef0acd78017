"""The HIS's side of the inbound rows: connections that send, wait for the acknowledgement, and send the next message."""

from __future__ import annotations

import asyncio
import selectors
import socket
import time
from collections import Counter
from dataclasses import dataclass, field

from loadtest.bench.messages import Template
from loadtest.bench.stats import percentile
from loadtest.simulators.mllp import END, ER7, START

ACK_WITHIN_S = 10.0
_READ_BYTES = 65_536


@dataclass(frozen=True)
class Acknowledged:
    """What a run of messages gave: accepted ones, how long each took, and what was wrong with others."""

    messages: int
    seconds: float
    p50_ms: float
    p99_ms: float
    problems: tuple[str, ...]


@dataclass
class _Line:
    """One connection with one message in flight."""

    socket: socket.socket
    number: int = -1
    sent_s: float = 0.0
    received: bytes = b""


@dataclass
class _Run:
    port: int
    template: Template
    ends_s: float
    reconnect: bool
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    next_number: int = 0
    took_ms: list[float] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)
    last_s: float = 0.0

    def open(self) -> None:
        """One more connection, which sends at once."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=ACK_WITHIN_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = _Line(connection)
        self.selector.register(connection, selectors.EVENT_READ, line)
        self._send(line)

    def _send(self, line: _Line) -> None:
        line.number, self.next_number = self.next_number, self.next_number + 1
        line.received = b""
        framed = START + self.template.message(line.number) + END
        line.sent_s = time.perf_counter()
        line.socket.sendall(framed)

    def close(self, line: _Line) -> None:
        self.selector.unregister(line.socket)
        line.socket.close()

    def hear(self, line: _Line) -> None:
        """Read what has come; after a whole acknowledgement send the next message, while there is time."""
        try:
            data = line.socket.recv(_READ_BYTES)
        except OSError:
            data = b""
        now_s = time.perf_counter()
        if not data:
            self.problems["the connection was closed"] += 1
            self.close(line)
            return
        line.received += data
        if not line.received.endswith(END):
            return
        self._judge(line, now_s)
        self.last_s = now_s
        if now_s >= self.ends_s:
            self.close(line)
        elif self.reconnect:
            self.close(line)
            self.open()
        else:
            self._send(line)

    def _judge(self, line: _Line, now_s: float) -> None:
        """Every acknowledgement must be of its message, and positive."""
        received, control_id = line.received, self.template.control_id(line.number)
        if b"\rMSA|AA|" + control_id in received and received.startswith(START) and received.count(END) == 1:
            self.took_ms.append((now_s - line.sent_s) * 1000)
            return
        ack = ER7(received.strip(START + END).decode(errors="replace"))
        is_foreign = ack.get("MSA", 2).encode() != control_id
        code = "of another message" if is_foreign else f"{ack.get('MSA', 1)} {ack.get('ERR', 8)}"
        self.problems[f"acknowledged {code}".strip()] += 1


async def announce(
    port: int, template: Template, *, seconds: float, connections: int = 1, reconnect: bool = False
) -> Acknowledged:
    """Send for so long, each connection stop and wait; with `reconnect` each message over a connection of its own."""
    return await asyncio.to_thread(_announce, port, template, seconds, connections, reconnect)


def _announce(port: int, template: Template, seconds: float, connections: int, reconnect: bool) -> Acknowledged:
    """On plain sockets in one thread: a sender that takes long over its own work would be measured with it."""
    began_s = time.perf_counter()
    run = _Run(port, template, began_s + seconds, reconnect)
    for _ in range(connections):
        run.open()
    while lines := run.selector.get_map():
        ready = run.selector.select(ACK_WITHIN_S)
        if not ready:
            run.problems["not acknowledged"] += len(lines)
            for key in list(lines.values()):
                run.close(key.data)
        for key, _ in ready:
            run.hear(key.data)
    run.selector.close()
    return Acknowledged(
        messages=len(run.took_ms),
        seconds=max(run.last_s, run.ends_s) - began_s,
        p50_ms=percentile(run.took_ms, 0.5) if run.took_ms else 0.0,
        p99_ms=percentile(run.took_ms, 0.99) if run.took_ms else 0.0,
        problems=tuple(f"{count} messages: {what}" for what, count in run.problems.items()),
    )
