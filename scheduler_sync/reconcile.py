"""The daily comparison of the books, made by the process that works the hospital: unasked, at a set hour, and when asked for."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Callable, Sequence

from booking.asking_again import Question
from booking.comparing import Compared, compare_day
from booking.ledger import imbalances
from booking.merchant_bills import newest_bill, whole_revisions
from booking.reconciled import Run, fail_run, finish_run, next_asked
from booking.reconciliation import KINDS, day_bounds_ms
from booking.reopening import ask_run
from booking.settings import Hospital
from booking.store.engine import Store, StoreUnavailable
from connectors.port import HisError, HisRefused, HisReplyInvalid, NotOffered, Verb
from mappings.canonical import Registration, Settlement, StatementLine
from monitoring import metrics
from monitoring.logs import get_logger
from scheduler_sync.commands import BillCommand, BookingCommand
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.leases import steady_s
from scheduler_sync.refund_command import RefundCommand

log = get_logger("reconcile")

LOOK_EVERY_S = 60.0  # whether there is a newer bill, or the set hour has come
ASKED_EVERY_S = 2.0  # beside the bell, which another process does not hear
AGAIN_S = 3600.0  # the same bill again: payments and refunds may have been recorded since
LEDGER_EVERY_S = 3600.0
DAYS = 2  # how many days are compared at the set hour: what went over midnight shows itself with the next day's bill


class Reconciler:
    """Compares merchants' bills of one hospital with our books, and the hospital's where it offers them."""

    def __init__(
        self, store: Store, hospital: Hospital, link: HospitalLink, *, now_s: Callable[[], float] = steady_s
    ) -> None:
        self._store = store
        self._hospital = hospital
        self._link = link
        self._now_s = now_s
        self._done: tuple[str, int] | None = None  # day and revision of the bill that was compared
        self._done_s = 0.0
        self._daily: dt.date | None = None  # when the set hour was kept last
        self._newest: dt.date | None = None  # the newest day that was compared
        self._one_at_a_time = asyncio.Lock()

    async def reconcile(self) -> None:
        """Compare what is due unasked: the newest bill, if it was not compared, or not lately; the last days at the set hour.

        A HIS that is away is asked again at the next call.
        """
        async with self._store.read(self._hospital.id) as tx:
            newest = await newest_bill(tx)
            now = dt.datetime.fromtimestamp(tx.now_ms / 1000, self._hospital.zone)
        if newest is None:
            self._tell(Counter())
            return
        if newest != self._done or self._now_s() >= self._done_s + AGAIN_S:
            compared = await self._compare(dt.date.fromisoformat(newest[0]))
            if compared is not None:
                self._done, self._done_s = newest, self._now_s()
                self._tell(Counter(one.kind for one in compared.differences))
        await self._keep_the_hour(now, newest[0])

    async def _keep_the_hour(self, now: dt.datetime, newest: str) -> None:
        today = now.date()
        if self._daily == today or f"{now:%H:%M}" < self._hospital.reconcile_at:
            return
        for days in range(1, DAYS + 1):
            date = today - dt.timedelta(days=days)
            async with self._store.read(self._hospital.id) as tx:
                there = await whole_revisions(tx, date)
            if there and date.isoformat() != newest and await self._compare(date) is None:
                return
        self._daily = today

    async def make_asked(self) -> None:
        """Make every comparison that somebody has asked for, or that a process before this one has not ended."""
        async with self._one_at_a_time:
            while True:
                async with self._store.read(self._hospital.id, clock=False) as tx:
                    run = await next_asked(tx)
                if run is None:
                    return
                await self._make(run)

    async def look_through_ledger(self) -> None:
        """Refresh how many payments stand otherwise in the ledger than in their records."""
        found = {
            (one.channel, one.trade_no)
            async for one in imbalances(self._store, self._hospital.id, pause=lambda: asyncio.sleep(0.01))
        }
        metrics.ledger_imbalances.labels(hospital=self._hospital.id).set(len(found))

    async def _compare(self, date: dt.date) -> Compared | None:
        """Ask for a comparison and make it; None where that failed."""
        async with self._one_at_a_time:
            async with self._store.write(self._hospital.id) as tx:
                number = await ask_run(tx, date)
            return await self._make(
                Run(date=date.isoformat(), run=number, asked_ms=0, done_ms=None, failed=None, merchant_lines=0, our_lines=0,
                    his_lines=None, differences=0)
            )  # fmt: skip

    async def _make(self, run: Run) -> Compared | None:
        of = {"hospital": self._hospital.id, "date": run.date}
        failed = "internal_error"
        try:
            compared = await compare_day(
                self._store,
                self._hospital,
                dt.date.fromisoformat(run.date),
                statement=self._statement,
                ask_again=self._has,
            )
            if compared is not None:
                await finish_run(self._store, self._hospital.id, run.date, run.run, compared)
        except HisError as e:
            log.warning("not_reconciled", **of, reason=type(e).__name__)
            failed = _code_of(e)
        except StoreUnavailable:
            raise
        except Exception as e:  # a fault of a connector, or a line that cannot be stored, ends no hospital's work
            log.error("reconcile_failed", **of, exc_info=e)
        else:
            if compared is not None:
                self._tell_until(dt.date.fromisoformat(run.date))
                log.info("reconciled", **of, differences=len(compared.differences))
                return compared
            failed = "reconciliation_unknown"
        await fail_run(self._store, self._hospital.id, run.date, run.run, failed)
        return None

    async def _statement(self, date: dt.date) -> Sequence[StatementLine] | None:
        try:
            lines: Sequence[StatementLine] = await self._link.read(Verb.FETCH_STATEMENT, date)
        except NotOffered:
            return None
        return lines

    async def _has(self, question: Question) -> bool:
        """Ask the HIS by the payment or the refund, as after one whose answer was lost."""
        of = (self._store, self._hospital, self._link)
        try:
            if question.refund_id is not None:
                verdict = await RefundCommand().look(*of, Verb.REFUND, question.refund_id)
            elif question.bill_id is not None:
                verdict = await BillCommand().look(*of, Verb.SETTLE_BILL, question.bill_id)
            else:
                verdict = await BookingCommand().look(*of, Verb.REGISTER, question.booking_id or "")
        except LookupError:  # what it was paid for is past its keep
            return False
        told = None if verdict.outcome is None else verdict.outcome.record
        return verdict.kind == "accepted" and question.amount_fen in (None, _amount_of(told))

    def _tell(self, found: Counter[str]) -> None:
        for kind in KINDS:
            metrics.reconciliation_differences.labels(hospital=self._hospital.id, kind=kind).set(found[kind])

    def _tell_until(self, date: dt.date) -> None:
        if self._newest is None or date >= self._newest:
            self._newest = date
            _, ends_ms = day_bounds_ms(date, self._hospital.zone)
            metrics.reconciled_until_timestamp_seconds.labels(hospital=self._hospital.id).set(ends_ms / 1000)


def _code_of(error: HisError) -> str:
    if isinstance(error, HisRefused):
        return "his_refused"
    return "his_reply_invalid" if isinstance(error, HisReplyInvalid) else "his_unavailable"


def _amount_of(record: object) -> int | None:
    """What the HIS says was paid, where it says so."""
    if isinstance(record, Settlement):
        return record.amount_fen
    return record.fee_fen if isinstance(record, Registration) else None
