"""What a careless or hostile peer can send: none of it may lose a message, name another patient, or hold a socket."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

import msgspec
import pytest

from connectors.hl7v2 import HL7v2Connector, Options, create
from connectors.hl7v2.client import NotSent
from connectors.hl7v2.er7 import MAX_SEGMENTS, ER7Error, parse
from connectors.hl7v2.escapes import STANDARD
from connectors.hl7v2.judging import judge
from connectors.port import Accepted, BillPayment, Inbound, Stored, Unknown, Window
from loadtest.simulators.control import Fault
from loadtest.simulators.hl7 import HL7Simulator
from loadtest.simulators.mllp import END, ER7, START, read_frame
from mappings.canonical import AnyEvent, Bill, PatientMerged, ReportIssued, ScheduleStatus
from monitoring.metrics import REGISTRY

from .conftest import HOSPITAL, ZHANG, MakeConnector, MakeOrder, payment, window
from .scripted import make_pool, request

HEAD = "MSH|^~\\&|HIS|H1|HB|X|20260105080000||{kind}|{control_id}|P|2.5.1||||||{charset}\r"
SRR = "MSH|^~\\&|H|||||SRR^S01^SRR_S01|1|P|2.5.1\rMSA|AA|X\r"


def message(body: str, *, kind: str = "ADT^A08", control_id: str = "M1", charset: str = "") -> bytes:
    return (HEAD.format(kind=kind, control_id=control_id, charset=charset) + body).encode()


class Sender:
    """Sends to a listener and keeps what became of it."""

    def __init__(self, make_connector: MakeConnector) -> None:
        self.events: list[AnyEvent] = []
        self.problems: list[str | None] = []
        self.connector = make_connector("hl7v2", listen_port=0)

    async def take(self, inbound: Inbound) -> Stored:
        self.events += inbound.events
        self.problems.append(inbound.problem)
        return Stored()

    async def ask(self, data: bytes) -> ER7:
        await self.connector.serve(self.take)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.connector.listen_port)
        writer.write(START + data + END)
        payload = await asyncio.wait_for(read_frame(reader), 5)
        writer.close()
        await writer.wait_closed()
        assert payload is not None
        return ER7(payload.decode())


@pytest.fixture
def sender(make_connector: MakeConnector) -> Sender:
    return Sender(make_connector)


async def test_message_is_acknowledged_when_its_id_is_spelled_in_bytes_that_its_set_lacks(sender: Sender) -> None:
    ack = await sender.ask(message("PID|1||100^^^H^MR||Zhang\r", control_id="\\XE5BCA0\\", charset="ASCII"))
    assert ack.get("MSA", 1) == "AA"
    assert "MSA|AA|\\XE5BCA0\\" in "\r".join("|".join(segment) for segment in ack.segments)


async def test_message_is_acknowledged_when_an_escape_counts_without_end(sender: Sender) -> None:
    endless = "\\.sp" + "9" * 5000 + "\\"
    assert (await sender.ask(message(f"PID|1||100^^^H^MR||{endless}\r"))).get("MSA", 1) == "AA"
    assert STANDARD.unescape(endless) == endless


def test_message_is_refused_before_it_is_split_when_it_has_too_many_segments() -> None:
    with pytest.raises(ER7Error):
        parse("MSH|^~\\&|A\r" + "\r" * MAX_SEGMENTS)


async def test_every_pair_is_merged_when_one_message_has_several(sender: Sender) -> None:
    pairs = "PID|1||100^^^H^MR\rMRG|900^^^H^MR\rPID|2||200^^^H^MR\rMRG|800^^^H^MR\r"
    assert (await sender.ask(message(pairs, kind="ADT^A40"))).get("MSA", 1) == "AA"
    merged = [(e.surviving_mrn, e.retired_mrn) for e in sender.events if isinstance(e, PatientMerged)]
    assert merged == [("100", "900"), ("200", "800")]


async def test_report_is_of_the_patient_before_it_when_one_message_tells_of_several(sender: Sender) -> None:
    body = (
        "PID|1||100^^^H^MR\rOBR|1||F1|CBC|||||||||||||||||||||F\rOBX|1|NM|WBC||1||||||F\r"
        "OBR|2||F2|BIO|||||||||||||||||||||F\rPID|2||200^^^H^MR\rOBR|3||F3|CBC|||||||||||||||||||||F\r"
    )
    await sender.ask(message(body, kind="ORU^R01"))
    reports = [event.report for event in sender.events if isinstance(event, ReportIssued)]
    assert [(report.id, report.mrn) for report in reports] == [("F1", "100"), ("F2", "100"), ("F3", "200")]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("Booked", None),
        ("Overbook", None),  # table 0278: confirmed, in an overbooked state
        ("Waitlist", "unknown"),  # neither booked nor refused
        ("Pending", "unknown"),
        ("Blocked", "stopped"),
    ],
)
def test_booking_is_judged_by_table_0278(make_connector: MakeConnector, status: str, code: str | None) -> None:
    verb = make_connector("hl7v2")._maps.verbs["book"]
    assert judge(verb, parse(SRR + "SCH|1||||||||||||||||||||||||" + status)).code == code


ACK = "MSH|^~\\&|H|||||ACK^P03^ACK|1|P|2.5.1\rMSA|AE|X\r"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("ERR|||207^^HL70357|E", "unknown"),
        ("ERR|||207^^HL70357|E|X99", "unknown"),  # the HIS's own code is in no table: it says no more than the 207
        ("ERR|||101^^HL70357|E|X99", "invalid_request"),
        ("ERR|||207^^HL70357|E|205", "already_exists"),  # a listed one of its own says more
        ("ERR|||999|E|X99", "refused"),
        ("ERR|||999|E", "refused"),
        ("NTE|1", "unknown"),
    ],
)
def test_error_is_judged_by_the_first_code_that_the_table_has(
    make_connector: MakeConnector, error: str, code: str
) -> None:
    verb = make_connector("hl7v2")._maps.verbs["settle_bill"]
    assert judge(verb, parse(ACK + error)).code == code


@pytest.mark.parametrize(
    ("asked", "done"),
    [
        ("", False),  # original mode: it was not asked for, and the AA is still due
        ("{MSH-15: AL, MSH-16: NE}", True),
        ("{MSH-15: AL}", True),
        ("{MSH-15: AL, MSH-16: AL}", False),
        ("{MSH-16: AL}", False),
    ],
)
async def test_commit_acknowledgement_is_an_answer_only_when_the_profile_asks_for_it_alone(
    tmp_path: Path, asked: str, done: bool
) -> None:
    site = tmp_path / "committing"
    site.mkdir()
    header = f"      - {asked}\n" if asked else ""
    (site / "profile.yaml").write_text(
        "name: committing\nversion: 1\nprotocol: hl7v2\nextends: hl7v2@1\nverbs:\n  settle_bill:\n    request:\n"
        f"{header}      - PID-18.1: {{from: bill.id}}\n        PID-1: 1\n"
    )

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (payload := await read_frame(reader)) is not None:
            top = f"MSH|^~\\&|H|||||ACK|1|P|2.5.1\rMSA|CA|{ER7(payload.decode()).get('MSH', 10)}\r"
            writer.write(START + top.encode() + END)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    options = Options(
        protocol="hl7v2",
        profile="committing",
        host="127.0.0.1",
        port=server.sockets[0].getsockname()[1],
        timeout_s={"settle_bill": 1.5},
    )
    connector = create(HOSPITAL, "hl7", options, profiles_dir=tmp_path)
    try:
        bill = Bill(id="B1", amount_fen=100, currency="CNY")
        outcome = await connector.settle_bill(
            BillPayment(order_no="9" * 20, bill=bill, patient=ZHANG, payment=payment(100))
        )
        if done:
            assert isinstance(outcome, Accepted)
        else:
            assert outcome == Unknown(reason="only a commit acknowledgement came within the time-out")
    finally:
        await connector.close()
        server.close()
        await server.wait_closed()


async def test_slots_are_whole_when_the_hospital_lists_booked_rows_too(
    simulator: HL7Simulator, connector: HL7v2Connector, make_order: MakeOrder, make_connector: MakeConnector
) -> None:
    order = await make_order("20260105000000000001")
    assert isinstance(await connector.lock_slot(order), Accepted)
    simulator.board.faults += [Fault(op, "list_booked") for op in ("fetch_slots", "fetch_schedules")]
    schedules = await connector.fetch_schedules(window(simulator))
    slots = {slot.id: slot.seats_left for slot in await connector.fetch_slots(window(simulator), schedules)}
    assert slots == {code: part.left for code, part in simulator.hospital.segments.items()}
    # By the standard alone each row is one opening, or one that somebody has: together they are one slot.
    standard = make_connector("hl7v2", host="127.0.0.1", port=simulator.port)
    found = list(await standard.fetch_slots(window(simulator), []))
    assert sorted(slot.id for slot in found) == sorted(simulator.hospital.segments)
    assert {(slot.seats_left, slot.status) for slot in found} == {(1, ScheduleStatus.OPEN)}


async def answering(lines: list[str]) -> asyncio.Server:
    """A HIS that answers everything with AA and these segments."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (payload := await read_frame(reader)) is not None:
            top = ["MSH|^~\\&|H|||||SQR^S25^SQR_S25|1|P|2.5.1", f"MSA|AA|{ER7(payload.decode()).get('MSH', 10)}"]
            writer.write(START + ("\r".join([*top, *lines]) + "\r").encode() + END)
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


async def test_slot_has_no_seat_when_the_list_says_that_somebody_has_it(make_connector: MakeConnector) -> None:
    lines = []
    for n, status in enumerate(("", "Booked", "Pending", "Cancelled", "Blocked"), 1):
        lines += [f"SCH|||||S{n}^^L^PLAN^^L|ROUTINE" + "|" * 19 + status]
        lines += [f"TQ1|1||||||202601050{n}0000+0800|202601050{n}3000+0800"]
    server = await answering(lines)
    connector = make_connector("hl7v2", host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    day = dt.date(2026, 1, 5)
    slots = await connector.fetch_slots(Window(date_from=day, date_to=day), [])
    assert [slot.seats_left for slot in slots] == [1, 0, 0, 0, 0]
    # Only Blocked speaks of the time slot; the others of an appointment, and a stop would cancel everybody's.
    assert [slot.status for slot in slots] == [ScheduleStatus.OPEN] * 4 + [ScheduleStatus.STOPPED]
    await connector.close()
    server.close()
    await server.wait_closed()


async def test_candidate_with_another_number_is_not_our_patient(make_connector: MakeConnector) -> None:
    server = await answering(["PID|1||100^^^H^MR~110105194912310038^^^CHN^NI||张伟"])
    connector = make_connector("hl7v2", host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    assert await connector.find_patient(ZHANG) == []
    assert isinstance(await connector.create_patient(ZHANG), Unknown)
    await connector.close()
    server.close()
    await server.wait_closed()


async def test_lock_is_unknown_when_the_answer_speaks_of_another_order(
    simulator: HL7Simulator, connector: HL7v2Connector, make_order: MakeOrder, make_connector: MakeConnector
) -> None:
    order = await make_order("20260105000000000001")
    other = msgspec.structs.replace(order, order_no="20260105000000000002")
    assert isinstance(await connector.lock_slot(other), Accepted)
    server = await answering(["SCH|20260105000000000002|T7|||||||||||||||||||||||Pending"])
    wrong = make_connector(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    assert isinstance(await wrong.lock_slot(order), Unknown)
    await wrong.close()
    server.close()
    await server.wait_closed()


async def test_request_works_when_the_site_labels_nothing(
    simulator: HL7Simulator, make_connector: MakeConnector
) -> None:
    connector = make_connector(host="127.0.0.1", port=simulator.port, charset="")
    assert isinstance(await connector.create_patient(ZHANG), Accepted)
    assert [person.name for person in simulator.hospital.people.values()] == ["张伟"]


async def test_connection_is_not_kept_when_the_pool_closed_while_it_was_made(simulator: HL7Simulator) -> None:
    pool = make_pool(simulator.port, [])
    asking = asyncio.create_task(pool.request(request("M1"), 1.0))
    await asyncio.sleep(0)
    await pool.close()
    with pytest.raises(NotSent):
        await asking


async def test_socket_is_given_up_when_the_peer_takes_no_answer(
    make_connector: MakeConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.hl7v2.session.WRITE_TIMEOUT_S", 0.2)
    monkeypatch.setattr("connectors.hl7v2.server.CLOSE_GRACE_S", 0.2)
    sender = Sender(make_connector)
    await sender.connector.serve(sender.take)
    _, writer = await asyncio.open_connection("127.0.0.1", sender.connector.listen_port, limit=1)
    # An acknowledgement repeats the control id: long ones fill the way back, which nobody reads.
    long_name = b"MSH|^~\\&|HIS|H1|HB|X|20260105080000||ADT^A08|" + b"M" * 200_000 + b"|P|2.5.1\rPID|1||1^^^H^MR||Z\r"

    async def send_without_end() -> None:
        while True:
            writer.write(START + long_name + END)
            await writer.drain()

    labels = {"hospital": "hl7-demo", "connector": "hl7", "reason": "slow_reader"}
    before = REGISTRY.get_sample_value("hisbridge_mllp_connections_ended_total", labels)
    assert before is not None
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(send_without_end(), 10)
    assert REGISTRY.get_sample_value("hisbridge_mllp_connections_ended_total", labels) == before + 1
    writer.transport.abort()
