"""Alipay's business details (业务明细): CSV in GBK, in a zip file, with lines of remarks that begin with #.

Cells end in spaces or tabs; a refund has negative amounts. The totals stand in the remarks after the last line. Source:
opendocs.alipay.com, alipay.data.dataservice.bill.downloadurl.query, bill type trade.
"""

from __future__ import annotations

import csv
import datetime as dt
import re
from collections.abc import Iterator

from booking.merchant_files.lines import (
    BillFileInvalid,
    BillLine,
    fen_of,
    instant_of,
    moved_fen,
    ms_of,
    number_of,
    places_of,
    shown,
)

FIRST = "支付宝交易号"
_KIND, _DONE, _AMOUNT, _RECEIVED = "业务类型", "完成时间", "订单金额(元)", "商家实收(元)"
_KINDS = {"交易": "payment", "退款": "refund"}
_TOTALS = {
    "payment": re.compile(r"#+交易合计[:：]\s*([0-9]{1,9})笔[,，]商家实收共(-?[0-9.]{1,20})元"),
    "refund": re.compile(r"#+退款合计[:：]\s*([0-9]{1,9})笔[,，]商家实收退款共(-?[0-9.]{1,20})元"),
}
_WIDE = str.maketrans("（）：，", "():,")


def read_alipay(lines: Iterator[tuple[int, str]], date: dt.date) -> Iterator[BillLine]:
    """Every movement of the file. Raises BillFileInvalid, for its totals after the last line."""
    places: dict[str, int] | None = None
    sums = dict.fromkeys(_TOTALS, (0, 0))
    told: set[str] = set()
    number = 1
    for number, text in lines:
        if text.startswith("#"):
            told |= _check_total(text, number, sums)
        elif not text.strip():
            continue
        elif places is None:
            header = [cell.strip().translate(_WIDE) for cell in text.split(",")]
            places = places_of(header, number, (FIRST, "商户订单号", _KIND, _DONE, _AMOUNT, _RECEIVED))
        elif told:
            raise BillFileInvalid(number, "a line after the totals")
        else:
            line, received = _line(_cells(text, places, number), places, number, date)
            count, fen = sums[line.kind]
            sums[line.kind] = (count + 1, fen + received)
            yield line
    if places is None:
        raise BillFileInvalid(number, f"there is no header with {FIRST}")
    if told != _TOTALS.keys():
        raise BillFileInvalid(number, "the file ends without its totals (#交易合计, #退款合计): it was cut off")


def _check_total(text: str, number: int, sums: dict[str, tuple[int, int]]) -> set[str]:
    for kind, pattern in _TOTALS.items():
        found = pattern.match(text)
        if found is not None:
            if (int(found[1]), fen_of(found[2], number, "合计")) != sums[kind]:
                raise BillFileInvalid(
                    number, "合计: the lines above do not add up to it: the file is not whole, or was altered"
                )
            return {kind}
    return set()


def _cells(text: str, places: dict[str, int], number: int) -> list[str]:
    """One value for each column. A comma in the name of the goods, which nothing protects, is put back."""
    try:
        cells = [cell.strip() for cell in next(csv.reader([text], strict=True))]
    except (csv.Error, StopIteration):
        raise BillFileInvalid(number, "not a line of CSV") from None
    more, goods = len(cells) - len(places), places.get("商品名称")
    if more > 0 and goods is not None:
        cells[goods : goods + more + 1] = [",".join(cells[goods : goods + more + 1])]
    if len(cells) != len(places):
        raise BillFileInvalid(number, f"expected {len(places)} values, found {len(cells)}")
    return cells


def _line(cells: list[str], places: dict[str, int], number: int, date: dt.date) -> tuple[BillLine, int]:
    """The movement, and what the merchant received by it."""

    def cell(name: str) -> str:
        return cells[places[name]] if name in places else ""

    kind = _KINDS.get(cell(_KIND))
    if kind is None:
        raise BillFileInvalid(number, f"{_KIND}: expected 交易 or 退款")
    at = instant_of(cell(_DONE), number, _DONE)
    if at.date() != date:
        raise BillFileInvalid(number, f"{_DONE}: of {at.date()}, and the bill is said to be of {date}")
    line = BillLine(
        kind=kind,
        channel="alipay",
        trade_no=number_of(cell(FIRST), number, FIRST),
        amount_fen=abs(moved_fen(cell(_AMOUNT), number, _AMOUNT)),
        at_ms=ms_of(at),
        order_no=shown(cell("商户订单号")),
        terminal=shown(cell("终端号")),
        product=shown(cell("商品名称")),
    )
    return line, moved_fen(cell(_RECEIVED), number, _RECEIVED)
