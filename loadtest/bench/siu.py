"""A HIS that announces appointments by SIU^S12 over MLLP: one connection, the next message after the last acknowledgement."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import time
from dataclasses import dataclass

from loadtest.bench.stats import percentile
from loadtest.simulators.mllp import END, ER7, START, escape, header, segment

ACK_WITHIN_S = 10.0


@dataclass(frozen=True)
class Acknowledged:
    """What a run of messages gave: accepted ones, how long each took, and what was wrong with others."""

    messages: int
    seconds: float
    p50_ms: float
    p99_ms: float
    problems: tuple[str, ...]


def appointment(number: int, now: dt.datetime, run: str) -> str:
    """An appointment that was made at the hospital's own window, with the segments that hospitals send.

    `run` and `number` make message and appointment different from all others.
    """
    control_id, visit = f"{run}{number:07d}", f"W{run}{number:07d}"
    starts = (now + dt.timedelta(days=2)).replace(hour=8, minute=0, second=0, microsecond=0)
    stamps = f"{starts:%Y%m%d%H%M%S%z}", f"{starts + dt.timedelta(minutes=15):%Y%m%d%H%M%S%z}"
    name = escape(f"患者{number % 60_000}")
    parts = [
        header("SIU^S12^SIU_S12", control_id, now, "UNICODE UTF-8"),
        segment("SCH", f2=visit, f5="7||1^^L^7^^L", f6="ROUTINE", f7="NORMAL^初诊^HL70276", f9="15", f10="min",
                f16="OP^王^护士", f20="OP^王^护士", f25="Booked"),
        segment("TQ1", f1="1", f7=stamps[0], f8=stamps[1]),
        segment("PID", f1="1", f3=f"M{number % 60_000:08d}^^^SIM^MR~1101011990{number % 60_000:07d}X^^^CHN^PPN", f5=name,
                f7="19900101", f8="F", f11="中山路1号^^广州^广东^510000^CHN", f13=f"139{number % 60_000:08d}"),
        segment("PV1", f1="1", f2="O", f3="D002^^^SIM", f7="P0006^李明", f19=f"E{visit}"),
        segment("RGS", f1="1", f2="A"),
        segment("AIS", f1="1", f2="A", f3="GEN^普通门诊^L", f4=stamps[0], f7="15", f8="min"),
        segment("AIL", f1="1", f2="A", f3="D002^^^SIM^^^^^内科二诊室", f4="C^Clinic^HL70305"),
        segment("AIP", f1="1", f2="A", f3="P0006^李明", f4="DOC^医师^L"),
    ]  # fmt: skip
    return "\r".join([*parts, ""])


async def announce(port: int, *, seconds: float, run: str) -> Acknowledged:
    """Send for so long, stop and wait. Every acknowledgement must be of its message, and positive."""
    return await asyncio.to_thread(_announce, port, seconds, run)


def _announce(port: int, seconds: float, run: str) -> Acknowledged:
    """On a plain blocking socket, and the next message is made while the acknowledgement is waited for.

    A sender that takes long over its own work would be measured with it.
    """
    zone = dt.timezone(dt.timedelta(hours=8))
    took_ms: list[float] = []
    problems: dict[str, int] = {}
    number, began_s = 0, time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=ACK_WITHIN_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        message = _framed(0, zone, run)
        while (sent_s := time.perf_counter()) - began_s < seconds:
            connection.sendall(message)
            message = _framed(number + 1, zone, run)
            payload = _read_frame(connection)
            took_s = time.perf_counter() - sent_s
            if payload is None:
                problems["the connection was closed"] = 1
                break
            ack = ER7(payload.decode())
            if (ack.get("MSA", 1), ack.get("MSA", 2)) == ("AA", f"{run}{number:07d}"):
                took_ms.append(took_s * 1000)
            else:
                what = f"acknowledged {ack.get('MSA', 1)} {ack.get('ERR', 8)}".strip()
                problems[what] = problems.get(what, 0) + 1
            number += 1
    return Acknowledged(
        messages=len(took_ms),
        seconds=time.perf_counter() - began_s,
        p50_ms=percentile(took_ms, 0.5) if took_ms else 0.0,
        p99_ms=percentile(took_ms, 0.99) if took_ms else 0.0,
        problems=tuple(f"{count} messages: {what}" for what, count in problems.items()),
    )


def _framed(number: int, zone: dt.tzinfo, run: str) -> bytes:
    return START + appointment(number, dt.datetime.now(zone), run).encode() + END


def _read_frame(connection: socket.socket) -> bytes | None:
    """One framed message; None when the peer has closed. Raises ValueError for bytes that are none."""
    data = b""
    while not data.endswith(END):
        piece = connection.recv(65_536)
        if not piece:
            return None
        data += piece
    if not data.startswith(START) or data.count(END) != 1:
        raise ValueError("not one framed message")
    return data[len(START) : -len(END)]
