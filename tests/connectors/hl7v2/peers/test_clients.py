"""Clients that nobody here wrote send to our listener and read what it answers."""

from __future__ import annotations

import asyncio
import base64

import hl7
import pytest

from mappings.canonical import PatientChanged, RegistrationChanged, ReportIssued
from tests.acceptance.installation import until

from .clients import Ack, Client, PythonHL7, PythonHL7Streams
from .conftest import Listener
from .messages import NAME_READ, adt, oru, siu

CHARSETS = {"utf-8": "UNICODE UTF-8", "gb18030": "GB 18030-2000", "gbk": "GBK", "big5": "BIG-5"}
IDLE_S = 1.5


async def test_every_kind_of_message_is_acknowledged_when_a_foreign_client_sends_it(
    client: Client, listener: Listener
) -> None:
    await client.connect(await listener.open())
    for control_id, message in (("A1", adt("A1")), ("S1", siu("S1")), ("R1", oru("R1"))):
        assert await client.send(message) == Ack("AA", control_id)
    person, visit, report = listener.events
    assert isinstance(person, PatientChanged)
    assert (person.patient.mrn, person.patient.name) == ("100", NAME_READ)
    assert isinstance(visit, RegistrationChanged)
    assert (visit.registration.order_no, visit.registration.his_id) == ("20260105000000000001", "VS1")
    assert isinstance(report, ReportIssued)
    assert (report.report.id, report.report.name) == ("RR1", "血常规")
    assert [(o.name, o.value) for o in report.report.observations] == [("白细胞", "11.2")]
    assert [inbound.problem for inbound in listener.taken] == [None] * 3


async def test_refusal_is_read_with_its_code_when_a_foreign_client_gets_one(client: Client, listener: Listener) -> None:
    await client.connect(await listener.open())
    assert await client.send(adt("T1", mode="T")) == Ack("AR", "T1", "202")
    assert await client.send(adt("A1").replace("ADT^A08^ADT_A01", "ADT^A99")) == Ack("AR", "A1", "201")
    assert await client.send(adt("A2")) == Ack("AA", "A2")


async def test_one_connection_carries_everything_when_a_foreign_client_keeps_it(
    client: Client, listener: Listener
) -> None:
    await client.connect(await listener.open())
    for n in range(200):
        assert await client.send(adt(f"M{n}", mrn=str(n))) == Ack("AA", f"M{n}")
    assert [e.patient.mrn for e in listener.events if isinstance(e, PatientChanged)] == [str(n) for n in range(200)]
    assert len({inbound.peer for inbound in listener.taken}) == 1


async def test_large_document_arrives_whole_when_a_foreign_client_sends_it(client: Client, listener: Listener) -> None:
    await client.connect(await listener.open())
    assert await client.send(oru("R1", document_bytes=2_000_000)) == Ack("AA", "R1")
    (report,) = listener.events
    assert isinstance(report, ReportIssued)
    (document,) = report.report.attachments
    assert document.data is not None
    data = document.data if isinstance(document.data, bytes) else base64.b64decode(document.data)
    assert data == bytes(n % 251 for n in range(2_000_000))
    assert await client.send(adt("A1")) == Ack("AA", "A1")


async def test_connection_lives_beyond_the_idle_time_when_a_foreign_client_keeps_sending(
    client: Client, listener: Listener
) -> None:
    await client.connect(await listener.open(idle_timeout_s=IDLE_S))
    for n in range(8):
        assert await client.send(adt(f"M{n}")) == Ack("AA", f"M{n}")
        await asyncio.sleep(IDLE_S / 6)
    assert len({inbound.peer for inbound in listener.taken}) == 1


async def test_foreign_client_can_come_back_when_its_idle_connection_was_closed(
    client: Client, listener: Listener
) -> None:
    port = await listener.open(idle_timeout_s=IDLE_S)
    await client.connect(port)
    assert await client.send(adt("M1")) == Ack("AA", "M1")
    await until(client.connected, lambda connected: not connected, what="the end of an idle connection")
    await client.close()
    await client.connect(port)
    assert await client.send(adt("M2")) == Ack("AA", "M2")


async def test_foreign_client_can_come_back_when_our_listener_was_started_again(
    client: Client, listener: Listener
) -> None:
    port = await listener.open()
    await client.connect(port)
    assert await client.send(adt("M1")) == Ack("AA", "M1")
    await listener.close()
    await client.close()
    await listener.open(port)
    await client.connect(port)
    assert await client.send(adt("M2")) == Ack("AA", "M2")


@pytest.mark.parametrize("encoding", CHARSETS)
async def test_name_is_read_when_a_foreign_client_sends_it_in_its_own_set(listener: Listener, encoding: str) -> None:
    client = PythonHL7()
    await client.connect(await listener.open(), encoding)
    message = adt("A1", charset=CHARSETS[encoding]).replace("欧阳^娜娜", "張^偉" if encoding == "big5" else "张^伟")
    assert await client.send(message) == Ack("AA", "A1")
    (person,) = listener.events
    assert isinstance(person, PatientChanged)
    assert person.patient.name == ("張偉" if encoding == "big5" else "张伟")
    await client.close()


@pytest.mark.parametrize(
    ("label", "encoding", "expected"),
    [
        ("UNICODE UTF-8", "gbk", Ack("AA", "A1")),  # labelled wrongly, and legible all the same
        ("GBK", "utf-8", Ack("AA", "A1")),
        ("", "gb18030", Ack("AA", "A1")),
        ("ASCII", "utf-8", Ack("AA", "A1")),
        ("UNICODE UTF-16", "utf-8", Ack("AR", "A1", "102")),
        ("ISO IR87", "utf-8", Ack("AR", "A1", "102")),
    ],
)
async def test_set_is_found_out_or_refused_when_a_foreign_client_labels_it_wrongly(
    listener: Listener, label: str, encoding: str, expected: Ack
) -> None:
    client = PythonHL7()
    await client.connect(await listener.open(), encoding)
    assert await client.send(adt("A1", charset=label)) == expected
    names = [event.patient.name for event in listener.events if isinstance(event, PatientChanged)]
    assert names == ([NAME_READ] if expected.code == "AA" else [])
    assert await client.send(adt("A2", charset=CHARSETS[encoding])) == Ack("AA", "A2")
    await client.close()


async def test_message_is_refused_and_the_connection_lives_when_a_foreign_client_sends_utf_16(
    listener: Listener,
) -> None:
    client = PythonHL7()
    port = await listener.open()
    await client.connect(port, "utf-16")
    client.reads_as = "ascii"  # nobody can tell what it wanted to be answered in
    refused = await client.send(adt("A1"))
    assert (refused.code, refused.error) == ("AR", "102")
    client.sends_as = client.reads_as = "utf-8"
    assert await client.send(adt("A2")) == Ack("AA", "A2")
    await client.close()


async def test_answers_come_in_order_when_a_foreign_client_does_not_wait_for_them(listener: Listener) -> None:
    client = PythonHL7Streams()
    await client.connect(await listener.open())
    for n in range(200):
        client.writer.writemessage(hl7.parse((adt, siu, oru)[n % 3](f"M{n}")))
    await client.writer.drain()
    assert [await client.answer() for _ in range(200)] == [Ack("AA", f"M{n}") for n in range(200)]
    assert [inbound.control_id for inbound in listener.taken] == [f"M{n}" for n in range(200)]
    await client.close()
