"""The departments' days of a process: which exist, which have changed, and reading each of them once for a whole crowd."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from booking.allowance import Allowance
from booking.feed import ChangeFeed
from booking.snapshots.day import Day, Render, make_day
from booking.snapshots.reading import DayKey, read_days
from booking.snapshots.shelf import Shelf
from booking.store.engine import Store
from monitoring.metrics import snapshot_rebuilds

# A day that changes all the time is read so often, whatever the crowd; in between its last reading is shown.
REREAD_PER_S, REREAD_BURST = 10.0, 10
# For so long after a change the reading before it may then be shown: 200 ms, less what reading and answering take.
SHOWN_AFTER_CHANGE_S, SHOWN_WHILE_READING_S = 0.14, 0.18
DAYS_AT_ONCE = 16
MOST_ALLOWANCES = 10_000


class Ticks:
    """What the feed has told of one hospital: `tick` is another with every change, `ticks` has the last of each day."""

    __slots__ = ("departments", "tick", "ticks")

    def __init__(self) -> None:
        self.tick = 0
        self.ticks: dict[DayKey, int] = {}
        self.departments: dict[str, tuple[str, ...]] = {}


class Days:
    """Days by key, as current as the feed; nothing here is told to a reader while the feed is behind.

    `render` gives a hospital's way of showing a row; `kind` names what is kept in metrics.
    """

    def __init__(
        self,
        store: Store,
        feed: ChangeFeed,
        *,
        render: Callable[[str], Render],
        max_bytes: int,
        kind: str = "days",
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._feed = feed
        self._render = render
        self._monotonic_s = monotonic_s
        self._hospitals: defaultdict[str, Ticks] = defaultdict(Ticks)
        self._shelf: Shelf[DayKey, Day] = Shelf(kind, max_bytes)
        self._builds: dict[DayKey, asyncio.Task[dict[DayKey, Day]]] = {}
        self._allowances: dict[DayKey, Allowance] = {}
        feed.listen(on_fragment=self._on_fragment)

    def _on_fragment(self, hospital_id: str, date: str, department_id: str, _changed: int) -> None:
        hospital = self._hospitals[hospital_id]
        hospital.tick += 1
        key = DayKey(hospital_id, date, department_id)
        if key not in hospital.ticks:
            hospital.departments[date] = tuple(sorted((*hospital.departments.get(date, ()), department_id)))
        hospital.ticks[key] = hospital.tick
        day = self._shelf.peek(key)
        if day is not None and day.changed_s is None:
            day.changed_s = max(self._feed.sure_s, day.read_s)

    def ticks(self, hospital_id: str) -> Ticks:
        """The hospital's, to be looked at again and again."""
        return self._hospitals[hospital_id]

    def tick_of(self, key: DayKey) -> int:
        """Another number with every change of that day."""
        return self._hospitals[key.hospital_id].ticks.get(key, 0)

    def departments(self, hospital_id: str, date: str) -> tuple[str, ...]:
        """The departments that have anything on a day."""
        return self._hospitals[hospital_id].departments.get(date, ())

    def kept(self, key: DayKey) -> Day | None:
        """The day, if it can be shown without reading: it is current, or it changed a moment ago and is read often enough."""
        if key not in self._hospitals[key.hospital_id].ticks:
            return NOTHING
        day = self._shelf.get(key)
        if day is None or day.changed_s is None:
            return day
        now_s = self._monotonic_s()
        most_s = SHOWN_WHILE_READING_S if key in self._builds else SHOWN_AFTER_CHANGE_S
        return day if now_s - day.changed_s <= most_s and self._allowance(key).wait_s(now_s) > 0 else None

    async def get(self, hospital_id: str, keys: Sequence[DayKey]) -> list[Day]:
        """These days of one hospital, read where they must be. Raises StoreUnavailable."""
        days = {key: day for key in keys if (day := self.kept(key)) is not None}
        missing = [key for key in keys if key not in days]
        if missing:
            joined = [key for key in missing if key in self._builds]
            days |= await self._read(hospital_id, missing)
            # A reading that had begun before we came may not show what we came for.
            again = [key for key in joined if days[key].changed_s is not None and self.kept(key) is None]
            if again:
                days |= await self._read(hospital_id, again)
        return [days[key] for key in keys]

    async def _read(self, hospital_id: str, keys: list[DayKey]) -> dict[DayKey, Day]:
        """Whoever asks while a day is being read gets that reading; it goes on when the one who began it has gone."""
        new = [key for key in keys if key not in self._builds]
        if len(keys) == len(new) == 1 and self._store.dialect == "sqlite":
            # On the loop it is there before another task could run: to wait for one takes turns that beside a crowd are long.
            return await self._build(hospital_id, new)
        for start in range(0, len(new), DAYS_AT_ONCE):
            some = new[start : start + DAYS_AT_ONCE]
            build = asyncio.create_task(self._build(hospital_id, some), name=f"days of {hospital_id}")
            build.add_done_callback(_look_at)
            self._builds |= dict.fromkeys(some, build)
        builds = {self._builds[key] for key in keys}
        await asyncio.wait(builds)
        return {key: day for build in builds for key, day in build.result().items()}

    async def _build(self, hospital_id: str, keys: list[DayKey]) -> dict[DayKey, Day]:
        read_s = self._monotonic_s()
        ticks = {key: self.tick_of(key) for key in keys}
        try:
            rows = await read_days(self._store, hospital_id, keys)
            render, built = self._render(hospital_id), dict[DayKey, Day]()
            for key in keys:
                if built:
                    await asyncio.sleep(0)  # a day is rendered in under a millisecond; others may go between two
                now_ms = self._feed.store_now_ms(hospital_id)
                built[key] = make_day(rows[key], render, now_ms, tick=ticks[key], read_s=read_s)
        finally:
            mine = asyncio.current_task()
            for key in keys:
                if (
                    self._builds.get(key) is mine
                ):  # one day that a reader reads by itself is not there, but another's may be
                    del self._builds[key]
        self._keep(built)
        return built

    def _keep(self, built: Mapping[DayKey, Day]) -> None:
        snapshot_rebuilds.inc(len(built))
        for key, day in built.items():
            if self.tick_of(key) != day.tick:
                day.changed_s = day.read_s
            self._shelf.put(key, day)
            self._allowance(key).take(self._monotonic_s())

    def _allowance(self, key: DayKey) -> Allowance:
        allowance = self._allowances.get(key)
        if allowance is None:
            if len(self._allowances) >= MOST_ALLOWANCES:
                self._allowances.clear()
            allowance = self._allowances[key] = Allowance(REREAD_PER_S, REREAD_BURST, self._monotonic_s())
        return allowance


def _look_at(build: asyncio.Task[dict[DayKey, Day]]) -> None:
    """A reading that failed when nobody waited for it any more is nobody's error."""
    if not build.cancelled():
        build.exception()


NOTHING = Day((), tick=0, read_s=0.0)
"""A day on which a department has nothing."""
