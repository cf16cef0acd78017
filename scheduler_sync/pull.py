"""Pulling what can be booked from a HIS: master data, schedules, slots with their seats, stops.

One fetch of a hospital runs at a time: the regular ones, those that somebody asks for, and those around openings.
A fetch that fails, wholly or in part, deletes nothing. Each transaction takes so few rows that holds are never kept waiting for
long, and between two of them the event loop is left to others for longer, the more it has to do.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from booking.errors import SetAside
from booking.fetches import apply_slots, put_departments, put_practitioners, put_schedules
from booking.moves import fetch_topic
from booking.release import opens_at
from booking.rescheduling.carrying import carry_moves
from booking.rescheduling.marks import has_moved, is_elsewhere
from booking.rescheduling.orders import follow_again
from booking.settings import Hospital, ReserveBy
from booking.stops import carry_known_stops, carry_left_stops, carry_stop
from booking.store.engine import Store, StoreUnavailable
from connectors.port import Capability, HisError, Verb, Window
from mappings.canonical import Department, Schedule, ScheduleStatus, ScheduleStopped
from monitoring import metrics
from monitoring.logs import get_logger
from monitoring.sparse import SparseLog
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.release import ReleaseFetches

log = get_logger("pull")

CHUNK = 32  # rows of one transaction: some 10 ms (DESIGN section 4: at most 20)
GIVE_WAY, LONGEST_WAY_S = 4.0, 0.05  # so many times what a turn of the loop takes
ASKED_PAUSE_S = 0.5  # asked-for fetches are not made more often than this
MASTER_EVERY_S = 600.0
_KINDS = {
    "master": (Verb.FETCH_DEPARTMENTS,),
    "schedules": (Verb.FETCH_SCHEDULES,),
    "stops": (Verb.FETCH_SCHEDULES, Verb.FETCH_STOPS),
}
RELEASES_EVERY_S = 30.0  # how often the next openings are looked up while nothing else happens


_StopKey = tuple[object, ...]


def _key_of(stop: ScheduleStopped) -> _StopKey:
    return stop.scope, stop.schedule_id, stop.date, stop.session, stop.starts_at, stop.ends_at, stop.order_no


def _not_held(stops: Sequence[ScheduleStopped]) -> set[str | None]:
    """The schedules that stops or moves name; one with a substitute takes place."""
    return {stop.schedule_id for stop in stops if not has_moved(stop) or is_elsewhere(stop)}


class Puller:
    """The fetches of one hospital. `pull_once` may be called by hand; `run` repeats it, and at once when asked."""

    def __init__(
        self,
        store: Store,
        hospital: Hospital,
        link: HospitalLink,
        *,
        hear_first: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`hear_first` takes over what the HIS tells of registrations; awaited before a new stop is applied: it may be a move."""
        self._hear_first = hear_first
        self._stops_known: frozenset[_StopKey] = frozenset()
        self._unlisted: set[str] = set()  # stopped schedules that the HIS's list of stops does not name
        self._store = store
        self._hospital = hospital
        self._link = link
        self._done_at: dict[str, float] = {}
        self._warn = SparseLog(log.warning, every_s=60.0)
        self._releases = ReleaseFetches(hospital)
        self._next_release_s = 0.0
        self._stops_left = (
            True  # whether something may stand as stopped whose bookings were not moved; nobody knows at first
        )
        for kind, verbs in _KINDS.items():
            if all(self._offers(verb) for verb in verbs):  # what is never fetched has no age to be alarmed by
                metrics.track_sync_age(hospital.id, kind, lambda kind=kind: self.age_s(kind))  # type: ignore[misc]

    def age_s(self, kind: str) -> float:
        """Seconds since the last complete fetch of this kind; infinite before the first."""
        done = self._done_at.get(kind)
        return float("inf") if done is None else time.monotonic() - done

    async def run(self, stopping: asyncio.Event) -> None:
        """Pull until `stopping`: every `sync_every_s`, around openings, and when a seat can only be shown by a fetch."""
        while not stopping.is_set():
            asked = self._store.bell.listen(fetch_topic(self._hospital.id))
            done = await self._try(self.pull_once)
            pause_s = self._hospital.sync_every_s if done else min(5.0, self._hospital.sync_every_s)
            if await self._rest(asked, pause_s):
                await asyncio.sleep(ASKED_PAUSE_S)

    async def _rest(self, asked: asyncio.Future[None], pause_s: float) -> bool:
        """Fetch around openings until the pause is over (False) or somebody asks for a fetch (True)."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + pause_s
        try:
            while (left_s := ends - loop.time()) > 0 and not asked.done():
                await self._try(self.pull_releases)
                await asyncio.wait([asked], timeout=min(left_s, self._next_release_s))
            return asked.done()
        finally:
            asked.cancel()

    async def _try(self, pull: Callable[[], Awaitable[None]]) -> bool:
        """Whether it went well; what went wrong is in the log."""
        try:
            await pull()
            return True
        except HisError as e:
            self._warn("pull_failed", hospital=self._hospital.id, verb=e.verb, reason=str(e), kind=type(e).__name__)
        except StoreUnavailable as e:
            log.error("store_unavailable", hospital=self._hospital.id, reason=str(e))
        except Exception as e:  # whatever one reply contained, the next one may be well
            log.error("pull_broken", hospital=self._hospital.id, exc_info=e)
        return False

    async def pull_once(self) -> None:
        """One full round. Raises HisError where a fetch failed; what came before it has been applied."""
        await self._carry_left()
        if self._offers(Verb.FETCH_DEPARTMENTS) and self.age_s("master") >= MASTER_EVERY_S:
            await self._pull_master()
        if self._offers(Verb.FETCH_SCHEDULES):
            began_ms = await self._now_ms()
            await self._pull_window(self._window(began_ms))
            await carry_moves(self._store, self._hospital, fetched_ms=began_ms)
            await follow_again(self._store, self._hospital)
            self._done_at["schedules"] = time.monotonic()
            if self._offers(Verb.FETCH_STOPS):
                self._done_at["stops"] = time.monotonic()

    async def pull_releases(self) -> None:
        """Fetch the days whose opening is near or has just been, once for each. Raises HisError, as pull_once does."""
        self._next_release_s = RELEASES_EVERY_S
        if not self._offers(Verb.FETCH_SCHEDULES):
            return
        await self._carry_left()
        async with self._store.read(self._hospital.id) as tx:
            window, wait_s = await self._releases.wanted(tx)
        self._next_release_s = min(wait_s, RELEASES_EVERY_S)
        if window is not None:
            log.info("pull_for_opening", hospital=self._hospital.id, date_from=str(window.date_from))
            await self._pull_window(window)

    def _offers(self, verb: Verb) -> bool:
        return self._hospital.mode != "paused" and self._link.traits(verb).capability == Capability.NATIVE

    async def _now_ms(self) -> int:
        async with self._store.read(self._hospital.id) as tx:
            return tx.now_ms

    def _window(self, now_ms: int) -> Window:
        """Today and the days of the horizon, in the hospital's zone."""
        today = dt.datetime.fromtimestamp(now_ms / 1000, self._hospital.zone).date()
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

    async def _fetch_stops(self, window: Window) -> Sequence[ScheduleStopped]:
        """The HIS's list of stops, read before the schedules: what it names never goes on sale in between."""
        if not self._offers(Verb.FETCH_STOPS):
            return ()
        stops: Sequence[ScheduleStopped] = await self._link.read(Verb.FETCH_STOPS, window)
        return stops

    async def _stops_again(
        self, window: Window, stops: Sequence[ScheduleStopped], stopped: set[str]
    ) -> Sequence[ScheduleStopped]:
        """The list of stops, read anew where a schedule is stopped that it does not name: it was, since the list was read.

        It may have been moved, and only the list says so. Those that no list names are not asked about again.
        """
        unlisted = stopped - _not_held(stops)
        if not self._offers(Verb.FETCH_STOPS) or unlisted <= self._unlisted:
            return stops
        stops = await self._fetch_stops(window)
        self._unlisted = unlisted - _not_held(stops)
        return stops

    async def _pull_window(self, window: Window) -> None:
        """Schedules, slots and stops of some days: of one reading where the HIS can be read so."""
        at_once = self._link.inventory()
        started_ms, found = await self._now_ms(), None
        if at_once is not None:
            found = await self._link.read_inventory(at_once, window)
            stops, told = found.stops, found.schedules
            ended_ms = await self._now_ms()
        else:
            stops = await self._fetch_stops(window)
            told = await self._link.read(Verb.FETCH_SCHEDULES, window)
            stops = await self._stops_again(window, stops, {s.id for s in told if s.status == ScheduleStatus.STOPPED})
        await self._hear_of_moves(stops)
        await self._apply_stops([stop for stop in stops if has_moved(stop)])  # before they are seen as stopped
        schedules: list[Schedule] = []
        for start in range(0, len(told), CHUNK):
            schedules += [self._with_opening(schedule) for schedule in told[start : start + CHUNK]]
            await asyncio.sleep(0)
        if not self._offers(Verb.FETCH_DEPARTMENTS):
            await self._learn_departments(schedules)
        for start in range(0, len(schedules), CHUNK):
            self._stops_left = True
            async with self._store.write(self._hospital.id, here=True) as tx:
                stopped = await put_schedules(
                    tx,
                    list(schedules[start : start + CHUNK]),
                    stops=stops,
                    channel_quota=self._hospital.channel_quota,
                )
            await carry_known_stops(self._store, self._hospital, schedule_ids=stopped)
            self._stops_left = False
            await _give_way()
        if found is None:
            # The fetch of the seats begins here: what the HIS counted before this moment is what its figures show.
            started_ms = await self._now_ms()
            slots = list(await self._link.read(Verb.FETCH_SLOTS, window, schedules))
            ended_ms = await self._now_ms()
            blocked = {slot.schedule_id for slot in slots if slot.status == ScheduleStatus.STOPPED}
            if (newer := await self._stops_again(window, stops, blocked)) is not stops:
                stops = newer
                await self._apply_stops([stop for stop in stops if has_moved(stop)])
        else:
            slots, found = list(found.slots), None
        fetched, set_aside = len(slots), 0
        while slots:
            # Let go of in turns: a hundred thousand at once would stop the loop for tens of milliseconds.
            chunk = slots[:CHUNK]
            del slots[:CHUNK]
            # One slot that cannot be must not keep the others from being seen.
            usable = [s for s in chunk if s.ends_at > s.starts_at]
            set_aside += len(chunk) - len(usable)
            if not usable:
                continue
            self._stops_left = True
            async with self._store.write(self._hospital.id, here=True) as tx:
                stopped = await apply_slots(
                    tx,
                    usable,
                    started_ms=started_ms,
                    ended_ms=ended_ms,
                    his_cache_ms=int(self._hospital.his_cache_s * 1000),
                    stops=stops,
                    ours=self._hospital.reserve_by == ReserveBy.QUOTA,
                )
            await carry_known_stops(self._store, self._hospital, slot_ids=stopped)
            self._stops_left = False
            await _give_way()
        if set_aside:
            log.warning("slots_set_aside", hospital=self._hospital.id, slots=set_aside)
        await self._apply_stops(stops)
        self._releases.note(window, started_ms, ended_ms)
        log.info("pulled", hospital=self._hospital.id, schedules=len(schedules), slots=fetched)

    async def _hear_of_moves(self, stops: Sequence[ScheduleStopped]) -> None:
        """Where something is stopped that was not: hear first whether its registrations were moved before it was.

        A hospital that moves the Appointments of a session and then blocks its Slots has not stopped them.
        """
        found = frozenset(_key_of(stop) for stop in stops)
        if self._hear_first is not None and not found <= self._stops_known:
            await self._hear_first()
        self._stops_known = found

    async def _carry_left(self) -> None:
        """Move the bookings of stops where an earlier fetch came to its end between the stop and them.

        The next fetch finds these stopped already, and news of a stop is only what has changed.
        """
        if self._stops_left:
            await carry_left_stops(self._store, self._hospital)
            self._stops_left = False

    def _with_opening(self, schedule: Schedule) -> Schedule:
        """The hospital's rule says when a schedule opens of which the HIS does not."""
        if schedule.opens_at is not None:
            return schedule
        at = opens_at(self._hospital.release, schedule.date, self._hospital.zone)
        return schedule if at is None else msgspec.structs.replace(schedule, opens_at=at)

    async def _learn_departments(self, schedules: Sequence[Schedule]) -> None:
        """Where the HIS has no list of departments, its schedules name them; what was pushed or imported stays."""
        named = {
            s.department_id: Department(id=s.department_id, name=s.department_name)
            for s in schedules
            if s.department_name is not None
        }
        async with self._store.write(self._hospital.id, here=True) as tx:
            await put_departments(tx, list(named.values()), only_new=True)

    async def _apply_stops(self, stops: Sequence[ScheduleStopped]) -> None:
        """Stops of schedules that the list of schedules no longer shows, and of single orders."""
        for stop in stops:
            try:
                await carry_stop(self._store, self._hospital, stop, pushed=False)
            except SetAside as e:
                log.warning("stop_set_aside", hospital=self._hospital.id, reason=str(e))


async def _give_way() -> None:
    """Let others have the loop, and longer where it is busy."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await asyncio.sleep(0)
    await asyncio.sleep(min(GIVE_WAY * (loop.time() - began_s), LONGEST_WAY_S))
