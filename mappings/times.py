"""Dates and times as HIS write them. Reading raises Failure, whose reason never holds the text that was read."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from functools import lru_cache

import msgspec

from .context import Failure, MapContext

_OFFSET = r"(?P<offset>Z|[+-][0-9]{2}(?::?[0-9]{2})?)?"
_CLOCK = r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?)?"
_DASHED = re.compile(
    r"(?P<year>[0-9]{4})(?P<dash>[-/])(?P<month>[0-9]{1,2})(?P=dash)(?P<day>[0-9]{1,2})"
    rf"(?:(?:T| +){_CLOCK} ?{_OFFSET})?"
)
_COMPACT = re.compile(
    r"(?P<year>[0-9]{4})(?P<month>[0-9]{2})(?P<day>[0-9]{2})"
    r"(?:(?:T| )?(?P<hour>[0-9]{2})(?P<minute>[0-9]{2})"
    rf"(?:(?P<second>[0-9]{{2}})(?:\.(?P<fraction>[0-9]{{1,9}}))?)?{_OFFSET})?"
)
# HL7 v2.5.1 ch. 2A, DTM and TS: YYYY[MM[DD[HH[MM[SS[.S[S[S[S]]]]]]]]][+/-ZZZZ], a TS may carry ^precision
_HL7 = re.compile(
    r"(?P<year>[0-9]{4})(?:(?P<month>[0-9]{2})(?:(?P<day>[0-9]{2})(?:(?P<hour>[0-9]{2})(?:(?P<minute>[0-9]{2})"
    r"(?:(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{1,4}))?)?)?)?)?)?(?P<offset>[+-][0-9]{4})?(?:\^[YLDHMS]?)?"
)
_TIME = re.compile(rf"{_CLOCK}|(?P<hour2>[0-9]{{2}})(?P<minute2>[0-9]{{2}})(?P<second2>[0-9]{{2}})?")
_HL7_CLOCK = re.compile(
    r"(?P<hour>[01][0-9]|2[0-3])(?:(?P<minute>[0-5][0-9])(?:(?P<second>[0-5][0-9])(?P<fraction>\.[0-9]{1,4})?)?)?"
    r"(?P<offset>[+-][0-9]{4})?"
)
_PRECISIONS = ("year", "month", "day", "hour", "minute", "second")

_UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "wk": 604_800}
_UNIT_WORDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds", "秒"), "s"),
    # HL7 v2.5.1 ch. 4, TQ-3 and ch. 10 write M for minutes; metres have no duration.
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes", "分", "分钟"), "min"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours", "小时"), "h"),
    **dict.fromkeys(("d", "day", "days", "天"), "d"),
    **dict.fromkeys(("w", "wk", "week", "weeks", "周"), "wk"),
}
_AMOUNT = re.compile(r"(?P<letter>[SMHDW])?(?P<number>[0-9]{1,9}(?:\.[0-9]{1,6})?)(?:\^(?P<unit>[^^&]+).*)?")
# 0001-01-01 and 9999-12-31 are some system's "none" and "for ever", and cannot be moved to another zone.
MIN_YEAR, MAX_YEAR = 1800, 9998
MAX_DURATION_S = 366 * 86_400


def read_date(text: str, ctx: MapContext) -> dt.date:
    """yyyy-MM-dd, yyyy/M/d or yyyyMMdd; of a full date and time the day in the hospital's zone."""
    match = _DASHED.fullmatch(text) or _COMPACT.fullmatch(text)
    if match is None:
        raise Failure("is not a date (yyyy-MM-dd or yyyyMMdd)")
    if match["hour"] is None:
        return _instant(match, ctx.zone).date()
    return _instant(match, ctx.zone).astimezone(ctx.zone).date()


def read_datetime(text: str, ctx: MapContext) -> dt.datetime:
    """ISO 8601, yyyy-MM-dd HH:mm[:ss] or yyyyMMddHHmm[ss]; without an offset in the hospital's zone; 24:00 allowed."""
    match = _DASHED.fullmatch(text) or _COMPACT.fullmatch(text)
    if match is None:
        raise Failure("is not a date and time (ISO 8601, yyyy-MM-dd HH:mm:ss or yyyyMMddHHmmss)")
    return _instant(match, ctx.zone)


class Stamp(msgspec.Struct, frozen=True):
    """An HL7 v2 time stamp as it is written (v2.5.1 ch. 2.A.22, DTM).

    `value` is its first instant, without a zone; 24:00 is the next midnight. `precision` is the last part that is written,
    year to second, and `fraction_digits` how many digits follow the second. `offset` is None where none is written.
    """

    value: dt.datetime
    precision: str
    fraction_digits: int
    offset: dt.tzinfo | None

    def at(self, zone: dt.tzinfo) -> dt.datetime:
        """The instant; `zone` counts where no offset is written."""
        return self.value.replace(tzinfo=self.offset or zone)

    def has(self, part: str) -> bool:
        """Whether a part, year to second, is written."""
        return _PRECISIONS.index(part) <= _PRECISIONS.index(self.precision)


@lru_cache(maxsize=1024)  # a message repeats its times, and messages of one minute do
def read_stamp(text: str) -> Stamp:
    """An HL7 v2 time stamp, of a DTM, a TS (a precision after ^ is not looked at) or a DT."""
    match = _HL7.fullmatch(text)
    if match is None:
        raise Failure("is not an HL7 time stamp (YYYYMMDDHHMMSS[.SSSS][+/-ZZZZ])")
    precision = next(name for name in reversed(_PRECISIONS) if match[name] is not None)
    hour, minute, second, fraction, offset = match.group("hour", "minute", "second", "fraction", "offset")
    clock = (int(hour or 0), int(minute or 0), int(second or 0), _microsecond(fraction))
    value = _at(_date(match), *clock, None)
    return Stamp(value, precision, len(fraction or ""), _zone(offset) if offset else None)


def read_hl7(text: str, ctx: MapContext, at_least: str = "year") -> dt.datetime:
    """An HL7 v2 time stamp: its first instant. Its own offset wins, then the message's, then the hospital's zone.

    `at_least` is the least precision that will do: year, month, day, hour, minute or second.
    """
    stamp = read_stamp(text)
    if at_least != "year" and not stamp.has(at_least):
        raise Failure(f"is an HL7 time stamp without its {at_least}")
    return stamp.at(ctx.message_tz or ctx.zone)


def read_hl7_date(text: str, ctx: MapContext) -> dt.date | None:
    """The date written in an HL7 v2 time stamp, whatever its offset; None if it has only a year or a month."""
    match = _HL7.fullmatch(text)
    if match is None:
        raise Failure("is not an HL7 date (YYYYMMDD)")
    if match["day"] is None:
        return None
    return _date(match)


def read_hl7_time(text: str) -> tuple[dt.timedelta, str, int, dt.tzinfo | None]:
    """An HL7 v2 time of day (v2.5.1 ch. 2.A.75, TM): since midnight, precision, digits of the fraction, offset if written."""
    midnight = text[:4] == "2400"  # the next one: no time of a clock
    match = _HL7_CLOCK.fullmatch("0000" + text[4:] if midnight else text)
    hour, minute, second, fraction, offset = match.group(1, 2, 3, 4, 5) if match else (None,) * 5
    since = dt.timedelta(0, int(second or 0), _microsecond((fraction or "")[1:]), 0, int(minute or 0), int(hour or 0))
    if match is None or (midnight and since):
        raise Failure("is not an HL7 time (HH[MM[SS[.SSSS]]][+/-ZZZZ])")
    precision = "second" if second else "minute" if minute else "hour"
    return since + dt.timedelta(days=midnight), precision, len(fraction or ".") - 1, _zone(offset) if offset else None


def hl7_as_iso(text: str) -> str:
    """DT, DTM or TS in ISO 8601, as precise as it is written, with its own offset only; a text that is none unchanged."""
    match = _HL7.fullmatch(text)
    if match is None:
        return text
    date = "-".join(part for part in match.group("year", "month", "day") if part)
    if match["hour"] is None:
        return date
    fraction = f".{match['fraction']}" if match["fraction"] else ""
    return f"{date}T{_clock_as_iso(match)}{fraction}{_offset_as_iso(match)}"


def hl7_clock_as_iso(text: str) -> str:
    """TM in ISO 8601, as precise as it is written; a text that is none unchanged."""
    match = _HL7_CLOCK.fullmatch(text)
    return text if match is None else f"{_clock_as_iso(match)}{match['fraction'] or ''}{_offset_as_iso(match)}"


def _clock_as_iso(match: re.Match[str]) -> str:
    return ":".join(part for part in (match["hour"], match["minute"] or "00", match["second"]) if part)


def _offset_as_iso(match: re.Match[str]) -> str:
    offset = match["offset"]
    return f"{offset[:3]}:{offset[3:]}" if offset else ""


def read_time_on(date: dt.date, text: str, ctx: MapContext) -> dt.datetime:
    """HH:mm[:ss] or HHmm[ss] on a day, in the hospital's zone; 24:00 is the next midnight."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise Failure("is not a time of day (HH:mm, HH:mm:ss, HHmm or HHmmss)")
    hour, minute, second = (int(match[name] or match[name + "2"] or 0) for name in ("hour", "minute", "second"))
    return _at(date, hour, minute, second, _microsecond(match["fraction"]), ctx.zone)


def read_duration(amount: str, unit: str | None, default_unit: str | None) -> dt.timedelta:
    """60 + s, 60^s, M30 (HL7 TQ-3 style): units s, min (also m, M), h, d, wk in any case and as words."""
    match = _AMOUNT.fullmatch(amount)
    if match is None:
        raise Failure("is not a duration (a number, or HL7's M30)")
    word = match["letter"] or unit or match["unit"] or default_unit
    if word is None:
        raise Failure("is a duration without a unit")
    name = _UNIT_WORDS.get(word.split("^")[0].split("&")[0].strip().lower())
    if name is None:
        raise Failure("has a unit that is none of s, min, h, d, wk")
    seconds = Decimal(match["number"]) * _UNITS_S[name]
    if seconds > MAX_DURATION_S:
        raise Failure("is a duration of more than a year")
    return dt.timedelta(microseconds=int(seconds * 1_000_000))


def duration_unit(word: object) -> bool:
    """Whether `word` is a unit that `read_duration` knows."""
    return isinstance(word, str) and word.lower() in _UNIT_WORDS


def precision(word: object) -> bool:
    """Whether `word` is a precision that `read_hl7` knows."""
    return word in _PRECISIONS


def _instant(match: re.Match[str], zone: dt.tzinfo) -> dt.datetime:
    hour, minute, second, fraction, offset = match.group("hour", "minute", "second", "fraction", "offset")
    return _at(
        _date(match),
        int(hour or 0),
        int(minute or 0),
        int(second or 0),
        _microsecond(fraction),
        _zone(offset) if offset else zone,
    )


def _date(match: re.Match[str]) -> dt.date:
    year = int(match["year"])
    if not MIN_YEAR <= year <= MAX_YEAR:
        raise Failure(f"is a date outside the years {MIN_YEAR} to {MAX_YEAR}")
    try:
        return dt.date(year, int(match["month"] or 1), int(match["day"] or 1))
    except ValueError:
        raise Failure("is a date that does not exist") from None


def _at(date: dt.date, hour: int, minute: int, second: int, microsecond: int, zone: dt.tzinfo | None) -> dt.datetime:
    try:
        if hour == 24 and not (minute or second or microsecond):
            return dt.datetime.combine(date + dt.timedelta(days=1), dt.time(), zone)
        # A leap second has no place in datetime: it is the last second of its minute.
        second = 59 if second == 60 else second
        return dt.datetime(date.year, date.month, date.day, hour, minute, second, microsecond, zone)
    except (ValueError, OverflowError):
        raise Failure("is a time that does not exist") from None


def _microsecond(fraction: str | None) -> int:
    return int(fraction[:6].ljust(6, "0")) if fraction else 0


@lru_cache(maxsize=256)
def _zone(offset: str) -> dt.tzinfo:
    """The zone of an offset as the patterns above let it through; a message has the same one in every field."""
    if offset == "Z":
        return dt.UTC
    hours, minutes = int(offset[1:3]), int(offset[3:].removeprefix(":") or 0)
    if hours > 14 or minutes > 59:
        raise Failure("has an offset that does not exist")
    delta = dt.timedelta(hours=hours, minutes=minutes)
    return dt.timezone(-delta if offset[0] == "-" else delta)
