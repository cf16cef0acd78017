"""A message is mapped anew and given back to the inbox, which applies it; never twice, and never over something newer unasked."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from booking.settings import Hospital
from booking.store.engine import Store
from connectors.port import Inbound, Refused, Stored
from mappings.canonical import AnyEvent
from scheduler_sync import inbox as inbox_module
from scheduler_sync.applying import Applied, apply_messages
from scheduler_sync.inbox import Inbox
from scheduler_sync.messages.recorder import Recorder
from scheduler_sync.messages.references import patient_ref
from scheduler_sync.messages.replay import ReadAgain, Replay, replay_message, state_of
from scheduler_sync.messages.search import Wanted, find_messages
from scheduler_sync.messages.store import list_messages
from tests.booking.world import HOSPITAL
from tests.scheduler_sync.peer import until
from tests.scheduler_sync.test_inbox import a_bill, message, name_of, patient, states


def reads(*told: AnyEvent, **changes: Any) -> ReadAgain:
    """A profile that maps every message to these events."""

    def read(connector: str, raw: bytes, peer: str) -> Inbound | Refused:
        return msgspec.structs.replace(message(*told), connector=connector, raw=raw, peer=peer, **changes)

    return read


async def set_aside(inbox: Inbox, messages: Store, key: str = "k1") -> str:
    """A message that could not be mapped; its id."""
    assert await inbox.handle(message(key=key, problem="PID-5 is missing", control_id=key)) == Stored(quarantined=True)
    return (await list_messages(messages, HOSPITAL, state="quarantined"))[0].id


async def replay(messages: Store, message_id: str, read: ReadAgain, **flags: bool) -> Replay:
    return await replay_message(messages, HOSPITAL, message_id, read, **flags)


async def becomes(messages: Store, message_id: str, state: str) -> None:
    async def there() -> bool:
        return (await state_of(messages, HOSPITAL, message_id))[0] == state

    await until(there)


async def test_message_is_applied_by_a_running_inbox_when_it_is_replayed_from_elsewhere(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    message_id = await set_aside(inbox, messages)
    one = await replay(messages, message_id, reads(patient("张伟")))
    assert (one.queued_as, one.text) == (message_id, "mapped: patient_changed")
    assert await state_of(messages, HOSPITAL, message_id) == ("received", None)
    await inbox.measure()  # as it looks every five seconds
    await becomes(messages, message_id, "applied")
    assert await name_of(store, "M1") == "张伟"
    assert await states(messages) == [("applied", None)]


async def test_message_is_applied_at_the_next_start_when_no_service_runs(
    store: Store, messages: Store, hospital: Hospital
) -> None:
    before = Inbox(store, messages, hospital)
    await before.heal()
    message_id = await set_aside(before, messages)
    await before.close()
    assert (await replay(messages, message_id, reads(patient("张伟")))).queued_as == message_id
    heir = Inbox(store, messages, hospital)
    assert await heir.heal() == 1
    await heir.close()
    assert await name_of(store, "M1") == "张伟"


async def test_several_are_applied_in_their_order_when_they_are_replayed_in_another(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    first, second = await set_aside(inbox, messages, "k1"), await set_aside(inbox, messages, "k2")
    for message_id, name in ((second, "张二"), (first, "张一")):
        assert (await replay(messages, message_id, reads(patient(name)))).queued_as == message_id
    await inbox.measure()
    await becomes(messages, second, "applied")
    await becomes(messages, first, "applied")
    assert await name_of(store, "M1") == "张二"


async def test_reason_is_told_and_kept_when_it_still_cannot_be_mapped(inbox: Inbox, messages: Store) -> None:
    message_id = await set_aside(inbox, messages)
    read = reads(problem="inbound.ADT^A08[0].name: PID-5.1 is missing")
    told = "it still cannot be mapped: inbound.ADT^A08[0].name: PID-5.1 is missing"
    assert (await replay(messages, message_id, read, dry_run=True)).text == told
    assert await states(messages) == [("quarantined", "PID-5 is missing")]
    assert await replay(messages, message_id, read) == Replay(id=message_id, text=told)
    assert await states(messages) == [("quarantined", "inbound.ADT^A08[0].name: PID-5.1 is missing")]


async def test_message_is_set_aside_again_when_it_still_cannot_be_applied(inbox: Inbox, messages: Store) -> None:
    message_id = await set_aside(inbox, messages)
    assert (await replay(messages, message_id, reads(a_bill(currency="USD")))).queued_as == message_id
    await inbox.measure()
    await becomes(messages, message_id, "quarantined")
    ((_, reason),) = await states(messages)
    assert reason is not None
    assert reason != "PID-5 is missing"


async def test_nothing_changes_when_it_is_only_tried(inbox: Inbox, messages: Store) -> None:
    message_id = await set_aside(inbox, messages)
    one = await replay(messages, message_id, reads(patient()), dry_run=True)
    assert one == Replay(id=message_id, text="it can be applied: patient_changed", would=True)
    assert await states(messages) == [("quarantined", "PID-5 is missing")]


async def test_applied_one_is_applied_once_more_only_when_that_is_asked_for(
    inbox: Inbox, store: Store, messages: Store
) -> None:
    await inbox.handle(message(patient("张一")))
    await inbox.apply_all()
    (stored,) = await list_messages(messages, HOSPITAL)
    refused = await replay(messages, stored.id, reads(patient("张二")))
    assert refused.text == "it was applied; --again applies it once more"
    again = await replay(messages, stored.id, reads(patient("张二")), again=True)
    assert again.queued_as not in (None, stored.id)
    await inbox.measure()
    await becomes(messages, str(again.queued_as), "applied")
    assert await name_of(store, "M1") == "张二"
    assert await states(messages) == [("applied", None)] * 2
    # The hospital's own repeat is known by the first one still.
    assert await inbox.handle(message(patient("张一"))) == Stored(duplicate=True)


async def test_one_of_two_wins_when_both_replay_the_same(inbox: Inbox, messages: Store) -> None:
    message_id = await set_aside(inbox, messages)
    both = await asyncio.gather(*(replay(messages, message_id, reads(patient())) for _ in range(2)))
    assert sorted(one.queued_as is None for one in both) == [False, True]
    await inbox.measure()
    await becomes(messages, message_id, "applied")


async def test_older_details_are_not_put_over_newer_ones_when_nobody_asks_for_that(
    store: Store, messages: Store, hospital: Hospital
) -> None:
    recorder = Recorder(messages, HOSPITAL, flush_after_s=0.01)
    inbox = Inbox(store, messages, hospital, recorder=recorder)
    await inbox.heal()
    message_id = await set_aside(inbox, messages)
    await inbox.handle(message(patient("张新"), key="k2"))
    await inbox.apply_all()
    await recorder.flush()
    newer = (await list_messages(messages, HOSPITAL, state="applied"))[0].id
    one = await replay(messages, message_id, reads(patient("张旧")))
    assert one.queued_as is None
    assert newer in one.text
    other = await replay(messages, message_id, reads(patient("张旧", mrn="M2")), dry_run=True)
    assert other.would  # another patient
    assert (await replay(messages, message_id, reads(patient("张旧")), over_newer=True)).queued_as == message_id
    await inbox.measure()
    await becomes(messages, message_id, "applied")
    assert await name_of(store, "M1") == "张旧"
    await inbox.close()
    await recorder.close()


async def test_older_details_are_not_put_over_newer_ones_when_those_wait_to_be_applied(
    store: Store, messages: Store, hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = asyncio.Event()

    async def slow(*args: Any, **more: Any) -> Applied:
        await free.wait()
        return await apply_messages(*args, **more)

    monkeypatch.setattr(inbox_module, "apply_messages", slow)
    recorder = Recorder(messages, HOSPITAL, flush_after_s=0.01)
    inbox = Inbox(store, messages, hospital, recorder=recorder)
    await inbox.heal()
    message_id = await set_aside(inbox, messages)
    await inbox.handle(message(patient("张新"), key="k2"))
    await recorder.flush()
    assert (await replay(messages, message_id, reads(patient("张旧")))).queued_as is None
    free.set()
    await inbox.measure()
    await inbox.apply_all()
    assert await name_of(store, "M1") == "张新"
    await inbox.close()
    await recorder.close()


async def test_message_is_found_by_what_it_names_when_it_was_replayed(inbox: Inbox, messages: Store) -> None:
    message_id = await set_aside(inbox, messages)
    await replay(messages, message_id, reads(patient(mrn="M9")))
    ref = patient_ref(messages.vault.digest("mrn", HOSPITAL, "M9"))
    (found,) = (await find_messages(messages, HOSPITAL, Wanted(linked=((ref,),)))).found
    assert found.id == message_id


@pytest.mark.parametrize(
    ("text", "read"),
    [("it would not be taken now: no such type", lambda *_: Refused(code="x", text="no such type", retryable=False))],
)
async def test_reason_is_told_when_it_would_not_be_taken_any_more(
    inbox: Inbox, messages: Store, text: str, read: ReadAgain
) -> None:
    message_id = await set_aside(inbox, messages)
    assert (await replay(messages, message_id, read)).text == text
    assert (await replay(messages, "01", read)).text == f"{HOSPITAL} has no message of this id"
