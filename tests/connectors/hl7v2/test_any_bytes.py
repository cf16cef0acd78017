"""Whatever stands in a frame gets the answers that its header asks for, and the next message gets its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.config import HospitalContext
from connectors.hl7v2 import HL7v2Connector, Options, create
from connectors.port import Inbound, Refused, Stored
from loadtest.simulators.mllp import END, ER7, START, read_frame

from .wire.rows import adt, framed

PROBE = "PROBE"
CODES = frozenset({"AA", "AE", "AR", "CA", "CE", "CR"})


class Site:
    """A listener with one connection, on a loop of its own."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        hospital = HospitalContext(id="any-bytes", zone=ZoneInfo("Asia/Shanghai"))
        made = Options(protocol="hl7v2", profile="hl7v2", listen_port=0, sequence="check")
        self.connector: HL7v2Connector = create(hospital, "his", made)
        self.refuse: Refused | None = None
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        await self.connector.serve(self._take)
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.connector.listen_port)

    async def _take(self, inbound: Inbound) -> Stored | Refused:
        return self.refuse if self.refuse is not None and inbound.control_id != PROBE else Stored()

    def tell(self, payload: bytes) -> list[bytes]:
        """The answers to one frame: all that comes before the answer to the message behind it."""
        return self.runner.run(self._tell(payload))

    async def _tell(self, payload: bytes) -> list[bytes]:
        self.writer.write(START + payload + END + framed(adt(PROBE)))
        answers: list[bytes] = []
        async with asyncio.timeout(20):
            while (answer := await read_frame(self.reader)) is not None:
                if ER7(answer.decode("latin-1")).get("MSA", 2) == PROBE:
                    return answers
                answers.append(answer)
        raise AssertionError("the connection has ended")

    def close(self) -> None:
        async def end() -> None:
            self.writer.close()
            await self.writer.wait_closed()
            await self.connector.close()

        self.runner.run(end())
        self.runner.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


def without_frame(data: bytes) -> bytes:
    return data.replace(START, b"").replace(END[:1], b"")


WORDS = st.sampled_from(
    [b"\r", b"\n", b"|", b"^", b"~", b"\\", b"&", b"MSH|^~\\&|", b"\rMSH", b"\rMSA|AA|1", b"BHS|", b"\rBTS|2", b"FHS|^", b"FTS",
     b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\x1b$B", b"GBK", b"UNICODE UTF-16", b"ADT^A08", b"2.5.1", b"AL", b"-1", b'""',
     b"\xd5\xc5\xce\xb0", "张伟".encode(), b"\\X0D\\", b"\\.br\\", b"ED^AP^PDF^Base64^", b"9" * 30, b"PID|1||100^^^H^MR||Z"]
)  # fmt: skip
PIECES = st.lists(st.one_of(WORDS, st.binary(max_size=20)), max_size=25).map(b"".join).map(without_frame)
QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@QUICK
@given(payload=PIECES.filter(bool))
def test_any_bytes_are_answered_or_dropped_and_the_next_message_is_answered(site: Site, payload: bytes) -> None:
    for answer in site.tell(payload):
        assert answer[:3] in (b"MSH", b"BHS", b"FHS")
        code = ER7(answer.decode("latin-1")).get("MSA", 1)
        assert code in CODES or not answer.startswith(b"MSH")


@QUICK
@given(data=st.data())
def test_any_change_of_a_good_message_is_answered_or_dropped(site: Site, data: st.DataObject) -> None:
    message = bytearray(adt("M1", sequence="7", accept="AL", application="AL", charset="GBK").encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(message)))
        until = data.draw(st.integers(at, min(len(message), at + 5)))
        message[at:until] = data.draw(st.one_of(WORDS, st.binary(max_size=3)))
    for answer in site.tell(without_frame(bytes(message)) or b" "):
        assert answer[:3] in (b"MSH", b"BHS", b"FHS")


MODES = [("", ""), ("AL", "AL"), ("AL", "NE"), ("NE", "AL"), ("NE", "NE"), ("ER", "ER"), ("SU", "SU"), ("??", "")]


def due(accept: str, application: str, verdict: str) -> list[str]:
    """Tables 0008 and 0155 once more, in other words: what each condition asks for on success and otherwise."""
    if (accept, application) == ("", ""):
        return [f"A{verdict}"]
    asks = {"AL": "AER", "NE": "", "": "", "ER": "ER", "SU": "A", "??": "AER"}
    codes = [f"C{verdict}"] if verdict in asks[accept] else []
    if verdict in asks[application] and not (codes and verdict != "A"):
        codes.append(f"A{verdict}")
    return codes


@QUICK
@given(mode=st.sampled_from(MODES), body=PIECES, stored=st.booleans())
def test_header_gets_the_answers_that_it_asks_for_whatever_follows_it(
    site: Site, mode: tuple[str, str], body: bytes, stored: bool
) -> None:
    if any(word in body for word in (b"MSH", b"MSA", b"FHS", b"BHS", b"BTS", b"FTS")):
        return  # several messages, or an answer
    accept, application = mode
    header = adt("M1", accept=accept, application=application, body="").encode()
    site.refuse = None if stored else Refused(code="away", text="", retryable=True)
    answers = [ER7(answer.decode("latin-1")) for answer in site.tell(header + body)]
    site.refuse = None
    given_codes = [answer.get("MSA", 1) for answer in answers]
    assert given_codes in [due(accept, application, verdict) for verdict in ("A" if stored else "E", "R")]
    assert all(answer.get("MSA", 2) == "M1" for answer in answers)
