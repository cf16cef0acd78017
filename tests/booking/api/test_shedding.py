"""Turning requests away by how long they wait: the rule, over any series of delays, and a loop that is really blocked."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from booking.api.application import ApiOptions
from booking.api.classes import RequestClass
from booking.api.ladder import Ladder
from booking.api.shedding import HOLD_RUNGS, LOOP_RUNGS, SheddingLimits
from tests.booking.api.portal import BOOKINGS, Portal, run_portal
from tests.booking.api.raw import metric, until_metric

TARGET_S, AFTER_S = 0.2, 0.5
LIST = f"{BOOKINGS}?from=2026-01-05"
SHED, LEVEL, DELAY = "hisbridge_shed_total", "hisbridge_shed_level", "hisbridge_queue_delay_seconds"

# Looks come every 50 ms, and late where the loop is late: (pause since the last look, delay seen).
looks = st.lists(st.tuples(st.floats(0.05, 2), st.floats(0, 2)), max_size=120)


def ladder() -> Ladder:
    return Ladder(LOOP_RUNGS, target_s=TARGET_S, after_s=AFTER_S)


@given(st.lists(st.tuples(st.floats(0.05, 2), st.floats(0, TARGET_S)), max_size=120))
def test_nothing_is_turned_away_when_the_delay_stays_within_the_target(series: list[tuple[float, float]]) -> None:
    it, now_s = ladder(), 0.0
    for pause_s, delay_s in series:
        now_s += pause_s
        assert it.observe(now_s, delay_s) == 0
        assert it.shed == ()


@given(looks)
def test_one_more_class_goes_only_when_the_delay_was_above_the_target_all_the_while(
    series: list[tuple[float, float]],
) -> None:
    it, now_s, seen = ladder(), 0.0, list[tuple[float, float]]()
    for pause_s, delay_s in series:
        now_s += pause_s
        seen.append((now_s, delay_s))
        before = it.level
        after = it.observe(now_s, delay_s)
        assert abs(after - before) <= 1
        assert it.shed == LOOP_RUNGS[:after]  # the cheapest first
        assert RequestClass.STEP not in it.shed
        if after > before:
            since_s = now_s - AFTER_S / math.sqrt(after)
            assert all(d > TARGET_S for at_s, d in seen if at_s >= since_s)
            assert any(at_s <= since_s + 1e-9 and d > TARGET_S for at_s, d in seen)
        if delay_s <= TARGET_S:
            assert after <= before


@given(looks)
def test_all_are_let_in_again_within_moments_when_the_delay_is_gone(series: list[tuple[float, float]]) -> None:
    it, now_s = ladder(), 0.0
    for pause_s, delay_s in series:
        now_s += pause_s
        it.observe(now_s, delay_s)
    ends_s = now_s + len(LOOP_RUNGS) * (AFTER_S / 5 + 0.05)
    while now_s < ends_s:
        now_s += 0.05
        it.observe(now_s, 0.0)
    assert it.level == 0


def test_classes_go_one_after_the_other_ever_faster_when_the_delay_stays() -> None:
    """After 0.5 s, and then 0.5 s over the root of 2, 3 and 4: at 0.5, 0.854, 1.142 and 1.392 s of delay."""
    it = ladder()
    levels = [it.observe(n / 1000, 0.3) for n in range(1_600)]
    assert [levels.index(level) for level in (1, 2, 3, 4)] == [500, 854, 1_143, 1_393]
    assert levels[-1] == 4


@given(looks)
def test_nothing_is_ever_turned_away_when_it_is_switched_off(series: list[tuple[float, float]]) -> None:
    it, now_s = Ladder(HOLD_RUNGS, target_s=0, after_s=AFTER_S), 0.0
    for pause_s, delay_s in series:
        now_s += pause_s
        assert it.observe(now_s, delay_s) == 0


# --- on real sockets ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def blocked_loop(block_s: float) -> AsyncIterator[None]:
    """Each turn of the loop takes so long, as with too many requests."""

    async def block() -> None:
        while True:
            time.sleep(block_s)  # noqa: ASYNC251 - that is the point
            await asyncio.sleep(0)

    blocking = asyncio.create_task(block())
    try:
        yield
    finally:
        blocking.cancel()
        with suppress(asyncio.CancelledError):
            await blocking


async def statuses(portal: Portal) -> dict[str, int]:
    """One request of some classes: the status of each."""
    found = {}
    for name, method, target in (("read", "GET", LIST), ("step", "DELETE", "/v1/hospitals/hl7-demo/x")):
        async with portal.session.request(method, target) as response:
            found[name] = response.status
            if response.status == 503:
                assert (await response.json(content_type=None))["code"] == "overloaded"
                assert 1 <= int(response.headers["Retry-After"]) <= 3
    found["hold"] = (await portal.post({"slot_id": "s1"}))[0]
    return found


@pytest.mark.parametrize("at_once", [False, True], ids=["tasks", "at-once"])
async def test_steps_are_answered_and_all_else_is_turned_away_when_the_loop_is_blocked(at_once: bool) -> None:
    fine = {"read": 200, "step": 204, "hold": 201}
    names = ("read", "hold", "step")
    before = [metric(SHED, request_class=name, reason="loop_delay") for name in names]
    async with run_portal(
        ApiOptions(shedding=SheddingLimits(shed_loop_delay_s=0.02, shed_after_s=0.2)), at_once=at_once
    ) as portal:
        assert await statuses(portal) == fine
        async with blocked_loop(0.05):
            await until_metric(LEVEL, 4, queue="loop")
            assert metric(DELAY, queue="loop") > 0.02
            assert await statuses(portal) == {"read": 503, "step": 204, "hold": 503}
        await until_metric(LEVEL, 0, queue="loop")
        assert await statuses(portal) == fine
    assert [metric(SHED, request_class=name, reason="loop_delay") for name in names] == [
        before[0] + 1,
        before[1] + 1,
        before[2],
    ]


async def test_holds_are_turned_away_and_reads_are_not_when_holds_wait_for_the_store() -> None:
    waited_s = 0.0
    before = metric(SHED, request_class="hold", reason="hold_delay")
    async with run_portal(
        ApiOptions(shedding=SheddingLimits(shed_after_s=0.1)), oldest_hold_s=lambda: waited_s
    ) as portal:
        waited_s = 0.6  # above 0.5
        await until_metric(LEVEL, 2, queue="holds")
        assert metric(DELAY, queue="holds") == 0.6
        assert await statuses(portal) == {"read": 200, "step": 204, "hold": 503}
        waited_s = 0.1
        await until_metric(LEVEL, 0, queue="holds")
        assert await statuses(portal) == {"read": 200, "step": 204, "hold": 201}
    assert metric(SHED, request_class="hold", reason="hold_delay") == before + 1
