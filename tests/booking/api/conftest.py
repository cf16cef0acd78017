from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.booking.api.portal import Portal, run_portal
from tests.loop_clock import LoopClock


@pytest.fixture(params=[False, True], ids=["tasks", "at-once"])
async def portal(request: pytest.FixtureRequest) -> AsyncIterator[Portal]:
    """The small API, running: its answers are the same whether a request has a task of its own or not."""
    async with run_portal(at_once=request.param) as running:
        yield running


@pytest.fixture
async def clock() -> LoopClock:
    """The clock of this test's loop, on which its server and its callers run."""
    return LoopClock()
