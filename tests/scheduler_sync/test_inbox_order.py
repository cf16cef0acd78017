"""No message may block its peer or the start, and none may be applied over a newer one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import select

from booking.people import person_by_mrn
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import bills
from connectors.port import Inbound, Refused, Stored
from mappings.canonical import AnyEvent, Bill, BillIssued, Department, DepartmentChanged, Patient, PatientChanged
from scheduler_sync.inbox import Inbox
from scheduler_sync.messages.retention import forget_messages
from scheduler_sync.messages.store import list_messages, store_message
from scheduler_sync.messages.tables import messages as message_table
from tests.booking.world import HOSPITAL
from tests.scheduler_sync.test_inbox import hear
from tests.stores import Wall, make_vault, opened, unreachable

DAY_S = 24 * 3600


def message(*told: AnyEvent, key: str = "k1", **changes: str) -> Inbound:
    known = Inbound(
        hospital_id=HOSPITAL, connector="adt", peer="127.0.0.1:1", message_type="DFT^P03", control_id="MSG1",
        dedup_key=key, raw=b"MSH|...", events=told,
    )  # fmt: skip
    return msgspec.structs.replace(known, **changes)


def patient(name: str, mrn: str = "M1") -> PatientChanged:
    return PatientChanged(patient=Patient(name=name, mrn=mrn))


@pytest.fixture
async def inbox(store: Store, messages: Store, hospital: Hospital) -> AsyncIterator[Inbox]:
    it = Inbox(store, messages, hospital)
    yield it
    await it.close()


async def states(messages: Store) -> list[tuple[str, str | None]]:
    return [(m.state, m.reason) for m in reversed(await list_messages(messages, HOSPITAL))]


async def name_of(store: Store, mrn: str = "M1") -> str:
    async with store.read(HOSPITAL) as tx:
        person = await person_by_mrn(tx, mrn)
    assert person is not None
    return person.record.name


async def leave(messages: Store, *inbound: Inbound) -> None:
    """Stored, and then the process died."""
    for one in inbound:
        async with messages.write(HOSPITAL) as tx:
            await store_message(tx, one)


TOO_LARGE = BillIssued(bill=Bill(id="B1", amount_fen=2**70, currency="CNY", mrn="M1"))
WITH_NUL = DepartmentChanged(department=Department(id="D\x001", name="内\x00科"))


@pytest.mark.parametrize("odd", [TOO_LARGE, WITH_NUL], ids=["number too large", "NUL"])
async def test_peer_is_answered_and_goes_on_when_a_message_breaks_the_store(
    inbox: Inbox, store: Store, messages: Store, odd: AnyEvent
) -> None:
    assert await hear(inbox, message(odd)) == Stored()
    # SQLite takes a NUL as it takes any character.
    taken = odd is WITH_NUL and store.dialect == "sqlite"
    assert [s for s, _ in await states(messages)] == ["applied" if taken else "quarantined"]
    assert await hear(inbox, message(patient("张伟"), key="k2")) == Stored()
    assert await name_of(store) == "张伟"
    async with store.read(HOSPITAL) as tx:
        assert await tx.all(select(bills)) == []
    for state, reason in (await states(messages))[:1]:
        assert state == "applied" or (reason or "").startswith("cannot be applied (")


async def test_message_is_taken_when_its_own_number_has_a_nul(inbox: Inbox, messages: Store) -> None:
    odd = message(patient("张伟"), control_id="MSG\x001", message_type="ADT\x00", peer="\udcff", dedup_key="a\x00b")
    assert await hear(inbox, odd) == Stored()
    (stored,) = await list_messages(messages, HOSPITAL)
    assert (stored.state, stored.control_id) == ("applied", "MSG\ufffd1")


async def test_peer_is_told_not_to_come_again_when_a_message_can_never_be_stored(inbox: Inbox, messages: Store) -> None:
    answer = await hear(inbox, message(patient("张伟"), dedup_key="\udcff"))
    assert isinstance(answer, Refused)
    assert not answer.retryable
    assert await hear(inbox, message(patient("张伟"))) == Stored()
    assert await states(messages) == [("applied", None)]


async def test_start_is_not_held_up_when_one_of_the_messages_left_cannot_be_applied(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    await leave(messages, message(TOO_LARGE), message(patient("张伟"), key="k2"))
    assert await inbox.heal() == 2
    assert [s for s, _ in await states(messages)] == ["quarantined", "applied"]
    assert await name_of(store) == "张伟"


async def test_start_is_not_held_up_when_one_of_the_messages_left_cannot_be_read(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    """Sealed under a key that is gone, or written by another program: each is set aside by itself."""
    async with opened(messages.url.render_as_string(hide_password=False), vault=make_vault("gone", 9)) as other:
        await leave(other, message(patient("张三")))
    await leave(messages, message(patient("李四"), key="k2"), message(patient("张伟"), key="k3"))
    async with messages.write(HOSPITAL) as tx:
        rows = await tx.all(select(message_table.c.id).order_by(message_table.c.id))
        await tx.run(
            message_table.update()
            .where(message_table.c.id == rows[1]["id"])
            .values(sealed_events=tx.seal(b'[{"type":"of another version"}]', "messages", "events"))
        )
    assert await inbox.heal() == 3
    assert await states(messages) == [
        ("quarantined", "cannot be read (SealBroken)"),
        ("quarantined", "cannot be read (ValidationError)"),
        ("applied", None),
    ]
    assert await name_of(store) == "张伟"


async def test_what_was_left_is_applied_first_when_a_newer_message_comes(
    store: Store, messages: Store, hospital: Hospital, engine: str, tmp_path: Path
) -> None:
    inbox = Inbox(store, messages, hospital)
    await hear(inbox, message(patient("张一"), key="k1"))
    async with unreachable(engine, tmp_path) as gone:
        away = Inbox(gone, messages, hospital)
        assert await away.handle(message(patient("张二"), key="k2")) == Stored()
        await away.close()
    again = Inbox(store, messages, hospital)
    assert await hear(again, message(patient("张三"), key="k3")) == Stored()
    assert await name_of(store) == "张三"
    assert await states(messages) == [("applied", None)] * 3
    assert await hear(again, message(patient("张二"), key="k2")) == Stored(duplicate=True)
    assert await again.heal() == 0
    assert await name_of(store) == "张三"


async def test_all_that_was_left_is_applied_when_there_is_more_than_one_round_of_it(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    await leave(messages, *(message(patient(f"张{n}"), key=f"k{n}") for n in range(103)))
    assert await hear(inbox, message(patient("张伟"), key="new")) == Stored()
    assert await name_of(store) == "张伟"
    assert {s for s, _ in await states(messages)} == {"applied"}


async def test_applied_messages_go_and_the_others_stay_when_their_days_are_over(
    inbox: Inbox, messages: Store, wall: Wall
) -> None:
    await hear(inbox, message(patient("张伟"), key="k1"))
    await hear(inbox, message(TOO_LARGE, key="k2"))
    await leave(messages, message(patient("张三"), key="k3"))
    wall.turn(180 * DAY_S)
    assert await forget_messages(messages, HOSPITAL, keep_days=180) == 0
    wall.turn(0.001)
    assert await forget_messages(messages, HOSPITAL, keep_days=180) == 1
    assert await forget_messages(messages, HOSPITAL, keep_days=180) == 0
    assert [s for s, _ in await states(messages)] == ["quarantined", "received"]
