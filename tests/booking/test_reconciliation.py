"""对账: three books side by side. Every row says in words what happened, and what must be reported."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest

from booking.comparing import _our_pages
from booking.merchant_bills import put_merchant_bill
from booking.reconciliation import (
    Entry,
    Mismatch,
    compare,
    day_bounds_ms,
    his_entries,
)
from booking.settings import Hospital
from booking.store.engine import Store
from mappings.canonical import StatementKind, StatementLine
from tests.booking.bills import merchant_entries
from tests.booking.world import HOSPITAL, ZONE, locked, make_payment, pay, put_patient, put_slot
from tests.stores import BEGIN_MS

M, US, H = "merchant", "ours", "his"
CASES = [
    # what happened, the books' movements, kind expected
    ("all agree", {M: [1500], US: [1500], H: [1500]}, None),
    ("paid and refunded on one day in all books", {M: [1500, -1500], US: [1500, -1500], H: [1500, -1500]}, None),
    ("refunded at the HIS before it ever showed", {M: [1500, -1500], US: [1500, -1500], H: []}, None),
    ("长款: a payment whose report never reached us", {M: [1500], US: [], H: []}, "long"),
    ("长款: the HIS knows it, we do not", {M: [1500], US: [], H: [1500]}, "long"),
    ("长款: our refund never went out", {M: [1500], US: [1500, -1500], H: [1500, -1500]}, "long"),
    ("短款: reported to us, never at the merchant", {M: [], US: [1500], H: [1500]}, "short"),
    ("短款: refunded at the merchant by hand", {M: [1500, -1500], US: [1500], H: [1500]}, "short"),
    ("another amount at the merchant", {M: [1499], US: [1500], H: [1500]}, "amount"),
    ("单边账: the HIS never booked it", {M: [1500], US: [1500], H: []}, "his_missing"),
    ("单边账: only the HIS has it", {M: [], US: [], H: [1500]}, "his_only"),
    ("单边账: refunded, and the HIS still has it", {M: [1500, -1500], US: [1500, -1500], H: [1500]}, "his_only"),
    ("another amount at the HIS", {M: [1500], US: [1500], H: [1400]}, "amount"),
    ("a refund of an earlier day agrees", {M: [-1500], US: [-1500], H: [-1500]}, None),
    ("a refund of an earlier day is missing at the HIS", {M: [-1500], US: [-1500], H: []}, "his_missing"),
    ("no statement of the HIS at all", {M: [1500], US: [1500], H: None}, None),
]


def book(amounts: list[int]) -> list[Entry]:
    return [Entry("T1", "wechat", amount) for amount in amounts]


@pytest.mark.parametrize(("books", "kind"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_difference_is_named_when_three_books_are_compared(
    books: dict[str, list[int] | None], kind: str | None
) -> None:
    his = books[H]
    found = compare(book(books[M] or []), book(books[US] or []), None if his is None else book(his))
    assert [m.kind for m in found] == ([] if kind is None else [kind])


def test_mismatch_shows_every_book_when_one_of_them_has_nothing() -> None:
    others = [Entry("T0", "alipay", 5), Entry("T2", "alipay", 5)]
    assert compare([*others, Entry("T1", "wechat", 1500)], others, [*others, Entry("T1", None, 1500)]) == [
        Mismatch(kind="long", trade_no="T1", channel="wechat", merchant_fen=1500, ours_fen=None, his_fen=1500)
    ]


def test_mismatches_come_in_order_when_there_are_several() -> None:
    found = compare([Entry("T3", None, 1), Entry("T1", None, 1)], [Entry("T2", None, 1)], None)
    assert [(m.trade_no, m.kind) for m in found] == [("T1", "long"), ("T2", "short"), ("T3", "long")]


def test_statement_lines_become_movements_when_they_are_read() -> None:
    lines = [
        StatementLine(kind=StatementKind.PAYMENT, amount_fen=1500, trade_no="T1", channel="wechat"),
        StatementLine(kind=StatementKind.REFUND, amount_fen=1500, order_no="O2"),
        StatementLine(kind=StatementKind.PAYMENT, amount_fen=7),
    ]
    assert his_entries(lines) == [Entry("T1", "wechat", 1500), Entry("O2", None, -1500), Entry("?", None, 7)]


@pytest.mark.parametrize(
    ("date", "zone", "hours"),
    [
        (dt.date(2031, 3, 3), "Asia/Shanghai", 24),
        (dt.date(2026, 3, 29), "Europe/Berlin", 23),
        (dt.date(2026, 10, 25), "Europe/Berlin", 25),
    ],
)
def test_day_has_its_own_length_when_clocks_are_changed(date: dt.date, zone: str, hours: int) -> None:
    starts, ends = day_bounds_ms(date, ZoneInfo(zone))
    assert ends - starts == hours * 3_600_000


async def test_our_book_has_what_was_paid_on_the_day_when_it_is_asked_for(store: Store, hospital: Hospital) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    await pay(store, hospital, booking_id, make_payment(trade_no="T1"))
    day = dt.datetime.fromtimestamp(BEGIN_MS / 1000, ZONE).date()

    async def ours(starts_ms: int, ends_ms: int) -> list[Entry]:
        return [entry async for page in _our_pages(store, HOSPITAL, starts_ms, ends_ms) for entry in page]

    assert await ours(*day_bounds_ms(day, ZONE)) == [Entry("T1", "wechat", 1500)]
    assert await ours(*day_bounds_ms(day + dt.timedelta(days=1), ZONE)) == []
    assert await ours(BEGIN_MS, BEGIN_MS) == []
    assert await ours(BEGIN_MS, BEGIN_MS + 1) == [Entry("T1", "wechat", 1500)]


async def test_merchant_bill_is_replaced_when_it_is_sent_again(store: Store) -> None:
    day = dt.date(2031, 3, 3)
    assert await merchant_entries(store, day) is None
    many = [("payment", "wechat", f"T{n}", n, None) for n in range(1, 1_200)]
    await put_merchant_bill(store, HOSPITAL, day, many)
    found = await merchant_entries(store, day)
    assert found is not None
    assert len(found) == 1_199
    two = [("payment", "wechat", "T1", 5, None), ("refund", "wechat", "T1", 5, None)]
    await put_merchant_bill(store, HOSPITAL, day, two)
    assert await merchant_entries(store, day) == [Entry("T1", "wechat", 5), Entry("T1", "wechat", -5)]
    assert await merchant_entries(store, day + dt.timedelta(days=1)) is None
