"""Which lines of a merchant's bill are this hospital's bookings and bills, where several businesses share the number."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from booking.merchant_files.lines import BillLine
from mappings.regexes import explosive

_Text = Annotated[str, Meta(min_length=1, max_length=128)]


class MerchantFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[hospital.<id>.merchant_filter]`. A line is ours if one of these fits; with none of them set, every line is.

    `order_no` is a regular expression that the merchant's own order number begins with, `order_no_prefixes` are beginnings of it,
    `terminals` terminal numbers (设备号, 终端号), `products` beginnings of the goods' name (商品名称).
    """

    order_no: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    order_no_prefixes: tuple[_Text, ...] = ()
    terminals: tuple[_Text, ...] = ()
    products: tuple[_Text, ...] = ()


def filter_problems(rule: MerchantFilter) -> Iterator[tuple[str, str]]:
    """(key, what is wrong)."""
    if rule.order_no is None:
        return
    try:
        re.compile(rule.order_no)
    except (re.error, RecursionError, OverflowError):
        yield "order_no", "not a regular expression"
        return
    if explosive(rule.order_no):
        yield "order_no", "an expression that could take for ever: no repetition within a repetition, no reference back"


def is_ours(rule: MerchantFilter) -> Callable[[BillLine], bool]:
    """The rule as a function of a line."""
    if rule == MerchantFilter():
        return lambda line: True
    matches = None if rule.order_no is None else re.compile(rule.order_no).match

    def ours(line: BillLine) -> bool:
        return (
            (matches is not None and matches(line.order_no) is not None)
            or line.order_no.startswith(rule.order_no_prefixes)
            or line.terminal in rule.terminals
            or line.product.startswith(rule.products)
        )

    return ours
