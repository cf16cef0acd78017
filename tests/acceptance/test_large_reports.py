"""A report with a document of megabytes, over MLLP into the running service, and how a portal reads it."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib

from sqlalchemy import select

from booking.store.tables import reports
from loadtest.bench.messages import large_report
from loadtest.simulators.mllp import ER7, header, segment
from scheduler_sync.messages.tables import document_pieces
from tests.acceptance.test_corpus_replay import KEY, Bridge, bridge

__all__ = ["bridge"]

SIZE_BYTES = 5_000_000


def registered(name: str, mrn: str) -> bytes:
    """The hospital tells of the patient."""
    top = header("ADT^A04^ADT_A01", "REG1", dt.datetime.now(dt.UTC), "UNICODE UTF-8")
    return "\r".join([top, segment("PID", f3=f"{mrn}^^^SIM^MR", f5=name), ""]).encode()


def document_in(message: bytes) -> bytes:
    """What the hospital has put into OBX-5.5."""
    return base64.b64decode(ER7(message.decode()).get("OBX", 5, 5))


async def test_portal_reads_a_document_byte_for_byte_when_it_is_kept_apart(bridge: Bridge) -> None:
    message = large_report(1, "A", size_bytes=SIZE_BYTES)
    document = document_in(message)
    assert len(document) > 3_500_000
    acks = await bridge.send("cny", registered("患者1", "M00000001"), message)
    assert [ack.get("MSA", 1) for ack in acks] == ["AA", "AA"]

    patient = await bridge.bind("cny", "患者1", "M00000001")
    (listed,) = (await bridge.call("GET", f"/cny/patients/{patient}/reports"))["items"]
    report = await bridge.call("GET", f"/cny/patients/{patient}/reports/{listed['id']}")
    assert [a["content_type"] for a in report["attachments"]] == ["application/pdf"]
    path = f"/cny/patients/{patient}/reports/{listed['id']}/attachments/1"
    status, headers, body = await bridge.fetch(path)
    assert status == 200
    assert headers["Content-Type"] == "application/pdf"
    assert headers["Content-Length"] == str(len(document))
    assert hashlib.sha256(body).digest() == hashlib.sha256(document).digest()

    async with bridge.running.store.read("cny") as tx:
        (row,) = await tx.all(select(reports.c.sealed_record))
    assert len(row["sealed_record"]) < 5_000  # the bookings' store has none of it

    async with bridge.running.messages.write("cny") as tx:
        await tx.run(document_pieces.delete())
    status, _, body = await bridge.fetch(path)
    assert status == 404
    assert b"attachment_unknown" in body
    assert KEY.encode() not in body
