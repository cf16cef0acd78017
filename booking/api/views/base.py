"""The kinds of Structs, and the types of their fields."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import msgspec
from msgspec import Meta

# No control characters: they mean something else in every protocol behind us.
PLAIN = "^[^\\x00-\\x1f\\x7f]+$(?!\\n)"
Text = Annotated[str, Meta(min_length=1, max_length=200, pattern=PLAIN)]
Id = Annotated[str, Meta(min_length=1, max_length=64)]
Instant = Annotated[dt.datetime, Meta(tz=True)]
Fen = Annotated[int, Meta(ge=1, le=100_000_000)]
LARGEST = 9_007_199_254_740_991  # what JSON carries exactly everywhere (RFC 8259 section 6)
FIRST_YEAR, LAST_YEAR = 1900, 9000  # outside of these a date cannot be turned into every zone's instant


def check_years(*dates: dt.date | None) -> None:
    """Raises ValueError for a date that no calendar of ours reaches; msgspec makes a field's error of it."""
    if any(date is not None and not FIRST_YEAR <= date.year <= LAST_YEAR for date in dates):
        raise ValueError(f"expected years from {FIRST_YEAR} to {LAST_YEAR}")


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A response."""


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request body."""


class Query(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A query string."""
