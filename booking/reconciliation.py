"""The daily comparison of three books: the merchant's bill, our payments and refunds, the hospital's statement (对账). Pure.

| kind | 中文 | what it says | what to do next |
|---|---|---|---|
| `long` | 长款 | the merchant has money that we do not know, or has not returned what we believe returned | have the portal report the payment again, or carry out the refund |
| `short` | 短款 | we count on money that the merchant does not have | ask the channel by the trade number: returned by hand, or never paid |
| `amount` | 金额不符 | two books have it with other amounts | compare the three amounts: a partial refund or a discount is missing in one of them |
| `his_missing` | 单边账（医院无） | merchant and we agree, the hospital has not got it, asked again too | have it settled: see `commands list`, or the hospital's cashier |
| `his_only` | 单边账（仅医院） | only the hospital has it | a payment at its window under our number, or a refund of which it was not told |
| `status` | 状态不符 | they agree as soon as a refund that is not done on one side is counted | carry the refund out, or ask the channel; have the portal report its end |
| `timing` | 跨日（时间差） | they agree with the days before and after taken together: it went over midnight, or was returned on a later day | nothing; the other day shows the other half |

Every trade number is netted in each book first: a payment and its refund of one day cancel out. Before a difference is
reported the hospital is asked again: see booking.asking_again.
"""  # noqa: E501 - a table

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from sys import intern

import msgspec

from mappings.canonical import StatementKind, StatementLine

KINDS = ("long", "short", "amount", "his_missing", "his_only", "status", "timing")
_MERCHANT, _OURS, _HIS = 0, 1, 2
_UNSURE, _CHANNEL, _SEEN, _FOREIGN = 3, 4, 5, 6


class Entry(msgspec.Struct, frozen=True):
    """One movement of money in one of the books; `amount_fen` is negative for a refund."""

    trade_no: str
    channel: str | None
    amount_fen: int


class Mismatch(msgspec.Struct, frozen=True, kw_only=True):
    """A trade number whose books differ; None where a book does not have it (or is not there at all)."""

    kind: str
    trade_no: str
    channel: str | None
    merchant_fen: int | None
    ours_fen: int | None
    his_fen: int | None


class Extra(msgspec.Struct, kw_only=True):
    """What is known of a trade number beside the day's own books; refunds are negative.

    `merchant_fen`, `his_fen`: the bills and statements of the days before and after. `ours_fen`: our book within two hours of
    midnight. `around_fen`: all that ours has of the days before and after, and refunds of any later day. `not_done_fen`: refunds
    of ours that are due or under way.
    """

    merchant_fen: int = 0
    ours_fen: int = 0
    his_fen: int = 0
    around_fen: int = 0
    not_done_fen: int = 0


class Books:
    """A day's books, netted by trade number as they are read: what is kept is one small list for each number."""

    def __init__(self, *, his_known: bool) -> None:
        """`his_known`: whether the hospital gives a statement at all."""
        self._his_known = his_known
        self._trades: dict[str, list[int | str | None]] = {}
        self.lines = [0, 0, 0]  # of the merchant's (without others' business), ours, the hospital's

    def add_merchant(self, entry: Entry, *, done: bool = True, foreign: bool = False) -> None:
        """`done`: False where the channel says that it has come to nothing. `foreign`: of another business under the number."""
        trade = self._trade(entry, _MERCHANT)
        if not done:
            trade[_UNSURE] += entry.amount_fen  # type: ignore[operator]
        else:
            trade[_MERCHANT] += entry.amount_fen  # type: ignore[operator]
        if foreign:
            self.lines[_MERCHANT] -= 1
        else:
            trade[_FOREIGN] = 0

    def add_ours(self, entry: Entry) -> None:
        self._trade(entry, _OURS)[_OURS] += entry.amount_fen  # type: ignore[operator]

    def add_his(self, entry: Entry) -> None:
        self._trade(entry, _HIS)[_HIS] += entry.amount_fen  # type: ignore[operator]

    def _trade(self, entry: Entry, book: int) -> list[int | str | None]:
        trade = self._trades.get(entry.trade_no)
        if trade is None:
            channel = None if entry.channel is None else intern(entry.channel)
            trade = self._trades[entry.trade_no] = [0, 0, 0, 0, channel, 0, 1]
        elif trade[_CHANNEL] is None and entry.channel is not None:
            trade[_CHANNEL] = intern(entry.channel)
        trade[_SEEN] |= 1 << book  # type: ignore[operator]
        self.lines[book] += 1
        return trade

    def differing(self) -> Iterator[Mismatch]:
        """Every trade number whose nets differ, in no order; others' business only where we or the hospital know it too."""
        for trade_no, trade in self._trades.items():
            m, o, h, unsure, channel, seen, foreign = trade
            if foreign and seen == 1 << _MERCHANT:
                continue
            kind = _kind(m, o, h if self._his_known else None)  # type: ignore[arg-type]
            if kind is None:
                continue
            if m != o and unsure and m + unsure == o:  # type: ignore[operator]
                kind = "status"
            yield Mismatch(
                kind=kind,
                trade_no=trade_no,
                channel=channel,  # type: ignore[arg-type]
                merchant_fen=_shown(m, seen, _MERCHANT),
                ours_fen=_shown(o, seen, _OURS),
                his_fen=_shown(h, seen, _HIS) if self._his_known else None,
            )


def _shown(fen: object, seen: object, book: int) -> int | None:
    return int(fen) if int(seen) & (1 << book) else None  # type: ignore[call-overload]


def explained(one: Mismatch, extra: Extra, *, his_known: bool) -> Mismatch:
    """What a difference is once its neighbouring days and the refunds under way are known. Pure."""
    m, o, h = one.merchant_fen or 0, one.ours_fen or 0, one.his_fen or 0
    if m != o and extra.not_done_fen and m == o + extra.not_done_fen:
        return msgspec.structs.replace(one, kind="status")
    if his_known and m == o and h + extra.his_fen == o + extra.around_fen + extra.not_done_fen:
        # The hospital takes money back when it cancels, and nothing of what cannot be used; the portal returns it later.
        return msgspec.structs.replace(one, kind="status" if extra.not_done_fen else "timing")
    m, o, h = m + extra.merchant_fen, o + extra.ours_fen, h + extra.his_fen
    moved = bool(extra.merchant_fen or extra.ours_fen or extra.his_fen)
    if moved and _kind(m, o, h if his_known else None) is None:
        return msgspec.structs.replace(one, kind="timing")
    return one


def with_his(one: Mismatch, his_fen: int | None) -> Mismatch | None:
    """A difference with another word of the hospital; None where the three books agree by it. Pure.

    One that was a matter of a refund's status between the merchant and us stays that.
    """
    kind = _kind(one.merchant_fen or 0, one.ours_fen or 0, his_fen or 0)
    if kind is None:
        return None
    return msgspec.structs.replace(one, kind="status" if one.kind == "status" else kind, his_fen=his_fen)


def _kind(merchant: int, ours: int, his: int | None) -> str | None:
    if merchant != ours:
        if ours == 0:
            return "long"
        return "short" if merchant == 0 else "amount"
    if his is not None and his != ours:
        if his == 0:
            return "his_missing"
        return "his_only" if ours == 0 else "amount"
    return None


def compare(merchant: Iterable[Entry], ours: Iterable[Entry], his: Iterable[Entry] | None) -> list[Mismatch]:
    """The differences of one day by themselves, by trade number."""
    books = Books(his_known=his is not None)
    for entry in merchant:
        books.add_merchant(entry)
    for entry in ours:
        books.add_ours(entry)
    for entry in his or ():
        books.add_his(entry)
    return sorted(books.differing(), key=lambda one: one.trade_no)


def day_bounds_ms(date: dt.date, zone: dt.tzinfo) -> tuple[int, int]:
    """The first millisecond of a local day and of the next one; a day may have 23 or 25 hours."""
    starts = dt.datetime.combine(date, dt.time(), zone)
    ends = dt.datetime.combine(date + dt.timedelta(days=1), dt.time(), zone)
    return round(starts.timestamp() * 1000), round(ends.timestamp() * 1000)


def his_entry(line: StatementLine) -> Entry:
    """A line of the hospital's statement; one without a trade number stands under its order number."""
    fen = line.amount_fen if line.kind == StatementKind.PAYMENT else -line.amount_fen
    return Entry(line.trade_no or line.order_no or "?", line.channel, fen)


def his_entries(lines: Iterable[StatementLine]) -> list[Entry]:
    """The hospital's statement as entries."""
    return [his_entry(line) for line in lines]
