"""The named transforms of profiles: small pure functions from one value to one. Those of several values are in joins.py.

A transform is called as fn(value, ctx, arg) with a value that is present. It returns None for "absent" and raises Failure
with a reason that never holds the value. `docs/mappings.md` lists them for those who write profiles.
"""

from __future__ import annotations

import base64 as base64_codec
import binascii
import datetime as dt
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from .context import Failure, MapContext
from .times import (
    hl7_as_iso,
    hl7_clock_as_iso,
    precision,
    read_date,
    read_datetime,
    read_hl7,
    read_hl7_date,
)

CheckArg = Callable[[Any], str | None]


class Transform(msgspec.Struct, frozen=True):
    """A transform: its function and what it says about an `arg` it cannot use (None: the arg will do)."""

    apply: Callable[[Any, MapContext, Any], Any]
    check_arg: CheckArg


def no_arg(arg: Any) -> str | None:
    """Refuse any arg."""
    return None if arg is None else "takes no arg"


# --- reading: texts ----------------------------------------------------------------------------------------------

_DIGITS = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?")
_TRUE = frozenset(("true", "t", "1", "y", "yes", "是"))
_FALSE = frozenset(("false", "f", "0", "n", "no", "否"))
_SEX = {"0": "unknown", "1": "male", "2": "female", "9": "unknown", "男": "male", "女": "female", "男性": "male"}
_SEX |= {"女性": "female", "未知": "unknown", "未说明": "unknown", "其他": "other", "m": "male", "f": "female"}


def as_text(value: Any) -> str:
    """A scalar as text: ISO 8601 for dates, the value of an enum, true and false. Raises Failure for what is no scalar."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return str(value)
    if isinstance(value, dt.date):
        return value.isoformat()
    raise Failure("is not a single value")


def _text(value: Any, ctx: MapContext, arg: Any) -> str | None:
    return as_text(value).strip() or None


def _int(value: Any, ctx: MapContext, arg: Any) -> int:
    text = as_text(value).strip()
    if not _DIGITS.fullmatch(text):
        raise Failure("is not a whole number")
    return int(text)


def minor_units(value: Any, exponent: int, what: str) -> int:
    """An amount in the minor unit of `what`, exactly: more decimals than it has are a Failure."""
    text = as_text(value).strip()
    if not _DECIMAL.fullmatch(text):
        raise Failure(f"is not an amount in {what}")
    amount = Decimal(text).scaleb(exponent)
    if amount != amount.to_integral_value():
        raise Failure(f"has more decimals than {what} has")
    return int(amount)


def _yuan_to_fen(value: Any, ctx: MapContext, arg: Any) -> int:
    return minor_units(value, 2, "yuan")


def _fen(value: Any, ctx: MapContext, arg: Any) -> int:
    return minor_units(value, 0, "fen")


def _check_unlimited(arg: Any) -> str | None:
    if isinstance(arg, dict) and set(arg) == {"values", "take"} and isinstance(arg["values"], list):
        take = arg["take"]
        if isinstance(take, int) and not isinstance(take, bool) and take >= 0:
            return None
    return 'needs arg: {values: ["-1", "99"], take: 999}'


def _unlimited(value: Any, ctx: MapContext, arg: Any) -> int:
    number = _int(value, ctx, None)
    return int(arg["take"]) if str(number) in [str(word) for word in arg["values"]] else number


def _strip_zeros(value: Any, ctx: MapContext, arg: Any) -> str:
    text = as_text(value).strip()
    return text.lstrip("0") or "0"


def _boolean(value: Any, ctx: MapContext, arg: Any) -> bool:
    word = as_text(value).strip().lower()
    if word not in _TRUE and word not in _FALSE:
        raise Failure("is neither yes nor no")
    return word in _TRUE


def _base64(value: Any, ctx: MapContext, arg: Any) -> bytes:
    try:
        return base64_codec.b64decode("".join(as_text(value).split()), validate=True)
    except (binascii.Error, ValueError):
        raise Failure("is not Base64") from None


def _hex(value: Any, ctx: MapContext, arg: Any) -> bytes:
    try:
        return bytes.fromhex(as_text(value))
    except ValueError:
        raise Failure("is not hexadecimal") from None


def _utf8(value: Any, ctx: MapContext, arg: Any) -> bytes:
    return as_text(value).encode()


def check_separator(arg: Any) -> str | None:
    """Take no arg, or a separator."""
    return None if arg is None or (isinstance(arg, str) and arg) else "arg is the separator, a text"


def _count_list(value: Any, ctx: MapContext, arg: Any) -> int:
    return sum(1 for item in as_text(value).split(arg or ",") if item.strip())


def _sex_cn(value: Any, ctx: MapContext, arg: Any) -> str:
    sex = _SEX.get(as_text(value).strip().lower())
    if sex is None:
        raise Failure("is not a sex of GB/T 2261.1: a code of its own needs a table")
    return sex


def _mask_none(value: Any, ctx: MapContext, arg: Any) -> str | None:
    text = as_text(value)
    return None if "*" in text else text


def _check_resource_type(arg: Any) -> str | None:
    return None if isinstance(arg, str) and arg.isalpha() else "needs arg: the resource type, as in Patient"


def _reference_id(value: Any, ctx: MapContext, arg: Any) -> str | None:
    kind, _, id_ = as_text(value).split("/_history/")[0].rpartition("/")
    if arg is not None and kind.rpartition("/")[2] != arg:
        return None
    return id_ or None


# --- reading: times ----------------------------------------------------------------------------------------------


def _date(value: Any, ctx: MapContext, arg: Any) -> dt.date:
    return read_date(as_text(value).strip(), ctx)


def _datetime(value: Any, ctx: MapContext, arg: Any) -> dt.datetime:
    return read_datetime(as_text(value).strip(), ctx)


def _check_precision(arg: Any) -> str | None:
    if arg is None or (isinstance(arg, dict) and set(arg) == {"at_least"} and precision(arg["at_least"])):
        return None
    return "arg: {at_least: day | hour | minute | second}"


def _hl7_datetime(value: Any, ctx: MapContext, arg: Any) -> dt.datetime:
    return read_hl7(as_text(value).strip(), ctx, arg["at_least"] if arg else "year")


def _hl7_date(value: Any, ctx: MapContext, arg: Any) -> dt.date | None:
    return read_hl7_date(as_text(value).strip(), ctx)


def _hl7_iso(value: Any, ctx: MapContext, arg: Any) -> str:
    return hl7_as_iso(as_text(value).strip())


def _hl7_time_iso(value: Any, ctx: MapContext, arg: Any) -> str:
    return hl7_clock_as_iso(as_text(value).strip())


_CLOCK_TIME = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]")


def _check_sessions(arg: Any) -> str | None:
    if isinstance(arg, dict) and arg and all(_CLOCK_TIME.fullmatch(str(start)) for start in arg.values()):
        return None
    return 'needs arg: each session and when it starts, {am: "00:00", pm: "12:00"}'


def _session_of(value: Any, ctx: MapContext, arg: Any) -> str:
    moment = value if isinstance(value, dt.datetime) else read_datetime(as_text(value).strip(), ctx)
    clock = format(moment.astimezone(ctx.zone), "%H:%M")
    starts = sorted((start, str(session)) for session, start in arg.items())
    # Before the first start it is still the last session of the day before: a night that ends at six.
    return next((session for start, session in reversed(starts) if start <= clock), starts[-1][1])


# --- writing -----------------------------------------------------------------------------------------------------


def day_of(value: Any, ctx: MapContext) -> dt.date:
    """A date, or the day of an instant in the hospital's zone."""
    if isinstance(value, dt.datetime):
        return value.astimezone(ctx.zone).date()
    if isinstance(value, dt.date):
        return value
    raise Failure("is not a date")


def _moment(value: Any, ctx: MapContext) -> dt.datetime:
    if isinstance(value, dt.datetime):
        return value.astimezone(ctx.zone)
    raise Failure("is not a date and time")


def _dated(form: str) -> Callable[[Any, MapContext, Any], str]:
    return lambda value, ctx, arg: format(day_of(value, ctx) + dt.timedelta(days=arg or 0), form)


def _timed(form: str) -> Callable[[Any, MapContext, Any], str]:
    return lambda value, ctx, arg: format(_moment(value, ctx), form)


def _iso(value: Any, ctx: MapContext, arg: Any) -> str:
    return _moment(value, ctx).isoformat() if isinstance(value, dt.datetime) else day_of(value, ctx).isoformat()


def _check_days(arg: Any) -> str | None:
    return None if arg is None or (isinstance(arg, int) and 0 <= arg <= 366) else "arg is a number of days, 0 to 366"


def _check_shift(arg: Any) -> str | None:
    if arg is None or (isinstance(arg, int) and not isinstance(arg, bool) and -3660 <= arg <= 366):
        return None
    return "arg is a number of days to add, -3660 to 366"


def _day_start(value: Any, ctx: MapContext, arg: Any) -> str:
    day = day_of(value, ctx) + dt.timedelta(days=arg or 0)
    return dt.datetime.combine(day, dt.time(), ctx.zone).isoformat()


def _yuan(value: Any, ctx: MapContext, arg: Any) -> Decimal:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Failure("is not a whole number of fen")
    return Decimal(value).scaleb(-2)


def _fen_to_yuan(value: Any, ctx: MapContext, arg: Any) -> str:
    return f"{_yuan(value, ctx, arg):.2f}"


def _check_width(arg: Any) -> str | None:
    return (
        None
        if isinstance(arg, int) and not isinstance(arg, bool) and 1 <= arg <= 64
        else "needs arg: the width, 1 to 64"
    )


def _zero_pad(value: Any, ctx: MapContext, arg: Any) -> str:
    return as_text(value).zfill(arg)


def _reference(value: Any, ctx: MapContext, arg: Any) -> str:
    text = as_text(value)
    return text if text.startswith(f"{arg}/") else f"{arg}/{text}"


def _base64_text(value: Any, ctx: MapContext, arg: Any) -> str:
    return base64_codec.b64encode(value if isinstance(value, bytes) else as_text(value).encode()).decode("ascii")


# --- the tables --------------------------------------------------------------------------------------------------

TRANSFORMS: dict[str, Transform] = {
    "text": Transform(_text, no_arg),
    "int": Transform(_int, no_arg),
    "yuan_to_fen": Transform(_yuan_to_fen, no_arg),
    "fen": Transform(_fen, no_arg),
    "unlimited": Transform(_unlimited, _check_unlimited),
    "strip_zeros": Transform(_strip_zeros, no_arg),
    "boolean": Transform(_boolean, no_arg),
    "base64": Transform(_base64, no_arg),
    "hex": Transform(_hex, no_arg),
    "utf8": Transform(_utf8, no_arg),
    "count_list": Transform(_count_list, check_separator),
    "sex_cn": Transform(_sex_cn, no_arg),
    "mask_none": Transform(_mask_none, no_arg),
    "reference_id": Transform(_reference_id, lambda arg: None if arg is None else _check_resource_type(arg)),
    "date": Transform(_date, no_arg),
    "datetime": Transform(_datetime, no_arg),
    "hl7_datetime": Transform(_hl7_datetime, _check_precision),
    "hl7_date": Transform(_hl7_date, no_arg),
    "hl7_iso": Transform(_hl7_iso, no_arg),
    "hl7_time_iso": Transform(_hl7_time_iso, no_arg),
    "session_of": Transform(_session_of, _check_sessions),
    "date_dash": Transform(_dated("%Y-%m-%d"), _check_shift),
    "date_compact": Transform(_dated("%Y%m%d"), _check_shift),
    "time_hm": Transform(_timed("%H:%M"), no_arg),
    "time_hms": Transform(_timed("%H:%M:%S"), no_arg),
    "datetime_dash": Transform(_timed("%Y-%m-%d %H:%M:%S"), no_arg),
    "datetime_compact": Transform(_timed("%Y%m%d%H%M%S"), no_arg),
    "hl7_ts": Transform(_timed("%Y%m%d%H%M%S%z"), no_arg),
    "iso": Transform(_iso, no_arg),
    "day_start": Transform(_day_start, _check_days),
    "fen_to_yuan": Transform(_fen_to_yuan, no_arg),
    "fen_to_decimal": Transform(_yuan, no_arg),
    "zero_pad": Transform(_zero_pad, _check_width),
    "reference": Transform(_reference, _check_resource_type),
    "base64_text": Transform(_base64_text, no_arg),
}
