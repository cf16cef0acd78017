"""Everything that we send is held against hl7apy's tables of v2.5.1, wherever they know the structure."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

from connectors.hl7v2 import HL7v2Connector
from connectors.hl7v2.acks import Fault, write_ack
from connectors.hl7v2.er7 import parse
from connectors.hl7v2.header import Header
from connectors.port import BillPayment, HisError, Order, Verb, Window
from loadtest.simulators.mllp import END, START, read_frame
from mappings.canonical import Bill, Patient, Schedule, Session, Slot

from .conftest import SHANGHAI, MakeConnector, payment

# What hl7apy cannot judge, and why.
#   Z segments    agreed between two systems; no table has them. They are left out before the check.
#   QPD-3         of Q22 repeats (ch. 3.3.57, table "QPD input parameter"); hl7apy has one QPD for all queries, whose third
#                 field is of varying type and does not repeat. Its first repetition is checked.
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


SENT = [
    ("hl7v2", Verb.FETCH_SCHEDULES),
    ("hl7v2", Verb.FETCH_SLOTS),
    ("hl7v2", Verb.FIND_PATIENT),
    ("hl7v2", Verb.CREATE_PATIENT),
    ("hl7v2", Verb.BOOK),
    ("hl7v2", Verb.CANCEL_REGISTRATION),
    ("hl7v2", Verb.FETCH_REGISTRATION),
    ("hl7v2", Verb.SETTLE_BILL),
    ("hl7v2_demo", Verb.FETCH_SCHEDULES),
    ("hl7v2_demo", Verb.FETCH_SLOTS),
    ("hl7v2_demo", Verb.LOCK_SLOT),
    ("hl7v2_demo", Verb.REGISTER),
    ("hl7v2_demo", Verb.UNLOCK_SLOT),
    ("hl7v2_demo", Verb.CANCEL_REGISTRATION),
    ("hl7v2_cn", Verb.FIND_PATIENT),
    ("hl7v2_cn", Verb.CREATE_PATIENT),
    ("hl7v2_cn", Verb.BOOK),
    ("hl7v2_cn", Verb.REGISTER),
    ("hl7v2_cn", Verb.CANCEL_REGISTRATION),
    ("hl7v2_cn", Verb.SETTLE_BILL),
]


@pytest.mark.parametrize(("profile", "verb"), SENT)
async def test_request_has_the_structure_of_the_standard(
    recorder: Recorder, make_connector: MakeConnector, profile: str, verb: Verb
) -> None:
    connector = make_connector(profile, host="127.0.0.1", port=recorder.port, sending_facility="HB")
    await run(connector, verb)
    await connector.close()
    (text,) = recorder.received
    check(text)
    message = parse(text)
    assert message.value("MSH", 9)
    assert message.value("MSH", 18) == ("GBK" if profile == "hl7v2_cn" else "UNICODE UTF-8")
    if verb not in (Verb.FETCH_SCHEDULES, Verb.FETCH_SLOTS, Verb.FETCH_REGISTRATION, Verb.FIND_PATIENT):
        assert message.value("PID", 5) == "张|伟^"


@pytest.mark.parametrize("fault", [None, Fault("202", "MSH^1^11")])
def test_acknowledgement_has_the_structure_of_the_standard(fault: Fault | None) -> None:
    message = parse("MSH|^~\\&|HIS^1.2^ISO|H|HB|X|20260105||ADT^A08^ADT_A01|M1|P|2.5.1\r")
    text = write_ack(Header.of(message), "AR" if fault else "AA", START_AT, fault)
    check(text)


def check(text: str) -> None:
    segments = [line for line in text.split("\r") if line and line[:3] not in EXPLAINED]
    segments = [re.sub(r"~[^|]*", "", line) if line.startswith("QPD") else line for line in segments]
    message = parse_message("\r".join(segments) + "\r", validation_level=VALIDATION_LEVEL.STRICT)
    assert message.validate()
