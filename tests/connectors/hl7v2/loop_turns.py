"""How long the event loop is held, told in calls and not in seconds: a busy machine changes nothing about it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CALLS_A_TURN = 60_000
"""Calls in one turn of the event loop: about 10 ms. A message of 24 OBX takes a tenth of it."""


@contextmanager
def turns_are_short(allowed: int = CALLS_A_TURN) -> Iterator[None]:
    """Fails if one turn of this thread's event loop, within the block, takes more calls than are allowed."""
    calls = most = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls, most
        calls += event in ("call", "c_call")
        if event == "call" and frame.f_code.co_name == "_run_once":
            most, calls = max(most, calls), 0

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)
    assert max(most, calls) < allowed
