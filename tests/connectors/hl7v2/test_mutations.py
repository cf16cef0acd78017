"""Real messages, broken in every way that hypothesis finds, over a real socket.

Each gets the answers that its header asks for, the connection goes on, the event loop is not held, and nothing stays behind.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from connectors.hl7v2 import HL7v2Connector, Options, create
from connectors.port import Inbound, InboundAnswer, Refused, Stored
from loadtest.simulators.mllp import END, START, read_frame

from .conftest import HOSPITAL
from .loop_turns import turns_are_short
from .mutants import CHANGES, Steps, changed, changed_body, changes, has_other_header, head_of

CORPUS = Path(__file__).parents[4] / "shared" / "corpus" / "hl7v2"
OWN = (
    b"MSH|^~\\&|HIS|H1|HB|X|20260105080000||ADT^A08|M1|P|2.5.1||||||UNICODE UTF-8\rEVN|A08\r"
    b"PID|1||100^^^H^MR||\xe5\xbc\xa0^\xe4\xbc\x9f\r",
    b"MSH|^~\\&|HIS|H1|HB|X|20260105080000||ADT^A40|M2|P|2.3|||AL|AL||GBK\rPID|1||100^^^H^MR||\xd5\xc5^\xce\xb0\rMRG|900^^^H^MR\r",
    b"MSH|^~\\&|LIS|H1|HB|X|20260105080000||ORU^R01|M3|P|2.4|||ER|AL\rPID|1||100^^^H^MR\rOBR|1||F1|CBC^X|||||||||||||||||||||F\r"
    + b"".join(b"OBX|%d|NM|W%d^Y||11.2~12|g/L|3-9|H|||F\rNTE|1||a\\.br\\b\\X41\\\r" % (n, n) for n in range(24)),
)
PROBE = b"MSH|^~\\&|HIS|H1|HB|X|20260105080000||ADT^A08|%b|P|2.5.1\rPID|1||100^^^H^MR||Z^W\r"
ANSWER = re.compile(rb"MSH\|\^~\\&\|[^\r]*\rMSA\|(AA|AE|AR|CA|CE|CR)\|([^|\r]*)")
quick = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


TEXTS = dict(enumerate([*OWN, *(path.read_bytes().strip() for path in sorted(CORPUS.glob("*.hl7")))]))
"""Our own, and those of the corpus where it is there."""


class Site:
    """A listener, and one connection to it that lives as long as the tests."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.taken: list[Inbound] = []
        self.unwanted = "UNWANTED"
        self.failures: list[dict[str, object]] = []
        self._numbers = itertools.count(1)
        self.runner.run(self._open())

    async def _open(self) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.failures.append(context))
        options = Options(
            protocol="hl7v2",
            profile="hl7v2",
            listen_port=0,
            accept_processing_ids=["P", "T"],
            max_message_bytes=100_000,
        )
        self.connector: HL7v2Connector = create(HOSPITAL, "hl7", options)
        await self.connector.serve(self._take)
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.connector.listen_port)

    async def _take(self, inbound: Inbound) -> InboundAnswer:
        await asyncio.sleep(0)  # as long as any store takes
        if inbound.control_id == self.unwanted:
            return Refused(code="busy", text="", retryable=True)
        self.taken.append(inbound)
        return Stored()

    def play(self, text: bytes) -> list[tuple[str, bytes]]:
        """Send a message and a good one after it; MSA-1 and MSA-2 of every answer to the first."""
        self.taken.clear()
        with turns_are_short():
            answers = self.runner.run(self._play(text))
        assert self.failures == []
        return answers

    async def _play(self, text: bytes) -> list[tuple[str, bytes]]:
        probe = b"PROBE%d" % next(self._numbers)
        self.writer.write(START + text + END + START + PROBE % probe + END)
        answers: list[tuple[str, bytes]] = []
        while True:
            payload = await read_frame(self.reader)
            assert payload is not None, "the connection was closed"
            found = ANSWER.findall(payload)
            assert found, payload
            if found[0] == (b"AE", probe):  # put off with what was before it
                self.writer.write(START + PROBE % probe + END)
                continue
            if found[0] == (b"AA", probe):
                assert self.taken.pop().control_id == probe.decode()
                return answers
            answers += [(code.decode(), named) for code, named in found]

    def close(self) -> None:
        self.writer.close()
        self.runner.run(self.connector.close())
        self.runner.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


def due(text: bytes, *, accepted: bool) -> list[str]:
    """MSA-1 of what the header asks for, by v2.5.1 ch. 2.9.3 and table 0155; R stands for a refusal of either kind."""
    fields = head_of(text).strip().removeprefix(b"\xef\xbb\xbf").split(b"|")
    accept, application = (*fields, *[b""] * 20)[14:16]
    verdict = "A" if accepted else "R"
    if not accept and not application:
        return [f"A{verdict}"]
    wanted = (b"AL", b"SU" if accepted else b"ER")
    codes = [f"C{verdict}"] if accept in wanted else []
    if application in wanted and (accepted or not codes):
        codes.append(f"A{verdict}")
    return codes


@quick
@given(number=st.sampled_from(sorted(TEXTS)), steps=changes)
def test_answers_are_those_that_the_header_asks_for_when_the_body_is_broken(
    site: Site, number: int, steps: Steps
) -> None:
    text = changed_body(TEXTS[number], steps)
    assume(not has_other_header(text))
    answers = site.play(text)
    accepted = len(site.taken) == 1
    assert len(site.taken) <= 1
    control_id = text.split(b"|")[9]
    assert [code.replace("E", "R") for code, _ in answers] == due(text, accepted=accepted)
    assert [named for _, named in answers] == [control_id] * len(answers)
    if accepted:
        assert site.taken[0].raw == text


@quick
@given(number=st.sampled_from(sorted(TEXTS)), steps=changes)
def test_listener_goes_on_when_anything_is_broken(site: Site, number: int, steps: Steps) -> None:
    answers = site.play(changed(TEXTS[number], steps))
    positive = [code for code, _ in answers if code[1] == "A"]
    # Nothing is acknowledged that was not handed on.
    assert len({(code[0], n) for n, code in enumerate(positive)}) <= 2 * max(1, len(site.taken))
    if not site.taken:
        assert positive == []


def test_nothing_stays_behind_when_many_messages_were_broken(site: Site) -> None:
    whims = random.Random(7)
    broken = []
    for _ in range(150):
        steps = [
            (whims.choice(CHANGES), whims.randrange(2**20), whims.randrange(2**20)) for _ in range(whims.randint(1, 3))
        ]
        broken.append(changed(whims.choice(TEXTS), steps))

    def objects() -> int:
        for text in broken:
            site.play(text)
        site.taken.clear()
        gc.collect()
        return len(gc.get_objects())

    objects()  # caches fill
    first = objects()
    assert objects() - first < 100  # less than one for each message


@pytest.mark.parametrize(
    "text",
    [
        OWN[0].replace(b"100^^^H^MR", b"100^^^H^MR" + b"~1" * 7500),
        OWN[0].replace(b"|^~\\&|", b"|^!\\&|").replace(b"100^^^H^MR", b"100^^^H^MR" + b"!1" * 7500),
        OWN[0].replace(b"100^^^H^MR", b"100^^^H^MR||" + b"\\" * 15_000),
        b"\r".join(OWN[2].split(b"\r")[:3]) + b"\rOBX|" * 3000,
        b"\r".join(OWN[1].split(b"\r")[:1]) + b"\rPID|1||1\rMRG|2" * 1000,
        b"MSH|\r" * 3000,
        b"MSH|#~\\&|" + b"#" * 15_000 + b"|\r",
    ],
    ids=["repetitions", "other repetitions", "escapes", "segments", "groups", "messages", "components"],
)
def test_event_loop_is_not_held_when_a_message_is_dense(site: Site, text: bytes) -> None:
    """All of them are shorter than what is read off the loop for its length alone."""
    assert len(text) <= 16_384
    assert site.play(text)


def test_event_loop_is_not_held_when_one_read_brings_many_frames(site: Site) -> None:
    assert len(site.play((END + START).join([b"MSH|"] * 3000))) == 3000


def test_event_loop_is_not_held_when_all_that_is_behind_a_message_is_put_off(site: Site) -> None:
    answers = site.play(PROBE % site.unwanted.encode() + b"MSH|\r" * 3000)
    assert [code for code, _ in answers] == ["AE"] * 3001
