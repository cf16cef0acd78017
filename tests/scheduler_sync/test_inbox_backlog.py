"""Applying behind the acknowledgement: in batches, in order, exactly once, and never too far behind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from booking.settings import Hospital
from booking.store.budget import Budget
from booking.store.engine import Store, StoreUnavailable, Tx
from booking.store.tables import persons
from connectors.port import Refused, Stored
from mappings.canonical import (
    AnyEvent,
    Patient,
    PatientChanged,
    PatientMerged,
    Report,
    ReportIssued,
    ReportKind,
    ReportStatus,
)
from monitoring import metrics
from monitoring.metrics import REGISTRY
from scheduler_sync import applying
from scheduler_sync import inbox as module
from scheduler_sync.applying import LONG_BYTES, MOST_AT_ONCE, Waiting
from scheduler_sync.backlog import Backlog
from scheduler_sync.inbox import Inbox
from tests.booking.world import HOSPITAL
from tests.scheduler_sync.peer import until
from tests.scheduler_sync.test_inbox import a_bill, hear, message, name_of, patient, states
from tests.stores import unreachable

A_DAY_S = 86_400.0


@pytest.fixture
def commits(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each transaction begun in the booking store."""
    begun: list[int] = []
    real = Store.write

    def counted(self: Store, hospital_id: str, **more: Any) -> Any:
        if self is store:
            begun.append(1)
        return real(self, hospital_id, **more)

    monkeypatch.setattr(Store, "write", counted)
    return begun


def waiting(message_id: str, size: int) -> Waiting:
    return Waiting(id=message_id, connector="adt", message_type="", control_id="", events=(), size=size)


def counted(result: str) -> float:
    labels = {"hospital": HOSPITAL, "connector": "adt", "type": metrics.message_type_label("ADT^A08"), "result": result}
    return REGISTRY.get_sample_value("hisbridge_inbound_messages_total", labels) or 0.0


async def test_messages_share_a_transaction_when_they_come_faster_than_they_are_applied(
    inbox: Inbox, store: Store, messages: Store, commits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        applying, "Budget", lambda: Budget(60.0)
    )  # a busy machine may need all of the usual one for one
    told = [inbox.handle(message(patient(f"张{n}"), key=f"k{n}")) for n in range(MOST_AT_ONCE)]
    assert await asyncio.gather(*told) == [Stored()] * MOST_AT_ONCE
    await inbox.apply_all()
    assert await states(messages) == [("applied", None)] * MOST_AT_ONCE
    assert await name_of(store, "M1") == f"张{MOST_AT_ONCE - 1}"
    assert len(commits) < MOST_AT_ONCE / 2


def a_report(number: int, **more: Any) -> ReportIssued:
    return ReportIssued(
        report=Report(id=f"R{number}", kind=ReportKind.LAB, status=ReportStatus.FINAL, mrn="M1", **more)
    )


@pytest.mark.parametrize("size", [3_000, 100_000])
async def test_reports_share_a_transaction_when_they_are_not_large(
    inbox: Inbox, store: Store, messages: Store, commits: list[int], monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(inbox, "_begin_work", lambda: None)
        for n in range(10):
            assert await inbox.handle(message(a_report(n), key=f"k{n}", raw=b"x" * size)) == Stored()
    commits.clear()
    await inbox.apply_all()
    assert await states(messages) == [("applied", None)] * 10
    # A transaction takes no new one once its budget is spent, which a busy machine may need for one.
    assert len(commits) == 10 if size > LONG_BYTES else len(commits) < 10


async def test_nothing_is_written_when_a_patient_is_told_again_as_known(inbox: Inbox, store: Store) -> None:
    told = patient("张一", id_type="01", id_number="110101199003070134")
    await inbox.handle(message(told, key="k1"))
    await inbox.apply_all()
    before = await person_rows(store)
    await inbox.handle(message(told, key="k2"))
    await inbox.apply_all()
    assert await person_rows(store) == before  # sealed anew it would have other bytes
    await inbox.handle(message(patient("张二"), key="k3"))
    await inbox.apply_all()
    assert await person_rows(store) != before


async def person_rows(store: Store) -> list[dict[str, Any]]:
    async with store.read(HOSPITAL) as tx:
        return await tx.all(select(persons))


async def test_neighbours_are_applied_in_order_when_one_of_a_batch_cannot_be(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    applied, quarantined = counted("applied"), counted("quarantined")
    told: list[AnyEvent] = [patient("张一"), patient("张二"), a_bill("USD"), patient("张三"), patient("张四", mrn="M2")]
    await asyncio.gather(*(inbox.handle(message(event, key=f"k{n}")) for n, event in enumerate(told)))
    await inbox.apply_all()
    reason = "bill in USD at a hospital whose currency is CNY"
    assert await states(messages) == [
        ("applied", None), ("applied", None), ("quarantined", reason), ("applied", None), ("applied", None),
    ]  # fmt: skip
    assert (await name_of(store, "M1"), await name_of(store, "M2")) == ("张三", "张四")
    assert (counted("applied") - applied, counted("quarantined") - quarantined) == (4, 1)


async def test_all_is_applied_in_its_order_when_a_crash_came_between_the_acknowledgement_and_the_applying(
    inbox: Inbox, store: Store, messages: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(self: Inbox) -> None:
        await asyncio.sleep(A_DAY_S)

    with monkeypatch.context() as patched:
        patched.setattr(Inbox, "_work", never)
        for n in range(5):
            assert await inbox.handle(message(patient(f"张{n}"), key=f"k{n}")) == Stored()
        await inbox.close(drain=False)  # as a crash leaves it: nothing was applied
    assert await states(messages) == [("received", None)] * 5
    again = Inbox(store, messages, hospital)
    assert await again.heal() == 5
    assert await states(messages) == [("applied", None)] * 5
    assert await name_of(store, "M1") == "张4"


async def test_nothing_is_applied_twice_when_the_answer_of_a_commit_was_lost(
    inbox: Inbox, store: Store, messages: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction is committed, and whoever waits for it hears that the store is away."""
    heard: list[str] = []
    real_apply, real_event = applying.apply_messages, applying.apply_event

    async def lose_answer(*args: Any, **more: Any) -> int:
        await real_apply(*args, **more)
        monkeypatch.setattr(module, "apply_messages", real_apply)
        raise StoreUnavailable("connection lost in the commit")

    async def note_event(tx: Tx, hospital: Hospital, event: Any, **more: Any) -> None:
        heard.append(event.patient.name)
        await real_event(tx, hospital, event, **more)

    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "apply_messages", lose_answer)
    monkeypatch.setattr(applying, "apply_event", note_event)
    for name in ("张一", "张二"):
        await inbox.handle(message(patient(name), key=name))

    async def done() -> bool:
        return await states(messages) == [("applied", None)] * 2

    await until(done)
    assert heard == ["张一", "张二"]


async def test_peer_waits_and_then_is_refused_when_too_much_is_not_applied(
    engine: str, messages: Store, hospital: Hospital, tmp_path: Path
) -> None:
    async with unreachable(engine, tmp_path) as gone:
        inbox = Inbox(gone, messages, hospital, backlog=Backlog(most=3), room_within_s=0.05)
        for n in range(3):
            assert await inbox.handle(message(patient(), key=f"k{n}")) == Stored()
        answer = await inbox.handle(message(patient(), key="k3"))
        assert isinstance(answer, Refused)
        assert (answer.code, answer.retryable) == ("backlog_full", True)
        await inbox.close()
    assert await states(messages) == [("received", None)] * 3


async def test_peer_goes_on_when_there_is_room_again(store: Store, messages: Store, hospital: Hospital) -> None:
    inbox = Inbox(store, messages, hospital, backlog=Backlog(most=2), room_within_s=60)
    await inbox.heal()
    answers = await asyncio.gather(*(inbox.handle(message(patient(f"张{n}"), key=f"k{n}")) for n in range(20)))
    assert answers == [Stored()] * 20
    await inbox.close()
    assert await states(messages) == [("applied", None)] * 20


async def test_large_messages_fill_the_backlog_when_they_are_few() -> None:
    backlog = Backlog(most=10, most_bytes=100)
    backlog.append(waiting("1", size=99))
    await backlog.room(0.01)
    backlog.append(waiting("2", size=1))
    with pytest.raises(TimeoutError):
        await backlog.room(0.01)
    backlog.pop()
    await backlog.room(0.01)


async def test_rest_is_applied_when_the_inbox_closes(inbox: Inbox, store: Store, messages: Store) -> None:
    for n in range(3):
        await inbox.handle(message(patient(f"张{n}"), key=f"k{n}"))
    await inbox.close()
    assert await states(messages) == [("applied", None)] * 3
    assert await name_of(store, "M1") == "张2"


async def test_nothing_is_applied_when_the_hospital_is_another_process_s(
    store: Store, messages: Store, hospital: Hospital
) -> None:
    ours = True

    async def fence(tx: Tx) -> bool:
        return ours

    inbox = Inbox(store, messages, hospital, fence=fence)
    await inbox.heal()
    await hear(inbox, message(patient("张一"), key="k1"))
    ours = False
    await inbox.handle(message(patient("张二"), key="k2"))
    with pytest.raises(StoreUnavailable):
        await inbox.apply_all()
    await inbox.close(drain=False)
    assert await states(messages) == [("applied", None), ("received", None)]
    assert await name_of(store, "M1") == "张一"


async def test_order_of_persons_is_kept_when_batches_are_cut_by_what_goes_alone(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    told: list[AnyEvent] = [
        patient("张一", mrn="M1"), PatientMerged(surviving_mrn="M1", retired_mrn="M2"),
        PatientChanged(patient=Patient(name="张一", mrn="M2")), patient("张三", mrn="M1"),
    ]  # fmt: skip
    for n, event in enumerate(told):
        await inbox.handle(message(event, key=f"k{n}"))
    await inbox.apply_all()
    assert await states(messages) == [("applied", None)] * 4
    assert (await name_of(store, "M1"), await name_of(store, "M2")) == ("张三", "张三")


async def test_others_write_at_once_when_a_transaction_waits_for_more_messages(
    inbox: Inbox, store: Store, messages: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPEN_S", A_DAY_S)
    if store.dialect != "sqlite":
        return  # there other processes may want to write: nothing stays open
    for n in (1, 2):
        assert await inbox.handle(message(patient(f"张{n}"), key=f"k{n}")) == Stored()
        await asyncio.sleep(0.05)  # the first is applied by itself, the second one's transaction stays open for a third
    async with asyncio.timeout(5), store.write(HOSPITAL, here=True):
        pass
    assert await name_of(store, "M1") == "张2"


async def test_transaction_takes_the_next_message_and_ends_by_itself_when_a_stream_ends(
    inbox: Inbox, store: Store, messages: Store, monkeypatch: pytest.MonkeyPatch, commits: list[int]
) -> None:
    monkeypatch.setattr(module, "OPEN_S", 0.2)
    for n in range(4):
        assert await inbox.handle(message(patient(f"张{n}"), key=f"k{n}")) == Stored()
        await asyncio.sleep(0.001)

    async def done() -> bool:
        return await states(messages) == [("applied", None)] * 4

    await until(done)
    assert await name_of(store, "M1") == "张3"
    # Two, unless the machine is so slow that a transaction's time is over; on PostgreSQL none stays open.
    assert len(commits) < 4 or store.dialect != "sqlite"


async def test_neighbours_are_applied_when_one_that_came_into_an_open_transaction_cannot_be(
    inbox: Inbox, store: Store, messages: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPEN_S", 0.1)
    told: list[AnyEvent] = [patient("张一"), patient("张二"), a_bill("USD"), patient("张三")]
    for n, event in enumerate(told):
        assert await inbox.handle(message(event, key=f"k{n}")) == Stored()
        await asyncio.sleep(0.01)
    await inbox.apply_all()
    assert [state for state, _ in await states(messages)] == ["applied", "applied", "quarantined", "applied"]
    assert await name_of(store, "M1") == "张三"


async def test_rest_is_applied_when_the_inbox_closes_in_an_open_transaction(
    inbox: Inbox, store: Store, messages: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPEN_S", A_DAY_S if store.dialect == "sqlite" else 0.01)
    for n in range(3):
        assert await inbox.handle(message(patient(f"张{n}"), key=f"k{n}")) == Stored()
        await asyncio.sleep(0.01)
    await inbox.close()
    assert await states(messages) == [("applied", None)] * 3
