"""Asking who came: a HIS that does not tell of every arrival is asked about the visits that have begun, one after the other.

Today's are asked about every `ask_every_s`, those of the days before every few hours, until the HIS has said how each ended or
`ask_days` are over. One question is under way at a time, behind everybody else's, with as long a pause after it as it took;
none is asked while something more urgent waits, nor around an opening. What it tells is applied as if it had come by itself.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter

from booking.attendance import Awaited, schedules_of_day, settle_visit, visits_awaited
from booking.release import openings
from booking.settings import Hospital
from booking.store.engine import Store, StoreUnavailable
from connectors.port import Capability, FetchesChanges, HisError, HisUnavailable, Verb
from mappings.canonical import Registration
from monitoring.logs import get_logger
from monitoring.sparse import SparseLog
from scheduler_sync.gateway import READ_RANK, HospitalLink
from scheduler_sync.leases import steady_s
from scheduler_sync.orders import order_of
from scheduler_sync.release import stored_openings

log = get_logger("attendance")

RANK = READ_RANK + 1  # behind the reads of portals
EARLY_MS = 3_600_000  # patients come before their time
EARLIER_DAYS_EVERY_S = 14_400.0
QUIET_BEFORE_MS, QUIET_AFTER_MS = 300_000, 600_000  # around an opening
LEAST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 5.0
MOST_FAILURES = 3  # in a row: the HIS is away, and asked again the next time


class Away(Exception):
    """The HIS does not answer now, or nothing may be asked any more; what is left waits for the next round."""


class Attendance:
    """The questions of one hospital about its visits."""

    def __init__(self, store: Store, hospital: Hospital, link: HospitalLink, stopping: asyncio.Event) -> None:
        self._store = store
        self._hospital = hospital
        self._link = link
        self._stopping = stopping
        self._earlier_at_s: float | None = None  # when the earlier days were looked through last
        self._failures = 0
        self._warn = SparseLog(log.warning, every_s=60.0)
        self._asks = self._may_ask()

    @property
    def every_s(self) -> float:
        """How often `look` is wanted; 0 never: there is nobody to ask, and no rule."""
        rule = self._hospital.visits
        if not self._asks and rule.no_show_after_h is None:
            return 0.0
        return rule.ask_every_s or EARLIER_DAYS_EVERY_S

    def _may_ask(self) -> bool:
        """Whether the HIS can be asked, and does not tell anyway; said once."""
        if self._hospital.visits.ask_every_s == 0:
            return False
        connector, of = self._link.connector(Verb.FETCH_REGISTRATION), self._hospital.id
        if self._link.traits(Verb.FETCH_REGISTRATION).capability != Capability.NATIVE:
            log.info(
                "attendance_not_asked",
                hospital=of,
                reason="fetch_registration is not offered",
            )
            return False
        if isinstance(connector, FetchesChanges) and connector.changes_every_s > 0 and connector.tells_registrations:
            log.info("attendance_not_asked", hospital=of, reason="the connector asks for what has changed")
            return False
        return True

    async def look(self) -> None:
        """One round: today, and the earlier days where it is time. Raises StoreUnavailable."""
        if self._hospital.mode == "paused":
            return
        async with self._store.read(self._hospital.id) as tx:
            today = dt.datetime.fromtimestamp(tx.now_ms / 1000, self._hospital.zone).date()
        done: Counter[str] = Counter()
        try:
            if self._asks:
                await self._look_at(today, done)
            if self._earlier_at_s is None or steady_s() >= self._earlier_at_s + EARLIER_DAYS_EVERY_S:
                for days in range(1, self._hospital.visits.days + 1):
                    await self._look_at(today - dt.timedelta(days=days), done)
                self._earlier_at_s = steady_s()
        except Away as e:
            self._warn("attendance_cut_off", hospital=self._hospital.id, reason=str(e))
        if done:
            log.info("attendance", hospital=self._hospital.id, **done)

    async def _look_at(self, date: dt.date, done: Counter[str]) -> None:
        async with self._store.read(self._hospital.id) as tx:
            found = await schedules_of_day(tx, date)
        for schedule_id in found:
            async with self._store.read(self._hospital.id) as tx:
                awaited = await visits_awaited(tx, schedule_id, begin_by_ms=tx.now_ms + EARLY_MS)
            for visit in awaited:
                state = await self._settle(visit)
                if state is not None:
                    done[state] += 1

    async def _settle(self, visit: Awaited) -> str | None:
        """Its new state, where it has one."""
        told = None
        if self._asks:
            await self._wait_until_quiet()
            told = await self._ask(visit)
            if told is None:
                return None
        try:
            async with self._store.write(self._hospital.id, here=True) as tx:
                return await settle_visit(tx, self._hospital, visit, told)
        except StoreUnavailable:
            raise
        except Exception as e:  # whatever was answered about one, the next one may be well
            log.error("attendance_broken", hospital=self._hospital.id, exc_info=e)
            return None

    async def _ask(self, visit: Awaited) -> Registration | None:
        """The HIS's word; None where it has none. Raises Away."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            async with self._store.read(self._hospital.id, clock=False) as tx:
                _, order, _ = await order_of(tx, self._hospital, visit.booking_id)
            found: Registration | None = await self._link.read(Verb.FETCH_REGISTRATION, order, attempts=1, rank=RANK)
        except HisUnavailable as e:
            self._failures += 1
            if self._failures >= MOST_FAILURES:
                self._failures = 0
                raise Away(str(e)) from e
            return None
        except (HisError, LookupError) as e:
            self._warn("attendance_unknown", hospital=self._hospital.id, reason=str(e), kind=type(e).__name__)
            return None
        except StoreUnavailable:
            raise
        except Exception as e:
            log.error("attendance_broken", hospital=self._hospital.id, exc_info=e)
            return None
        self._failures = 0
        await self._pause(min(max(loop.time() - began_s, LEAST_PAUSE_S), LONGEST_PAUSE_S))
        return found

    async def _wait_until_quiet(self) -> None:
        """Until no opening is near and a place is free. Raises Away where it is time to stop."""
        while not self._stopping.is_set():
            if self._link.free_places(Verb.FETCH_REGISTRATION) > 0 and not await self._opens_soon():
                return
            await self._pause(LONGEST_PAUSE_S)
        raise Away("the hospital's work ends")

    async def _opens_soon(self) -> bool:
        async with self._store.read(self._hospital.id) as tx:
            from_ms, to_ms = tx.now_ms - QUIET_AFTER_MS, tx.now_ms + QUIET_BEFORE_MS
            if openings(self._hospital.release, self._hospital.zone, from_ms, to_ms):
                return True
            return await tx.first(stored_openings(tx.hospital_id, from_ms, to_ms)) is not None

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until the stop."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
