"""A row of the wire suite: what a peer does on the wire, and what must come back.

Every table of this folder is a tuple of rows; `runner.play` plays one over a real socket against the real connector, and
`runner.check` compares. What a row does not name is as a well-behaved peer finds it: no option set, everything stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from connectors.port import InboundAnswer, Refused, Stored
from loadtest.simulators.mllp import END, START

GROUPS = ("framing", "charset", "acknowledgement", "order", "limits", "TLS", "reconnect", "idle", "hostile")

STORED = Stored()
AGAIN = Refused(code="store_down", text="", retryable=True)
NEVER = Refused(code="bad", text="", retryable=False)


# --- what the peer does: bytes are sent as they are, each with a write of its own ------------------------------------------


@dataclass(frozen=True)
class Pause:
    """Send nothing for `seconds`."""

    seconds: float


@dataclass(frozen=True)
class Await:
    """Wait until `answers` have come back in all; fails when the connection ends before."""

    answers: int


@dataclass(frozen=True)
class HalfClose:
    """FIN: nothing more is sent, answers are still read."""


@dataclass(frozen=True)
class Close:
    """Close the connection, whatever was not read."""


@dataclass(frozen=True)
class Reset:
    """RST: the connection is torn down."""


@dataclass(frozen=True)
class Anew:
    """Close the connection and open another one. Answers of both count."""


Step = bytes | Pause | Await | HalfClose | Close | Reset | Anew


# --- what must come back -----------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """One acknowledgement: MSA-1, MSA-2 (None: whatever it is), ERR-3.1 and ERR-2 (None: there is none), and other fields.

    `fields` are `(segment, field, component, value)`.
    """

    code: str
    named: str | None
    error: str | None = None
    location: str | None = None
    fields: tuple[tuple[str, int, int, str], ...] = ()


@dataclass(frozen=True)
class Row:
    """One case.

    `steps`: what the peer does. `answers`: what comes back, in this order and nothing else.
    `lives`: True: afterwards a plain message is answered on the same connection; False: the listener closes it, or the peer
    has. Either way another connection must be served afterwards.
    `handled`: the control ids (MSH-10) that the handler was given, in this order.
    `counted`: the counters that moved, `<name>/<last label>`, by how much: {"inbound_messages/refused": 1}.
    `results`: what the handler answers, by control id, in turn (the last one stays); others are stored.
    `options`: of the connector. `codec`: how the answers are read. `source`: the address that the peer comes from.
    """

    name: str
    group: str
    steps: tuple[Step, ...]
    answers: tuple[Answer, ...] = ()
    lives: bool = True
    handled: tuple[str, ...] = ()
    counted: Mapping[str, int] = field(default_factory=dict)
    results: Mapping[str, tuple[InboundAnswer | Exception, ...]] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    codec: str = "utf-8"
    source: str = "127.0.0.1"

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f"{self.name}: no group is called {self.group}")

    def __str__(self) -> str:
        return self.name


# --- messages ------------------------------------------------------------------------------------------------------------

PID = "PID|1||100^^^H^MR||Zhang^Wei\r"


def adt(
    control_id: str = "M1",
    *,
    kind: str = "ADT^A08",
    mode: str = "P",
    sequence: str = "",
    accept: str = "",
    application: str = "",
    charset: str = "",
    body: str = PID,
) -> str:
    """A plain message: MSH-13 `sequence`, MSH-15 `accept`, MSH-16 `application`, MSH-18 `charset`."""
    top = f"MSH|^~\\&|HIS|H1|HB|X|20260105080000||{kind}|{control_id}|{mode}|2.5.1"
    return f"{top}|{sequence}||{accept}|{application}||{charset}\r{body}"


def framed(message: str | bytes, *, start: bytes = START, end: bytes = END) -> bytes:
    """In its envelope. A text goes out as UTF-8."""
    return start + (message.encode() if isinstance(message, str) else message) + end


def sent(*control_ids: str) -> bytes:
    """Plain messages, one behind the other."""
    return b"".join(framed(adt(control_id)) for control_id in control_ids)


def accepted(*control_ids: str) -> tuple[Answer, ...]:
    """AA for each."""
    return tuple(Answer("AA", control_id) for control_id in control_ids)
