"""`hisbridge payments waiting` as hospital IT types it: paid, not settled, with its age, and gone when it is settled."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import sys
from pathlib import Path

import pytest
from sqlalchemy import update

import cli
import service
from booking.billing import pay_bill, put_bill, settle_payment
from booking.store.engine import Store
from booking.store.tables import payments
from cli_messages.money.waiting import age
from mappings.canonical import Bill
from tests.acceptance.installation import write_secrets
from tests.booking.report_reads.test_reads_command import SETTINGS
from tests.booking.world import locked, make_hospital, make_payment, pay, put_patient, put_slot
from tests.stores import UrlOf

AGES = {"T1": 135, "T2": 60 * 24 * 3 + 125}


@pytest.fixture
def config(database: UrlOf, tmp_path: Path) -> Path:
    path = tmp_path / "hisbridge.toml"
    write_secrets(tmp_path)
    path.write_text(SETTINGS.format(url=database("store"), folder=tmp_path), encoding="utf-8")
    return path


def run(config: Path, *words: str, width: str = "60") -> tuple[int, str]:
    """The command to its end: its code, and what it says."""
    out = io.StringIO()
    before, sys.argv = sys.argv, ["hisbridge", "payments", *words, "--config", str(config)]
    code: object = 0
    try:
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            patch.setenv("COLUMNS", width)
            cli.main()
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.argv = before
        gc.enable()
    assert isinstance(code, int)
    return code, out.getvalue()


async def reported(store: Store, minutes_ago: dict[str, int]) -> str:
    """A booking that is paid (T1) and a bill that is (T2), and money for that bill that goes back (T3); the order number."""
    hospital = make_hospital()
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    paid = await pay(store, hospital, booking_id, make_payment(1500, trade_no="T1"))
    assert paid.kept
    async with store.write("h1") as tx:
        bill = await put_bill(tx, Bill(id="B1", amount_fen=8801, currency="CNY", mrn="M1"), currency="CNY")
        for trade_no in ("T2", "T3"):
            await pay_bill(tx, bill, make_payment(8801, trade_no=trade_no), client_id="city", offered=True)
        for trade_no, minutes in minutes_ago.items():
            at_ms = tx.now_ms - 60_000 * minutes
            await tx.run(update(payments).where(payments.c.trade_no == trade_no).values(created_ms=at_ms))
        return bill.id


async def work(config: Path, *, settle: bool, minutes_ago: dict[str, int] = AGES) -> str:
    async with service.open_store(service.read_settings(config)) as store:
        if not settle:
            return await reported(store, minutes_ago)
        async with store.write("h1") as tx:
            bill = await put_bill(tx, Bill(id="B1", amount_fen=8801, currency="CNY", mrn="M1"), currency="CNY")
            await settle_payment(tx, bill, accepted=True, settlement=None, client_id="city", code=None)
        return bill.id


def test_what_is_paid_and_not_settled_is_shown_with_its_age_until_it_is_settled(config: Path) -> None:
    assert run(config, "waiting", "h1") == (0, "Nothing waits.\n")
    bill_id = asyncio.run(work(config, settle=False))
    code, said = run(config, "waiting", "h1")
    rows = [line.split() for line in said.splitlines() if " T1 " in line or " T2 " in line]
    assert code == 1
    assert [row[:4] for row in rows] == [["3", "d", "2", "h"], ["2", "h", "15", "min"]]
    assert [(row[6], row[7], row[9]) for row in rows] == [("88.01", "pending", "T2"), ("15.00", "pending", "T1")]
    assert rows[0][-1] == bill_id
    assert (len(rows[1][-1]), rows[1][-1].isdigit()) == (20, True)  # the number that the hospital knows
    assert "T3" not in said  # it goes back
    asyncio.run(work(config, settle=True))
    code, said = run(config, "waiting", "h1")
    assert (code, " T1 " in said, " T2 " in said) == (1, True, False)


@pytest.mark.parametrize(("minutes", "ended"), [(9, 0), (11, 1)])
def test_command_fails_when_something_waits_for_over_ten_minutes(config: Path, minutes: int, ended: int) -> None:
    asyncio.run(work(config, settle=False, minutes_ago={"T1": 1, "T2": minutes}))
    assert run(config, "waiting", "h1")[0] == ended


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (0, "0 s"), (59_999, "59 s"), (60_000, "1 min 0 s"), (3_599_999, "59 min 59 s"), (3_600_000, "1 h 0 min"),
        (86_399_999, "23 h 59 min"), (86_400_000, "1 d 0 h"), (10 * 86_400_000 + 7_200_000, "10 d 2 h"), (-5, "0 s"),
    ],
)  # fmt: skip
def test_age_is_told_in_its_two_largest_units(ms: int, words: str) -> None:
    assert age(ms) == words
