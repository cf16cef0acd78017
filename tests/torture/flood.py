"""A hospital that sends without end: several connections, each with its own patients, that are cut and sent on again.

A connection has several messages on their way at a time. What was not acknowledged when it broke is sent again, in order, and now
and then something that was acknowledged long before. Whatever is sent can be worked out from its number, and so can what must be
known of it at the end.
"""

from __future__ import annotations

import datetime as dt
import random
import re
import socket
import struct
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field

WINDOW = 16
PEOPLE_EACH = 64  # of a connection; more than a window, so that two messages on their way are never of one person
VISITS_EACH = 64
OFTEN_CUT = 0.01  # of the windows
OFTEN_AGAIN = 0.05
PATIENCE_S = 120.0  # only ends a run that would never end
BEGAN_AT = dt.datetime(2026, 1, 5, 8, 0, tzinfo=dt.UTC)

_ACK = re.compile(rb"\rMSA\|(\w\w)\|([^|\r]*)[^\x1c]*\x1c\r")
_HEAD = b"MSH|^~\\&|HIS|H1|HB|X|%b+0000||%b|%b|P|2.5.1||||||UNICODE UTF-8\r"
_WHO = b"PID|1||%b^^^H^MR||\xe5\xbc\xa0^\xe4\xbc\x9f||19900307|F"
_ADT = b"EVN|A08|20260105080000+0000\r" + _WHO + b"|||||%b\rPV1|1|O\r"
_SIU = (
    b"SCH||%b^HIS||||NORMAL^^L|||||^^^20260201090000+0000^20260201093000+0000|||||HIS||||HIS|||||Booked\r"
    + _WHO
    + b"\rRGS|1\rAIS|1||200^\xe5\x86\x85\xe7\xa7\x91\rAIP|1||D1^\xe7\x8e\x8b^\xe5\xb0\x8f\xe6\x98\x8e\r"
)
_ORU = (
    _WHO
    + b"\rOBR|1||%b|CBC^\xe8\xa1\x80\xe5\xb8\xb8\xe8\xa7\x84^L|||20260105070000+0000|||||||||||||||20260105075500+0000||LAB|F\r"
    + b"".join(
        b"OBX|%d|NM|WBC%d^\xe7\x99\xbd\xe7\xbb\x86\xe8\x83\x9e^L||11.2|10*9/L|3.5-9.5|H|||F\r" % (n, n)
        for n in (1, 2, 3)
    )
)
_SIU_LIFE = (b"SIU^S12^SIU_S12", b"SIU^S13^SIU_S12", b"SIU^S14^SIU_S12", b"SIU^S15^SIU_S12")


@dataclass(frozen=True)
class Message:
    """One message: MSH-10 and the text without its envelope."""

    control_id: bytes
    text: bytes


@dataclass
class Known:
    """What must be known at the end: the phone of each patient, whether each visit is cancelled, and the reports."""

    phones: dict[str, str] = field(default_factory=dict)
    cancelled: dict[str, bool] = field(default_factory=dict)
    reports: Counter[str] = field(default_factory=Counter)


def nth_message(line: int, n: int, known: Known) -> Message:
    """The n-th message of a connection: of ten, five ADT, three SIU and two ORU. Notes in `known` what it says."""
    control_id = f"L{line}M{n}".encode()
    sent_at = (BEGAN_AT + dt.timedelta(seconds=n)).strftime("%Y%m%d%H%M%S").encode()
    tens, rest = divmod(n, 10)
    if rest < 5:
        time_no, person = divmod(tens * 5 + rest, PEOPLE_EACH)
        mrn, phone = f"{line}-{person}", f"1{time_no:010d}"
        known.phones[mrn] = phone
        kind, body = b"ADT^A08^ADT_A01", _ADT % (mrn.encode(), phone.encode())
    elif rest < 8:
        time_no, place = divmod(tens * 3 + rest - 5, VISITS_EACH)
        times, step = divmod(time_no, len(_SIU_LIFE))
        mrn, visit = f"{line}-{place}", f"V{line}-{place}-{times}"
        known.cancelled[visit] = step == 3
        kind, body = _SIU_LIFE[step], _SIU % (visit.encode(), mrn.encode())
    else:
        mrn, report = f"{line}-{n % PEOPLE_EACH}", f"R{line}-{n}"
        known.reports[report] += 1
        kind, body = b"ORU^R01^ORU_R01", _ORU % (mrn.encode(), report.encode())
    return Message(control_id, _HEAD % (sent_at, kind, control_id) + body)


class Flood:
    """One connection of the hospital. `run` sends its messages from `begin` to `end`; call it in a thread."""

    def __init__(self, port: int, line: int, seed: int) -> None:
        self.port = port
        self.line = line
        self.known = Known()
        self.acknowledged = 0
        self.again = 0
        self.cuts = 0
        self.answers: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self._whims = random.Random(f"{seed} {line}")
        self._socket: socket.socket | None = None
        self._rest = b""
        self._sent: deque[Message] = deque(maxlen=20 * WINDOW)

    def start(self, begin: int, end: int, stop: threading.Event) -> threading.Thread:
        """Send in a thread of its own, until the end or `stop`."""

        def run() -> None:
            try:
                self._run(begin, end, stop)
            except BaseException as error:
                self.failure = error
                stop.set()

        thread = threading.Thread(target=run, name=f"line {self.line}", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _run(self, begin: int, end: int, stop: threading.Event) -> None:
        for first in range(begin, end, WINDOW):
            if stop.is_set():
                return
            window = [nth_message(self.line, n, self.known) for n in range(first, min(first + WINDOW, end))]
            self._deliver(window)
            self.acknowledged += len(window)
            self._sent.extend(window)
            if self._whims.random() < OFTEN_AGAIN:
                self._deliver([self._whims.choice(self._sent)])
                self.again += 1

    def _deliver(self, window: list[Message]) -> None:
        """Send until every one is acknowledged."""
        ends = time.monotonic() + PATIENCE_S
        waiting = window
        while waiting:
            assert time.monotonic() < ends, f"line {self.line}: {waiting[0].control_id!r} is not taken"
            cut_after = self._whims.randrange(len(waiting) + 1) if self._whims.random() < OFTEN_CUT else None
            answers = self._send(waiting, cut_after)
            waiting = [message for message in waiting if answers.get(message.control_id) != b"AA"]

    def _send(self, waiting: list[Message], cut_after: int | None) -> dict[bytes, bytes]:
        """Send these and read their answers, in order; fewer answers where the connection broke, or is cut by ourselves."""
        answers: dict[bytes, bytes] = {}
        try:
            self._connect()
            assert self._socket is not None
            self._socket.sendall(b"".join(b"\x0b%b\x1c\r" % message.text for message in waiting))
            for message in waiting[:cut_after]:
                code, named = self._answer()
                assert named == message.control_id, f"{named!r} answered, {message.control_id!r} sent"
                answers[named] = code
                self.answers[code.decode()] += 1
        except OSError:
            self._cut()
        if cut_after is not None:
            self._cut()
        return answers

    def _answer(self) -> tuple[bytes, bytes]:
        """MSA-1 and MSA-2 of the next acknowledgement. Raises OSError when none comes any more."""
        assert self._socket is not None
        while (found := _ACK.search(self._rest)) is None:
            data = self._socket.recv(65_536)
            if not data:
                raise ConnectionError("closed")
            self._rest += data
        self._rest = self._rest[found.end() :]
        return found[1], found[2]

    def _connect(self) -> None:
        ends = time.monotonic() + PATIENCE_S
        while self._socket is None:
            try:
                self._socket = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
            except OSError:
                assert time.monotonic() < ends, "nobody listens"
                time.sleep(0.05)

    def _cut(self) -> None:
        """End the connection like a cable that is pulled: what is on its way is lost, on both sides."""
        if self._socket is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.cuts += 1
        self.close()
        self._rest = b""
