"""Pulling what can be booked from a HIS: master data, schedules, slots with their seats, stops.

A fetch that fails, wholly or in part, deletes nothing. Each transaction takes at most a few hundred rows, so that holds are
never kept waiting for long.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Sequence

from booking.billing import SetAside
from booking.catalog import apply_slots, put_departments, put_practitioners, put_schedules
from booking.moves import fetch_topic
from booking.settings import Hospital
from booking.stops import apply_stop, stop_known_schedules, stop_known_slots
from booking.store.bell import wait_for_ring
from booking.store.engine import Store, StoreUnavailable
from connectors.port import Capability, HisError, Verb, Window
from mappings.canonical import Department, Schedule, ScheduleStopped
from monitoring import metrics
from monitoring.logs import get_logger
from scheduler_sync.gateway import HospitalLink

log = get_logger("pull")

CHUNK = 100
ASKED_PAUSE_S = 0.5  # asked-for fetches are not made more often than this
MASTER_EVERY_S = 600.0


class Puller:
    """The fetches of one hospital. `pull_once` may be called by hand; `run` repeats it, and at once when asked."""

    def __init__(self, store: Store, hospital: Hospital, link: HospitalLink) -> None:
        self._store = store
        self._hospital = hospital
        self._link = link
        self._done_at: dict[str, float] = {}
        for kind in ("master", "schedules", "stops"):
            metrics.track_sync_age(hospital.id, kind, lambda kind=kind: self.age_s(kind))  # type: ignore[misc]

    def age_s(self, kind: str) -> float:
        """Seconds since the last complete fetch of this kind; infinite before the first."""
        done = self._done_at.get(kind)
        return float("inf") if done is None else time.monotonic() - done

    async def run(self, stopping: asyncio.Event) -> None:
        """Pull until `stopping`, every `sync_every_s` and whenever a seat can only be shown by a fetch."""
        while not stopping.is_set():
            asked = self._store.bell.listen(fetch_topic(self._hospital.id))
            failed = False
            try:
                await self.pull_once()
            except HisError as e:
                failed = True
                log.warning(
                    "pull_failed", hospital=self._hospital.id, verb=e.verb, reason=str(e), kind=type(e).__name__
                )
            except StoreUnavailable as e:
                failed = True
                log.error("store_unavailable", hospital=self._hospital.id, reason=str(e))
            except Exception as e:  # whatever one reply contained, the next one may be well
                failed = True
                log.error("pull_broken", hospital=self._hospital.id, exc_info=e)
            pause_s = min(5.0, self._hospital.sync_every_s) if failed else self._hospital.sync_every_s
            if await wait_for_ring(asked, pause_s):
                await asyncio.sleep(ASKED_PAUSE_S)

    async def pull_once(self) -> None:
        """One full round. Raises HisError where a fetch failed; what came before it has been applied."""
        if self._offers(Verb.FETCH_DEPARTMENTS) and self.age_s("master") >= MASTER_EVERY_S:
            await self._pull_master()
        if self._offers(Verb.FETCH_SCHEDULES):
            await self._pull_slots(await self._fetch_stops())

    def _offers(self, verb: Verb) -> bool:
        return self._hospital.mode != "paused" and self._link.traits(verb).capability == Capability.NATIVE

    def window(self) -> Window:
        """Today and the days of the horizon, in the hospital's zone."""
        today = dt.datetime.now(self._hospital.zone).date()
        return Window(date_from=today, date_to=today + dt.timedelta(days=self._hospital.horizon_days))

    async def _pull_master(self) -> None:
        departments = await self._link.read(Verb.FETCH_DEPARTMENTS)
        practitioners = []
        if self._offers(Verb.FETCH_PRACTITIONERS):
            practitioners = await self._link.read(Verb.FETCH_PRACTITIONERS)
        async with self._store.write(self._hospital.id) as tx:
            await put_departments(tx, list(departments))
            await put_practitioners(tx, list(practitioners))
        self._done_at["master"] = time.monotonic()

    async def _fetch_stops(self) -> Sequence[ScheduleStopped]:
        """The HIS's list of stops, read before the schedules: what it names never goes on sale in between."""
        if not self._offers(Verb.FETCH_STOPS):
            return ()
        stops: Sequence[ScheduleStopped] = await self._link.read(Verb.FETCH_STOPS, self.window())
        return stops

    async def _pull_slots(self, stops: Sequence[ScheduleStopped]) -> None:
        window = self.window()
        schedules: Sequence[Schedule] = await self._link.read(Verb.FETCH_SCHEDULES, window)
        if not self._offers(Verb.FETCH_DEPARTMENTS):
            await self._learn_departments(schedules)
        for start in range(0, len(schedules), CHUNK):
            async with self._store.write(self._hospital.id) as tx:
                stopped = await put_schedules(tx, list(schedules[start : start + CHUNK]), stops=stops)
                await stop_known_schedules(tx, self._hospital, stopped)
        # The fetch of the seats begins here: what the HIS counted before this moment is what its figures show.
        async with self._store.read(self._hospital.id) as tx:
            started_ms = tx.now_ms
        slots = await self._link.read(Verb.FETCH_SLOTS, window, schedules)
        async with self._store.read(self._hospital.id) as tx:
            ended_ms = tx.now_ms
        usable = [s for s in slots if s.ends_at > s.starts_at]
        if len(usable) < len(slots):
            # One slot that cannot be must not keep the others from being seen.
            log.warning("slots_set_aside", hospital=self._hospital.id, slots=len(slots) - len(usable))
        for start in range(0, len(usable), CHUNK):
            async with self._store.write(self._hospital.id) as tx:
                stopped = await apply_slots(
                    tx,
                    usable[start : start + CHUNK],
                    started_ms=started_ms,
                    ended_ms=ended_ms,
                    his_cache_ms=int(self._hospital.his_cache_s * 1000),
                    stops=stops,
                )
                await stop_known_slots(tx, self._hospital, stopped)
        await self._apply_stops(stops)
        self._done_at["schedules"] = time.monotonic()
        log.info("pulled", hospital=self._hospital.id, schedules=len(schedules), slots=len(slots))

    async def _learn_departments(self, schedules: Sequence[Schedule]) -> None:
        """Where the HIS has no list of departments, its schedules name them; what was pushed or imported stays."""
        named = {
            s.department_id: Department(id=s.department_id, name=s.department_name)
            for s in schedules
            if s.department_name is not None
        }
        async with self._store.write(self._hospital.id) as tx:
            await put_departments(tx, list(named.values()), only_new=True)

    async def _apply_stops(self, stops: Sequence[ScheduleStopped]) -> None:
        """Stops of schedules that the list of schedules no longer shows, and of single orders."""
        if not self._offers(Verb.FETCH_STOPS):
            return
        for stop in stops:
            async with self._store.write(self._hospital.id) as tx:
                try:
                    await apply_stop(tx, self._hospital, stop, pushed=False)
                except SetAside as e:
                    log.warning("stop_set_aside", hospital=self._hospital.id, reason=str(e))
        self._done_at["stops"] = time.monotonic()
