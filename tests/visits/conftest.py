from __future__ import annotations

from tests.booking.conftest import *  # noqa: F403  # the store on both engines, and the hospital of its tests
