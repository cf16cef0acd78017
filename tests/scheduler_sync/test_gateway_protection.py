"""How the gateway protects a HIS: what its metrics say, that ranks hold, and that hospitals share nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from connectors.port import HisUnavailable, Order, Outcome, Rejected, Verb
from monitoring import metrics
from scheduler_sync.changes import gate_of
from scheduler_sync.gateway import HospitalLink
from tests.booking.world import FEE_FEN, ZHANG, make_hospital, make_schedule, make_slot
from tests.loop_clock import LoopClock
from tests.scheduler_sync.peer import Peer, accept, hang


def value(name: str, hospital: str, **labels: str) -> float | None:
    found: float | None = metrics.REGISTRY.get_sample_value(name, {"hospital": hospital, "connector": "his", **labels})
    return found


def make_link(hospital_id: str, peer: Peer, **changes: object) -> HospitalLink:
    return HospitalLink(make_hospital(id=hospital_id, **changes), {"his": peer})


def order(number: int) -> Order:
    return Order(order_no=f"{number:020}", schedule=make_schedule(), slot=make_slot(1), patient=ZHANG, fee_fen=FEE_FEN)


@asynccontextmanager
async def locks_that_hang(link: HospitalLink, peer: Peer, count: int) -> AsyncIterator[list[asyncio.Task[Outcome]]]:
    """So many locks sent at once, each waiting at the HIS until the block ends."""
    gate = asyncio.Event()
    peer.script(Verb.LOCK_SLOT, *[hang(gate)] * count)
    tasks = [asyncio.create_task(link.write(Verb.LOCK_SLOT, order(n))) for n in range(count)]
    await rest()
    try:
        yield tasks
    finally:
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)


async def rest() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_metrics_show_limit_flight_and_queue_when_a_crowd_is_at_the_his() -> None:
    peer = Peer()
    link = make_link("gate-1", peer, his_concurrency=3)
    async with locks_that_hang(link, peer, 5):
        assert len(peer.calls()) == 3
        assert value("hisbridge_his_limit", "gate-1") == 3
        assert value("hisbridge_his_in_flight", "gate-1") == 3
        assert value("hisbridge_his_queued", "gate-1") == 2
        assert link.free_places(Verb.LOCK_SLOT) == 0
        assert link.free_places(Verb.REGISTER) == 3  # a paid registration goes before all of them
    assert value("hisbridge_his_in_flight", "gate-1") == 0
    assert value("hisbridge_his_queued", "gate-1") == 0
    assert len(peer.calls()) == 5


async def test_limit_falls_to_the_floor_and_the_breaker_opens_when_the_his_is_away() -> None:
    peer = Peer()
    link = make_link("gate-2", peer, his_concurrency=8, his_concurrency_floor=2)
    assert value("hisbridge_his_breaker", "gate-2") == 0
    peer.read_errors[Verb.PING].extend([HisUnavailable("away")] * 5)
    for _ in range(5):
        with pytest.raises(HisUnavailable):
            await link.read(Verb.PING, attempts=1)
    assert value("hisbridge_his_limit", "gate-2") == 2
    assert value("hisbridge_his_breaker", "gate-2") == 2
    assert isinstance(await link.write(Verb.LOCK_SLOT, order(1)), Rejected)
    assert value("hisbridge_his_refused_total", "gate-2", reason="breaker_open") == 1


async def test_refusals_are_counted_by_their_reason_when_there_is_no_place() -> None:
    peer = Peer()
    link = make_link("gate-3", peer, his_concurrency=1, his_queue=1, his_queue_deadline_s=60)
    async with locks_that_hang(link, peer, 1):
        waiting = asyncio.create_task(link.read(Verb.PING, attempts=1))
        await rest()
        with pytest.raises(HisUnavailable, match="full"):
            await link.read(Verb.PING, attempts=1)
        lock = asyncio.create_task(link.write(Verb.LOCK_SLOT, order(7)))  # pushes the read out, and then waits too long
        with pytest.raises(HisUnavailable, match="more urgent"):
            await waiting
        LoopClock().turn(60)
        assert await lock == Rejected(code="not_sent", text="no place became free in time", retryable=True)
    for reason in ("queue_full", "displaced", "deadline"):
        assert value("hisbridge_his_refused_total", "gate-3", reason=reason) == 1


async def test_look_back_goes_before_portals_reads_when_it_is_a_commands() -> None:
    peer = Peer()
    link = make_link("gate-4", peer, his_concurrency=1)
    async with locks_that_hang(link, peer, 1):
        reads = [asyncio.create_task(link.read(Verb.FETCH_BILLS, ZHANG)) for _ in range(3)]
        await rest()
        look = asyncio.create_task(link.read(Verb.FETCH_REGISTRATION, order(1), attempts=1, rank=0))
        await rest()
    await asyncio.gather(look, *reads)
    assert peer.calls() == ["lock_slot", "fetch_registration", *["fetch_bills"] * 3]


async def test_other_hospital_is_served_at_once_when_one_has_a_crowd() -> None:
    crowded, quiet = Peer(), Peer()
    one, two = make_link("gate-5", crowded, his_concurrency=1), make_link("gate-6", quiet, his_concurrency=1)
    async with locks_that_hang(one, crowded, 50):
        assert await two.read(Verb.FETCH_BILLS, ZHANG) == []
        assert value("hisbridge_his_queued", "gate-5") == 49
        assert value("hisbridge_his_queued", "gate-6") == 0


async def test_his_never_sees_more_at_once_than_its_ceiling_when_thousands_want_it() -> None:
    peer = Peer()
    seen = most = 0

    async def count(peer: Peer, verb: Verb, argument: object) -> Outcome:
        nonlocal seen, most
        seen += 1
        most = max(most, seen)
        await asyncio.sleep(0)
        seen -= 1
        return await accept(peer, verb, argument)

    peer.script(Verb.LOCK_SLOT, *[count] * 2_000)
    link = make_link("gate-7", peer, his_concurrency=5, his_queue=5_000)
    await asyncio.gather(*(link.write(Verb.LOCK_SLOT, order(n)) for n in range(2_000)))
    assert (len(peer.calls()), most) == (2_000, 5)


async def test_what_a_connector_asks_by_itself_waits_for_a_place_like_any_read() -> None:
    peer = Peer()
    link = make_link("gate-self", peer, his_concurrency=1, his_queue_deadline_s=0.05)
    ask = gate_of(link.hospital, link, "his")
    asked = 0

    async def call() -> str:
        nonlocal asked
        asked += 1
        return "told"

    assert await ask("fetch_changes", call) == "told"
    async with locks_that_hang(link, peer, 1):
        with pytest.raises(HisUnavailable, match="no place became free in time"):
            await ask("fetch_changes", call)
    assert asked == 1
    labels = {"hospital": "gate-self", "verb": "fetch_changes", "outcome": "ok"}
    assert metrics.REGISTRY.get_sample_value("hisbridge_his_calls_total", labels) == 1


async def test_connector_asks_nothing_by_itself_while_the_hospital_is_paused() -> None:
    link = make_link("gate-paused", Peer(), mode="paused")

    async def call() -> None:
        raise AssertionError("the HIS is asked")

    with pytest.raises(HisUnavailable, match="paused"):
        await gate_of(link.hospital, link, "his")("fetch_changes", call)
