"""The trace of a request in the commands that it makes, and in those that follow from them: stored, and gone on with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
from sqlalchemy import select

from booking.inventory.writer import granted
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import outbox
from connectors.port import Verb
from monitoring.trace_context import TraceContext
from monitoring.traces import Kind, Span, start_tracing, stop_tracing, tracer
from tests.booking.world import HOSPITAL, LI, ZHANG, hold_writer, make_schedule, put_patient, put_slot, request
from tests.scheduler_sync.peer import Desk, Peer, desk, refuse, until
from tests.stores import Wall

CALLER = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True)


@pytest.fixture
def ended() -> Iterator[list[Span]]:
    """What a caller has sampled is traced, and nothing else."""
    found: list[Span] = []
    start_tracing(0.0, found.append)
    yield found
    stop_tracing()


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
async def at(store: Store, hospital: Hospital, peer: Peer, wall: Wall) -> AsyncIterator[Desk]:
    """An open desk at the hospital."""
    async with desk(store, hospital, peer, wall) as it:
        yield it


def begin() -> Span:
    """The span of a request that its caller has sampled."""
    tracing = tracer()
    assert tracing is not None
    span = tracing.begin("POST", Kind.SERVER, CALLER)
    assert span is not None
    return span


async def traces_of(store: Store, verb: str) -> set[str | None]:
    """What stands with the two commands of a verb."""
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(outbox.c.trace).where(outbox.c.hospital_id == HOSPITAL, outbox.c.verb == verb))
    assert len(rows) == 2
    return {row["trace"] for row in rows}


def ended_as(ended: list[Span], name: str) -> list[Span]:
    return [span for span in ended if span.name == name]


async def until_ended(ended: list[Span], *names: str) -> None:
    async def check() -> bool:
        return set(names) <= {span.name for span in ended}

    await until(check)


async def hold_two(at: Desk, span: Span, *, fee_fen: int = 1500) -> None:
    """Two holds in one batch, the first of them traced."""
    slot_id = await put_slot(at.store, 3, schedule=make_schedule(fee_fen=fee_fen))
    patients = [await put_patient(at.store, record) for record in (ZHANG, LI)]
    async with hold_writer(at.store) as writer:
        asked = [
            writer.ask(at.hospital, msgspec.structs.replace(request(slot_id, patients[0]), span=span)),
            writer.ask(at.hospital, request(slot_id, patients[1])),
        ]
        for outcome in await asyncio.gather(*asked):
            granted(outcome)


async def test_only_the_command_of_the_traced_request_has_a_trace_when_both_were_in_one_batch(
    at: Desk, ended: list[Span]
) -> None:
    span = begin()
    await hold_two(at, span)
    assert await traces_of(at.store, "lock_slot") == {None, span.context.traceparent}
    (batch,) = ended_as(ended, "holds commit")
    assert batch.parent == span.context
    assert [link.span_id for link in batch.links] == [span.context.span_id]
    assert (batch.attributes["hisbridge.batch.size"], batch.attributes["hisbridge.batch.granted"]) == (2, 2)


async def test_what_an_outcome_leads_to_goes_on_with_the_trace_when_nothing_is_to_be_paid(
    at: Desk, ended: list[Span]
) -> None:
    span = begin()
    await hold_two(at, span, fee_fen=0)
    await at.until_seen(Verb.REGISTER, 2)
    await until_ended(ended, "outbox register")
    assert await traces_of(at.store, "register") == {None, span.context.traceparent}
    for verb in ("lock_slot", "register"):
        (command,) = ended_as(ended, f"outbox {verb}")
        assert command.parent == span.context
        (call,) = ended_as(ended, f"his {verb}")
        assert call.parent == command.context


async def test_refused_command_says_so_when_its_span_ends(at: Desk, ended: list[Span]) -> None:
    at.peer.script(Verb.LOCK_SLOT, refuse("full"), refuse("full"))  # either of the two may come first
    span = begin()
    await hold_two(at, span)
    await until_ended(ended, "outbox lock_slot")
    (command,) = ended_as(ended, "outbox lock_slot")
    assert command.attributes["hisbridge.verdict"] == "rejected"
    (call,) = ended_as(ended, "his lock_slot")
    assert call.attributes["hisbridge.outcome"] == "rejected"
    assert not call.failed
