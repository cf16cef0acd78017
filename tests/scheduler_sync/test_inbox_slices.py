"""A message of very many events takes several transactions, and is applied once all the same."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from sqlalchemy import func, select

from booking.people import person_by_mrn
from booking.reporting import reports_of
from booking.settings import Hospital
from booking.store.budget import Budget
from booking.store.engine import Store, Tx
from booking.store.tables import applied_messages, practitioners
from mappings.canonical import (
    AnyEvent,
    Department,
    DepartmentChanged,
    PatientMerged,
    Practitioner,
    PractitionerChanged,
    Report,
    ReportIssued,
    ReportKind,
    ReportStatus,
)
from scheduler_sync import applying
from scheduler_sync.applying import MASTER_AT_ONCE
from scheduler_sync.inbox import Inbox
from scheduler_sync.leases import NotOurs
from scheduler_sync.messages.store import store_message
from tests.booking.world import HOSPITAL
from tests.scheduler_sync.test_inbox import a_bill, hear, message, name_of, patient, states

MANY = 40


@pytest.fixture
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of every transaction is over when its first event is applied."""
    monkeypatch.setattr(applying, "Budget", lambda: Budget(-1.0))


def merges(count: int = MANY) -> list[AnyEvent]:
    return [PatientMerged(surviving_mrn=f"S{n}", retired_mrn=f"R{n}") for n in range(count)]


def doctors(count: int = MANY) -> list[AnyEvent]:
    return [PractitionerChanged(practitioner=Practitioner(id=f"D{n}", name=f"医{n}")) for n in range(count)]


def report(status: ReportStatus, mrn: str | None = "M1") -> ReportIssued:
    return ReportIssued(report=Report(id="R1", kind=ReportKind.LAB, status=status, mrn=mrn))


async def writes(store: Store) -> int:
    """How many transactions of the hospital have written so far."""
    async with store.write(HOSPITAL) as tx:
        return tx.seq


async def applied(store: Store) -> str:
    async with store.read(HOSPITAL) as tx:
        row = await tx.first(select(applied_messages.c.ids))
    return "" if row is None else str(row["ids"])


@pytest.mark.parametrize("told", [merges(), doctors()], ids=["merges", "master data"])
@pytest.mark.usefixtures("no_time")
async def test_holds_may_write_between_the_events_when_a_message_has_very_many(
    inbox: Inbox, store: Store, messages: Store, told: list[AnyEvent]
) -> None:
    at_once = 1 if isinstance(told[0], PatientMerged) else MASTER_AT_ONCE
    before = await writes(store)
    await hear(inbox, message(*told))
    assert await writes(store) - before > MANY / at_once
    assert await states(messages) == [("applied", None)]
    async with store.read(HOSPITAL) as tx:
        found = await tx.first(select(func.count().label("n")).select_from(practitioners))
        survivors = [await person_by_mrn(tx, f"R{n}") for n in range(MANY)]
    if isinstance(told[0], PatientMerged):
        assert [one.record.mrn for one in survivors if one is not None] == [f"S{n}" for n in range(MANY)]
    else:
        assert found == {"n": MANY}


async def test_newest_word_stands_when_master_data_of_one_message_name_it_twice(inbox: Inbox, store: Store) -> None:
    told = [PractitionerChanged(practitioner=Practitioner(id="D1", name=name)) for name in ("旧", "新")]
    place = DepartmentChanged(department=Department(id="P1", name="内科"))
    await hear(inbox, message(told[1], place, *told[:1], place, told[1]))
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(practitioners.c.id, practitioners.c.name))
    assert rows == [{"id": "D1", "name": "新"}]


async def test_one_transaction_is_enough_when_there_is_time(
    inbox: Inbox, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applying, "Budget", lambda: Budget(3600.0))
    before = await writes(store)
    await hear(inbox, message(*doctors()))
    assert await writes(store) - before == 2  # the other is the asking


@pytest.mark.usefixtures("no_time")
async def test_newer_message_is_applied_behind_all_events_when_one_is_begun(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    names = [patient(f"张{n}", "M1") for n in range(MANY)]
    await asyncio.gather(inbox.handle(message(*names)), inbox.handle(message(patient("张末", "M1"), key="k2")))
    await inbox.apply_all()
    assert await name_of(store, "M1") == "张末"
    assert await states(messages) == [("applied", None)] * 2


@pytest.mark.usefixtures("no_time")
async def test_what_was_begun_goes_on_where_it_stood_when_the_process_ends_in_between(
    store: Store, messages: Store, hospital: Hospital
) -> None:
    told = [report(ReportStatus.PRELIMINARY), report(ReportStatus.FINAL), *merges(2), report(ReportStatus.CORRECTED)]
    async with messages.write(HOSPITAL) as tx:
        message_id = await store_message(tx, message(patient("张伟", "M1"), *told))

    async def lease(tx: Tx) -> bool:
        row = await tx.first(select(applied_messages.c.ids))
        return row is None or not row["ids"].endswith(":3")

    first = Inbox(store, messages, hospital, fence=lease)
    with pytest.raises(NotOurs):
        await first.heal()
    assert await applied(store) == f"{message_id}:3"
    assert await states(messages) == [("received", None)]

    second = Inbox(store, messages, hospital)
    assert await second.heal() == 1
    await second.close()
    assert await states(messages) == [("applied", None)]
    async with store.read(HOSPITAL) as tx:
        person = await person_by_mrn(tx, "M1")
        assert person is not None
        found = await reports_of(tx, person)
    # Three words of the HIS are three versions: none was applied a second time.
    assert [(one.version, one.record.status) for one in found] == [(3, ReportStatus.CORRECTED)]


@pytest.mark.usefixtures("no_time")
async def test_message_is_whole_or_not_at_all_when_one_of_its_events_can_be_refused(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    told: list[AnyEvent] = [a_bill("USD"), report(ReportStatus.FINAL, mrn=None)]
    for n, refused in enumerate(told):
        await hear(inbox, message(*doctors(3), refused, key=f"k{n}"))
    assert [state for state, _ in await states(messages)] == ["quarantined"] * 2
    async with store.read(HOSPITAL) as tx:
        assert await tx.all(select(practitioners)) == []


@pytest.mark.usefixtures("no_time")
async def test_message_begins_anew_when_it_was_set_aside_half_applied(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    odd = msgspec.structs.replace(Department(id="D1", name="x"), id=None)
    await hear(inbox, message(*doctors(2), DepartmentChanged(department=odd), *doctors(1)))
    (stored,) = await states(messages)
    assert stored == ("quarantined", "cannot be applied (IntegrityError), after 2 of its 4 events were applied")
    assert ":" not in await applied(store)
    await hear(inbox, message(patient(), key="k2"))
    assert (await states(messages))[1] == ("applied", None)


@pytest.mark.usefixtures("no_time")
async def test_event_loop_goes_on_when_a_message_cannot_be_divided(inbox: Inbox, messages: Store) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    ticker = asyncio.create_task(count())
    await hear(inbox, message(*(a_bill() for _ in range(MANY))))
    ticker.cancel()
    assert turns > MANY
    assert await states(messages) == [("applied", None)]
