"""That messages were applied is noted with the next one, or soon; what is not noted is known all the same after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from booking.fetches import stop_slots
from booking.people import person_by_mrn
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.here import Here, LoopConnection
from connectors.port import Inbound, Refused, Stored
from mappings.canonical import (
    Patient,
    Registration,
    RegistrationChanged,
    RegistrationStatus,
    ScheduleStopped,
    StopScope,
)
from scheduler_sync.inbox import Inbox
from scheduler_sync.messages.journal import LONG_BYTES
from scheduler_sync.messages.store import list_messages
from tests.booking.world import DAY, HOSPITAL, ZHANG, booked, get, make_schedule, put_patient, put_slot, schedule_id_of
from tests.scheduler_sync.peer import until
from tests.scheduler_sync.test_inbox import a_bill, message, name_of, patient
from tests.stores import unreachable

NEVER_S = 3_600.0


@pytest.fixture
async def inbox(store: Store, messages: Store, hospital: Hospital) -> AsyncIterator[Inbox]:
    """One that leaves noting to the next message."""
    it = Inbox(store, messages, hospital, mark_after_s=NEVER_S)
    await it.heal()
    yield it
    await it.close()


async def states(messages: Store) -> list[str]:
    return [m.state for m in reversed(await list_messages(messages, HOSPITAL))]


async def apply_only(inbox: Inbox, store: Store, mrn: str, name: str) -> None:
    """Until the message that names the patient so was applied; nothing is noted by waiting."""

    async def applied() -> bool:
        async with store.read(HOSPITAL) as tx:
            person = await person_by_mrn(tx, mrn)
        return person is not None and person.record.name == name

    await until(applied)


async def test_only_the_newest_is_not_noted_when_messages_follow_each_other(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    for n, name in enumerate(("张一", "张二", "张三"), 1):
        assert await inbox.handle(message(patient(name), key=f"k{n}")) == Stored()
        await apply_only(inbox, store, "M1", name)
        assert await states(messages) == ["applied"] * (n - 1) + ["received"]


async def test_duplicate_is_known_and_notes_the_one_before_when_it_comes_at_once(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    await inbox.handle(message(patient()))
    await apply_only(inbox, store, "M1", "张伟")
    assert await inbox.handle(message(patient())) == Stored(duplicate=True)
    assert await states(messages) == ["applied"]


async def test_one_that_is_set_aside_is_noted_at_once(inbox: Inbox, messages: Store) -> None:
    await inbox.handle(message(patient(), key="k1"))
    await inbox.handle(message(a_bill("USD"), key="k2"))

    async def noted() -> bool:
        return await states(messages) == ["applied", "quarantined"]

    await until(noted)


async def test_newest_is_noted_soon_when_no_other_comes(store: Store, messages: Store, hospital: Hospital) -> None:
    inbox = Inbox(store, messages, hospital, mark_after_s=0.01)
    await inbox.handle(message(patient()))

    async def noted() -> bool:
        return await states(messages) == ["applied"]

    await until(noted)
    await inbox.close()


async def test_newest_is_noted_when_the_inbox_closes(store: Store, messages: Store, hospital: Hospital) -> None:
    inbox = Inbox(store, messages, hospital, mark_after_s=NEVER_S)
    await inbox.handle(message(patient()))
    await inbox.close()
    assert await states(messages) == ["applied"]


async def test_close_does_no_harm_when_the_message_store_is_away(
    store: Store, hospital: Hospital, engine: str, tmp_path: Path
) -> None:
    async with unreachable(engine, tmp_path) as gone:
        inbox = Inbox(store, gone, hospital)
        assert isinstance(await inbox.handle(message(patient())), Refused)
        await inbox.close()


async def test_nothing_is_applied_a_second_time_when_a_crash_kept_it_from_being_noted(
    inbox: Inbox, store: Store, messages: Store, hospital: Hospital
) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store, ZHANG))
    order_no = (await get(store, booking_id)).order_no

    def told(status: RegistrationStatus, key: str) -> Inbound:
        return message(RegistrationChanged(registration=Registration(status=status, order_no=order_no)), key=key)

    # Registered, then released: the first of them applied again after the second would ask the HIS to cancel once more.
    await inbox.handle(told(RegistrationStatus.REGISTERED, "k1"))
    await inbox.handle(told(RegistrationStatus.RELEASED, "k2"))

    async def released() -> bool:
        return (await get(store, booking_id)).his_state == "released"

    await until(released)
    assert await states(messages) == ["received", "received"]
    before = await get(store, booking_id)
    assert (before.state, before.his_state) == ("cancelled", "released")
    after_crash = Inbox(store, messages, hospital)
    assert await after_crash.heal() == 2
    after = await get(store, booking_id)
    assert (after.state, after.his_state, after.his_command) == ("cancelled", "released", "none")
    assert await states(messages) == ["applied", "applied"]


async def test_long_message_is_taken_like_any_other(inbox: Inbox, store: Store, messages: Store) -> None:
    long = message(patient(), raw=b"MSH|" + b"x" * LONG_BYTES)
    assert await inbox.handle(long) == Stored()
    assert await inbox.handle(long) == Stored(duplicate=True)
    await inbox.apply_all()
    assert await states(messages) == ["applied"]


async def test_all_are_moved_when_a_stop_hits_many_bookings(
    inbox: Inbox, store: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("booking.bookings.MOST_IN_A_TURN", 1)
    monkeypatch.setattr("booking.stops.MOST_IN_A_TURN", 1)
    ids = []
    for n in range(3):
        slot_id = await put_slot(store, slot_id=str(n), hour=8 + n, schedule=make_schedule())
        ids.append(await booked(store, hospital, slot_id, await put_patient(store, _person(n))))
    stop = ScheduleStopped(scope=StopScope.SCHEDULE, schedule_id="S1", date=DAY)
    assert await inbox.handle(message(stop)) == Stored()
    await inbox.apply_all()
    assert [(await get(store, i)).state for i in ids] == ["stopped"] * 3


def _person(n: int) -> Patient:
    return Patient(name=f"张{n}", id_type="other", id_number=f"X{n}")


async def test_rest_of_a_stop_is_carried_out_at_the_start_when_a_crash_cut_it_off(
    inbox: Inbox, store: Store, hospital: Hospital
) -> None:
    booking_id = await booked(store, hospital, await put_slot(store), await put_patient(store))
    async with store.write(HOSPITAL) as tx:
        await stop_slots(tx, schedule_id_of(make_schedule()))
    await inbox.heal()
    assert (await get(store, booking_id)).state == "stopped"


async def test_order_is_kept_when_many_come_together(inbox: Inbox, store: Store, messages: Store) -> None:
    names = [f"张{n}" for n in range(12)]
    answers = await asyncio.gather(*(inbox.handle(message(patient(n), key=n)) for n in names))
    assert set(answers) == {Stored()}
    await inbox.apply_all()
    assert await name_of(store, "M1") == names[-1]
    assert await states(messages) == ["applied"] * 12


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize("how", ["noted soon", "with the next one", "set aside"])
async def test_long_message_is_not_noted_on_the_event_loop_when_it_was_applied(
    inbox: Inbox, messages: Store, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Its row is written anew, megabytes of it."""
    on_loop: list[bool] = []
    begin = Here.begin

    def seen(here: Here) -> AbstractAsyncContextManager[LoopConnection]:
        on_loop.append(here is messages.on_loop)
        return begin(here)

    monkeypatch.setattr(Here, "begin", seen)
    told = a_bill("USD") if how == "set aside" else patient()
    assert await inbox.handle(message(told, raw=b"x" * (LONG_BYTES + 1))) == Stored()
    if how == "with the next one":
        while inbox._backlog:
            await inbox._step()
        assert await inbox.handle(message(patient(), key="k2", raw=b"x" * (LONG_BYTES + 1))) == Stored()
        assert await states(messages) == ["applied", "received"]
    await inbox.apply_all()
    assert set(await states(messages)) == {"quarantined" if how == "set aside" else "applied"}
    assert not any(on_loop)
    await inbox.handle(message(patient(), key="k3"))
    await inbox.apply_all()
    assert any(on_loop)
