"""Messages held against the standard's tables: what is found, where, and what becomes of the message."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import structlog

from connectors.hl7v2 import HL7v2Connector, elsewhere
from connectors.hl7v2.conformance import MOST_FINDINGS, find_faults
from connectors.hl7v2.er7 import parse
from connectors.hl7v2.validation import MOST_WAITING_BYTES, Validator
from connectors.port import Inbound, Stored
from loadtest.simulators.mllp import END, ER7, START, read_frame
from monitoring.metrics import REGISTRY

from .conftest import MakeConnector

MSH = "MSH|^~\\&|HIS|H1|HB|X|20260105080000||ADT^A08^ADT_A01|M1|P|2.5.1\r"
EVN = "EVN|A08|20260105080000\r"
PID = "PID|1||100^^^H^MR||Zhang^Wei\r"
PV1 = "PV1|1|O\r"
GOOD = MSH + EVN + PID + PV1


def found(text: str) -> list[str] | None:
    findings = find_faults(parse(text))
    return None if findings is None else [str(one) for one in findings]


# What is required, and of what kind: HL7 v2.5.1 ch. 3.3.8 (ADT^A08), 3.4.1 (EVN), 3.4.2 (PID), 3.4.3 (PV1), 2A (data types).
@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (GOOD, []),
        (GOOD + "ZPV|anything|1\r", []),
        (MSH + EVN + PID, ["100 PV1"]),
        (MSH + PID + PV1, ["100 EVN"]),
        (GOOD + "SCH|1\r", ["100 SCH^1", "101 SCH^1^6", "101 SCH^1^16", "101 SCH^1^20"]),
        (MSH + EVN + PID.replace("100^^^H^MR", "") + PV1, ["101 PID^1^3"]),
        (MSH + EVN.replace("20260105080000", "") + PID + PV1, ["101 EVN^1^2"]),
        (MSH + EVN + PID + "PV1|1|\r", ["101 PV1^1^2"]),
        (MSH + EVN + PID.replace("Wei", "Wei||20260230") + PV1, []),  # its form is that of a date
        (MSH + EVN + PID.replace("Wei", "Wei||born in 1949") + PV1, ["102 PID^1^7^1^1"]),
        (MSH + EVN + PID.replace("PID|1", "PID|one") + PV1, ["102 PID^1^1^1"]),
        (MSH + EVN + PID.replace("Wei", 'Wei||""') + PV1, []),
        (MSH + EVN.replace("20260105080000", "20260105080000.1234+0800") + PID + PV1, []),
        (MSH + EVN + PID.replace("|Zhang^Wei", "|Zhang^Wei~Chang^Wei") + PV1, []),  # PID-5 repeats
        (MSH + EVN + PID + "PV1|1|O~I\r", ["102 PV1^1^2"]),  # PV1-2 does not
        (MSH.replace("^ADT_A01", "") + EVN + PID, ["100 PV1"]),
        (MSH.replace("ADT^A08^ADT_A01", "ZZZ^Z01") + EVN, []),  # no structure of that name
    ],
)
def test_finding_says_what_is_wrong_and_where(text: str, faults: list[str]) -> None:
    assert found(text) == faults


def test_nothing_is_said_of_a_version_without_tables() -> None:
    assert found(GOOD.replace("2.5.1", "2.9")) is None


def test_findings_are_bounded() -> None:
    findings = found(GOOD + "DG1|x\r" * 1000)
    assert findings is not None
    assert len(findings) == MOST_FINDINGS


# ORU-R01-01 says 2.5.1 and has segments of later versions (PRT, TXA); its second OBX has no OBX-3 and no OBX-11; TQ1-4 is of
# type RPT there, a code with quantities, and holds something else.
@pytest.mark.parametrize("bad", ["ORU-R01-01"])
def test_messages_that_nobody_here_wrote_conform_but_one(corpus: Path, bad: str) -> None:
    files = sorted((corpus / "hl7v2").glob("*.hl7"))
    assert len(files) == 12
    for file in files:
        findings = found(file.read_bytes().decode("utf-8-sig"))
        assert findings is not None
        assert bool(findings) == (file.stem == bad), file.name
        if findings:
            assert {"100 PRT^1", "100 TXA^1", "101 OBX^2^3"} <= set(findings)


class Site:
    """A listener that looks at messages, and a peer of it."""

    def __init__(self, connector: HL7v2Connector) -> None:
        self.connector = connector
        self.taken: list[str] = []

    async def take(self, inbound: Inbound) -> Stored:
        self.taken.append(inbound.control_id)
        return Stored()

    async def ask(self, text: str) -> ER7:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.connector.listen_port)
        writer.write(START + text.encode() + END)
        payload = await asyncio.wait_for(read_frame(reader), 60)
        writer.close()
        await writer.wait_closed()
        assert payload is not None
        return ER7(payload.decode())

    @property
    def validator(self) -> Validator:
        receiver = self.connector._receiver
        assert receiver is not None
        assert receiver.validator is not None
        return receiver.validator


MakeSite = Callable[[str], Awaitable[Site]]


@pytest.fixture
def make_site(make_connector: MakeConnector) -> MakeSite:
    async def make(validate: str) -> Site:
        site = Site(make_connector("hl7v2", listen_port=0, validate=validate))
        await site.connector.serve(site.take)
        return site

    return make


def odd(kind: str) -> float:
    labels = {"hospital": "hl7-demo", "connector": "hl7", "kind": kind}
    return REGISTRY.get_sample_value("hisbridge_inbound_oddities_total", labels) or 0.0


BAD = MSH + EVN + PID.replace("100^^^H^MR", "") + PV1


async def test_message_is_refused_with_its_place_when_the_site_is_strict(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.hl7v2.validation.WITHIN_S", 60.0)  # of a machine at work
    site, before = await make_site("strict"), odd("nonconforming")
    ack = await site.ask(BAD)
    assert [ack.get("MSA", 1), ack.get("ERR", 3)] == ["AR", "101"]
    assert [ack.get("ERR", 2, n) for n in (1, 2, 3)] == ["PID", "1", "3"]
    assert (await site.ask(GOOD.replace("|M1|", "|M2|"))).get("MSA", 1) == "AA"
    assert site.taken == ["M2"]
    assert odd("nonconforming") == before + 1


async def test_message_is_taken_and_told_when_the_site_only_notes(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.hl7v2.validation.WITHIN_S", 60.0)
    site, before = await make_site("note"), odd("nonconforming")
    assert (await site.ask(BAD)).get("MSA", 1) == "AA"
    async with asyncio.timeout(30):
        while odd("nonconforming") == before:  # noqa: ASYNC110 - a metric calls nobody
            await asyncio.sleep(0.02)
    assert site.taken == ["M1"]


async def test_message_is_taken_when_nobody_could_look_at_it(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.hl7v2.validation.WITHIN_S", 60.0)
    site, before = await make_site("strict"), odd("unchecked")
    await site.ask(GOOD)
    process_id = site.validator._elsewhere.process_id
    assert process_id is not None
    monkeypatch.setattr("connectors.hl7v2.validation.WITHIN_S", 0.1)
    os.kill(process_id, signal.SIGSTOP)  # as one that takes minutes
    assert (await site.ask(BAD.replace("|M1|", "|M2|"))).get("MSA", 1) == "AA"
    assert site.taken == ["M1", "M2"]
    assert odd("unchecked") == before + 1


async def test_messages_are_looked_at_once_the_process_is_there_when_its_start_takes_longer_than_they_wait(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = f"import time; time.sleep(1); {elsewhere._COMMAND}"
    monkeypatch.setattr("connectors.hl7v2.elsewhere._COMMAND", slow)
    site, before = await make_site("strict"), odd("unchecked")
    with monkeypatch.context() as patched:
        patched.setattr("connectors.hl7v2.validation.WITHIN_S", 0.1)
        with structlog.testing.capture_logs() as lines:
            assert (await site.ask(BAD)).get("MSA", 1) == "AA"
    assert odd("unchecked") == before + 1
    (told,) = [line for line in lines if line["event"] == "hl7_message_unchecked"]
    assert (told["hospital"], told["type"]) == ("hl7-demo", "ADT^A08")
    process_id = site.validator._elsewhere.process_id
    monkeypatch.setattr("connectors.hl7v2.validation.WITHIN_S", 30.0)
    assert (await site.ask(BAD.replace("|M1|", "|M2|"))).get("MSA", 1) == "AR"
    assert site.validator._elsewhere.process_id == process_id  # the one that was starting


async def test_what_waits_to_be_looked_at_is_bounded() -> None:
    validator = Validator("UNICODE UTF-8")
    told: list[object] = []
    for _ in range(3):
        validator.check_later(b"x" * (MOST_WAITING_BYTES // 2), told.append)
    assert told == [None]
    await validator.close()
