"""Documents count where a hospital's share of the disk has a bound: what nobody needs goes first, what a report shows stays."""

from __future__ import annotations

import asyncio

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import select, text

from booking import report_documents
from booking.settings import Hospital
from booking.store.engine import Store
from mappings.canonical import ReportStatus
from monitoring.metrics import REGISTRY
from scheduler_sync.inbox import Inbox
from scheduler_sync.messages.documents import PIECE_BYTES, MessageDocuments
from scheduler_sync.messages.groups import read_totals
from scheduler_sync.messages.recorder import Recorder
from scheduler_sync.messages.room import Room
from scheduler_sync.messages.store import SCRIPTS
from scheduler_sync.messages.tables import documents, message_totals
from scheduler_sync.messages.tables import messages as messages_table
from scheduler_sync.sweeps import Forgetting
from tests.booking.world import HOSPITAL
from tests.scheduler_sync.test_documents import DAY_S, PDF, a_report, content, count, forget, kept, read, shown
from tests.scheduler_sync.test_inbox import message, patient
from tests.stores import Wall

__all__ = ["kept"]

SECOND = content(3, 2 * PIECE_BYTES)


@pytest.fixture(autouse=True)
def present_documents_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document is shown no longer when its report is corrected; those of earlier versions: test_earlier_documents."""
    monkeypatch.setattr(report_documents, "MOST_DOCUMENT_VERSIONS", 1)


async def totals(messages: Store) -> dict[str, int]:
    async with messages.read(HOSPITAL) as tx:
        return await read_totals(tx, HOSPITAL)


async def make_room(store: Store, messages: Store, most_bytes: int) -> None:
    async def go_on() -> bool:
        return True

    await Room(store, messages, HOSPITAL, most_bytes=most_bytes, pause=go_on).make()


async def fill(store: Store, messages: Store, hospital: Hospital) -> None:
    """A report, a correction of it with another document, and a patient: three applied messages, one document not shown."""
    recorder = Recorder(messages, HOSPITAL, flush_after_s=0.01)
    inbox = Inbox(store, messages, hospital, recorder=recorder)
    await inbox.heal()
    await inbox.handle(a_report(PDF, key="k1"))
    await inbox.handle(a_report(SECOND, key="k2", status=ReportStatus.CORRECTED))
    await inbox.handle(message(patient(), key="k3"))
    await inbox.apply_all()
    await inbox.close()
    await recorder.close()


async def states(messages: Store) -> list[str]:
    async with messages.read(HOSPITAL) as tx:
        return [row["state"] for row in await tx.all(select(messages_table.c.state))]


async def test_total_follows_when_documents_come_come_again_and_go(
    store: Store, messages: Store, kept: MessageDocuments, wall: Wall
) -> None:
    for data in (PDF, SECOND, PDF):
        await kept.put(HOSPITAL, data)
    await kept.put("another", PDF)
    assert (await totals(messages))["documents"] == len(PDF) + len(SECOND)
    wall.turn(365 * DAY_S)
    assert await forget(store, messages) == 2
    assert (await totals(messages))["documents"] == 0


async def test_documents_of_before_count_when_the_totals_are_made(messages: Store, kept: MessageDocuments) -> None:
    await kept.put(HOSPITAL, PDF)
    await kept.put("another", SECOND)
    made = ScriptDirectory(str(SCRIPTS)).get_revision("m0006").module.COUNT_DOCUMENTS
    async with messages.write(HOSPITAL) as tx:
        await tx.run(message_totals.delete())
        await tx.run(text(made))
        rows = await tx.all(select(message_totals).order_by(message_totals.c.hospital_id))
    told = [(row["hospital_id"], row["kind"], row["count"], row["bytes"]) for row in rows]
    assert told == [("another", "documents", 1, len(SECOND)), (HOSPITAL, "documents", 1, len(PDF))]


async def test_message_store_is_told_with_its_documents_when_it_is_measured(
    messages: Store, kept: MessageDocuments
) -> None:
    await kept.put(HOSPITAL, PDF)
    await Recorder(messages, HOSPITAL).measure()
    assert REGISTRY.get_sample_value("hisbridge_message_store_bytes", {"hospital": HOSPITAL}) == len(PDF)


async def test_documents_that_nobody_needs_go_before_any_message_when_there_is_too_much(
    store: Store, messages: Store, hospital: Hospital, kept: MessageDocuments, wall: Wall
) -> None:
    await kept.put(HOSPITAL, content(4, PIECE_BYTES))  # of a message that was never stored
    wall.turn(8 * DAY_S)
    await fill(store, messages, hospital)
    wall.turn(8 * DAY_S)
    before = sum((await totals(messages)).values())
    await make_room(store, messages, before - PIECE_BYTES)
    assert await states(messages) == ["applied"] * 3
    assert await count(messages) == (2, 6)
    assert sum((await totals(messages)).values()) == before - PIECE_BYTES


async def test_document_of_a_report_stays_and_one_that_is_not_shown_goes_after_its_message_when_there_is_too_much(
    store: Store, messages: Store, hospital: Hospital, kept: MessageDocuments, wall: Wall
) -> None:
    await fill(store, messages, hospital)
    await make_room(store, messages, 1)
    assert await states(messages) == ["applied"] * 3  # of this week
    assert await count(messages) == (2, 6)
    wall.turn(8 * DAY_S)
    await make_room(store, messages, 1)
    assert await states(messages) == []
    assert await count(messages) == (1, 2)
    (attachment,) = await shown(store)
    assert await read(kept, attachment.document) == SECOND
    assert await totals(messages) == {"messages": 0, "documents": len(SECOND)}


@pytest.mark.parametrize("state", ["received", "quarantined"])
async def test_documents_stay_when_a_message_that_waits_may_have_brought_them(
    store: Store, messages: Store, hospital: Hospital, wall: Wall, state: str
) -> None:
    await fill(store, messages, hospital)
    async with messages.write(HOSPITAL) as tx:
        await tx.run(messages_table.update().values(state=state))
    wall.turn(400 * DAY_S)
    await make_room(store, messages, 1)
    assert await states(messages) == [state] * 3
    assert await count(messages) == (2, 6)


async def test_nothing_goes_when_all_of_it_fits_or_there_is_no_bound(
    store: Store, messages: Store, hospital: Hospital, wall: Wall
) -> None:
    await fill(store, messages, hospital)
    wall.turn(30 * DAY_S)
    for most_bytes in (0, sum((await totals(messages)).values())):
        await make_room(store, messages, most_bytes)
        assert len(await states(messages)) == 3
        assert await count(messages) == (2, 6)


async def test_sweep_looks_at_a_document_again_the_next_day_when_its_report_shows_it_no_longer(
    store: Store, messages: Store, hospital: Hospital, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_sync.sweeps.MB", 1)
    forgetting = Forgetting(store, messages, [hospital], asyncio.Event(), keep_messages_days=1_000, keep_messages_mb=1)
    inbox = Inbox(store, messages, hospital)
    await inbox.heal()
    await inbox.handle(a_report(PDF, key="k1"))
    await inbox.apply_all()
    wall.turn(20 * DAY_S)
    await forgetting.forget_old()
    assert await count(messages) == (1, 4)
    await inbox.handle(a_report(status=ReportStatus.CORRECTED, key="k2"))
    await inbox.apply_all()
    await inbox.close()
    wall.turn(10 * DAY_S)
    await forgetting.forget_old()
    await forgetting.forget_old()
    assert await count(messages) == (0, 0)
    async with messages.read(HOSPITAL) as tx:
        assert await tx.all(select(documents.c.id)) == []
