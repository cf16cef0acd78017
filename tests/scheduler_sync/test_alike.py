"""What passed alike is listed once, and hides nothing that is not like it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from booking.settings import Hospital
from booking.store.engine import Store
from connectors.port import Direction, Passed
from scheduler_sync.inbox import Inbox
from scheduler_sync.messages.recorder import Recorder
from scheduler_sync.messages.references import order_ref
from scheduler_sync.messages.search import Findings, Wanted, find_messages
from tests.booking.world import HOSPITAL
from tests.scheduler_sync.test_inbox import message
from tests.scheduler_sync.test_recorder import NOW, exchange

AWAY: dict[str, Any] = {
    "verb": "fetch_slots",
    "message_type": "SQM^S25",
    "state": Passed.FAILED,
    "error": "no connection to the HIS: refused",
    "order_no": None,
    "mrn": None,
    "answer": None,
    "answer_code": None,
}


@pytest.fixture
async def recorder(messages: Store) -> AsyncIterator[Recorder]:
    it = Recorder(messages, HOSPITAL)
    yield it
    await it.close()


@pytest.fixture
async def told(store: Store, messages: Store, hospital: Hospital, recorder: Recorder) -> AsyncIterator[Inbox]:
    it = Inbox(store, messages, hospital, recorder=recorder)
    yield it
    await it.close()


async def listed(messages: Store, *, limit: int = 50, **wanted: Any) -> Findings:
    return await find_messages(messages, HOSPITAL, Wanted(**wanted), limit=limit, alike_once=True)


async def test_messages_are_in_sight_when_a_his_that_is_away_was_asked_many_times_since(
    told: Inbox, recorder: Recorder, messages: Store
) -> None:
    await told.handle(message(key="K1", control_id="K1"))
    for n in range(60):
        recorder.record(exchange(**AWAY, control_id=f"HB{n}", began=NOW + n, ended=NOW + n))
    await recorder.flush()
    findings = await listed(messages, limit=10)
    assert [one.control_id for one in findings.found] == ["HB59", "K1"]
    alike = findings.alike[findings.found[0].id]
    assert (alike.times, alike.first_ms) == (60, round(NOW * 1000))
    assert list(findings.alike) == [findings.found[0].id]
    each = await find_messages(messages, HOSPITAL, Wanted(), limit=100)
    assert (len(each.found), each.alike) == (61, {})


async def test_each_is_listed_when_order_state_reason_or_direction_differ(recorder: Recorder, messages: Store) -> None:
    others: tuple[dict[str, Any], ...] = (
        {"error": "every connection to the HIS is busy"},
        {"state": Passed.UNKNOWN},
        {"verb": "fetch_fees"},
        {"order_no": "17950000001234567890"},
        {"order_no": "17950000001234567891"},
        {"connector": "second"},
        {"direction": Direction.IN, "verb": None},
    )
    for n, other in enumerate(({}, *others)):
        recorder.record(exchange(**(AWAY | other), control_id=f"HB{n}"))
    await recorder.flush()
    findings = await listed(messages)
    assert len(findings.found) == 8
    assert findings.alike == {}


async def test_stored_messages_are_each_listed_when_they_are_of_one_kind(
    told: Inbox, recorder: Recorder, messages: Store
) -> None:
    for n in range(3):
        await told.handle(message(key=f"K{n}", control_id=f"K{n}"))
    await recorder.flush()
    assert [one.control_id for one in (await listed(messages)).found] == ["K2", "K1", "K0"]


async def test_alike_ones_count_as_one_when_they_are_found_by_a_link(recorder: Recorder, messages: Store) -> None:
    for n in range(5):
        recorder.record(exchange(state=Passed.FAILED, error="refused", control_id=f"HB{n}"))
    await recorder.flush()
    findings = await listed(messages, limit=1, linked=((order_ref("17950000001234567890"),),))
    assert [(one.control_id, findings.alike[one.id].times) for one in findings.found] == [("HB4", 5)]
