"""From the socket to the message store: what an acknowledgement says of what is stored by then."""

from __future__ import annotations

from pathlib import Path

import pytest

from booking.settings import Hospital
from booking.store.engine import Store
from scheduler_sync.inbox import Inbox
from scheduler_sync.messages.store import list_messages
from tests.booking.world import HOSPITAL
from tests.connectors.hl7v2.wire.rows import PID, adt
from tests.scheduler_sync.test_series_on_the_wire import connected
from tests.stores import unreachable


async def stored(messages: Store) -> list[tuple[str, str]]:
    """Control id and state of each message, in the order in which they came."""
    return [(one.control_id, one.state) for one in reversed(await list_messages(messages, HOSPITAL))]


async def test_message_is_stored_by_the_time_that_its_acknowledgement_comes(
    inbox: Inbox, messages: Store, hospital: Hospital
) -> None:
    async with connected(inbox, hospital) as ask:
        for number, codes in enumerate((("", ""), ("AL", "NE"), ("NE", "AL")), 1):
            accept, application = codes
            answer = await ask(adt(f"M{number}", accept=accept, application=application))
            assert answer.get("MSA", 1) == ("CA" if accept == "AL" else "AA")
            assert [name for name, _ in await stored(messages)] == [f"M{n}" for n in range(1, number + 1)]


@pytest.mark.parametrize(("accept", "application", "code"), [("", "", "AE"), ("AL", "AL", "CE"), ("NE", "AL", "AE")])
async def test_message_may_come_again_and_is_then_stored_once_when_the_store_was_down(
    engine: str,
    store: Store,
    messages: Store,
    hospital: Hospital,
    tmp_path: Path,
    accept: str,
    application: str,
    code: str,
) -> None:
    message = adt("M1", accept=accept, application=application)
    async with unreachable(engine, tmp_path) as gone:
        away = Inbox(store, gone, hospital)
        async with connected(away, hospital) as ask:
            for _ in range(2):
                answer = await ask(message)
                assert (answer.get("MSA", 1), answer.get("MSA", 2), answer.get("ERR", 3)) == (code, "M1", "207")
        await away.close()
    back = Inbox(store, messages, hospital)
    await back.heal()
    async with connected(back, hospital) as ask:
        assert (await ask(message)).get("MSA", 1) == code.replace("E", "A")
        await back.apply_all()
    await back.close()
    assert await stored(messages) == [("M1", "applied")]


async def test_queue_of_the_sender_goes_on_when_a_message_cannot_be_mapped(
    inbox: Inbox, messages: Store, hospital: Hospital
) -> None:
    """AA, and a person looks at it: AE would hold up all that the HIS has to send."""
    async with connected(inbox, hospital) as ask:
        for message in (adt("M1"), adt("M2", body=PID.replace("Zhang^Wei", "")), adt("M3")):
            assert (await ask(message)).get("MSA", 1) == "AA"
        await inbox.apply_all()
    assert await stored(messages) == [("M1", "applied"), ("M2", "quarantined"), ("M3", "applied")]
    (set_aside,) = [one for one in await list_messages(messages, HOSPITAL) if one.state == "quarantined"]
    assert "profile.yaml" in str(set_aside.reason)
