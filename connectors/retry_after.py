"""How long a server wants to be left alone (RFC 9110 section 10.2.3, Retry-After)."""

from __future__ import annotations

import datetime as dt
import time
from email.utils import parsedate_to_datetime

LONGEST_S = 300.0  # a server that wants to be left alone for a day is asked again after this


def retry_after_s(
    value: str | None, date: str | None, *, longest_s: float = LONGEST_S, now: float | None = None
) -> float | None:
    """Seconds, between 0 and `longest_s`, of a Retry-After: a number, or a date by the server's clock (`date`, its Date header).

    None where there is none that can be read. `now`: our clock, where the server tells no time.
    """
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:10]), longest_s)
    until = _instant(text)
    if until is None:
        return None
    told = _instant((date or "").strip())
    base = told if told is not None else (time.time() if now is None else now)
    return min(max(until - base, 0.0), longest_s)


def _instant(text: str) -> float | None:
    if not text:
        return None
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    return (found if found.tzinfo else found.replace(tzinfo=dt.UTC)).timestamp()
