"""What passed is written down behind it: found by what it names, bounded, and never in the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from booking.settings import Hospital
from booking.store.engine import Store
from connectors.port import Acknowledged, Direction, Exchanged, Passed, Stored
from mappings.canonical import PatientMerged, Registration, RegistrationChanged, RegistrationStatus
from monitoring.metrics import REGISTRY
from scheduler_sync.inbox import Inbox
from scheduler_sync.messages import recorder as module
from scheduler_sync.messages.groups import log_scope
from scheduler_sync.messages.recorder import (
    FLUSH_AFTER_S,
    GROUP,
    GROUP_REFS,
    REFUSED_BURST,
    REFUSED_BYTES,
    Recorder,
)
from scheduler_sync.messages.references import MOST_NAMED, control_ref, his_ref, order_ref, patient_ref
from scheduler_sync.messages.search import Found, Wanted, find_messages, load_message
from scheduler_sync.messages.tables import exchanges, message_clock, message_links
from tests.booking.world import HOSPITAL
from tests.scheduler_sync.test_inbox import message, patient
from tests.stores import unreachable

NOW = time.time()
ORDER = "17950000001234567890"


def exchange(**changes: Any) -> Exchanged:
    known: dict[str, Any] = {
        "connector": "main",
        "peer": "his:2575",
        "direction": Direction.OUT,
        "state": Passed.DONE,
        "verb": "lock_slot",
        "message_type": "SRM^S01",
        "control_id": "HB1",
        "request": "MSH|^~\\&|张伟".encode(),
        "answer": b"MSH|^~\\&|",
        "answer_code": "AA",
        "order_no": "17950000001234567890",
        "mrn": "M1",
        "began": NOW,
        "ended": NOW + 1,
    }
    return Exchanged(**{**known, **changes})


@pytest.fixture
async def recorder(messages: Store) -> AsyncIterator[Recorder]:
    it = Recorder(messages, HOSPITAL, flush_after_s=0.01)
    yield it
    await it.close()


@pytest.fixture
async def recorded_inbox(store: Store, messages: Store, hospital: Hospital, recorder: Recorder) -> AsyncIterator[Inbox]:
    it = Inbox(store, messages, hospital, recorder=recorder)
    await it.heal()
    yield it
    await it.close()


async def found(messages: Store, **wanted: Any) -> list[Found]:
    return (await find_messages(messages, HOSPITAL, Wanted(**wanted))).found


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"hospital": HOSPITAL, **labels}) or 0.0


async def test_request_and_answer_are_found_by_order_patient_and_control_id_when_they_have_passed(
    recorder: Recorder, messages: Store
) -> None:
    recorder.record(exchange())
    recorder.record(exchange(control_id="HB2", order_no="1", mrn="M2"))
    await recorder.flush()
    for ref in (
        order_ref("17950000001234567890"),
        control_ref("HB1"),
        patient_ref(messages.vault.digest("mrn", HOSPITAL, "M1")),
    ):
        (one,) = await found(messages, linked=((ref,),))
        assert (one.direction, one.verb, one.state, one.answer) == ("out", "lock_slot", "done", "AA")
        assert (one.control_id, one.order_no) == ("HB1", "17950000001234567890")
    assert await found(messages, linked=((order_ref("1"),), (control_ref("HB1"),))) == []


async def test_nothing_of_a_patient_is_readable_when_an_exchange_is_stored(recorder: Recorder, messages: Store) -> None:
    recorder.record(exchange(mrn="MRN-4711"))
    await recorder.flush()
    async with messages.read(HOSPITAL) as tx:
        (row,) = await tx.all(select(exchanges))
    for value in row.values():
        data = value if isinstance(value, bytes) else str(value).encode()
        assert "张伟".encode() not in data
        assert b"MRN-4711" not in data
    whole = await load_message(messages, HOSPITAL, row["id"])
    assert whole is not None
    assert whole.sealed_reply is not None
    assert messages.vault.open(whole.sealed_body, whole.body_place) == "MSH|^~\\&|张伟".encode()
    assert messages.vault.open(whole.sealed_reply, whole.reply_place) == b"MSH|^~\\&|"


async def test_message_is_found_by_all_it_names_and_shows_how_it_was_acknowledged_when_it_was_stored(
    recorded_inbox: Inbox, recorder: Recorder, messages: Store
) -> None:
    told = Registration(status=RegistrationStatus.REGISTERED, order_no=ORDER, his_id="F-9", mrn="M1")
    merged = PatientMerged(surviving_mrn="M1", retired_mrn="M7")
    assert await recorded_inbox.handle(message(RegistrationChanged(registration=told), merged)) == Stored()
    recorder.record(Acknowledged(connector="adt", dedup_key="k1", answer_code="AA"))
    await recorder.flush()
    digests = [messages.vault.digest("mrn", HOSPITAL, mrn) for mrn in ("M1", "M7")]
    for ref in (order_ref(ORDER), his_ref("F-9"), control_ref("MSG1"), *map(patient_ref, digests)):
        (one,) = await found(messages, linked=((ref,),))
        assert (one.direction, one.answer, one.order_no, one.message_type) == ("in", "AA", ORDER, "ADT^A08")
        assert (one.size_bytes or 0) > 50


async def test_notes_of_a_stream_share_commits_when_each_message_comes_as_soon_as_the_last_is_stored(
    store: Store, messages: Store, hospital: Hospital
) -> None:
    recorder = Recorder(messages, HOSPITAL)
    inbox = Inbox(store, messages, hospital, recorder=recorder)
    await inbox.heal()
    began_s, streamed = time.monotonic(), 0
    while (took_s := time.monotonic() - began_s) < 3 * FLUSH_AFTER_S or streamed < 100:
        streamed += 1
        await inbox.handle(message(patient(), control_id=f"MSG{streamed}", key=f"k{streamed}"))
    await recorder.close()
    await inbox.close()
    async with messages.read() as tx:
        (row,) = await tx.all(select(message_clock.c.writes).where(message_clock.c.hospital_id == log_scope(HOSPITAL)))
    rounds = took_s / FLUSH_AFTER_S + 2  # one may have begun, and the last is that of the closing
    assert row["writes"] <= rounds + streamed / GROUP


@pytest.mark.parametrize(
    ("control_id", "shown"),
    [
        ("{6F-9}:a/b=", "{6F-9}:a/b="),
        ("张伟 7", "<1-4>"),
        ("110101199003071234", "<17-64>"),
        ("HIS-11010119900307123X-2", "<17-64>"),
        ("13812345678", "<5-16>"),
        ("A08_8613812345678", "<17-64>"),
        ("202611200112053456", "202611200112053456"),  # a time of 18 digits
        ("17950000001234567890", "17950000001234567890"),
        ("1796006159", "1796006159"),
    ],
)
async def test_control_id_is_listed_only_when_it_can_be_nothing_else(
    recorded_inbox: Inbox, recorder: Recorder, messages: Store, control_id: str, shown: str
) -> None:
    await recorded_inbox.handle(message(patient(), control_id=control_id))
    recorder.record(exchange(control_id=control_id))
    await recorder.flush()
    by_id = ((control_ref(control_id),),)
    assert {one.control_id for one in await found(messages, linked=by_id)} == {shown}


async def test_exchange_is_found_by_the_whole_of_a_control_id_when_only_its_beginning_is_listed(
    recorder: Recorder, messages: Store
) -> None:
    recorder.record(exchange(control_id="7" * 150))
    await recorder.flush()
    (one,) = await found(messages, linked=((control_ref("7" * 150),),))
    assert one.control_id == "7" * 100


async def test_acknowledgement_is_noted_when_it_comes_after_the_note(
    recorded_inbox: Inbox, recorder: Recorder, messages: Store
) -> None:
    await recorded_inbox.handle(message(patient()))
    await recorder.flush()
    recorder.record(Acknowledged(connector="adt", dedup_key="k1", answer_code="CA AA"))
    await recorder.flush()
    (one,) = await found(messages)
    assert one.answer == "CA AA"


async def test_message_that_cannot_be_mapped_is_found_when_it_names_a_patient_and_an_order(
    recorded_inbox: Inbox, recorder: Recorder, messages: Store
) -> None:
    await recorded_inbox.handle(message(problem="PID-8 is no sex", mrn="M3", order_no="张伟 7"))
    await recorder.flush()
    digest = messages.vault.digest("mrn", HOSPITAL, "M3")
    (one,) = await found(messages, linked=((patient_ref(digest),), (order_ref("张伟 7"),)))
    assert (one.state, one.reason) == ("quarantined", "PID-8 is no sex")
    assert one.order_no is None  # no number of ours: anything may stand there


async def test_messages_and_exchanges_are_listed_together_newest_first_when_nothing_is_asked_for(
    recorded_inbox: Inbox, recorder: Recorder, messages: Store
) -> None:
    for n in range(3):
        await recorded_inbox.handle(message(patient(), key=f"k{n}", control_id=f"IN{n}"))
        recorder.record(exchange(control_id=f"OUT{n}"))
    await recorded_inbox.apply_all()
    await recorder.flush()
    assert [one.control_id for one in await found(messages)] == ["OUT2", "IN2", "OUT1", "IN1", "OUT0", "IN0"]
    assert [one.control_id for one in await found(messages, direction="in")] == ["IN2", "IN1", "IN0"]
    assert [one.control_id for one in await found(messages, state="done")] == ["OUT2", "OUT1", "OUT0"]
    assert [one.control_id for one in await found(messages, state="applied")] == ["IN2", "IN1", "IN0"]
    assert [one.control_id for one in await found(messages, message_type="SRM")] == ["OUT2", "OUT1", "OUT0"]
    assert await found(messages, message_type="SR") == []
    assert await found(messages, connector="main", state="applied") == []
    assert len((await find_messages(messages, HOSPITAL, Wanted(), limit=2)).found) == 2


async def test_every_page_is_looked_through_when_what_is_wanted_is_old(
    recorder: Recorder, messages: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_sync.messages.search.PAGE", 7)
    for n in range(30):
        recorder.record(exchange(control_id=f"HB{n}", state=Passed.DONE if n % 2 else Passed.UNKNOWN, error=f"no {n}"))
    await recorder.flush()
    assert [one.control_id for one in await found(messages, text="NO 0")] == ["HB0"]
    assert [one.control_id for one in await found(messages, state="unknown", text="no 4")] == ["HB4"]
    assert len(await found(messages)) == 30
    assert [one.control_id for one in await found(messages, until_ms=round((NOW - 60) * 1000))] == []
    span = {"since_ms": round((NOW - 60) * 1000), "until_ms": round((time.time() + 60) * 1000)}
    assert len(await found(messages, **span)) == 30


async def test_exchanges_are_dropped_and_counted_when_the_store_is_away(engine: str, tmp_path: Path) -> None:
    before = counted("hisbridge_message_records_dropped_total", reason="full")
    async with unreachable(engine, tmp_path) as gone:
        recorder = Recorder(gone, HOSPITAL, flush_after_s=0.01)
        began = time.monotonic()
        for n in range(module.MOST_WAITING + 5):
            recorder.record(exchange(control_id=f"HB{n}"))
        assert time.monotonic() - began < 60  # none of them has waited for anything
        assert counted("hisbridge_message_records_dropped_total", reason="full") - before == 5
        await recorder.close()
    assert counted("hisbridge_message_records_dropped_total", reason="full") - before == module.MOST_WAITING + 5


async def test_large_exchanges_are_dropped_when_they_would_take_too_much_memory(
    recorder: Recorder, messages: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING_BYTES", 1_000_000)
    for n in range(3):
        recorder.record(exchange(control_id=f"HB{n}", request=b"x" * 400_000))
    await recorder.flush()
    assert [one.control_id for one in await found(messages)] == ["HB1", "HB0"]
    recorder.record(exchange(control_id="HB9", request=b"x" * 400_000))
    await recorder.flush()
    assert len(await found(messages)) == 3


@pytest.mark.parametrize("state", [Passed.REFUSED, Passed.DUPLICATE])
async def test_flood_of_garbage_is_bounded_and_counted_when_it_does_not_end(
    recorder: Recorder, messages: Store, state: Passed
) -> None:
    before = counted("hisbridge_message_records_dropped_total", reason="rate")
    for n in range(500):
        recorder.record(
            exchange(
                direction=Direction.IN, state=state, verb=None, control_id=str(n), request=b"x" * 100_000,
                answer=None, answer_code=None, error="no HL7 message", mrn=None, order_no=None,
            )
        )  # fmt: skip
    recorder.record(exchange())  # what is no garbage is kept all the same
    await recorder.flush()
    kept = (await find_messages(messages, HOSPITAL, Wanted(state=state.value), limit=1000)).found
    dropped = counted("hisbridge_message_records_dropped_total", reason="rate") - before
    assert len(kept) + dropped == 500
    assert REFUSED_BURST <= len(kept) < REFUSED_BURST + 50  # a slow machine may allow a few more
    assert len(await found(messages, state="done")) == 1
    assert kept[0].reason == f"no HL7 message; 100000 bytes, of which {REFUSED_BYTES} are kept"
    assert (kept[0].size_bytes or 0) < REFUSED_BYTES + 200


async def test_only_stored_messages_are_noted_when_exchanges_are_not_to_be_kept(
    store: Store, messages: Store, hospital: Hospital
) -> None:
    recorder = Recorder(messages, HOSPITAL, keep_exchanges=False, flush_after_s=0.01)
    inbox = Inbox(store, messages, hospital, recorder=recorder)
    await inbox.heal()
    await inbox.handle(message(patient()))
    recorder.record(exchange())
    recorder.record(Acknowledged(connector="adt", dedup_key="k1", answer_code="AA"))
    await inbox.close()
    await recorder.close()
    (one,) = await found(messages)
    assert (one.control_id, one.answer) == ("MSG1", "AA")


async def test_lost_notes_are_made_up_for_when_the_next_process_starts(
    store: Store, messages: Store, hospital: Hospital, recorder: Recorder, recorded_inbox: Inbox
) -> None:
    await recorded_inbox.handle(message(patient(), key="k0", control_id="SEEN"))
    await recorder.flush()
    crashed = Inbox(store, messages, hospital)  # what it stores, nobody notes
    await crashed.heal()
    for n in range(3):
        await crashed.handle(message(patient(mrn=f"M{n}"), key=f"n{n}", control_id=f"LOST{n}"))
    await crashed.close()
    digest = messages.vault.digest("mrn", HOSPITAL, "M2")
    assert await found(messages, linked=((patient_ref(digest),),)) == []
    heir = Recorder(messages, HOSPITAL, flush_after_s=0.01)
    heir.start()
    await heir.flush()
    await heir.measure()
    (one,) = await found(messages, linked=((patient_ref(digest),),))
    assert one.control_id == "LOST2"
    sizes = [row.size_bytes or 0 for row in await found(messages)]
    assert len(sizes) == 4
    assert counted("hisbridge_message_store_bytes") == sum(sizes)
    await heir.close()


async def test_recording_goes_on_when_one_flush_was_cut_off(recorder: Recorder, messages: Store) -> None:
    recorder.record(exchange(control_id="HB1"))
    flushing = asyncio.create_task(recorder.flush())
    await asyncio.sleep(0)
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)
    recorder.record(exchange(control_id="HB2"))
    await recorder.flush()
    assert [one.control_id for one in await found(messages)] == ["HB2", "HB1"]


async def test_messages_that_name_very_many_are_noted_in_several_transactions(
    recorder: Recorder, messages: Store
) -> None:
    async def noted() -> int:
        async with messages.write(log_scope(HOSPITAL)) as tx:
            return tx.seq

    named = MOST_NAMED // 2  # two numbers each
    count = 4 * GROUP_REFS // MOST_NAMED
    before = await noted()
    for n in range(count):
        merges = [PatientMerged(surviving_mrn=f"S{n}-{k}", retired_mrn=f"R{n}-{k}") for k in range(named)]
        recorder.stored(message(*merges, key=f"k{n}"), f"id{n}", 1)
    await recorder.flush()
    assert await noted() - before - 1 >= 4
    for n in range(count):
        for mrn in (f"S{n}-0", f"R{n}-{named - 1}"):
            ref = patient_ref(messages.vault.digest("mrn", HOSPITAL, mrn))
            assert await linked(messages, ref) == [f"id{n}"]


async def linked(messages: Store, ref: str) -> list[str]:
    async with messages.read(log_scope(HOSPITAL)) as tx:
        rows = await tx.all(select(message_links.c.message_id).where(message_links.c.ref == ref))
    return [row["message_id"] for row in rows]
