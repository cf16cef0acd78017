from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.booking.api.portal import Portal, run_portal


@pytest.fixture
async def portal() -> AsyncIterator[Portal]:
    """The small API, running."""
    async with run_portal() as running:
        yield running
