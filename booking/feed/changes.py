"""The change feed of a process (DESIGN section 4): which days of which departments were written, which keys were accepted.

A poll misses no commit: writes of a hospital are numbered under its lock, which is held until the commit can be seen, so that
whoever sees write 7 sees 1 to 6 as well. What was read before a lost connection is read again after it: the store that
answers then may be a standby that has forgotten the last writes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from booking.allowance import Allowance
from booking.feed.clock import FeedClock
from booking.feed.poller import FRAGMENTS, KEYS, STORE_AWAY, Clocks, Place, Poller
from booking.store.engine import Store, changes_topic
from monitoring.logs import get_logger
from monitoring.metrics import feed_age_seconds

log = get_logger(__name__)

FRESH_MS = 200
"""Knowledge that is older is not answered from."""

NEVER_S = float("-inf")
POLL_S = 0.1
POLL_TIMEOUT_S = 5.0
RETRY_AT_MOST_S = 1.0
# Polls that our own writes ask for: at once while there are few, and in a crowd so often that they cost a percent of a core.
RUNG_PER_S, RUNG_BURST = 20.0, 20
DOUBT_S = 60.0  # how long keys are read after a write whose end nobody saw
KEYS_OF_MS = 24 * 3600 * 1000
# A standby that took over may be behind the clock that we knew.
KEYS_AGAIN_MS = 60_000

OnFragment = Callable[[str, str, str, int], None]
"""Hospital, date (ISO), department, number of the write. Date and department are "" for the hospital's lists themselves."""

OnKey = Callable[[str, str, str], None]
"""Hospital, client, Idempotency-Key."""


class ChangeFeed:
    """One for each process. `listen`, then `start`; until the first poll has ended its knowledge is infinitely old.

    Listeners are called in the loop's thread, may be told the same thing twice, and must be quick.
    """

    def __init__(
        self,
        store: Store,
        hospital_ids: Iterable[str],
        *,
        alone: bool | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`alone`: no other process accepts keys; None: as it is on this kind of store."""
        self._store = store
        self._hospital_ids = tuple(hospital_ids)
        self._monotonic_s = monotonic_s
        self._poller = Poller(store)
        self._clock = FeedClock(store, monotonic_s)
        self._on_fragment: list[OnFragment] = []
        self._on_key: list[OnKey] = []
        self._on_polled: list[Callable[[], None]] = []
        self._seen: dict[str, int] = {}
        self._keys_from_ms: dict[str, int] = {}
        self._alone = store.dialect == "sqlite" if alone is None else alone
        self._doubted_until_s: dict[str, float] = {}
        self._behind: dict[str, float] = {}
        self._allowance = Allowance(RUNG_PER_S, RUNG_BURST, monotonic_s())
        self._rung = asyncio.Event()
        self._rings: dict[str, asyncio.Future[None]] = {}
        self._waiting: asyncio.Future[None] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._away = False
        self._listened = 0
        self._told_to = 0
        self.sure_s = NEVER_S
        """What was committed before this instant of the monotonic clock is known."""

    def listen(
        self,
        *,
        on_fragment: OnFragment | None = None,
        on_key: OnKey | None = None,
        on_polled: Callable[[], None] | None = None,
    ) -> None:
        """Be told of changes, and of the end of every poll that succeeded. Keys are only read where somebody listens.

        Whoever comes after the start makes the feed read everything again: until then it knows nothing.
        """
        self._listened += 1
        self.sure_s = NEVER_S
        if on_fragment is not None:
            self._on_fragment.append(on_fragment)
        if on_key is not None:
            self._on_key.append(on_key)
        if on_polled is not None:
            self._on_polled.append(on_polled)

    async def start(self) -> None:
        """Begin to poll. Does not wait for the first poll to end, which reads all there is."""
        for hospital_id in self._hospital_ids:
            self._await_ring(hospital_id)
        if self._alone:
            self._store.on_key = self._tell_key
        feed_age_seconds.set_function(lambda: self.age_ms() / 1000)
        self._task = asyncio.create_task(self._run(), name="change feed")

    async def close(self) -> None:
        """Stop, and give the connection back."""
        if self._alone:
            self._store.on_key = None
        for ring in self._rings.values():
            ring.cancel()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._drop()

    def age_ms(self) -> float:
        """How old our knowledge may be: the time since the last poll that succeeded began; infinite before the first."""
        return (self._monotonic_s() - self.sure_s) * 1000

    def seen(self, hospital_id: str) -> int:
        """The last write of this hospital whose changes we know."""
        return self._seen.get(hospital_id, 0)

    def store_now_ms(self, hospital_id: str = "") -> int:
        """The store's clock as well as we know it, never ahead of it."""
        return self._clock.now_ms(hospital_id)

    @property
    def is_away(self) -> bool:
        """Whether the last poll could not reach the store."""
        return self._away

    def is_behind(self, hospital_id: str) -> bool:
        """Whether this process has just written at the hospital, and the poll that shows it is about to end."""
        return hospital_id in self._behind

    def is_fresh(self, hospital_id: str) -> bool:
        """Whether what we know of the hospital may be answered from: it is young enough, and not behind."""
        return self._monotonic_s() - self.sure_s < FRESH_MS / 1000 and hospital_id not in self._behind

    async def catch_up(self, timeout_s: float) -> None:
        """Wait until a poll that begins from now on has ended, well or not; returns at once where none will come.

        Where polls are made on the loop, the reader makes it: waiting for another task takes turns, which are long in a crowd.
        """
        if self._task is None or self._away:
            return
        if self._poller.on_loop and self.sure_s != NEVER_S and not self._one_at_a_time.locked():
            # What goes wrong is found, and told, by the next poll of the loop.
            with suppress(Exception):
                async with asyncio.timeout(timeout_s):
                    await self._poll_once(unless_since_s=self._monotonic_s())
            return
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._waiting], timeout=timeout_s)

    # --- the loop -------------------------------------------------------------------------------------------------

    def _await_ring(self, hospital_id: str) -> None:
        future = self._store.bell.listen(changes_topic(hospital_id))
        future.add_done_callback(partial(self._on_ring, hospital_id))
        self._rings[hospital_id] = future

    def _on_ring(self, hospital_id: str, future: asyncio.Future[None]) -> None:
        if future.cancelled():
            return
        self._await_ring(hospital_id)
        now_s = self._monotonic_s()
        if self._allowance.wait_s(now_s) == 0:
            self._behind[hospital_id] = now_s
        self._rung.set()

    async def _run(self) -> None:
        retry_s = POLL_S
        while True:
            started_s = self._monotonic_s()
            try:
                async with asyncio.timeout(None if self.sure_s == NEVER_S else POLL_TIMEOUT_S):
                    await self._poll_once()
            except Exception as error:  # a feed that ended would leave its readers with the slow way for ever
                self._note_away(error)
                await self._drop()
                retry_s = min(2 * retry_s, RETRY_AT_MOST_S)
            else:
                retry_s = POLL_S
            await self._pause(started_s, retry_s)

    async def _poll_once(self, *, unless_since_s: float | None = None) -> None:
        """Poll, for all who wait by now; not, for a reader, where one has begun since then."""
        async with self._one_at_a_time:
            started_s = self._monotonic_s()
            if unless_since_s is not None:
                if self.sure_s > unless_since_s:
                    return
                self._allowance.take(started_s)
            waiting, self._waiting = self._waiting, None
            self._rung.clear()
            try:
                await self._poll(started_s)
            except BaseException:
                self._rung.set()  # what was rung for is still to be read
                raise
            finally:
                if waiting is not None and not waiting.done():
                    waiting.set_result(None)

    async def _poll(self, started_s: float) -> None:
        listened = self._listened
        if not self._poller.connected:
            await self._poller.connect()
            self._begin_again()
        if listened != self._told_to:
            self._seen.clear()
            self._keys_from_ms.clear()
        clocks = await self._poller.clocks()
        self._clock.note(clocks.store_ms, clocks.last_ms)
        moved = [h for h in self._hospital_ids if clocks.writes.get(h, 0) > self._seen.get(h, 0)]
        if moved:
            await self._read_fragments(moved)
            if self._on_key:
                await self._read_keys(moved, clocks)
            for hospital_id in moved:
                self._seen[hospital_id] = clocks.writes[hospital_id]
        if listened == self._listened:  # else somebody came meanwhile, and was told but a part
            self._told_to = listened
            self._settle(started_s)

    def _settle(self, started_s: float) -> None:
        """The poll that began then has succeeded."""
        self.sure_s = started_s
        if self._away:
            self._away = False
            log.info("feed_recovered")
        self._behind = {h: at_s for h, at_s in self._behind.items() if at_s > started_s}
        for polled in self._on_polled:
            polled()

    async def _read_fragments(self, hospital_ids: list[str]) -> None:
        places = {h: Place(self._seen.get(h, 0) + 1) for h in hospital_ids}
        async for page in self._poller.pages(FRAGMENTS, places):
            for hospital_id, date, department_id, changed in page:
                for told in self._on_fragment:
                    told(hospital_id, date, department_id, changed)

    async def _read_keys(self, hospital_ids: list[str], clocks: Clocks) -> None:
        """Keys carry the time of their write, which several writes may share: the last one is read again.

        Alone, we have told every key as it was written (holds by their writer, the others by `Store.on_key`), and read those
        from before the start.
        """
        oldest_ms = self._clock.now_ms("") - KEYS_OF_MS
        self._note_doubts()
        now_s = self._monotonic_s()
        places = {
            h: Place(self._keys_from_ms.get(h, oldest_ms))
            for h in hospital_ids
            if not self._alone or h not in self._keys_from_ms or self._doubted_until_s.get(h, NEVER_S) > now_s
        }
        async for page in self._poller.pages(KEYS, places):
            for hospital_id, client_id, key, _ in page:
                for told in self._on_key:
                    told(hospital_id, client_id, key)
        for hospital_id in hospital_ids:
            self._keys_from_ms[hospital_id] = clocks.last_ms[hospital_id]

    def _note_doubts(self) -> None:
        for hospital_id, since_ms in self._store.take_doubts().items():
            self._doubted_until_s[hospital_id] = self._monotonic_s() + DOUBT_S
            if hospital_id in self._keys_from_ms:
                self._keys_from_ms[hospital_id] = min(since_ms, self._keys_from_ms[hospital_id])

    def _tell_key(self, hospital_id: str, client_id: str, key: str) -> None:
        for told in self._on_key:
            told(hospital_id, client_id, key)

    def _begin_again(self) -> None:
        self._seen.clear()
        for hospital_id in self._keys_from_ms:
            self._keys_from_ms[hospital_id] -= KEYS_AGAIN_MS

    def _note_away(self, error: Exception) -> None:
        if self._away:
            return
        self._away = True
        if isinstance(error, STORE_AWAY):
            log.warning("feed_interrupted", reason=type(error).__name__)
        else:
            log.error("feed_failed", exc_info=error)

    async def _drop(self) -> None:
        with suppress(Exception):  # what is given up may be broken in any way
            await self._poller.drop()

    async def _pause(self, started_s: float, most_s: float) -> None:
        """Until the next poll is due, or earlier when our own writes ring and it is allowed."""
        due_s = started_s + most_s
        left_s = due_s - self._monotonic_s()
        if left_s <= 0:
            await asyncio.sleep(0)
            return
        if self._away:
            await asyncio.sleep(left_s)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(left_s):
                rung = False
                while not rung:
                    await self._rung.wait()
                    await asyncio.sleep(min(self._allowance.wait_s(self._monotonic_s()), left_s))
                    rung = self._rung.is_set()  # else a reader has polled meanwhile
                self._allowance.take(self._monotonic_s())
