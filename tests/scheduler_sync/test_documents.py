"""Large documents of reports are kept apart from them: never lost, never twice, never longer than somebody may ask for them."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from booking import report_documents as noted
from booking.ports import DocumentGone
from booking.reporting import load_report
from booking.settings import Hospital
from booking.store.crypto import SealBroken
from booking.store.engine import Store, StoreUnavailable
from booking.store.tables import report_documents, reports
from connectors.port import Inbound, Refused, Stored
from mappings.canonical import Attachment, KeptDocument, Report, ReportIssued, ReportKind, ReportStatus
from scheduler_sync.inbox import Inbox
from scheduler_sync.messages.documents import APART_BYTES, PIECE_BYTES, MessageDocuments
from scheduler_sync.messages.old_documents import forget_documents
from scheduler_sync.messages.store import read_events, unapplied
from scheduler_sync.messages.tables import document_pieces, documents
from scheduler_sync.messages.tables import messages as messages_table
from tests.booking.world import HOSPITAL
from tests.scheduler_sync.test_inbox import message
from tests.stores import Wall

KEEP_DAYS = 30
DAY_S = 24 * 3600


def content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


PDF = content(1, 3 * PIECE_BYTES + 17)


def a_report(*data: bytes, status: ReportStatus = ReportStatus.FINAL, **more: Any) -> Inbound:
    attachments = tuple(Attachment(content_type="application/pdf", data=one) for one in data)
    report = Report(id="R1", kind=ReportKind.EXAM, status=status, mrn="M1", attachments=attachments)
    return message(ReportIssued(report=report), raw=b"MSH|" + b"".join(data), **more)


@pytest.fixture
def kept(messages: Store) -> MessageDocuments:
    return MessageDocuments(messages)


async def shown(store: Store) -> tuple[Attachment, ...]:
    """The attachments of the only report."""
    async with store.read(HOSPITAL) as tx:
        (row,) = await tx.all(select(reports.c.id))
        report = await load_report(tx, row["id"])
    assert report is not None
    return report.record.attachments


async def read(kept: MessageDocuments, document: KeptDocument | None, hospital_id: str = HOSPITAL) -> bytes:
    assert document is not None
    return b"".join([piece async for piece in kept.read(hospital_id, document)])


async def count(messages: Store) -> tuple[int, int]:
    """How many documents and how many pieces are kept."""
    async with messages.read(HOSPITAL) as tx:
        return len(await tx.all(select(documents.c.id))), len(await tx.all(select(document_pieces.c.number)))


async def forget(store: Store, messages: Store) -> int:
    async def go_on() -> bool:
        return True

    return await forget_documents(store, messages, HOSPITAL, keep_days=KEEP_DAYS, pause=go_on)


@pytest.mark.parametrize(
    "size", [APART_BYTES + 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES, 1_000_003]
)
async def test_document_is_read_as_it_came_when_it_is_kept_apart(
    inbox: Inbox, store: Store, messages: Store, kept: MessageDocuments, size: int
) -> None:
    pdf = content(size, size)
    assert await inbox.handle(a_report(pdf)) == Stored()
    await inbox.apply_all()
    (attachment,) = await shown(store)
    assert attachment.data is None
    assert attachment.content_type == "application/pdf"
    assert attachment.document is not None
    assert attachment.document.size_bytes == size
    assert await read(kept, attachment.document) == pdf
    assert await count(messages) == (1, -(-size // PIECE_BYTES))


async def test_document_stays_in_its_report_when_it_is_short(inbox: Inbox, store: Store, messages: Store) -> None:
    pdf = content(2, APART_BYTES)
    assert await inbox.handle(a_report(pdf)) == Stored()
    await inbox.apply_all()
    assert [(a.data, a.document) for a in await shown(store)] == [(pdf, None)]
    assert await count(messages) == (0, 0)


async def test_booking_store_holds_none_of_the_bytes_when_a_document_is_large(inbox: Inbox, store: Store) -> None:
    await inbox.handle(a_report(PDF))
    await inbox.apply_all()
    async with store.read(HOSPITAL) as tx:
        (row,) = await tx.all(select(reports.c.sealed_record))
    assert len(row["sealed_record"]) < 2_000


async def test_bytes_are_sealed_when_they_are_kept_and_open_nowhere_else(
    messages: Store, kept: MessageDocuments
) -> None:
    text = b"Befund: unauffaellig. " * 20_000
    document = await kept.put(HOSPITAL, text)
    async with messages.write("x") as tx:
        rows = await tx.all(select(document_pieces))
        assert not any(b"Befund" in row["sealed"] for row in rows)
        first, second = (row["sealed"] for row in sorted(rows, key=lambda row: int(row["number"])))
        of = document_pieces.c.number
        await tx.run(document_pieces.update().where(of == 0).values(sealed=second))
        await tx.run(document_pieces.update().where(of == 1).values(sealed=first))
    with pytest.raises(SealBroken):
        await read(kept, document)


async def test_nothing_is_written_twice_when_the_same_document_comes_again(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    await inbox.handle(a_report(PDF, key="k1"))
    await inbox.handle(a_report(PDF, key="k2", status=ReportStatus.CORRECTED))
    assert await inbox.handle(a_report(PDF, key="k1")) == Stored(duplicate=True)
    await inbox.apply_all()
    assert len(await shown(store)) == 1
    assert await count(messages) == (1, 4)


async def test_all_of_it_is_there_when_a_crash_had_left_it_half_written(
    messages: Store, kept: MessageDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = MessageDocuments._write

    async def crash(self: MessageDocuments, hospital_id: str, document_id: str, number: int, piece: bytes) -> None:
        if number == 2:
            raise StoreUnavailable("the disk is full")
        await real(self, hospital_id, document_id, number, piece)

    with monkeypatch.context() as patched:
        patched.setattr(MessageDocuments, "_write", crash)
        with pytest.raises(StoreUnavailable):
            await kept.put(HOSPITAL, PDF)
    assert await count(messages) == (1, 2)
    assert await read(kept, await kept.put(HOSPITAL, PDF)) == PDF


async def test_message_is_refused_and_may_come_again_when_its_document_cannot_be_kept(
    inbox: Inbox, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*args: Any) -> None:
        raise StoreUnavailable("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(MessageDocuments, "_write", away)
        answer = await inbox.handle(a_report(PDF))
    assert isinstance(answer, Refused)
    assert answer.retryable
    assert await inbox.handle(a_report(PDF)) == Stored()


async def test_report_is_applied_with_its_document_when_a_crash_came_before_the_applying(
    store: Store, messages: Store, hospital: Hospital, kept: MessageDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox(store, messages, hospital)
    await inbox.heal()
    monkeypatch.setattr(inbox, "_begin_work", lambda: None)
    assert await inbox.handle(a_report(PDF)) == Stored()
    await inbox.close(drain=False)
    async with messages.read(HOSPITAL) as tx:
        (left,) = await unapplied(tx)
    (event,) = read_events(messages, HOSPITAL, left.sealed_events)
    assert isinstance(event, ReportIssued)
    assert len(left.sealed_events) < 2_000  # what is read at a start holds no documents
    again = Inbox(store, messages, hospital)
    assert await again.heal() == 1
    (attachment,) = await shown(store)
    assert await read(kept, attachment.document) == PDF
    await again.close()


async def test_two_hospitals_have_nothing_in_common_when_both_keep_the_same_document(kept: MessageDocuments) -> None:
    one, other = await kept.put(HOSPITAL, PDF), await kept.put("another", PDF)
    assert one.id != other.id
    with pytest.raises(DocumentGone):
        await read(kept, one, "another")


# --- forgetting --------------------------------------------------------------------------------------------------------


async def test_document_is_forgotten_when_no_report_shows_it_and_its_message_is_past_its_days(
    inbox: Inbox,
    store: Store,
    messages: Store,
    kept: MessageDocuments,
    wall: Wall,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(noted, "MOST_DOCUMENT_VERSIONS", 1)  # those of earlier ones: test_earlier_documents
    second = content(3, 2 * PIECE_BYTES)
    await inbox.handle(a_report(PDF, key="k1"))
    await inbox.apply_all()
    await inbox.handle(a_report(second, key="k2", status=ReportStatus.CORRECTED))
    await inbox.apply_all()
    assert await count(messages) == (2, 6)
    wall.turn((KEEP_DAYS - 1) * DAY_S)
    assert await forget(store, messages) == 0
    wall.turn(2 * DAY_S)
    assert await forget(store, messages) == 1
    assert await count(messages) == (1, 2)
    (attachment,) = await shown(store)
    assert await read(kept, attachment.document) == second
    wall.turn(1_000 * DAY_S)
    assert await forget(store, messages) == 0


async def test_document_is_forgotten_when_its_message_was_never_stored(
    store: Store, messages: Store, kept: MessageDocuments, wall: Wall
) -> None:
    document = await kept.put(HOSPITAL, PDF)
    wall.turn((KEEP_DAYS + 1) * DAY_S)
    assert await forget(store, messages) == 1
    assert await count(messages) == (0, 0)
    with pytest.raises(DocumentGone):
        await read(kept, document)


@pytest.mark.parametrize("state", ["received", "quarantined"])
async def test_document_stays_when_its_message_still_waits(
    store: Store, messages: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch, wall: Wall, state: str
) -> None:
    inbox = Inbox(store, messages, hospital)
    await inbox.heal()
    monkeypatch.setattr(inbox, "_begin_work", lambda: None)
    await inbox.handle(a_report(PDF))
    await inbox.close(drain=False)
    async with messages.write(HOSPITAL) as tx:
        await tx.run(messages_table.update().values(state=state))
    wall.turn(5 * KEEP_DAYS * DAY_S)
    assert await forget(store, messages) == 0


async def test_document_stays_when_it_has_come_again_of_late(
    store: Store, messages: Store, kept: MessageDocuments, wall: Wall
) -> None:
    await kept.put(HOSPITAL, PDF)
    wall.turn((KEEP_DAYS + 1) * DAY_S)
    await kept.put(HOSPITAL, PDF)
    assert await forget(store, messages) == 0


async def test_report_names_what_it_shows_when_its_documents_change(inbox: Inbox, store: Store) -> None:
    async def named() -> list[str]:
        async with store.read(HOSPITAL) as tx:
            now = select(report_documents).where(report_documents.c.last_version.is_(None))
            return sorted(r["document_id"] for r in await tx.all(now))

    for key, data in enumerate(((PDF,), (PDF, content(4, PIECE_BYTES)), (content(5, PIECE_BYTES),), (b"short",))):
        await inbox.handle(a_report(*data, key=f"k{key}"))
        await inbox.apply_all()
        assert await named() == sorted(a.document.id for a in await shown(store) if a.document is not None)
    assert await named() == []


def test_report_that_was_stored_before_is_read_when_records_know_of_documents() -> None:
    before = b'{"content_type":"application/pdf","data":"JVBERi0="}'
    assert msgspec.json.decode(before, type=Attachment) == Attachment(content_type="application/pdf", data=b"%PDF-")
