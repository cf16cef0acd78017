"""The newest merchant's bill is compared unasked, on both engines: differences by kind, and 0 when there are none any more."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import pytest
from sqlalchemy import delete

from booking import merchant_bills as books
from booking.reconciled import ask_run, load_run
from booking.reconciliation import KINDS
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import merchant_lines
from connectors.port import HisUnavailable, Verb
from mappings.canonical import StatementKind, StatementLine
from monitoring import metrics
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.reconcile import AGAIN_S, Reconciler
from tests.booking.world import DAY, FEE_FEN, HOSPITAL, ZONE, locked, make_payment, pay, put_patient, put_slot
from tests.scheduler_sync.peer import Peer
from tests.stores import BEGIN_MS

TODAY = dt.datetime.fromtimestamp(BEGIN_MS / 1000, ZONE).date()
Line = tuple[str, str, str, int, int | None]


class Till(Peer):
    """A HIS with a statement."""

    def __init__(self, *, off: Sequence[Verb] = ()) -> None:
        super().__init__(off=off)
        self.lines: list[StatementLine] = []

    async def fetch_statement(self, date: dt.date) -> Sequence[StatementLine]:
        self._read(Verb.FETCH_STATEMENT, date.isoformat())
        return self.lines


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def told() -> dict[str, float]:
    """What is above 0."""
    of = {
        kind: metrics.REGISTRY.get_sample_value("hisbridge_reconciliation_differences", _labels(kind)) for kind in KINDS
    }
    return {kind: n for kind, n in of.items() if n}


def _labels(kind: str) -> dict[str, str]:
    return {"hospital": HOSPITAL, "kind": kind}


def line(trade_no: str, amount_fen: int = FEE_FEN) -> Line:
    return ("payment", "wechat", trade_no, amount_fen, None)


def reconciler(store: Store, hospital: Hospital, till: Till, clock: Clock | None = None) -> Reconciler:
    return Reconciler(store, hospital, HospitalLink(hospital, {"peer": till}), now_s=clock or Clock())


async def paid(store: Store, hospital: Hospital, trade_no: str) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    await pay(store, hospital, booking_id, make_payment(trade_no=trade_no))


async def test_differences_are_told_by_kind_and_are_gone_with_a_better_bill(store: Store, hospital: Hospital) -> None:
    till = Till()
    it = reconciler(store, hospital, till)
    await it.reconcile()
    assert told() == {}
    assert till.seen == []  # without a bill nobody is asked
    await paid(store, hospital, "T1")
    till.lines = [StatementLine(kind=StatementKind.PAYMENT, amount_fen=FEE_FEN, trade_no="T1")]
    await books.put_merchant_bill(store, HOSPITAL, TODAY, [line("T1"), line("T2"), line("T3")])
    await it.reconcile()
    assert told() == {"long": 2}  # two payments of which we know nothing
    await books.put_merchant_bill(store, HOSPITAL, TODAY, [line("T1", FEE_FEN - 1)])
    await it.reconcile()
    assert told() == {"amount": 1}
    await books.put_merchant_bill(store, HOSPITAL, TODAY, [line("T1")])
    till.lines = []
    await it.reconcile()
    assert told() == {"his_missing": 1}


async def test_same_bill_is_compared_again_after_an_hour_and_not_before(store: Store, hospital: Hospital) -> None:
    till, clock = Till(off=[Verb.FETCH_STATEMENT]), Clock()
    it = reconciler(store, hospital, till, clock)
    await books.put_merchant_bill(store, HOSPITAL, TODAY, [line("T1")])
    await it.reconcile()
    assert told() == {"long": 1}
    await paid(store, hospital, "T1")  # its report comes late
    clock.now_s += AGAIN_S - 1
    await it.reconcile()
    assert told() == {"long": 1}
    clock.now_s += 1
    await it.reconcile()
    assert told() == {}


async def test_difference_is_told_again_after_a_restart(store: Store, hospital: Hospital) -> None:
    till = Till(off=[Verb.FETCH_STATEMENT])
    await books.put_merchant_bill(store, HOSPITAL, TODAY, [line("T1")])
    await reconciler(store, hospital, till).reconcile()
    metrics.forget_hospital(HOSPITAL)
    assert metrics.REGISTRY.get_sample_value("hisbridge_reconciliation_differences", _labels("long")) is None
    await reconciler(store, hospital, till).reconcile()
    assert told() == {"long": 1}


async def test_hospital_is_asked_again_when_it_was_away(store: Store, hospital: Hospital) -> None:
    till = Till()
    till.read_errors[Verb.FETCH_STATEMENT].extend([HisUnavailable("away"), HisUnavailable("away")])  # both attempts
    it = reconciler(store, hospital, till)
    await books.put_merchant_bill(store, HOSPITAL, TODAY, [line("T1")])
    await it.reconcile()
    assert told() == {}  # half a comparison would tell of differences that are none
    await it.reconcile()
    assert told() == {"long": 1}


async def test_work_goes_on_when_a_connector_has_a_fault(store: Store, hospital: Hospital) -> None:
    class Broken(Till):
        async def fetch_statement(self, date: dt.date) -> Sequence[StatementLine]:
            raise ZeroDivisionError

    await books.put_merchant_bill(store, HOSPITAL, TODAY, [line("T1")])
    await reconciler(store, hospital, Broken()).reconcile()
    assert told() == {}


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("trade_no", "amount_fen"), [("T2", 2**63), ("T\x002", FEE_FEN)])
async def test_work_goes_on_when_what_was_found_cannot_be_stored(
    store: Store, hospital: Hospital, trade_no: str, amount_fen: int
) -> None:
    """It would end the work of the process, and be taken up again after every restart."""
    till = Till()
    till.lines = [StatementLine(kind=StatementKind.PAYMENT, amount_fen=amount_fen, trade_no=trade_no)]
    await books.put_merchant_bill(store, HOSPITAL, TODAY, [line("T1")])
    async with store.write(HOSPITAL) as tx:
        number = await ask_run(tx, TODAY)
    it = reconciler(store, hospital, till)
    await it.make_asked()
    async with store.read(HOSPITAL) as tx:
        run = await load_run(tx, TODAY, number)
    assert run is not None
    can_be = "\0" in trade_no and store.dialect == "sqlite"  # which keeps any text
    assert (run.failed, run.differences) == ((None, 2) if can_be else ("internal_error", 0))


async def test_newest_bill_is_the_newest_whole_one(store: Store) -> None:
    async def newest() -> tuple[str, int] | None:
        async with store.read(HOSPITAL) as tx:
            return await books.newest_bill(tx)

    assert await newest() is None
    await books.put_merchant_bill(store, HOSPITAL, DAY, [line("T1")])
    await books.put_merchant_bill(store, HOSPITAL, DAY, [line("T1"), line("T2")])
    assert await newest() == (DAY.isoformat(), 2)
    await books.put_merchant_bill(store, HOSPITAL, DAY - dt.timedelta(days=1), [line("T0")])
    assert await newest() == (DAY.isoformat(), 2)
    later = DAY + dt.timedelta(days=1)
    await books.put_merchant_bill(store, HOSPITAL, later, [line("T3")])
    assert await newest() == (later.isoformat(), 1)
    async with store.write(HOSPITAL) as tx:  # as while it is being sent: its last line is not there
        await tx.run(
            delete(merchant_lines).where(merchant_lines.c.date == later.isoformat(), merchant_lines.c.line == 0)
        )
    assert await newest() == (DAY.isoformat(), 2)


@pytest.fixture(autouse=True)
def forgotten() -> None:
    metrics.forget_hospital(HOSPITAL)
