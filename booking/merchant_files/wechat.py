"""WeChat Pay's trade bill (交易账单), of type ALL, SUCCESS or REFUND.

A header, a line for each payment and refund with a backtick before each value, a second header and a line of totals. Columns go
by their names. Source: pay.weixin.qq.com, merchant documentation, bill-download, format-trade.
"""

from __future__ import annotations

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

FIRST = "交易时间"
_TRADE, _STATE, _COUNT = "微信订单号", "交易状态", "总交易单数"
_NUMBER = re.compile(r"[0-9]{1,9}")
_FAILED = frozenset({"FAIL", "FAILED", "CHANGE"})  # 退款失败, 退款异常: nothing has reached the payer
# Each total, and the column that it is the sum of: over all lines, whatever their state.
_TOTALS = {
    "订单总金额": "订单金额",
    "申请退款总金额": "申请退款金额",
    "应结订单总金额": "应结订单金额",
    "退款总金额": "退款金额",
}


def read_wechat(lines: Iterator[tuple[int, str]], header: str, date: dt.date) -> Iterator[BillLine]:
    """Every movement of the file; the header was read. Raises BillFileInvalid, for its totals after the last line."""
    places = places_of(_cells(header), 1, (FIRST, _TRADE, "商户订单号", _STATE))
    paid = next((n for n in ("订单金额", "总金额", "应结订单金额") if n in places), None)
    returned = next((n for n in ("申请退款金额", "退款金额") if n in places), None)
    summed = {total: of for total, of in _TOTALS.items() if of in places}
    sums, number = dict.fromkeys(summed, 0), 1
    for count, (number, text) in enumerate(lines):
        if text.startswith(_COUNT):
            _check_totals(lines, _cells(text), number, {**sums, _COUNT: count})
            return
        cells = _cells(text)
        if len(cells) != len(places):
            raise BillFileInvalid(number, f"expected {len(places)} values, found {len(cells)}")
        for total, of in summed.items():
            sums[total] += moved_fen(cells[places[of]], number, of)
        yield _line(cells, places, paid, returned, number, date)
    raise BillFileInvalid(number, f"the file ends without its totals ({_COUNT}): it was cut off")


def _cells(text: str) -> list[str]:
    """Product names may have commas: what parts two values is a comma before a backtick."""
    if text.startswith("`"):
        return [cell.strip() for cell in text[1:].split(",`")]
    return [cell.strip() for cell in text.split(",")]


def _line(
    cells: list[str], places: dict[str, int], paid: str | None, returned: str | None, number: int, date: dt.date
) -> BillLine:
    def cell(name: str) -> str:
        return cells[places[name]] if name in places else ""

    state = cell(_STATE)
    if state not in ("SUCCESS", "REFUND", "REVOKED"):
        raise BillFileInvalid(number, f"{_STATE}: expected SUCCESS, REFUND or REVOKED")
    is_payment = state == "SUCCESS"
    amount = paid if is_payment else returned
    if amount is None:
        raise BillFileInvalid(number, "the column with its amount is missing")
    when = FIRST if is_payment or not cell("退款申请时间") else "退款申请时间"
    at = instant_of(cell(when), number, when)
    if is_payment and at.date() != date:
        raise BillFileInvalid(number, f"{when}: of {at.date()}, and the bill is said to be of {date}")
    return BillLine(
        kind="payment" if is_payment else "refund",
        channel="wechat",
        trade_no=number_of(cell(_TRADE), number, _TRADE),
        amount_fen=abs(moved_fen(cell(amount), number, amount)),
        at_ms=ms_of(at),
        status="failed" if not is_payment and cell("退款状态") in _FAILED else "done",
        order_no=shown(cell("商户订单号")),
        terminal=shown(cell("设备号")),
        product=shown(cell("商品名称")),
    )


def _check_totals(lines: Iterator[tuple[int, str]], header: list[str], number: int, expected: dict[str, int]) -> None:
    number, text = next(lines, (number, ""))
    totals = dict(zip(header, _cells(text), strict=False))
    for name, value in expected.items():
        if name not in totals:
            if name == _COUNT or name in header:
                raise BillFileInvalid(number, f"{name}: the totals were cut off")
            continue
        if name == _COUNT:
            told = int(totals[name]) if _NUMBER.fullmatch(totals[name]) else -1
        else:
            told = fen_of(totals[name], number, name)
        if told != value:
            raise BillFileInvalid(
                number, f"{name}: the lines above do not add up to it: the file is not whole, or was altered"
            )
    for number, text in lines:
        if text.strip():
            raise BillFileInvalid(number, "nothing was expected after the totals")
