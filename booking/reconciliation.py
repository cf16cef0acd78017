"""The daily comparison of three books: the merchant's bill, our payments and refunds, the hospital's statement (对账). Pure.

| kind | 中文 | what it says | what to do next |
|---|---|---|---|
| `long` | 长款 | the merchant has money that we do not know, or has not returned what we believe returned | have the portal report the payment again, or carry out the refund |
| `short` | 短款 | we count on money that the merchant does not have | ask the channel by the trade number: returned by hand, or never paid |
| `amount` | 金额不符 | two books have it with other amounts | compare the three amounts: a partial refund or a discount is missing in one of them |
| `his_missing` | 单边账（医院无） | merchant and we agree, the hospital has not got it, asked again too | have it settled: see `commands list`, or the hospital's cashier |
| `his_only` | 单边账（仅医院） | only the hospital has it | a payment at its window under our number, or a refund of which it was not told |
| `status` | 状态不符 | they agree as soon as a refund that is not done on one side is counted | carry the refund out, or ask the channel; have the portal report its end |
| `moved_fee` | 改诊差额 | merchant and we have the fee that was paid, the hospital that of the session to which the booking was moved (改诊, 替诊) | settle the difference with the hospital: it keeps the fee that was paid, or its window collects or returns the rest |
| `timing` | 跨日（时间差） | they agree with the days before and after taken together: it went over midnight, or was returned on a later day | nothing; the other day shows the other half |

Every payment is netted in each book first: it and its refund of one day cancel out. (channel, trade_no) names a payment; of the
hospital's lines the channel counts where it is a name that the merchant or we use, as most write it in words of their own, or
leave it out: see Books.place. Before a difference is reported the hospital is asked again: see booking.asking_again.
"""  # noqa: E501 - a table

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from sys import intern

import msgspec

from mappings.canonical import StatementKind, StatementLine

KINDS = ("long", "short", "amount", "his_missing", "his_only", "status", "moved_fee", "timing")
_MERCHANT, _OURS, _HIS = 0, 1, 2
_UNSURE, _SEEN, _FOREIGN = 3, 4, 5

Name = tuple[str | None, str]
"""Channel and trade number of a payment; the channel of one that only the hospital has is its own word, or None."""


class Entry(msgspec.Struct, frozen=True):
    """One movement of money in one of the books; `amount_fen` is negative for a refund."""

    trade_no: str
    channel: str | None
    amount_fen: int


class Mismatch(msgspec.Struct, frozen=True, kw_only=True):
    """A payment whose books differ; None where a book does not have it (or is not there at all)."""

    kind: str
    trade_no: str
    channel: str | None
    merchant_fen: int | None
    ours_fen: int | None
    his_fen: int | None

    @property
    def name(self) -> Name:
        return self.channel, self.trade_no


class Extra(msgspec.Struct, kw_only=True):
    """What is known of a payment beside the day's own books; refunds are negative.

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
    """A day's books, netted by payment as they are read: what is kept is one small list for each. The hospital's come last."""

    def __init__(self, *, his_known: bool) -> None:
        """`his_known`: whether the hospital gives a statement at all."""
        self._his_known = his_known
        self._trades: dict[Name, list[int]] = {}
        self._channels_of: dict[str, str | list[str | None] | None] = {}  # of numbers that the merchant or we have
        self._his_of: dict[str, str | None] = {}  # the hospital's word for the channel, of numbers that it alone has
        self._unplaced: dict[str, int] = {}  # what it has under numbers of several channels, and does not say of which
        self.channels: set[str | None] = set()  # that the merchant or we use
        self.lines = [0, 0, 0]  # of the merchant's (without others' business), ours, the hospital's

    def add_merchant(self, entry: Entry, *, done: bool = True, foreign: bool = False) -> None:
        """`done`: False where the channel says that it has come to nothing. `foreign`: of another business under the number."""
        trade = self._trade(self._named(entry), _MERCHANT)
        trade[_MERCHANT if done else _UNSURE] += entry.amount_fen
        if foreign:
            self.lines[_MERCHANT] -= 1
        else:
            trade[_FOREIGN] = 0

    def add_ours(self, entry: Entry) -> None:
        self._trade(self._named(entry), _OURS)[_OURS] += entry.amount_fen

    def add_his(self, entry: Entry) -> None:
        name = self.place(entry)
        if name is None:
            self._unplaced[entry.trade_no] = self._unplaced.get(entry.trade_no, 0) + entry.amount_fen
            self.lines[_HIS] += 1
        else:
            if entry.trade_no not in self._channels_of:
                self._his_of.setdefault(entry.trade_no, name[0])
            self._trade(name, _HIS)[_HIS] += entry.amount_fen

    def place(self, entry: Entry) -> Name | None:
        """Which payment a line of the hospital's is of; None where several channels have its number, and it does not say.

        Its word for the channel counts where it is a name that the merchant or we use; any other is its own, and the number
        alone tells.
        """
        channels = self._channels_of.get(entry.trade_no, ())
        if channels == ():  # only the hospital has it
            channel = entry.channel if entry.channel is not None else self._his_of.get(entry.trade_no)
            return channel, entry.trade_no
        if entry.channel in self.channels and entry.channel is not None:
            return entry.channel, entry.trade_no
        return None if isinstance(channels, list) else (channels, entry.trade_no)  # type: ignore[return-value]

    def is_shared(self, trade_no: str) -> bool:
        """Whether several channels have this number."""
        return isinstance(self._channels_of.get(trade_no), list)

    def _named(self, entry: Entry) -> Name:
        """The name of a line of the merchant's or ours, which is known from now on."""
        channel, trade_no = None if entry.channel is None else intern(entry.channel), entry.trade_no
        if (channel, trade_no) not in self._trades:
            self.channels.add(channel)
            if trade_no not in self._channels_of:
                self._channels_of[trade_no] = channel
            elif isinstance(known := self._channels_of[trade_no], list):
                known.append(channel)
            else:
                self._channels_of[trade_no] = [known, channel]
        return channel, trade_no

    def _trade(self, name: Name, book: int) -> list[int]:
        trade = self._trades.get(name)
        if trade is None:
            trade = self._trades[name] = [0, 0, 0, 0, 0, 1]
        trade[_SEEN] |= 1 << book
        self.lines[book] += 1
        return trade

    def _place_rest(self) -> None:
        """What the hospital has under a number of several channels goes where it is lacking; else to the first of them."""
        for trade_no, fen in self._unplaced.items():
            channels = self._channels_of[trade_no]
            trades = [self._trades[channel, trade_no] for channel in channels or ()]
            lacking = [trade[_OURS] - trade[_HIS] for trade in trades]
            for trade, part in zip(trades, allotted(fen, lacking), strict=True):
                if part:
                    trade[_HIS] += part
                    trade[_SEEN] |= 1 << _HIS
        self._unplaced.clear()

    def differing(self) -> Iterator[Mismatch]:
        """Every payment whose nets differ, in no order; others' business only where we or the hospital know it too."""
        self._place_rest()
        for (channel, trade_no), trade in self._trades.items():
            m, o, h, unsure, seen, foreign = trade
            if foreign and seen == 1 << _MERCHANT:
                continue
            kind = _kind(m, o, h if self._his_known else None)
            if kind is None:
                continue
            if m != o and unsure and m + unsure == o:
                kind = "status"
            yield Mismatch(
                kind=kind,
                trade_no=trade_no,
                channel=channel,
                merchant_fen=_shown(m, seen, _MERCHANT),
                ours_fen=_shown(o, seen, _OURS),
                his_fen=_shown(h, seen, _HIS) if self._his_known else None,
            )


def _shown(fen: int, seen: int, book: int) -> int | None:
    return fen if seen & (1 << book) else None


def allotted(fen: int, lacking: Sequence[int]) -> list[int]:
    """How much of `fen` is of each that lacks so much: what each lacks, what one of them lacks, or all for the first. Pure."""
    if fen == sum(lacking):
        return list(lacking)
    only = lacking.index(fen) if fen in lacking else 0
    return [fen if n == only else 0 for n in range(len(lacking))]


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
    """The differences of one day by themselves, in the order of their names."""
    books = Books(his_known=his is not None)
    for entry in merchant:
        books.add_merchant(entry)
    for entry in ours:
        books.add_ours(entry)
    for entry in his or ():
        books.add_his(entry)
    return in_order(books.differing())


def in_order(found: Iterable[Mismatch]) -> list[Mismatch]:
    """By trade number, then by channel."""
    return sorted(found, key=lambda one: (one.trade_no, one.channel or ""))


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
