from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tests.booking.conftest import *  # noqa: F403  # the store on both engines, and the hospital of its tests


@pytest.fixture
def quiet() -> Iterator[None]:
    """Faults by the thousand are what is wanted: nothing of them is logged."""
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("critical"), cache_logger_on_first_use=False
    )
    yield
    structlog.configure(**before)
