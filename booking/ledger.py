"""The books in double entry: what became of every fen that was reported. Postings belong to the transaction that records why.

| entry | when | debit | credit |
|---|---|---|---|
| `received` | a portal reported a payment | `merchant_clearing` | `receipts` |
| `settled` | the HIS has booked it | `receipts` | `his_settlement` |
| `refund_due` | it is to go back | `his_settlement` where the HIS had booked it, else `receipts` | `refunds_payable` |
| `refunded` | the portal has returned it | `refunds_payable` | `merchant_clearing` |

`merchant_clearing` is one account for each channel: what its merchant number holds for us. `receipts` is money that the HIS has
not booked (yet). One row is one movement from one account to another, and so balances by itself; its key is what it is about, so
that a posting made twice is one: a payment, or a bill's piece of one that was for several (合并支付). Rows are never altered or
deleted: accounts are kept as long as the bookings they are of.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import BindParameter, Text, bindparam, case, func, literal_column, select
from sqlalchemy.dialects import postgresql, sqlite

from booking.store.engine import Store, Tx
from booking.store.fixed import Fixed
from booking.store.tables import ledger, payments, refunds

ACCOUNTS = ("merchant_clearing", "receipts", "his_settlement", "refunds_payable")
PAGE = 500  # payments that are looked through in one transaction
_COLUMNS = (
    "hospital_id",
    "channel",
    "trade_no",
    "piece",
    "entry",
    "refund_id",
    "debit",
    "credit",
    "amount_fen",
    "at_ms",
)


@cache
def _posting(dialect: str) -> Fixed:
    insert = (sqlite if dialect == "sqlite" else postgresql).insert(ledger)
    return Fixed(insert.on_conflict_do_nothing(), _COLUMNS)


@cache
def _settling(dialect: str) -> Fixed:
    """What has fallen due as a refund before the HIS's word came is not counted as settled: it goes back from there too."""
    named = (
        payments.c.hospital_id == bindparam("of_hospital"),
        payments.c.channel == bindparam("of_channel"),
        payments.c.trade_no == bindparam("of_trade_no"),
        payments.c.piece == bindparam("of_piece"),
    )
    due = (
        select(func.coalesce(func.sum(refunds.c.amount_fen), 0))
        .where(
            refunds.c.hospital_id == payments.c.hospital_id,
            refunds.c.channel == payments.c.channel,
            refunds.c.trade_no == payments.c.trade_no,
            refunds.c.piece == payments.c.piece,
        )
        .scalar_subquery()
    )
    words = (literal_column(f"'{word}'", Text) for word in ("settled", "", "receipts", "his_settlement"))
    left = payments.c.amount_fen - due
    at_ms: BindParameter[int] = bindparam("at_ms", type_=ledger.c.at_ms.type)
    of = (payments.c.hospital_id, payments.c.channel, payments.c.trade_no, payments.c.piece)
    rows = select(*of, *words, left, at_ms)
    insert = (sqlite if dialect == "sqlite" else postgresql).insert(ledger)
    return Fixed(insert.from_select(_COLUMNS, rows.where(*named, left > 0)).on_conflict_do_nothing())


async def _post(
    tx: Tx, named: tuple[str, str, str], entry: str, debit: str, credit: str, fen: int, refund: str
) -> None:
    values = (tx.hospital_id, *named, entry, refund, debit, credit, fen, tx.now_ms)
    await tx.later(_posting(tx.dialect), dict(zip(_COLUMNS, values, strict=True)))


async def post_received(tx: Tx, channel: str, trade_no: str, amount_fen: int, *, piece: str = "") -> None:
    """A payment was recorded, or a piece of a merged one."""
    await _post(tx, (channel, trade_no, piece), "received", "merchant_clearing", "receipts", amount_fen, "")


async def post_settled(tx: Tx, channel: str, trade_no: str, *, piece: str = "") -> None:
    """The HIS has booked a payment: all of it that is not to go back already."""
    named = {"of_hospital": tx.hospital_id, "of_channel": channel, "of_trade_no": trade_no, "of_piece": piece}
    await tx.later(_settling(tx.dialect), {**named, "at_ms": tx.now_ms})


async def post_refund_due(
    tx: Tx, channel: str, trade_no: str, amount_fen: int, *, refund_id: str, settled: bool, piece: str = ""
) -> None:
    """A payment, or a part of it, is to go back. `settled`: the HIS had booked it."""
    debit = "his_settlement" if settled else "receipts"
    await _post(tx, (channel, trade_no, piece), "refund_due", debit, "refunds_payable", amount_fen, refund_id)


async def post_refunded(
    tx: Tx, channel: str, trade_no: str, amount_fen: int, *, refund_id: str, piece: str = ""
) -> None:
    """The portal has returned it."""
    named = (channel, trade_no, piece)
    await _post(tx, named, "refunded", "refunds_payable", "merchant_clearing", amount_fen, refund_id)


# --- do the sums agree ---------------------------------------------------------------------------------------------


class Balance(msgspec.Struct, frozen=True):
    """What an account holds: debits less credits for `merchant_clearing`, credits less debits for the others."""

    account: str
    channel: str
    amount_fen: int


class Imbalance(msgspec.Struct, frozen=True, kw_only=True):
    """A payment of which the ledger and the records say different things, in one of the accounts.

    `piece`: the bill that a piece of a merged payment is for.
    """

    channel: str
    trade_no: str
    account: str
    ledger_fen: int
    records_fen: int
    piece: str = ""


async def balances(tx: Tx) -> list[Balance]:
    """Every account by channel. Reads the whole ledger of the hospital: for a person who asks, not for a request."""
    sums: dict[tuple[str, str], int] = {}
    rows = await tx.all(
        select(ledger.c.channel, ledger.c.debit, ledger.c.credit, func.sum(ledger.c.amount_fen).label("fen"))
        .where(ledger.c.hospital_id == tx.hospital_id)
        .group_by(ledger.c.channel, ledger.c.debit, ledger.c.credit)
    )
    for row in rows:
        for account, sign in ((row["debit"], 1), (row["credit"], -1)):
            sign = sign if account == "merchant_clearing" else -sign
            key = (account, row["channel"])
            sums[key] = sums.get(key, 0) + sign * int(row["fen"])
    order = sorted(sums, key=lambda key: (ACCOUNTS.index(key[0]), key[1]))
    return [Balance(account, channel, sums[account, channel]) for account, channel in order]


def _in_account(name: str) -> Any:
    plus, minus = (
        (ledger.c.debit, ledger.c.credit) if name == "merchant_clearing" else (ledger.c.credit, ledger.c.debit)
    )
    moved = case((plus == name, ledger.c.amount_fen), (minus == name, -ledger.c.amount_fen), else_=0)
    of = (
        ledger.c.hospital_id == payments.c.hospital_id,
        ledger.c.channel == payments.c.channel,
        ledger.c.trade_no == payments.c.trade_no,
        ledger.c.piece == payments.c.piece,
    )
    return select(func.coalesce(func.sum(moved), 0)).where(*of).scalar_subquery().label(name)


def _of_refunds(name: str, *more: Any) -> Any:
    of = (
        refunds.c.hospital_id == payments.c.hospital_id,
        refunds.c.channel == payments.c.channel,
        refunds.c.trade_no == payments.c.trade_no,
        refunds.c.piece == payments.c.piece,
        *more,
    )
    return select(func.coalesce(func.sum(refunds.c.amount_fen), 0)).where(*of).scalar_subquery().label(name)


async def imbalances(
    store: Store, hospital_id: str, *, limit: int = 1_000, pause: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[Imbalance]:
    """Look through all payments, some at a time, and name those whose ledger is not what their records say; at most so many.

    `pause` is awaited between two pages.
    """
    after = ("", "", "")
    found = 0
    while True:
        async with store.read(hospital_id) as tx:
            rows = await _page(tx, after)
        for row in rows:
            for account, expected in expected_of(row).items():
                if row[account] != expected:
                    yield Imbalance(
                        channel=row["channel"],
                        trade_no=row["trade_no"],
                        account=account,
                        ledger_fen=int(row[account]),
                        records_fen=expected,
                        piece=row["piece"],
                    )
                    found += 1
            if found >= limit:
                return
        if len(rows) < PAGE:
            return
        after = (rows[-1]["channel"], rows[-1]["trade_no"], rows[-1]["piece"])
        if pause is not None:
            await pause()


async def _page(tx: Tx, after: tuple[str, str, str]) -> list[dict[str, Any]]:
    channel, trade_no, piece = after
    same_trade = (payments.c.channel == channel) & (payments.c.trade_no == trade_no)
    return await tx.all(
        select(
            payments.c.channel,
            payments.c.trade_no,
            payments.c.piece,
            payments.c.amount_fen,
            payments.c.settlement,
            _of_refunds("due"),
            _of_refunds("refunded", refunds.c.status == "refunded"),
            *(_in_account(name) for name in ACCOUNTS),
        )
        .where(
            payments.c.hospital_id == tx.hospital_id,
            payments.c.channel >= channel,
            (payments.c.channel > channel)
            | (payments.c.trade_no > trade_no)
            | (same_trade & (payments.c.piece > piece)),
        )
        .order_by(payments.c.channel, payments.c.trade_no, payments.c.piece)
        .limit(PAGE)
    )


def expected_of(row: dict[str, Any]) -> dict[str, int]:
    """What each account must hold of one payment, by the records of it and of its refunds. Pure.

    `row`: amount_fen, settlement, due (the sum of its refunds) and refunded (of those that are done).
    """
    amount, due, refunded = int(row["amount_fen"]), int(row["due"]), int(row["refunded"])
    settled = row["settlement"] == "settled"
    return {
        "merchant_clearing": amount - refunded,
        "receipts": 0 if settled else amount - due,
        "his_settlement": amount - due if settled else 0,
        "refunds_payable": due - refunded,
    }
