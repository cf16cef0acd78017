"""The plain form, for whatever else takes money: UTF-8 CSV with a header, amounts in fen, and a last line with the totals.

    kind,channel,trade_no,amount_fen,at,order_no
    payment,unionpay,U1,1500,2026-01-05T08:30:00+08:00,A7
    refund,unionpay,U1,500,2026-01-05T09:30:00+08:00,A7
    total,,2,1000,,

`amount_fen` of the total is payments less refunds, its `trade_no` the number of lines. `at` and `order_no` may be left out. An
`at` of another day than the bill's, by the hospital's clock, refuses the file: it is that of another day.
"""

from __future__ import annotations

import csv
import datetime as dt
import re
from collections.abc import Iterator

from booking.merchant_files.lines import BillFileInvalid, BillLine, number_of, places_of, shown, within

FIRST = "kind"
_FEN = re.compile(r"[0-9]{1,15}")
_CHANNEL = re.compile(r"[!-~]{1,32}")


def read_plain(lines: Iterator[tuple[int, str]], header: str, date: dt.date, zone: dt.tzinfo) -> Iterator[BillLine]:
    """Every movement of the file of a day in `zone`; its header was read. Raises BillFileInvalid, maybe after the last line."""
    places = places_of([cell.strip() for cell in header.split(",")], 1, (FIRST, "channel", "trade_no", "amount_fen"))
    count = total_fen = 0
    ended, number = False, 1
    for number, text in lines:
        if not text.strip():
            continue
        if ended:
            raise BillFileInvalid(number, "a line after the totals")
        cells = _cells(text, number)
        if len(cells) != len(places):
            raise BillFileInvalid(number, f"expected {len(places)} values, found {len(cells)}")
        row = {name: cells[place] for name, place in places.items()}
        if row[FIRST] == "total":
            if (row["trade_no"], row["amount_fen"]) != (str(count), str(total_fen)):
                raise BillFileInvalid(number, "total: the lines above do not add up to it")
            ended = True
            continue
        line = _line(row, number, date, zone)
        count += 1
        total_fen += line.amount_fen if line.kind == "payment" else -line.amount_fen
        yield line
    if not ended:
        raise BillFileInvalid(number, "the file ends without its line `total`: it was cut off")


def _cells(text: str, number: int) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([text], strict=True))]
    except (csv.Error, StopIteration):
        raise BillFileInvalid(number, "not a line of CSV") from None


def _line(row: dict[str, str], number: int, date: dt.date, zone: dt.tzinfo) -> BillLine:
    if row[FIRST] not in ("payment", "refund"):
        raise BillFileInvalid(number, f"{FIRST}: expected payment, refund or total")
    if not _CHANNEL.fullmatch(row["channel"]):
        raise BillFileInvalid(number, "channel: expected a name of 1 to 32 characters")
    if not _FEN.fullmatch(row["amount_fen"]):
        raise BillFileInvalid(number, "amount_fen: expected an amount in fen, for example 1234")
    return BillLine(
        kind=row[FIRST],
        channel=row["channel"],
        trade_no=number_of(row["trade_no"], number, "trade_no"),
        amount_fen=within(int(row["amount_fen"]), number, "amount_fen"),
        at_ms=_at_ms(row.get("at", ""), number, date, zone),
        order_no=shown(row.get("order_no", "")),
    )


def _at_ms(text: str, number: int, date: dt.date, zone: dt.tzinfo) -> int | None:
    if not text:
        return None
    try:
        at = dt.datetime.fromisoformat(text)
        if at.tzinfo is None or not 2000 <= at.year <= 2199:
            raise ValueError
    except ValueError:
        raise BillFileInvalid(number, "at: expected a time with its offset, as 2026-01-05T08:30:00+08:00") from None
    if (day := at.astimezone(zone).date()) != date:
        raise BillFileInvalid(number, f"at: of {day}, and the bill is said to be of {date}")
    return round(at.timestamp() * 1000)
