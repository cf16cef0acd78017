"""The newest merchant's bill is compared unasked, on both engines: differences by kind, and 0 when there are none any more."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import msgspec
import pytest
from sqlalchemy import delete, select, update

from booking import merchant_bills as books
from booking.billing import BillRow, pay_bill, put_bill, settle_payment
from booking.money import kept_payment, record_payment
from booking.reconciled import load_run, page_of
from booking.reconciliation import KINDS
from booking.refunds import ask_refund, report_refund
from booking.reopening import ask_run
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import ledger, merchant_lines, outbox, payments, reconciliations, refunds
from connectors.port import HisUnavailable, RefundOrder, Verb
from mappings.canonical import Bill, Patient, Payment, Refund, Settlement, StatementKind, StatementLine
from monitoring import metrics
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.reconcile import AGAIN_S, Reconciler
from tests.booking.world import CLIENT, DAY, FEE_FEN, HOSPITAL, ZONE, locked, make_payment, pay, put_patient, put_slot
from tests.scheduler_sync.peer import Peer
from tests.stores import BEGIN_MS, Wall

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


# --- the hospital is asked again, by what it says of the payment and of the refund -----------------------------------


async def settled_bill(store: Store, trade_no: str, amount_fen: int = 8800) -> BillRow:
    async with store.write(HOSPITAL) as tx:
        bill = await put_bill(tx, Bill(id="B1", amount_fen=amount_fen, currency="CNY", mrn="M1"), currency="CNY")
        await pay_bill(tx, bill, make_payment(amount_fen, trade_no=trade_no), client_id=CLIENT, offered=True)
        await settle_payment(tx, bill, accepted=True, settlement=None, client_id=CLIENT, code=None)
    return bill


@pytest.mark.parametrize(
    ("settlement", "kind"),
    [
        (None, "amount"),
        (Settlement(), "amount"),  # it does not say how much
        (Settlement(amount_fen=8799), "amount"),
        (Settlement(amount_fen=8800), None),
    ],
    ids=["unknown_there", "no_amount", "another", "ours"],
)
async def test_amount_is_believed_when_the_hospital_says_it_of_the_payment_itself(
    store: Store, hospital: Hospital, settlement: Settlement | None, kind: str | None
) -> None:
    till = Till()
    bill = await settled_bill(store, "T1")
    till.lines = [StatementLine(kind=StatementKind.PAYMENT, amount_fen=8799, trade_no="T1")]
    if settlement is not None:
        till.settled[bill.order_no] = settlement
    await books.put_merchant_bill(store, HOSPITAL, TODAY, [line("T1", 8800)])
    await reconciler(store, hospital, till).reconcile()
    assert told() == ({} if kind is None else {kind: 1})
    # The day, and the days beside it; the day again; then by the payment.
    assert [verb.value for verb, _ in till.seen] == ["fetch_statement"] * 4 + ["fetch_settlement"]


@pytest.mark.parametrize("known", [True, False])
async def test_refund_is_believed_when_the_hospital_says_it_of_the_refund_itself(
    store: Store, hospital: Hospital, known: bool
) -> None:
    till = Till()
    bill = await settled_bill(store, "T1")
    async with store.write(HOSPITAL) as tx:
        payment = await kept_payment(tx, bill_id=bill.id)
        row = await ask_refund(tx, payment, amount_fen=800, reason="r", part="a")
        await report_refund(tx, row, word="refunded", refund_trade_no="R1", tells_his=True)
    if known:
        till.refunded[row["id"]] = RefundOrder(
            refund=Refund(refund_no=row["id"], payment=make_payment(8800, trade_no="T1"), amount_fen=800, reason="r"),
            patient=Patient(name=""),
        )
    till.lines = [StatementLine(kind=StatementKind.PAYMENT, amount_fen=8800, trade_no="T1")]
    back: Line = ("refund", "wechat", "T1", 800, None)
    await books.put_merchant_bill(store, HOSPITAL, TODAY, [line("T1", 8800), back])
    await reconciler(store, hospital, till).reconcile()
    assert told() == ({} if known else {"amount": 1})
    assert till.calls(Verb.FETCH_REFUND) == ["fetch_refund"]
    till.read_errors[Verb.FETCH_REFUND].append(HisUnavailable("away"))  # no answer settles nothing
    await reconciler(store, hospital, till).reconcile()
    assert told() == {"amount": 1}


# --- the set hour ----------------------------------------------------------------------------------------------------


async def runs_of(store: Store, date: dt.date) -> list[int]:
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(
            select(reconciliations.c.run)
            .where(reconciliations.c.hospital_id == HOSPITAL, reconciliations.c.date == date.isoformat())
            .order_by(reconciliations.c.run)
        )
    return [row["run"] for row in rows]


async def test_last_two_days_are_compared_once_at_the_set_hour(store: Store, hospital: Hospital, wall: Wall) -> None:
    """Those that have a bill; the newest one is compared anyway, and what lies further back not at all."""
    hospital = msgspec.structs.replace(hospital, reconcile_at="11:00")
    till, clock = Till(), Clock()
    it = reconciler(store, hospital, till, clock)
    days = [TODAY - dt.timedelta(days=n) for n in range(4)]
    for day in reversed(days):  # in the order of the days: none comes late
        await books.put_merchant_bill(store, HOSPITAL, day, [])
    await it.reconcile()
    assert [len(await runs_of(store, day)) for day in days] == [1, 0, 0, 0]
    wall.now_ms = moment_ms(TODAY, "10:59:59.999")
    await it.reconcile()
    assert [len(await runs_of(store, day)) for day in days] == [1, 0, 0, 0]
    wall.turn(0.001)
    till.read_errors[Verb.FETCH_STATEMENT].extend([HisUnavailable("away"), HisUnavailable("away")])
    await it.reconcile()  # the hospital is away: the hour is not kept yet
    assert [len(await runs_of(store, day)) for day in days] == [1, 1, 0, 0]
    for _ in range(2):
        await it.reconcile()
        assert [len(await runs_of(store, day)) for day in days] == [1, 2, 1, 0]
    assert metrics.REGISTRY.get_sample_value(
        "hisbridge_reconciled_until_timestamp_seconds", {"hospital": HOSPITAL}
    ) == (moment_ms(TODAY + dt.timedelta(days=1), "00:00") / 1000)
    wall.now_ms = moment_ms(TODAY + dt.timedelta(days=1), "11:00")
    await it.reconcile()
    assert [len(await runs_of(store, day)) for day in days] == [
        1,
        2,
        1,
        0,
    ]  # today's is the newest still: compared hourly


def moment_ms(day: dt.date, clock: str) -> int:
    return round(dt.datetime.combine(day, dt.time.fromisoformat(clock), ZONE).timestamp() * 1000)


# --- again, and late -------------------------------------------------------------------------------------------------


async def result_of(store: Store, date: dt.date) -> list[tuple[str, str]]:
    """The kinds and trade numbers of the newest comparison of a day."""
    number = (await runs_of(store, date))[-1]
    async with store.read(HOSPITAL) as tx:
        run = await load_run(tx, date, number)
        assert run is not None
        assert run.done_ms is not None
        return [(one.kind, one.trade_no) for _, one in await page_of(tx, run)]


async def test_second_run_of_a_day_changes_nothing(store: Store, hospital: Hospital) -> None:
    await paid(store, hospital, "T1")
    await books.put_merchant_bill(store, HOSPITAL, TODAY, [line("T1"), line("T2")])
    till = Till()
    seen = []
    for _ in range(2):
        async with store.write(HOSPITAL) as tx:
            await ask_run(tx, TODAY)
        await reconciler(store, hospital, till).make_asked()
        async with store.read(HOSPITAL) as tx:
            rows = [await tx.all(select(table)) for table in (payments, refunds, ledger, outbox, merchant_lines)]
        seen.append((await result_of(store, TODAY), rows))
    assert seen[0] == seen[1]
    assert seen[0][0] == [("his_missing", "T1"), ("long", "T2")]
    assert await runs_of(store, TODAY) == [1, 2]


async def test_late_bill_opens_its_day_again_and_the_days_beside_it_that_were_compared(
    store: Store, hospital: Hospital
) -> None:
    """A payment a moment before midnight: here on the day, at the merchant on the next one, whose bill comes late."""
    day, beside, newest = (TODAY + dt.timedelta(days=n) for n in (-3, -2, 0))
    till = Till(off=[Verb.FETCH_STATEMENT])
    async with store.write(HOSPITAL) as tx:
        payment = Payment(channel="wechat", trade_no="T1", amount_fen=5, paid_at=at_midnight(beside, -1))
        await record_payment(tx, payment, client_id=CLIENT, bill_id="b1", unusable=None)
    it = reconciler(store, hospital, till)
    await books.put_merchant_bill(store, HOSPITAL, day, [line("T0", 1)])
    await it.reconcile()
    assert await result_of(store, day) == [("long", "T0"), ("short", "T1")]
    await books.put_merchant_bill(store, HOSPITAL, newest, [])
    await it.reconcile()
    await it.make_asked()
    assert [await runs_of(store, one) for one in (day, beside, newest)] == [[1], [], [1]]
    await books.put_merchant_bill(store, HOSPITAL, beside, [line("T1", 5)])
    await it.make_asked()
    assert await result_of(store, beside) == [("timing", "T1")]
    assert await result_of(store, day) == [("long", "T0"), ("timing", "T1")]
    await books.put_merchant_bill(store, HOSPITAL, day, [], source="corrected")
    await books.put_merchant_bill(store, HOSPITAL, day, [])
    await it.make_asked()
    assert await result_of(store, day) == [("timing", "T1")]
    assert await runs_of(store, newest) == [1]


def at_midnight(day: dt.date, later_ms: int) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), ZONE) + dt.timedelta(milliseconds=later_ms)


# --- the ledger is looked through --------------------------------------------------------------------------------------


async def test_payments_that_the_ledger_tells_otherwise_are_counted_until_it_agrees(
    store: Store, hospital: Hospital
) -> None:
    it, of = reconciler(store, hospital, Till()), {"hospital": HOSPITAL}
    await paid(store, hospital, "T1")
    await it.look_through_ledger()
    assert metrics.REGISTRY.get_sample_value("hisbridge_ledger_imbalances", of) == 0
    for settlement, wrong in (("settled", 1), ("pending", 0)):  # written past the ledger, and back
        async with store.write(HOSPITAL) as tx:
            await tx.run(update(payments).where(payments.c.trade_no == "T1").values(settlement=settlement))
        await it.look_through_ledger()
        assert metrics.REGISTRY.get_sample_value("hisbridge_ledger_imbalances", of) == wrong
