"""The inbox: stored before acknowledged, applied once, set aside when it cannot be, and healed after a crash."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from booking.billing import bills_of
from booking.people import load_person, person_by_mrn
from booking.settings import Hospital
from booking.store.engine import Store, StoreUnavailable
from booking.store.tables import applied_messages, bills, departments, events, persons
from connectors.port import Inbound, InboundAnswer, Refused, Stored
from mappings.canonical import (
    AnyEvent,
    Bill,
    BillIssued,
    Department,
    DepartmentChanged,
    Patient,
    PatientChanged,
    PatientMerged,
    PatientUnlinked,
    Registration,
    RegistrationChanged,
    RegistrationStatus,
    ScheduleChanged,
    ScheduleStopped,
    StopScope,
)
from scheduler_sync.inbox import Inbox
from scheduler_sync.messages.store import list_messages, store_message
from scheduler_sync.messages.tables import messages as message_table
from tests.booking.world import DAY, HOSPITAL, ZHANG, booked, get, make_hospital, put_patient, put_slot
from tests.scheduler_sync.peer import until
from tests.stores import Wall, unreachable

NOON = dt.datetime(2031, 3, 3, 12, tzinfo=dt.UTC)


def message(*told: AnyEvent, key: str = "k1", control_id: str = "MSG1", **changes: Any) -> Inbound:
    known = Inbound(
        hospital_id=HOSPITAL,
        connector="adt",
        peer="127.0.0.1:1",
        message_type="ADT^A08",
        control_id=control_id,
        dedup_key=key,
        raw="MSH|^~\\&|...|张伟".encode(),
        events=told,
    )
    return msgspec.structs.replace(known, **changes)


def patient(name: str = "张伟", mrn: str = "M1", **more: Any) -> PatientChanged:
    return PatientChanged(patient=Patient(name=name, mrn=mrn, **more))


def a_bill(currency: str = "CNY", mrn: str | None = "M1") -> BillIssued:
    return BillIssued(bill=Bill(id="B1", amount_fen=100, currency=currency, mrn=mrn))


async def hear(inbox: Inbox, inbound: Inbound) -> InboundAnswer:
    """The answer, after whatever followed from the message is done and noted."""
    answer = await inbox.handle(inbound)
    await inbox.apply_all()
    return answer


async def states(messages: Store) -> list[tuple[str, str | None]]:
    """(state, reason) of every stored message, oldest first."""
    return [(m.state, m.reason) for m in reversed(await list_messages(messages, HOSPITAL))]


async def name_of(store: Store, mrn: str) -> str:
    async with store.read(HOSPITAL) as tx:
        person = await person_by_mrn(tx, mrn)
    assert person is not None
    return person.record.name


async def test_message_is_stored_when_it_is_answered_and_applied_soon_after(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    assert await inbox.handle(message(patient())) == Stored()
    assert await states(messages) == [("received", None)]

    async def done() -> bool:
        return await states(messages) == [("applied", None)]

    await until(done)
    assert await name_of(store, "M1") == "张伟"


async def test_body_and_events_are_sealed_when_a_message_is_stored(inbox: Inbox, messages: Store) -> None:
    await hear(inbox, message(patient()))
    async with messages.read(HOSPITAL) as tx:
        (row,) = await tx.all(select(message_table))
        assert tx.unseal(row["sealed_raw"], "messages", "raw").endswith("张伟".encode())
    for value in row.values():
        assert "张伟" not in str(value)
        assert not isinstance(value, bytes) or "张伟".encode() not in value


async def test_duplicate_gets_the_first_answer_and_changes_nothing_when_it_comes_again(
    inbox: Inbox, store: Store, messages: Store, wall: Wall
) -> None:
    await hear(inbox, message(patient("张伟")))
    await hear(inbox, message(patient("张玮"), key="k2"))
    wall.turn(7 * 24 * 3600)
    assert await hear(inbox, message(patient("张伟"))) == Stored(duplicate=True)
    assert await name_of(store, "M1") == "张玮"
    assert len(await states(messages)) == 2


async def test_message_is_new_again_when_seven_days_have_passed(inbox: Inbox, store: Store, wall: Wall) -> None:
    await hear(inbox, message(patient("张伟")))
    await hear(inbox, message(patient("张玮"), key="k2"))
    wall.turn(7 * 24 * 3600 + 0.001)
    assert await hear(inbox, message(patient("张伟"))) == Stored()
    assert await name_of(store, "M1") == "张伟"


async def test_same_id_with_other_content_is_applied_when_its_key_differs(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    """ADT-A04-01 and ADT-A08-01 of the corpus share a control id and are two messages."""
    await hear(inbox, message(patient("张伟"), key="k1", control_id="MSG00001"))
    assert await hear(inbox, message(patient("张玮"), key="k2", control_id="MSG00001")) == Stored()
    assert await name_of(store, "M1") == "张玮"
    assert len(await states(messages)) == 2


async def test_message_is_set_aside_and_still_taken_when_it_cannot_be_applied(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    bad = message(a_bill("USD"))
    assert await hear(inbox, bad) == Stored()
    assert await hear(inbox, bad) == Stored(duplicate=True, quarantined=True)
    assert await states(messages) == [("quarantined", "bill in USD at a hospital whose currency is CNY")]
    assert await hear(inbox, message(patient(), key="k2")) == Stored()  # it blocks nobody
    async with store.read(HOSPITAL) as tx:
        assert await tx.all(select(bills)) == []


async def test_same_bill_is_taken_when_the_hospital_has_its_currency(store: Store, messages: Store) -> None:
    inbox = Inbox(store, messages, make_hospital(currency="USD"))
    assert await hear(inbox, message(patient(), a_bill("USD"))) == Stored()
    async with store.read(HOSPITAL) as tx:
        person = await person_by_mrn(tx, "M1")
        assert person is not None
        assert [b.amount_fen for b in await bills_of(tx, person)] == [100]


async def test_whole_message_is_set_aside_when_one_of_its_events_cannot_be_applied(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    await hear(inbox, message(patient(), a_bill(mrn=None)))
    assert [s for s, _ in await states(messages)] == ["quarantined"]
    async with store.read(HOSPITAL) as tx:
        assert await tx.all(select(persons)) == []


async def test_next_message_is_applied_when_what_a_taken_back_merge_makes_doubtful_cannot_be_hidden(
    inbox: Inbox, messages: Store, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise LookupError

    monkeypatch.setattr("scheduler_sync.inbox.shield_patients", broken)
    await hear(inbox, message(patient(), key="k1"))
    await hear(inbox, message(PatientMerged(surviving_mrn="M1", retired_mrn="M2"), key="k2"))
    await hear(inbox, message(PatientUnlinked(mrn="M1"), key="k3"))
    await hear(inbox, message(patient(name="张伟明"), key="k4"))
    found = await states(messages)
    assert [state for state, _ in found] == ["applied", "applied", "quarantined", "applied"]
    assert "still shown (LookupError)" in str(found[2][1])
    assert await name_of(store, "M1") == "张伟明"


@pytest.mark.parametrize("scope", list(StopScope))
async def test_stop_that_names_nothing_is_set_aside_when_it_comes(
    inbox: Inbox, store: Store, messages: Store, hospital: Hospital, scope: StopScope
) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store, ZHANG))
    await hear(inbox, message(ScheduleStopped(scope=scope)))
    assert [s for s, _ in await states(messages)] == ["quarantined"]
    assert (await get(store, booking_id)).state == "booked"


async def test_message_is_kept_for_a_person_when_it_could_not_be_mapped(inbox: Inbox, messages: Store) -> None:
    unread = message(problem="PID-3 is missing")
    assert await hear(inbox, unread) == Stored(quarantined=True)
    assert await hear(inbox, unread) == Stored(duplicate=True, quarantined=True)
    assert await states(messages) == [("quarantined", "PID-3 is missing")]


# --- stores that are away, and crashes ---------------------------------------------------------------------------------


async def test_message_is_refused_for_a_retry_when_it_cannot_be_stored(
    engine: str, store: Store, hospital: Hospital, tmp_path: Path
) -> None:
    async with unreachable(engine, tmp_path) as gone:
        inbox = Inbox(store, gone, hospital)
        answer = await inbox.handle(message(patient()))
        await inbox.close()
    assert isinstance(answer, Refused)
    assert (answer.code, answer.retryable) == ("store_unavailable", True)
    async with store.read(HOSPITAL) as tx:
        assert await tx.all(select(persons)) == []


async def test_message_is_taken_and_applied_later_when_only_the_booking_store_is_away(
    engine: str, store: Store, messages: Store, hospital: Hospital, tmp_path: Path
) -> None:
    async with messages.write(HOSPITAL):
        assert await states(messages) == []  # opens its connections here, apart from the failing one's
    async with unreachable(engine, tmp_path) as gone:
        away = Inbox(gone, messages, hospital)
        assert await away.handle(message(patient())) == Stored()
        with pytest.raises(StoreUnavailable):
            await away.apply_all()
        assert await away.handle(message(patient())) == Stored(duplicate=True)
        await away.close()
    assert await states(messages) == [("received", None)]
    again = Inbox(store, messages, hospital)
    assert await again.heal() == 1
    assert await states(messages) == [("applied", None)]
    assert await name_of(store, "M1") == "张伟"


async def test_message_is_applied_by_itself_when_the_booking_store_comes_back(
    inbox: Inbox, store: Store, messages: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_sync.inbox.FIRST_PAUSE_S", 0.01)
    real, failures = Store.write, 3

    def sometimes(self: Store, hospital_id: str, **more: Any) -> Any:
        nonlocal failures
        if self is store and failures:
            failures -= 1
            raise StoreUnavailable("gone")
        return real(self, hospital_id, **more)

    monkeypatch.setattr(Store, "write", sometimes)
    assert await inbox.handle(message(patient())) == Stored()

    async def done() -> bool:
        return await states(messages) == [("applied", None)]

    await until(done)
    assert failures == 0
    assert await name_of(store, "M1") == "张伟"


async def test_what_a_crash_left_is_applied_in_its_order_when_the_service_starts(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    for key, name in (("k1", "张伟"), ("k2", "张玮")):
        async with messages.write(HOSPITAL) as tx:
            await store_message(tx, message(patient(name), key=key))
    assert await inbox.heal() == 2
    assert await name_of(store, "M1") == "张玮"
    assert await states(messages) == [("applied", None)] * 2
    assert await inbox.heal() == 0


async def test_message_that_could_not_be_mapped_stays_for_a_person_when_a_crash_follows(
    inbox: Inbox, messages: Store
) -> None:
    async with messages.write(HOSPITAL) as tx:
        await store_message(tx, message(problem="PID-3 is missing"))
    await inbox.heal()
    assert await states(messages) == [("quarantined", "PID-3 is missing")]


async def test_what_cannot_be_applied_is_set_aside_when_it_is_healed(inbox: Inbox, messages: Store) -> None:
    async with messages.write(HOSPITAL) as tx:
        await store_message(tx, message(a_bill("USD")))
    assert await inbox.heal() == 1
    assert [s for s, _ in await states(messages)] == ["quarantined"]


async def test_second_application_changes_nothing_when_the_crash_came_before_the_mark(
    inbox: Inbox, store: Store, messages: Store, hospital: Hospital
) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store, ZHANG))
    told = Registration(status=RegistrationStatus.CHECKED_IN, order_no=(await get(store, booking_id)).order_no)
    stop = ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="S1", date=DAY)
    inbound = message(
        RegistrationChanged(registration=told, occurred_at=NOON), patient(), a_bill(),
        PatientMerged(surviving_mrn="M1", retired_mrn="M0"), stop,
    )  # fmt: skip
    await hear(inbox, inbound)
    first = await get(store, booking_id)
    assert first.state == "stopped"
    async with store.read(HOSPITAL) as tx:
        before = [await tx.all(select(t)) for t in (persons, bills)]
    async with messages.write(HOSPITAL) as tx:
        await tx.run(message_table.update().values(state="received"))
    async with store.write(HOSPITAL) as tx:
        await tx.run(applied_messages.delete())  # as if nothing were known of it: it is applied once more
    assert await inbox.heal() == 1
    second = await get(store, booking_id)
    assert (second.state, second.his_state, second.payment_state) == (first.state, first.his_state, first.payment_state)
    async with store.read(HOSPITAL) as tx:
        after = [await tx.all(select(t)) for t in (persons, bills)]
    assert [[r["id"] for r in rows] for rows in after] == [[r["id"] for r in rows] for rows in before]


async def test_messages_are_applied_in_the_order_of_arrival_when_they_come_together(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    names = [f"张{n}" for n in range(8)]
    answers = await asyncio.gather(*(inbox.handle(message(patient(n), key=n)) for n in names))
    assert answers == [Stored()] * 8
    await inbox.apply_all()
    assert await name_of(store, "M1") == names[-1]


async def test_reason_holds_no_patient_data_when_an_event_breaks_something(inbox: Inbox, messages: Store) -> None:
    """Errors of the database quote the row: what they say stays with us."""
    odd = DepartmentChanged(department=msgspec.structs.replace(Department(id="D1", name="x"), id=None))
    await hear(inbox, message(odd, patient("张伟", "M1")))
    (_, reason) = (await states(messages))[-1]
    assert reason == "cannot be applied (IntegrityError)"


# --- events ------------------------------------------------------------------------------------------------------------


async def test_stop_moves_bookings_and_asks_for_a_fetch_when_it_is_pushed(
    inbox: Inbox, store: Store, hospital: Hospital
) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store, ZHANG))
    asked = store.bell.listen(f"fetch:{HOSPITAL}")
    await hear(inbox, message(ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="S1", date=DAY)))
    assert (await get(store, booking_id)).state == "stopped"
    assert asked.done()


async def test_fetch_is_asked_for_when_a_schedule_was_changed(inbox: Inbox, store: Store) -> None:
    asked = store.bell.listen(f"fetch:{HOSPITAL}")
    assert await hear(inbox, message(ScheduleChanged())) == Stored()
    assert asked.done()


async def test_department_is_known_when_it_is_pushed(inbox: Inbox, store: Store) -> None:
    await hear(inbox, message(DepartmentChanged(department=Department(id="D1", name="内科"))))
    async with store.read(HOSPITAL) as tx:
        assert [d["name"] for d in await tx.all(select(departments))] == ["内科"]


async def test_two_become_one_when_a_merge_is_pushed(inbox: Inbox, store: Store) -> None:
    await hear(inbox, message(patient("张伟", "M1"), patient("张玮", "M2"), key="k0"))
    await hear(inbox, message(PatientMerged(surviving_mrn="M1", retired_mrn="M2")))
    async with store.read(HOSPITAL) as tx:
        one, two = await person_by_mrn(tx, "M1"), await person_by_mrn(tx, "M2")
        assert one is not None
        assert two is not None
        assert one.id == two.id
        assert await load_person(tx, two.id) == one
        assert await tx.all(select(events)) == []
