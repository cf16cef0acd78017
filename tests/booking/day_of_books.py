"""A generated day of three books with known differences, compared in a process of its own: `python -m tests.booking.day_of_books N FOLDER`.

Prints one line of JSON: what was planted and found by kind, and the peak of the process's memory.
"""  # noqa: E501 - the command

from __future__ import annotations

import asyncio
import datetime as dt
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from booking.asking_again import Question
from booking.comparing import compare_day
from booking.merchant_bills import put_bill_file
from booking.merchant_files.reading import read_bill
from booking.merchant_filter import MerchantFilter, is_ours
from booking.store.engine import Store
from booking.store.migrate import SCRIPTS, migrate
from booking.store.tables import bookings, payments, refunds, schedules
from mappings.canonical import StatementKind, StatementLine
from tests.booking.merchant_files.made import Trade, alipay, alipay_line, wechat, wechat_line
from tests.booking.world import HOSPITAL, ZONE, make_hospital
from tests.stores import opened

DAY = dt.date(2026, 1, 5)
DEARER = "dearer"  # the schedule of those who were moved
EACH = 23
"""Planted differences of each kind."""
TEN_MS = round(dt.datetime(2026, 1, 5, 10, tzinfo=ZONE).timestamp() * 1000)
AFTER_MIDNIGHT_MS = round(dt.datetime(2026, 1, 6, 0, 0, 1, tzinfo=ZONE).timestamp() * 1000)
# What the merchant, we and the hospital have of a trade number of each kind: payments positive, refunds negative.
PLANTED: dict[str, tuple[Sequence[int], Sequence[int], Sequence[int]]] = {
    "long": ([1500], [], []),
    "long, refunded by us alone": ([1500], [1500, -1500], [1500, -1500]),
    "short": ([], [1500], [1500]),
    "amount": ([1499], [1500], [1500]),
    "amount, at the hospital": ([1500], [1500], [1501]),
    "his_missing": ([1500], [1500], []),
    "his_only": ([], [], [1500]),
    "status": ([1500, -1500], [1500], [1500]),
    "moved_fee": ([1500], [1500], [2300]),
    "timing": ([1500], [1500], [1500]),
    # What is none:
    "netted": ([1500, -1500], [1500, -1500], []),
    "foreign": ([800], [], []),
    "asked again": ([1500], [1500], []),
    "": ([1500], [1500], [1500]),
}


def kinds(count: int) -> list[str]:
    """The kind of each trade number, differences strewn in by chance, always the same."""
    special = [kind for kind in PLANTED if kind for _ in range(EACH)]
    found = special + [""] * (count - len(special))
    random.Random(count).shuffle(found)
    return found


def trade_no(n: int) -> str:
    return f"42000{n:023}"


def is_alipay(n: int) -> bool:
    return n % 5 == 0


def bill_of(wanted: list[str], *, of_alipay: bool) -> bytes:
    trades: list[Trade] = []
    lines: list[str] = []
    for n, kind in enumerate(wanted):
        if is_alipay(n) != of_alipay:
            continue
        for fen in PLANTED[kind][0]:
            trades.append(("payment" if fen > 0 else "refund", trade_no(n), abs(fen)))
            line = _line_like(trades[-1][0], abs(fen), of_alipay=of_alipay).replace("NUMBER", trade_no(n))
            lines.append(line.replace("HB", "SHOP") if kind == "foreign" else line)
    return alipay(trades, lines=lines) if of_alipay else wechat(trades, lines=lines)


@cache
def _line_like(kind: str, fen: int, *, of_alipay: bool) -> str:
    return (alipay_line if of_alipay else wechat_line)((kind, "NUMBER", fen))


def moved_booking(n: int) -> dict[str, Any]:
    """A booking of the session that costs 23 yuan, paid with 15 before it was moved there."""
    named = dict.fromkeys(("client_id", "user_ref", "patient_id", "slot_id"), "x")
    states = {"state": "booked", "his_state": "registered", "his_command": "none", "his_command_status": "none"}
    return {
        **named, **states, "hospital_id": HOSPITAL, "id": f"b{n}", "order_no": f"{n:020}", "person_id": f"p{n}",
        "schedule_id": DEARER, "version": 1, "payment_state": "paid", "fee_fen": 1500, "live": True, "occupies": True,
        "charged": True, "needs_attention": False, "moved_ms": TEN_MS, "created_ms": TEN_MS, "updated_ms": TEN_MS,
    }  # fmt: skip


async def keep_moved(store: Store, wanted: list[str]) -> None:
    schedule = {
        "his_id": "S",
        "date": "2026-01-06",
        "session": "am",
        "department_id": "D",
        "fee_fen": 2300,
        "status": "open",
    }
    async with store.write(HOSPITAL) as tx:
        await tx.run(insert(schedules), {**schedule, "hospital_id": HOSPITAL, "id": DEARER, "seen_ms": TEN_MS})
        await tx.run(insert(bookings), [moved_booking(n) for n, kind in enumerate(wanted) if kind == "moved_fee"])


async def keep_ours(store: Store, wanted: list[str]) -> None:
    paid: list[dict[str, Any]] = []
    returned: list[dict[str, Any]] = []
    for n, kind in enumerate(wanted):
        name = {"hospital_id": HOSPITAL, "channel": "alipay" if is_alipay(n) else "wechat", "trade_no": trade_no(n)}
        at_ms = AFTER_MIDNIGHT_MS if kind == "timing" else TEN_MS + n
        for fen in PLANTED[kind][1]:
            if fen > 0:
                moved = kind == "moved_fee"
                paid.append({**name, "client_id": "c", "bill_id": None if moved else f"b{n}",
                             "booking_id": f"b{n}" if moved else None, "amount_fen": fen, "paid_at_ms": at_ms,
                             "kept": True, "settlement": "settled", "created_ms": at_ms})  # fmt: skip
        if kind == "status" or any(fen < 0 for fen in PLANTED[kind][1]):
            returned.append({**name, "id": f"rf_{n}", "client_id": "c", "bill_id": f"b{n}", "amount_fen": 1500, "reason": "x",
                             "status": "refund_due" if kind == "status" else "refunded", "created_ms": at_ms,
                             "updated_ms": at_ms})  # fmt: skip
    async with store.write(HOSPITAL) as tx:
        for table, rows in ((payments, paid), (refunds, returned)):
            for start in range(0, len(rows), 5_000):
                await tx.run(insert(table), rows[start : start + 5_000])


def statement_of(wanted: list[str]) -> Iterator[StatementLine]:
    for n, kind in enumerate(wanted):
        for fen in PLANTED[kind][2]:
            yield StatementLine(
                kind=StatementKind.PAYMENT if fen > 0 else StatementKind.REFUND,
                amount_fen=abs(fen),
                trade_no=trade_no(n),
            )


async def compare(count: int, folder: Path) -> dict[str, Any]:
    """Deliver the bills, compare, and say what was found."""
    wanted = kinds(count)
    ours = is_ours(MerchantFilter(order_no_prefixes=("HB",)))
    url = f"sqlite:///{folder}/books.db"
    await migrate(url, SCRIPTS)
    async with opened(url) as store:
        await keep_ours(store, wanted)
        await keep_moved(store, wanted)
        began_s = time.perf_counter()
        for source in ("wechat", "alipay"):
            data = bill_of(wanted, of_alipay=source == "alipay")
            lines = ((line, not ours(line)) for line in read_bill(data, DAY))
            await put_bill_file(store, HOSPITAL, DAY, lines, source=source)
            del data
        stored_s = time.perf_counter()
        late = {f"b{n}" for n, kind in enumerate(wanted) if kind == "asked again"}

        async def statement(date: dt.date) -> list[StatementLine]:
            return list(statement_of(wanted)) if date == DAY else []

        async def ask_again(question: Question) -> bool:
            return question.bill_id in late and question.amount_fen is None

        found = await compare_day(store, make_hospital(), DAY, statement=statement, ask_again=ask_again)
        assert found is not None
    planted = {trade_no(n): kind for n, kind in enumerate(wanted) if kind}
    return {
        "lines": [found.merchant_lines, found.our_lines, found.his_lines],
        "planted": planted,
        "found": {one.trade_no: one.kind for one in found.differences},
        "peak_mb": _peak_mb(),
        "stored_s": round(stored_s - began_s, 1),
        "compared_s": round(time.perf_counter() - stored_s, 1),
    }


def _peak_mb() -> float:
    """Of this program alone: what getrusage tells begins with that of the process which started it (exec keeps ru_maxrss)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(compare(int(sys.argv[1]), Path(sys.argv[2])))))
