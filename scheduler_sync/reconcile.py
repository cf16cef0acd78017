"""The daily comparison of the books, made by the process that works the hospital, so that a difference is seen unasked."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable
from typing import Any

from booking import reconciliation as books
from booking.settings import Hospital
from booking.store.engine import Store, StoreUnavailable
from connectors.port import HisError, NotOffered, Verb
from monitoring import metrics
from monitoring.logs import get_logger
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.leases import steady_s

log = get_logger("reconcile")

LOOK_EVERY_S = 60.0  # whether there is a newer bill
AGAIN_S = 3600.0  # the same bill again: payments and refunds may have been recorded since
KINDS = ("long", "short", "amount", "his_missing", "his_only")


class Reconciler:
    """Compares the newest merchant's bill of one hospital with our books, and the hospital's where it offers them."""

    def __init__(
        self, store: Store, hospital: Hospital, link: HospitalLink, *, now_s: Callable[[], float] = steady_s
    ) -> None:
        self._store = store
        self._hospital = hospital
        self._link = link
        self._now_s = now_s
        self._done: tuple[str, int] | None = None  # day and revision of the bill that was compared
        self._done_s = 0.0

    async def reconcile(self) -> None:
        """Compare if there is a bill that was not compared, or not lately. A HIS that is away is asked again at the next call."""
        async with self._store.read(self._hospital.id) as tx:
            newest = await books.newest_bill(tx)
        if newest is None:
            self._tell(Counter())
            return
        if newest == self._done and self._now_s() < self._done_s + AGAIN_S:
            return
        date = dt.date.fromisoformat(newest[0])
        try:
            found = await self._compare(date)
        except HisError as e:
            log.warning("not_reconciled", hospital=self._hospital.id, date=newest[0], reason=type(e).__name__)
            return
        except StoreUnavailable:
            raise
        except Exception as e:  # a fault of a connector must not end the work of a hospital
            log.error("reconcile_failed", hospital=self._hospital.id, date=newest[0], exc_info=e)
            return
        self._done, self._done_s = newest, self._now_s()
        self._tell(found)
        log.info("reconciled", hospital=self._hospital.id, date=newest[0], differences=found.total())

    async def _compare(self, date: dt.date) -> Counter[str]:
        starts_ms, ends_ms = books.day_bounds_ms(date, self._hospital.zone)
        async with self._store.read(self._hospital.id) as tx:
            merchant = await books.merchant_entries(tx, date) or []
            ours = await books.our_entries(tx, starts_ms, ends_ms)
        try:
            his: Any = books.his_entries(await self._link.read(Verb.FETCH_STATEMENT, date))
        except NotOffered:
            his = None
        return Counter(difference.kind for difference in books.compare(merchant, ours, his))

    def _tell(self, found: Counter[str]) -> None:
        for kind in KINDS:
            metrics.reconciliation_differences.labels(hospital=self._hospital.id, kind=kind).set(found[kind])
