"""The named joins of profiles: pure functions from several values to one.

A join is called as fn(ctx, arg, **values) where absent values are None. It returns None for "absent" and raises Failure
with a reason that never holds a value. `docs/mappings.md` lists them for those who write profiles.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from typing import Any

import msgspec

from .context import Failure, MapContext
from .times import duration_unit, read_date, read_datetime, read_duration, read_hl7, read_time_on
from .transforms import CheckArg, as_text, check_separator, day_of, minor_units, no_arg


class Join(msgspec.Struct, frozen=True):
    """A join: its function, the sources it knows (None: any), those it needs, and whether it is called without any."""

    apply: Callable[..., Any]
    check_arg: CheckArg
    sources: tuple[str, ...] | None
    needs: tuple[str, ...] = ()
    when_absent: bool = False


_CURRENCY = re.compile(r"[A-Z]{3}")
_HAN = re.compile("[\u3400-\u9fff]")
# ISO 4217: currencies whose minor unit is not a hundredth.
_WHOLE = (
    "BIF",
    "CLP",
    "DJF",
    "GNF",
    "ISK",
    "JPY",
    "KMF",
    "KRW",
    "PYG",
    "RWF",
    "UGX",
    "UYI",
    "VND",
    "VUV",
    "XAF",
    "XOF",
    "XPF",
)
_THOUSANDTHS = ("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND")
_EXPONENTS = dict.fromkeys(_WHOLE, 0) | dict.fromkeys(_THOUSANDTHS, 3)


def _date_and_time(
    ctx: MapContext, arg: Any, *, date: Any, time: Any, opens: Any = None, closes: Any = None
) -> dt.datetime | None:
    """The instant; where `opens` and `closes` are those of a session over midnight, its later part is on the next day."""
    if date is None or time is None:
        return None
    day = day_of(date, ctx) if isinstance(date, dt.date) else read_date(as_text(date).strip(), ctx)
    moment = read_time_on(day, as_text(time).strip(), ctx)
    if opens is None or closes is None:
        return moment
    first, last = (read_time_on(day, as_text(text).strip(), ctx) for text in (opens, closes))
    over_midnight = last < first and moment <= last
    return read_time_on(day + dt.timedelta(days=1), as_text(time).strip(), ctx) if over_midnight else moment


def _check_unit(arg: Any) -> str | None:
    if arg is None or (isinstance(arg, dict) and set(arg) == {"unit"} and duration_unit(arg["unit"])):
        return None
    return "arg: {unit: s | min | h | d | wk}, the unit when none is sent"


def _add_duration(ctx: MapContext, arg: Any, *, start: Any, amount: Any, unit: Any = None) -> dt.datetime | None:
    if start is None or amount is None:
        return None
    delta = read_duration(as_text(amount).strip(), unit and as_text(unit), arg["unit"] if arg else None)
    if isinstance(start, dt.datetime):
        begin = start
    else:
        text = as_text(start).strip()
        begin = read_hl7(text, ctx) if text[:8].isdigit() and "T" not in text else read_datetime(text, ctx)
    # In UTC: adding to a local time would follow the wall clock over a change of summer time.
    return (begin.astimezone(dt.UTC) + delta).astimezone(begin.tzinfo)


def _money(ctx: MapContext, arg: Any, *, amount: Any, currency: Any = None) -> int | None:
    if amount is None:
        return None
    code = _currency(ctx, arg, code=currency)
    return minor_units(amount, _EXPONENTS.get(code, 2), code)


def _money_sum(
    ctx: MapContext, arg: Any, *, amounts: Any = None, currencies: Any = None, credits: Any = None
) -> int | None:
    """The sum of `amounts` less that of `credits`, one a line, in one currency: what is in several cannot be added."""
    if amounts is None and credits is None:
        return None
    codes = set(as_text(currencies).split("\n")) if currencies is not None else {None}
    if len(codes) > 1:
        raise Failure("is a sum over several currencies")
    code = _currency(ctx, arg, code=codes.pop())
    charged, credited = (
        [minor_units(line, _EXPONENTS.get(code, 2), code) for line in as_text(lines).split("\n")] if lines else []
        for lines in (amounts, credits)
    )
    if any(amount < 0 for amount in credited):
        raise Failure("has a credit below zero: it cannot be told whether it gives or takes")
    return sum(charged) - sum(credited)


def _sum(ctx: MapContext, arg: Any, **values: Any) -> int | None:
    numbers = [minor_units(value, 0, "whole units") for value in values.values() if value is not None]
    return sum(numbers) if numbers else None


def _check_difference(arg: Any) -> str | None:
    least = arg.get("at_least") if isinstance(arg, dict) and set(arg) == {"at_least"} else None
    if arg is None or (isinstance(least, int) and not isinstance(least, bool)):
        return None
    return "arg: {at_least: 0}, what stands for a difference that is less"


def _difference(ctx: MapContext, arg: Any, *, of: Any, less: Any = None) -> int | None:
    """`of` less `less`, whole numbers; a HIS that has sold more than its quota has `at_least` left."""
    if of is None:
        return None
    whole, part = (0 if value is None else minor_units(value, 0, "whole units") for value in (of, less))
    return whole - part if arg is None else max(whole - part, arg["at_least"])


def _check_same_day(arg: Any) -> str | None:
    if arg is None or (isinstance(arg, dict) and set(arg) == {"same", "other"}):
        return None
    return 'arg: {same: "1", other: "2"}, what is written for the same day and for another'


def _same_day(ctx: MapContext, arg: Any, *, first: Any, second: Any) -> str | None:
    if first is None or second is None:
        return None
    days = [
        day_of(one, ctx) if isinstance(one, dt.date) else read_date(as_text(one).strip(), ctx)
        for one in (first, second)
    ]
    same = days[0] == days[1]
    return as_text(arg["same" if same else "other"] if arg else same)


def _currency(ctx: MapContext, arg: Any, *, code: Any) -> str:
    if code is None:
        return ctx.currency
    text = as_text(code).strip().upper()
    if not _CURRENCY.fullmatch(text):
        raise Failure("is not a currency code of ISO 4217")
    return text


def _concat(ctx: MapContext, arg: Any, **values: Any) -> str | None:
    return (arg or "").join(as_text(value) for value in values.values() if value is not None) or None


def _human_name(ctx: MapContext, arg: Any, *, text: Any, family: Any, given: Any, given2: Any = None) -> str | None:
    if text is not None:
        return as_text(text).strip() or None
    parts = [as_text(part).strip() for part in (given, given2, family) if part is not None]
    if any(_HAN.search(part) for part in parts):
        return "".join(parts[-1:] + parts[:-1]) if family is not None else "".join(parts)
    return " ".join(part for part in parts if part) or None


def _value_range(ctx: MapContext, arg: Any, *, text: Any, low: Any, high: Any) -> str | None:
    if text is not None or (low is None and high is None):
        return as_text(text).strip() if text is not None else None
    if low is None or high is None:
        return f"<={as_text(high)}" if low is None else f">={as_text(low)}"
    return f"{as_text(low)}-{as_text(high)}"


JOINS: dict[str, Join] = {
    "date_and_time": Join(_date_and_time, no_arg, ("date", "time", "opens", "closes"), ("date", "time")),
    "add_duration": Join(_add_duration, _check_unit, ("start", "amount", "unit"), ("start", "amount")),
    "money": Join(_money, no_arg, ("amount", "currency"), ("amount",)),
    "money_sum": Join(_money_sum, no_arg, ("amounts", "currencies", "credits")),
    "currency": Join(_currency, no_arg, ("code",), ("code",), when_absent=True),
    "sum": Join(_sum, no_arg, None),
    "difference": Join(_difference, _check_difference, ("of", "less"), ("of",)),
    "same_day": Join(_same_day, _check_same_day, ("first", "second"), ("first", "second")),
    "concat": Join(_concat, check_separator, None),
    "human_name": Join(_human_name, no_arg, ("text", "family", "given", "given2")),
    "value_range": Join(_value_range, no_arg, ("text", "low", "high")),
}
