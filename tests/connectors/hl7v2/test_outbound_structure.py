"""Everything that we send is held against hl7apy's tables of its version, wherever they know the structure."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.core import Message as hl7apy_message
from hl7apy.parser import get_message_info, parse_message, parse_segments

from connectors.hl7v2 import HL7v2Connector
from connectors.hl7v2.acks import Fault, Verdict, write_ack
from connectors.hl7v2.er7 import parse
from connectors.hl7v2.header import Header
from connectors.hl7v2.mapping import ProfileMaps
from connectors.hl7v2.masterfile import master_file, write_mfk
from connectors.port import BillPayment, HisError, Order, Verb, Window
from loadtest.simulators.mllp import END, START, read_frame
from mappings.canonical import Bill, Patient, Schedule, Session, Slot
from mappings.profile import SHIPPED, load_profile

from .conftest import SHANGHAI, MakeConnector, payment
from .hl7apy_reading import has_structure

# What hl7apy cannot judge, and why.
#   Z segments    agreed between two systems; no table has them. They are left out before the check.
#   QPD-3         of Q22 repeats (ch. 3.3.57, table "QPD input parameter"); hl7apy has one QPD for all queries, whose third
#                 field is of varying type and does not repeat. Its first repetition is checked.
#   MSH-9.2       of an ACK in 2.3, which has no MSH-9.3 yet: hl7apy makes the structure's name of both, and finds no
#                 ACK_A08. It is told the name.
EXPLAINED = ("ZPY",)

START_AT = dt.datetime(2026, 1, 5, 8, 0, tzinfo=SHANGHAI)
PATIENT = Patient(name="张|伟^", mrn="P1", id_type="id_card", id_number="11010519491231002X", phone="13800000000")
SCHEDULE = Schedule(
    id="100||7", date=START_AT.date(), session=Session.AM, department_id="100", department_name="内科",
    practitioner_id="D1", practitioner_name="李明",
)  # fmt: skip
SLOT = Slot(
    id="100||7||1", schedule_id="100||7", date=START_AT.date(), session=Session.AM, starts_at=START_AT,
    ends_at=START_AT + dt.timedelta(minutes=30), seats_left=5,
)  # fmt: skip
ORDER = Order(
    order_no="20260105000000000001", schedule=SCHEDULE, slot=SLOT, patient=PATIENT, fee_fen=700, payment=payment(700)
)
BILL = Bill(id="B1", amount_fen=2050, currency="CNY", his_refs={"account": "B1"})


class Recorder:
    """A HIS that refuses everything, and remembers it."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (payload := await read_frame(reader)) is not None:
            self.received.append(payload.decode("gbk" if b"|GBK" in payload else "utf-8"))
            number = payload.split(b"|")[9].decode()
            writer.write(START + f"MSH|^~\\&|H|||||ACK|9|P|2.5.1\rMSA|AR|{number}\r".encode() + END)
        writer.close()


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    made = Recorder()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    await server.wait_closed()


async def run(connector: HL7v2Connector, verb: Verb) -> None:
    days = Window(date_from=START_AT.date(), date_to=START_AT.date())
    arguments: dict[Verb, tuple[object, ...]] = {
        Verb.FETCH_SCHEDULES: (days,),
        Verb.FETCH_SLOTS: (days, []),
        Verb.FIND_PATIENT: (PATIENT,),
        Verb.CREATE_PATIENT: (PATIENT,),
        Verb.SETTLE_BILL: (BillPayment(order_no="1", bill=BILL, patient=PATIENT, payment=payment(2050)),),
    }
    with suppress(HisError):
        await getattr(connector, verb.value)(*arguments.get(verb, (ORDER,)))


# Requests that have no structure by name in any version of the tables: their types are agreed between two systems.
UNKNOWN = {
    ("hl7v2_cn", "fetch_schedules"): "ZHY^ZRN",
    ("hl7v2_cn", "fetch_slots"): "ZHY^ZRN",
    ("hl7v2_cn", "fetch_registration"): "SQM^ZQ1",
    ("hl7v2_cn", "fetch_bills"): "QRY^Q27",
    ("hl7v2_cn", "fetch_settlement"): "QBP^ZPI",
}
PROFILES = {
    folder.parent.name: ProfileMaps(profile)
    for folder in sorted(SHIPPED.glob("*/profile.yaml"))
    if (profile := load_profile(folder.parent.name)).protocol == "hl7v2"
}
SENT = [
    (name, verb)
    for name, maps in PROFILES.items()
    for verb, compiled in maps.verbs.items()
    if compiled.spec.capability == "native" and (name, verb) not in UNKNOWN
]
WITHOUT_NAME = (Verb.FETCH_SCHEDULES, Verb.FETCH_SLOTS, Verb.FETCH_REGISTRATION, Verb.FIND_PATIENT)


def test_request_without_a_structure_is_of_a_type_that_no_table_has() -> None:
    for (profile, verb), kind in UNKNOWN.items():
        code, trigger = PROFILES[profile].verbs[verb].message[:2]
        assert f"{code}^{trigger}" == kind
        assert not any(has_structure(version, f"{code}_{trigger}") for version in VERSIONS)
    assert {profile for profile, _ in SENT} == set(PROFILES)
    assert len(SENT) > 3 * len(PROFILES)


@pytest.mark.parametrize(("profile", "verb"), SENT)
async def test_request_has_the_structure_of_the_standard(
    recorder: Recorder, make_connector: MakeConnector, profile: str, verb: str
) -> None:
    connector = make_connector(profile, host="127.0.0.1", port=recorder.port, sending_facility="HB")
    await run(connector, Verb(verb))
    await connector.close()
    (text,) = recorder.received
    check(text)
    message = parse(text)
    assert message.value("MSH", 9)
    assert message.value("MSH", 18) == ("GBK" if profile == "hl7v2_cn" else "UNICODE UTF-8")
    if Verb(verb) not in WITHOUT_NAME:
        assert message.value("PID", 5) == "张|伟^"


VERSIONS = ("2.3", "2.3.1", "2.4", "2.5", "2.5.1", "2.6", "2.7", "2.8")
FAULTS = [
    None,
    Fault("202", "MSH^1^11"),
    Fault("101", "PID^1^3", reason="a field | that is ^ needed"),
    Fault("207", verdict=Verdict.ERROR),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("fault", FAULTS, ids=["accepted", "rejected", "with a reason", "error"])
@pytest.mark.parametrize("stage", ["A", "C"])
def test_acknowledgement_has_the_structure_of_its_version(version: str, fault: Fault | None, stage: str) -> None:
    third = "" if version == "2.3" else "^ADT_A01"
    message = parse(f"MSH|^~\\&|HIS^1.2^ISO|H|HB|X|20260105080000||ADT^A08{third}|M1|P|{version}\r")
    code = f"{stage}{fault.verdict if fault else Verdict.ACCEPTED}"
    text = write_ack(Header.of(message), code, START_AT, fault)
    assert parse(text).value("MSH", 12) == version
    assert parse(text).value("MSA", 1) == code
    check(text)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("fault", FAULTS, ids=["accepted", "rejected", "with a reason", "error"])
def test_answer_to_a_master_file_has_the_structure_of_its_version(version: str, fault: Fault | None) -> None:
    third = "" if version == "2.3" else "^MFN_M02"
    message = parse(
        f"MSH|^~\\&|HIS|H|HB|X|20260105080000||MFN^M02{third}|M1|P|{version}\r"
        "MFI|PRA^Practitioner master file^HL70175||UPD|||AL\r"
        "MFE|MAD|1|20260105|D1^^STAFF|CE\rSTF|D1^^STAFF\rMFE|MUP|2|20260105|D2^^STAFF|CE\rSTF|D2^^STAFF\r"
    )
    header, file = Header.of(message), master_file(message)
    assert file is not None
    text = write_mfk(header, file, f"A{fault.verdict if fault else Verdict.ACCEPTED}", START_AT, fault)
    assert len(parse(text).index["MFA"]) == 2
    check(text)


def check(text: str) -> None:
    segments = [line for line in text.split("\r") if line and line[:3] not in EXPLAINED]
    segments = [re.sub(r"~[^|]*", "", line) if line.startswith("QPD") else line for line in segments]
    whole, strict = "\r".join(segments) + "\r", VALIDATION_LEVEL.STRICT
    marks, structure, version = get_message_info(whole)
    if version == "2.3" and structure.startswith("ACK_"):
        message = hl7apy_message("ACK", version=version, validation_level=strict)
        message.children = parse_segments(whole, version, marks, strict, message.reference, find_groups=True)
    else:
        message = parse_message(whole, validation_level=strict)
    assert message.validate()
