"""Values of search parameters (FHIR R4 search.html): tokens, references, and dates with their prefixes."""

from __future__ import annotations

import calendar
import datetime as dt
import re
from typing import NamedTuple

from booking.api.fhir.serving import invalid

_DATE = re.compile(
    r"(?P<prefix>eq|ne|gt|lt|ge|le|sa|eb|ap)?(?P<year>\d{4})(-(?P<month>\d\d)(-(?P<day>\d\d)"
    r"(T(?P<hour>\d\d):(?P<minute>\d\d)(:(?P<second>\d\d)(\.\d{1,9})?)?(?P<zone>Z|[+-]\d\d:\d\d)?)?)?)?"
)
_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")
_FIRST_YEAR, _LAST_YEAR = 1900, 9000  # as in `/v1`: outside of these a date cannot be turned into every zone's instant
_PLACE = re.compile(r"(?:(?P<kind>[A-Za-z]{1,40})/)?(?P<id>[A-Za-z0-9.-]{1,64})")
_ELSEWHERE = re.compile(r"https?://[^\s|]{1,500}", re.IGNORECASE)
_ALTERNATIVE = re.compile(r"((?:[^,\\]|\\.|\\(?=,$))*)(,)", re.DOTALL)
FOREVER_MS = 1 << 60


class Span(NamedTuple):
    """Instants that a date may mean: from `from_ms` until just before `until_ms`. `prefix` says what they are compared for."""

    prefix: str
    from_ms: int
    until_ms: int

    def fits(self, at_ms: int) -> bool:
        """Whether an instant fits (search.html#prefix). `ap` is within a day of it."""
        match self.prefix:
            case "ne":
                return not self.from_ms <= at_ms < self.until_ms
            case "gt" | "sa":
                return at_ms >= self.until_ms
            case "ge":
                return at_ms >= self.from_ms
            case "lt" | "eb":
                return at_ms < self.from_ms
            case "le":
                return at_ms < self.until_ms
            case "ap":
                return self.from_ms - 86_400_000 <= at_ms < self.until_ms + 86_400_000
        return self.from_ms <= at_ms < self.until_ms

    def bounds(self) -> tuple[int, int]:
        """The instants that can fit: from the first one until just before the second one."""
        match self.prefix:
            case "eq":
                return self.from_ms, self.until_ms
            case "gt" | "sa":
                return self.until_ms, FOREVER_MS
            case "ge":
                return self.from_ms, FOREVER_MS
            case "lt" | "eb":
                return -FOREVER_MS, self.from_ms
            case "le":
                return -FOREVER_MS, self.until_ms
            case "ap":
                return self.from_ms - 86_400_000, self.until_ms + 86_400_000
        return -FOREVER_MS, FOREVER_MS


class Token(NamedTuple):
    """`code`, `system|code`, `|code` (system ""), `system|` (code None). A system of None is any."""

    system: str | None
    code: str | None

    def fits(self, system: str | None, code: str | None) -> bool:
        return (self.system is None or self.system == (system or "")) and (self.code is None or self.code == code)


class Place(NamedTuple):
    """A resource that a reference names; `kind` None: the value was an id alone, "": it is another server's, and fits nothing."""

    kind: str | None
    id: str


def split_values(text: str) -> list[str]:
    """The alternatives of a value: cut at commas that no backslash protects (search.html#escaping)."""
    if "\\" not in text:
        return text.split(",")
    return [part for part, _ in _ALTERNATIVE.findall(text + ",")]


def unescape(text: str) -> str:
    return re.sub(r"\\([\\,|$])", r"\1", text) if "\\" in text else text


def read_token(text: str) -> Token:
    """A token; whatever it says is one."""
    parts = re.split(r"(?<!\\)\|", text, maxsplit=1)
    if len(parts) == 1:
        return Token(None, unescape(parts[0]))
    return Token(unescape(parts[0]), unescape(parts[1]) or None)


def read_place(name: str, text: str) -> Place:
    """An address of ours is relative by now (`bases`). Raises ApiProblem invalid_field."""
    text = unescape(text)
    if _ELSEWHERE.fullmatch(text):
        return Place("", "")
    match = _PLACE.fullmatch(text)
    if match is None:
        raise invalid(f"?{name}", "an id, [type]/[id] or an address of a resource")
    return Place(match["kind"], match["id"])


def read_span(name: str, text: str, zone: dt.tzinfo) -> Span:
    """A date of any precision; without an offset in the hospital's zone. Raises ApiProblem invalid_field."""
    # A `+` of an offset that was not encoded came as a space.
    match = _DATE.fullmatch(text.replace(" ", "+"))
    try:
        if match is None or not _FIRST_YEAR <= int(match["year"]) <= _LAST_YEAR:
            raise ValueError
        first, until = _ends(match, zone)
        return Span(match["prefix"] or "eq", _ms(first), _ms(until))
    except (ValueError, OverflowError):
        raise invalid(f"?{name}", "a date or an instant, with or without a prefix: ge2026-03-04") from None


def _ends(match: re.Match[str], zone: dt.tzinfo) -> tuple[dt.datetime, dt.datetime]:
    """The first instant of what is meant, and the first one behind it."""
    year, month, day = int(match["year"]), int(match["month"] or 1), int(match["day"] or 1)
    if match["hour"] is None:
        start = dt.date(year, month, day)
        if match["month"] is None:
            days = 366 if calendar.isleap(year) else 365
        else:
            days = calendar.monthrange(year, month)[1] if match["day"] is None else 1
        end = start + dt.timedelta(days=days)
        return dt.datetime.combine(start, dt.time(), zone), dt.datetime.combine(end, dt.time(), zone)
    second = int(match["second"] or 0)
    at = dt.datetime(year, month, day, int(match["hour"]), int(match["minute"]), second, tzinfo=_zone_of(match, zone))
    return at, at + dt.timedelta(seconds=60 if match["second"] is None else 1)


def _zone_of(match: re.Match[str], zone: dt.tzinfo) -> dt.tzinfo:
    if match["zone"] is None:
        return zone
    offset = _OFFSET.fullmatch(match["zone"])
    if offset is None:
        return dt.UTC
    away = dt.timedelta(hours=int(offset[2]), minutes=int(offset[3]))
    return dt.timezone(-away if offset[1] == "-" else away)


def _ms(at: dt.datetime) -> int:
    return round(at.timestamp() * 1000)
