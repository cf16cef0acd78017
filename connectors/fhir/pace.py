"""Being left alone: how long a server wants to be, and who is made to wait for it (RFC 9110 section 10.2.3, Retry-After)."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from email.utils import parsedate_to_datetime
from time import monotonic

from connectors.fhir.deadlines import Deadline

LONGEST_S = 300.0  # a server that wants to be left alone for a day is asked again after this
WAITED_FOR_S = 5.0  # a request waits so long itself; for more the caller comes again
BUSY = frozenset({429, 503})


def retry_after_s(value: str | None, date: str | None, *, now: float | None = None) -> float | None:
    """Seconds, between 0 and LONGEST_S, of a Retry-After: a number, or a date by the server's clock (`date`, its Date header).

    None where there is none that can be read. `now`: our clock, where the server tells no time.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:10]), LONGEST_S)
    until = _instant(text)
    if until is None:
        return None
    told = _instant((date or "").strip())
    base = told if told is not None else (time.time() if now is None else now)
    return min(max(until - base, 0.0), LONGEST_S)


def _instant(text: str) -> float | None:
    if not text:
        return None
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    return (found if found.tzinfo else found.replace(tzinfo=dt.UTC)).timestamp()


class Pace:
    """Until when one server wants to be left alone."""

    def __init__(self) -> None:
        self._until = 0.0

    def hold(self, seconds: float) -> None:
        """Leave it alone from now on; the longest wish counts."""
        self._until = max(self._until, monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """How much longer; 0 when it may be asked."""
        return max(0.0, self._until - monotonic())

    async def wait(self, deadline: Deadline) -> float:
        """Wait while that is short. Returns how long it would still take, 0 where the request may go out."""
        left_s = self.left_s
        if 0 < left_s <= WAITED_FOR_S and left_s < deadline.left_s():
            await asyncio.sleep(left_s)
        return self.left_s
