"""Any bill file: its form is told by its first line."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from itertools import chain

from booking.merchant_files import alipay, plain, wechat
from booking.merchant_files.alipay import read_alipay
from booking.merchant_files.lines import BEIJING, BillFileInvalid, BillLine
from booking.merchant_files.plain import read_plain
from booking.merchant_files.unpacking import lines_of
from booking.merchant_files.wechat import read_wechat

MOST_LINES = 300_000


def read_bill(data: bytes, date: dt.date, zone: dt.tzinfo = BEIJING) -> Iterator[BillLine]:
    """Every movement of a bill file of `date`, a few at a time; `data` may be packed (gzip, zip). `zone`: the hospital's.

    Raises BillFileInvalid, which may be after all of its lines: only then is it known that the file was whole.
    """
    for count, line in enumerate(_read(data, date, zone), 1):
        if count > MOST_LINES:
            raise BillFileInvalid(count, f"more than {MOST_LINES} movements")
        yield line


def _read(data: bytes, date: dt.date, zone: dt.tzinfo) -> Iterator[BillLine]:
    lines = lines_of(data)
    number, first = next(lines, (1, ""))
    begins = first.lstrip()
    if begins.startswith(wechat.FIRST):
        return read_wechat(lines, first, date)
    if begins.startswith(("#", alipay.FIRST)):
        return read_alipay(chain([(number, first)], lines), date)
    if begins.startswith(plain.FIRST + ","):
        return read_plain(lines, first, date, zone)
    raise BillFileInvalid(
        number,
        "expected a trade bill of WeChat Pay (交易时间 ...), of Alipay (#支付宝业务明细查询), or kind,channel,...",
    )
