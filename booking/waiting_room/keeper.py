"""What the clock does about waiting rooms in one API process: follow the store, open, admit, close.

Every process does it, each with a rate of its own by the delays of its own holds: there is no leader that could be missing, and
what one writes under the hospital's lock the others read within half a second. Nothing runs where no hospital has a waiting room.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from booking.openings import lock_verb
from booking.settings import Hospital, Mode, ReserveBy
from booking.store.engine import Store, StoreUnavailable, Tx
from booking.waiting_room import records
from booking.waiting_room.rate import Delay, Rate
from booking.waiting_room.room import Phase, Room
from booking.waiting_room.rooms import WaitingRooms
from booking.waiting_room.rules import ClosedBecause, OpenedBy, last_release, release_to_open_for
from monitoring import metrics
from monitoring.logs import get_logger

log = get_logger("waiting_room")

SAMPLE_S = 0.1
SAMPLES_A_LOOK, SAMPLES_A_TICK = 5, 10
LONGEST_TICK_S = 2.0  # a process that stood still does not make up for it
# By load a room opens when holds were delayed by more than this many times the target for so many ticks in a row.
OPENS_ABOVE, OPENS_AFTER_TICKS = 2.0, 3
LONGEST_JOIN_MS = 10_000  # a place that was drawn before the release is committed so long after it at the latest
KNOWN_MS = 24 * 3600 * 1000
STORE_EVERY_TICKS = 2
# Locks that are expected after this part of `lock_wait_s` count as holds that wait for `delay_s`: of a minute ten seconds.
LOCKS_PART = 6.0

DelayOf = Callable[[str], float]
"""How long the first hold in a hospital's queue has waited by now, in seconds."""


class _Charge:
    """What a process keeps of one hospital between two ticks."""

    def __init__(self, hospital: Hospital) -> None:
        self.hospital = hospital
        self.delay = Delay()
        self.rate: Rate | None = None
        self.of_release_ms = 0
        self.hot_ticks = 0
        self.ticks = 0
        self.lock_s = 0.0
        self.open = metrics.waiting_room_open.labels(hospital.id)
        self.waiting = metrics.waiting_room_waiting.labels(hospital.id)
        self.per_s = metrics.waiting_room_rate.labels(hospital.id)
        self.admitted = metrics.waiting_room_admitted.labels(hospital.id)


class Keeper:
    """Keeps the rooms of one process. `share` is this process's part of a rate that nothing is known of yet."""

    def __init__(
        self,
        store: Store,
        rooms: WaitingRooms,
        delay_of: DelayOf,
        *,
        share: float = 1.0,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._rooms = rooms
        self._delay_of = delay_of
        self._share = share
        self._monotonic_s = monotonic_s
        self._charges = [_Charge(hospital) for hospital in rooms.hospitals.values()]
        self._ticked_s = monotonic_s()
        self._task: asyncio.Task[None] | None = None
        self._looking = asyncio.Lock()
        self._away = False

    async def start(self) -> None:
        """Learn what there is, and go on. A store that is away is tried again."""
        if self._charges:
            await self._try(self.look)
            self._task = asyncio.create_task(self._run(), name="waiting rooms")

    async def close(self) -> None:
        """Stop, and give those who are joining their places."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._rooms.joins.close()

    async def _run(self) -> None:
        samples = 0
        while True:
            await asyncio.sleep(SAMPLE_S)
            samples += 1
            self.sample()
            if samples % SAMPLES_A_LOOK == 0:
                await self._try(self.look)
            if samples % SAMPLES_A_TICK == 0:
                await self.tick()

    async def _try(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except StoreUnavailable as error:
            if not self._away:
                log.warning("waiting_rooms_interrupted", reason=str(error))
            self._away = True
        except Exception as error:  # a keeper that ended would leave its rooms shut for ever
            log.error("waiting_rooms_failed", exc_info=error)
        else:
            self._away = False

    def sample(self) -> None:
        """Note how long holds wait now."""
        for charge in self._charges:
            charge.delay.note(self._delay_of(charge.hospital.id))

    # --- following the store --------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Read what has changed: rooms, then the ranks and steps of those that are open."""
        async with self._looking:  # two at once would count the same ranks twice
            await self._look()

    async def _look(self) -> None:
        rooms = self._rooms
        async with self._store.read(clock=False) as tx:
            since_ms = self._rooms.now_ms("") - KNOWN_MS
            for row in await records.rooms_since(tx, rooms.hospitals, since_ms):
                room = rooms.known.get((row.hospital_id, row.release_ms))
                if room is None:
                    room = rooms.known[row.hospital_id, row.release_ms] = Room(row.hospital_id, row.release_ms)
                room.opened_by = OpenedBy(row.opened_by)
                room.closed_because = ClosedBecause(row.closed_because) if row.closed_because else None
                room.rate_milli, room.busy_ms, room.is_open = row.rate_milli, row.busy_ms, row.closed_ms is None
                room.ranks.arrivals = row.arrivals
                if room.is_open:
                    await self._follow(tx, room)
        current = {room.hospital_id: room for room in rooms.known.values() if room.is_open}
        for gone in set(rooms.current) - set(current):
            del rooms.current[gone]
        rooms.current.update(current)
        for key in [key for key in rooms.known if key[1] < since_ms]:
            del rooms.known[key]
        for charge in self._charges:
            self._show(charge)

    async def _follow(self, tx: Tx, room: Room) -> None:
        room.note_steps(await records.steps_after(tx, room.hospital_id, room.release_ms, room.watermark))
        is_past = self._rooms.now_ms(room.hospital_id) > room.release_ms + LONGEST_JOIN_MS
        more = not room.is_complete
        while more:
            ranks, room.changed, more = await records.ranks_after(tx, room.hospital_id, room.release_ms, room.changed)
            room.ranks.add(ranks)
            if more:
                await asyncio.sleep(0)
        room.is_complete = is_past

    def _show(self, charge: _Charge) -> None:
        room = self._rooms.current.get(charge.hospital.id)
        charge.open.set(0 if room is None else 1)
        charge.waiting.set(0 if room is None else room.waiting)
        charge.per_s.set(0 if room is None or charge.rate is None else charge.rate.per_s)

    # --- the clock ------------------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Open what is due, let people in for the time since the last tick, close what is done."""
        now_s = self._monotonic_s()
        dt_s, self._ticked_s = min(now_s - self._ticked_s, LONGEST_TICK_S), now_s
        # Side by side: who waits for the lock of one hospital must not keep the others' people waiting.
        await asyncio.gather(
            *(
                self._try(partial(self._tick, charge, charge.delay.peak_s, charge.delay.take_s(), dt_s))
                for charge in self._charges
                if charge.hospital.mode is Mode.LIVE
            )
        )

    async def _tick(self, charge: _Charge, peak_s: float, delay_s: float, dt_s: float) -> None:
        hospital, rule = charge.hospital, charge.hospital.waiting_room
        room, now_ms = self._rooms.current.get(hospital.id), self._rooms.now_ms(hospital.id)
        due_ms = release_to_open_for(rule, hospital.release, hospital.zone, now_ms)
        is_known = (hospital.id, due_ms) in self._rooms.known
        # A release's room that is open goes on until it is done: nobody loses their place. One by load makes way.
        if due_ms is not None and not is_known and (room is None or room.opened_by is OpenedBy.LOAD):
            await self._open(hospital, due_ms, OpenedBy.RELEASE)
        elif room is None:
            await self._open_by_load(charge, peak_s, now_ms)
        elif room.phase(now_ms) is Phase.OPEN:
            await self._serve(charge, room, delay_s, dt_s)

    async def _open_by_load(self, charge: _Charge, peak_s: float, now_ms: int) -> None:
        """By the longest delay of each second: where holds are shed, queues come and go, and none of them stands."""
        hospital, rule = charge.hospital, charge.hospital.waiting_room
        is_hot = rule.opens_by_load and peak_s > OPENS_ABOVE * rule.delay_s
        charge.hot_ticks = charge.hot_ticks + 1 if is_hot else 0
        if charge.hot_ticks >= OPENS_AFTER_TICKS:
            charge.hot_ticks = 0
            # A release that has just been keeps its places; else the room is one of its own, of this moment.
            half_ms = int(rule.lasts_s * 500)
            release_ms = last_release(hospital.release, hospital.zone, now_ms, within_ms=half_ms)
            await self._open(hospital, now_ms if release_ms is None else release_ms, OpenedBy.LOAD)

    async def _open(self, hospital: Hospital, release_ms: int, by: OpenedBy) -> None:
        async with self._store.write(hospital.id, here=True) as tx:
            opened = await records.open_room(tx, release_ms, by, hospital.waiting_room)
        if opened:
            log.info("waiting_room_opened", hospital=hospital.id, release_ms=release_ms, by=by.value)
        await self.look()

    async def _serve(self, charge: _Charge, room: Room, delay_s: float, dt_s: float) -> None:
        rule = charge.hospital.waiting_room
        if charge.rate is None or charge.of_release_ms != room.release_ms:
            first_per_s = (room.rate_milli / 1000 or rule.rate_per_s) * self._share
            charge.rate = Rate(first_per_s, rule.most_per_s * self._share, rule.delay_s)
            charge.of_release_ms = room.release_ms
        charge.ticks += 1
        if await self._close_if_done(charge, room, delay_s):
            return
        rate, waiting = charge.rate, room.waiting
        rates = room.rates_per_s(self._rooms.now_ms(room.hospital_id))
        is_limit = waiting > rate.per_s * dt_s
        slow_s = max(delay_s, rule.delay_s * charge.lock_s / (charge.hospital.lock_wait_s / LOCKS_PART))
        rate.follow(slow_s, dt_s, is_limit=is_limit, fair_per_s=rates[0] * self._share if rates else rate.per_s)
        count = rate.take(dt_s)
        if count and waiting:
            # What nobody waited for is no measure of what could have been served, and is not remembered.
            await self._admit(charge, room, count, round(rates[0] * 1000) if is_limit and rates and rates[0] else None)
        elif delay_s > rule.delay_s:
            async with self._store.write(room.hospital_id, here=True) as tx:
                await records.note_busy(tx, room.release_ms)
        if waiting <= count:
            rate.forgo()

    async def _admit(self, charge: _Charge, room: Room, count: int, rate_milli: int | None) -> None:
        async with self._store.write(room.hospital_id, here=True) as tx:
            admitted = await records.admit(tx, room.release_ms, count, rate_milli=rate_milli)
        charge.admitted.inc(admitted)

    async def _close_if_done(self, charge: _Charge, room: Room, delay_s: float) -> bool:
        rule, now_ms = charge.hospital.waiting_room, self._rooms.now_ms(room.hospital_id)
        if now_ms >= room.release_ms + int(rule.lasts_s * 1000):
            return await self._close(room, ClosedBecause.OVER)
        if charge.ticks % STORE_EVERY_TICKS == 0:
            async with self._store.read(room.hospital_id) as tx:
                sold_out = await records.is_sold_out(tx, room.release_ms)
                charge.lock_s = await self._lock_s(tx, charge.hospital)
            if sold_out:
                return await self._close(room, ClosedBecause.SOLD_OUT)
        is_calm = room.waiting == 0 and delay_s <= rule.delay_s / 2
        if not is_calm or now_ms < room.busy_ms + int(rule.quiet_s * 1000):
            return False
        async with self._store.write(room.hospital_id, here=True) as tx:
            closed = await records.close_when_calm(tx, room.release_ms, rule)
        return await self._told(room, ClosedBecause.CALM) if closed else False

    @staticmethod
    async def _lock_s(tx: Tx, hospital: Hospital) -> float:
        """How long a new hold would wait for its lock; where the seats are ours there is none."""
        if hospital.reserve_by is ReserveBy.QUOTA:
            return 0.0
        return await records.expected_lock_s(tx, lock_verb(hospital), within_s=hospital.lock_wait_s)

    async def _close(self, room: Room, because: ClosedBecause) -> bool:
        async with self._store.write(room.hospital_id, here=True) as tx:
            closed = await records.close_room(tx, room.release_ms, because)
        return await self._told(room, because) if closed else True

    async def _told(self, room: Room, because: ClosedBecause) -> bool:
        log.info(
            "waiting_room_closed",
            hospital=room.hospital_id,
            release_ms=room.release_ms,
            because=because.value,
            joined=len(room.ranks),
        )
        await self.look()
        return True
