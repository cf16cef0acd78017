"""Large documents of reports, in pieces in the message store (ADR-0033).

Written before the message that brought them is stored, each piece in a transaction of its own: the booking store never sees the
bytes, and nobody who writes messages waits for more than one piece. A document's id is derived from its content, so that the same
one that comes again, or is applied again, is the same.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator

import msgspec
from sqlalchemy import bindparam, select, update

from booking.ports import DocumentGone
from booking.store.engine import Store
from booking.store.fixed import Fixed
from connectors.port import Inbound
from mappings.canonical import AnyEvent, Attachment, KeptDocument, ReportIssued
from scheduler_sync.messages.groups import add_to_totals
from scheduler_sync.messages.tables import document_pieces, documents

APART_BYTES = 65_536  # shorter ones stay in their report
PIECE_BYTES = 262_144

_OF_DOCUMENT = (documents.c.hospital_id == bindparam("of_hospital"), documents.c.id == bindparam("of_id"))
_KNOWN = Fixed(select(documents.c.complete, documents.c.size_bytes).where(*_OF_DOCUMENT))
_TOUCH = Fixed(
    update(documents).where(*_OF_DOCUMENT).values(complete=bindparam("is_complete"), kept_ms=bindparam("at_ms"))
)
_PIECE = Fixed(
    select(document_pieces.c.sealed).where(
        document_pieces.c.hospital_id == bindparam("of_hospital"),
        document_pieces.c.document_id == bindparam("of_id"),
        document_pieces.c.number == bindparam("of_number"),
    )
)


class MessageDocuments:
    """A `booking.ports.Documents` over the message store."""

    def __init__(self, messages: Store) -> None:
        self._store = messages

    async def put(self, hospital_id: str, data: bytes) -> KeptDocument:
        """Keep a document; nothing is written where it is kept already. Raises StoreUnavailable."""
        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        document = KeptDocument(
            id=self._store.vault.digest("document", hospital_id, sha256), size_bytes=len(data), sha256=sha256
        )
        if not await self._begin(hospital_id, document):
            for number, start in enumerate(range(0, len(data), PIECE_BYTES)):
                await self._write(hospital_id, document.id, number, data[start : start + PIECE_BYTES])
            async with self._store.write(documents_scope(hospital_id)) as tx:
                await tx.run(_TOUCH, _touched(hospital_id, document.id, True, tx.now_ms))
        return document

    async def _begin(self, hospital_id: str, document: KeptDocument) -> bool:
        """Note that it has come; whether all of it is kept."""
        async with self._store.write(documents_scope(hospital_id)) as tx:
            known = await tx.first(_KNOWN, {"of_hospital": hospital_id, "of_id": document.id})
            if known is not None:
                is_complete = bool(known["complete"])
                await tx.run(_TOUCH, _touched(hospital_id, document.id, is_complete, tx.now_ms))
                return is_complete
            row = {"hospital_id": hospital_id, "id": document.id, "size_bytes": document.size_bytes}
            await tx.insert(documents, {**row, "complete": False, "kept_ms": tx.now_ms})
            await add_to_totals(tx, hospital_id, "documents", 1, document.size_bytes)
            return False

    async def _write(self, hospital_id: str, document_id: str, number: int, piece: bytes) -> None:
        place = _place(hospital_id, document_id, number)
        sealed = await asyncio.to_thread(self._store.vault.seal, piece, place)
        row = {"hospital_id": hospital_id, "document_id": document_id, "number": number, "sealed": sealed}
        async with self._store.write(documents_scope(hospital_id)) as tx:
            await tx.upsert(document_pieces, [row])

    async def read(self, hospital_id: str, document: KeptDocument) -> AsyncGenerator[bytes]:
        """The document piece by piece. Raises DocumentGone, StoreUnavailable, SealBroken."""
        for number in range(-(-document.size_bytes // PIECE_BYTES)):
            async with self._store.read(hospital_id, clock=False) as tx:
                key = {"of_hospital": hospital_id, "of_id": document.id, "of_number": number}
                row = await tx.first(_PIECE, key)
            if row is None:
                raise DocumentGone(f"document {document.id} is not in the message store")
            place = _place(hospital_id, document.id, number)
            yield await asyncio.to_thread(self._store.vault.open, row["sealed"], place)

    async def put_away(self, inbound: Inbound) -> Inbound:
        """The message with its large documents kept apart. Raises StoreUnavailable: it may come again."""
        if not any(_large(event) for event in inbound.events):
            return inbound
        events = [await self._without(inbound.hospital_id, event) for event in inbound.events]
        return msgspec.structs.replace(inbound, events=tuple(events))

    async def _without(self, hospital_id: str, event: AnyEvent) -> AnyEvent:
        if not isinstance(event, ReportIssued) or not _large(event):
            return event
        attachments = []
        for one in event.report.attachments:
            if one.data is not None and len(one.data) > APART_BYTES:
                document = await self.put(hospital_id, one.data)
                attachments.append(msgspec.structs.replace(one, data=None, document=document))
            else:
                attachments.append(one)
        report = msgspec.structs.replace(event.report, attachments=tuple(attachments))
        return msgspec.structs.replace(event, report=report)


def _large(event: AnyEvent) -> list[Attachment]:
    if not isinstance(event, ReportIssued):
        return []
    return [a for a in event.report.attachments if a.data is not None and len(a.data) > APART_BYTES]


def apart_bytes(events: tuple[AnyEvent, ...]) -> int:
    """How much of what a message brought is kept apart from it."""
    reports = [event.report for event in events if isinstance(event, ReportIssued)]
    return sum(a.document.size_bytes for report in reports for a in report.attachments if a.document is not None)


def documents_scope(hospital_id: str) -> str:
    """Under whose lock documents are written: not the hospital's own, which its messages wait for."""
    return f"{hospital_id}#documents"


def _place(hospital_id: str, document_id: str, number: int) -> str:
    return f"document_pieces.sealed.{hospital_id}.{document_id}.{number}"


def _touched(hospital_id: str, document_id: str, is_complete: bool, now_ms: int) -> dict[str, object]:
    return {"of_hospital": hospital_id, "of_id": document_id, "is_complete": is_complete, "at_ms": now_ms}
