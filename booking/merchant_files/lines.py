"""What every format comes down to, and what is said of a file that cannot be read."""

from __future__ import annotations

import datetime as dt
import re
from typing import NamedTuple

BEIJING = dt.timezone(dt.timedelta(hours=8))  # WeChat Pay and Alipay cut their days there, wherever the hospital is
MOST_FEN = 10_000_000_000  # of one movement; a whole file of them is still a number that JSON carries exactly
_YUAN = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]{1,2})0*)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class BillFileInvalid(Exception):
    """A file that cannot be taken over, whole. `line` counts from 1; the hint says what was expected, and quotes no value."""

    def __init__(self, line: int, hint: str) -> None:
        super().__init__(f"line {line}: {hint}")
        self.line = line
        self.hint = hint


class BillLine(NamedTuple):
    """One movement of money at the channel. `kind` payment or refund; `amount_fen` is never negative.

    `status`: done, or failed where the channel says that it did not happen. `order_no` is the merchant's own. `terminal` and
    `product` are what a shared merchant number may be told apart by; they are not stored.
    """

    kind: str
    channel: str
    trade_no: str
    amount_fen: int
    at_ms: int | None
    status: str = "done"
    order_no: str = ""
    terminal: str = ""
    product: str = ""


def fen_of(yuan: str, line: int, column: str) -> int:
    """Yuan with decimals in fen. Raises BillFileInvalid."""
    found = _YUAN.fullmatch(yuan)
    if found is None:
        raise BillFileInvalid(line, f"{column}: expected an amount in yuan, for example 12.34")
    fen = int(found[2]) * 100 + int((found[3] or "").ljust(2, "0"))
    return -fen if found[1] else fen


def moved_fen(yuan: str, line: int, column: str) -> int:
    """`fen_of` for one movement, which is bounded; a sum of them is not. Raises BillFileInvalid."""
    return within(fen_of(yuan, line, column), line, column)


def within(fen: int, line: int, column: str) -> int:
    """The amount of one movement. Raises BillFileInvalid for one that no payment comes to."""
    if abs(fen) > MOST_FEN:
        raise BillFileInvalid(line, f"{column}: expected at most {MOST_FEN // 100} yuan")
    return fen


def instant_of(text: str, line: int, column: str) -> dt.datetime:
    """A local time of the channel's. Raises BillFileInvalid."""
    try:
        if len(text) != 19:
            raise ValueError
        return dt.datetime.fromisoformat(text).replace(tzinfo=BEIJING)
    except ValueError:
        raise BillFileInvalid(line, f"{column}: expected a time, for example 2026-01-05 08:30:00") from None


def ms_of(at: dt.datetime) -> int:
    return int(at.timestamp()) * 1000


def number_of(text: str, line: int, column: str) -> str:
    """A trade number: 1 to 128 characters. Raises BillFileInvalid."""
    if not 1 <= len(text) <= 128 or _CONTROL.search(text):
        raise BillFileInvalid(line, f"{column}: expected a number of 1 to 128 characters")
    return text


def shown(text: str) -> str:
    """What is kept of a text that only people and filters look at."""
    return _CONTROL.sub("", text)[:128]


def places_of(header: list[str], line: int, needed: tuple[str, ...]) -> dict[str, int]:
    """Where each column stands. Raises BillFileInvalid for one that is missing or there twice."""
    places = {name: n for n, name in enumerate(header)}
    if len(places) != len(header):
        raise BillFileInvalid(line, "a column stands there twice")
    for name in needed:
        if name not in places:
            raise BillFileInvalid(line, f"the column {name} is missing: is it a trade bill, as the channel gave it?")
    return places
