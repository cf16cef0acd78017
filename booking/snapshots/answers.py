"""Composed answers, and whether they still hold: while nothing in them has changed, by a write or by the clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from booking.feed import FRESH_MS, ChangeFeed
from booking.snapshots.day import FOREVER_MS
from booking.snapshots.days import Days, Ticks
from booking.snapshots.reading import DayKey
from booking.snapshots.shelf import Shelf, Sized
from booking.store.engine import StoreUnavailable
from monitoring.metrics import snapshot_reads

# A poll comes every 100 ms. If the last one is older, this process was busy or the store was slow: the next one is better
# than a crowd that reads through the store because of it.
CATCH_UP_S = 0.25
# While the store cannot be reached, the last answer is shown for so long, with its age: a hold decides anew in any case.
STALE_S = 30.0
# A store that the feed has lost is waited for no longer than this, and after a failure not asked by the whole crowd.
PATIENCE_S, AVOIDED_S = 0.25, 2.0
_MADE_BYTES = 1_000

_NOBODY = Ticks()

V = TypeVar("V", bound=Sized)


class Made(Generic[V]):
    """An answer and what it was made of.

    `ticks`: of each day in it, the tick of the reading. `departments`: of each date, all that were looked at, where all were
    asked for. It holds from `from_ms` until just before `until_ms`. `known_s`: it shows what was committed before that.
    `through`: it was read through the store, and nobody will tell when it changes.
    """

    __slots__ = (
        "departments", "from_ms", "known_s", "nbytes", "of", "settled_at", "through", "ticks", "until_ms", "value",
    )  # fmt: skip

    def __init__(
        self,
        value: V,
        *,
        known_s: float,
        ticks: Mapping[DayKey, int] | None = None,
        departments: Mapping[str, tuple[str, ...]] | None = None,
        from_ms: int = 0,
        until_ms: int = FOREVER_MS,
        through: bool = False,
    ) -> None:
        self.value = value
        self.known_s = known_s
        self.ticks = ticks or {}
        self.departments = departments or {}
        self.from_ms = from_ms
        self.until_ms = until_ms
        self.through = through
        self.of = _NOBODY
        self.settled_at = -1  # the hospital's tick at which all of it was found current
        self.nbytes = value.nbytes + _MADE_BYTES + 200 * len(self.ticks)


@dataclass(frozen=True, slots=True)
class Shown(Generic[V]):
    """An answer for a reader. `age_s`: it shows what was committed so long ago, as nobody could tell since; None: it holds."""

    value: V
    age_s: float | None = None


class Recipe(Protocol[V]):
    """How an answer is made. `here`: composing it hardly leaves the event loop."""

    here: bool

    def compose(self) -> Awaitable[Made[V]]:
        """From ready-made days. Raises StoreUnavailable."""
        ...

    def read(self) -> Awaitable[Made[V]]:
        """Through the store. Raises StoreUnavailable."""
        ...


class Answers(Generic[V]):
    """Answers by hospital and query. `get` costs a reader next to nothing; where it has nothing, `make` does the work once."""

    def __init__(
        self,
        days: Days,
        feed: ChangeFeed,
        *,
        max_bytes: int,
        kind: str = "answers",
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._days = days
        self._feed = feed
        self._monotonic_s = monotonic_s
        self._shelf: Shelf[tuple[str, Hashable], Made[V]] = Shelf(kind, max_bytes)
        self._making: dict[tuple[str, Hashable], asyncio.Future[Made[V]]] = {}
        self._avoid_until_s = 0.0
        self._hits = 0
        self._count_hits, self._count_composed, self._count_read, self._count_stale = (
            snapshot_reads.labels(result).inc for result in ("hit", "composed", "store", "stale")
        )
        feed.listen(on_polled=self._flush_hits)

    def get(self, hospital_id: str, query: Hashable) -> V | None:
        """The answer, if it is there and holds."""
        made = self._shelf.get((hospital_id, query))
        if made is None or not made.from_ms <= self._feed.store_now_ms(hospital_id) < made.until_ms:
            return None
        certain = made.settled_at == made.of.tick and self._feed.is_fresh(hospital_id)
        if not certain and not self._may_be_shown(made, hospital_id):
            return None
        self._hits += 1
        return made.value

    async def make(self, hospital_id: str, query: Hashable, recipe: Recipe[V]) -> Shown[V]:
        """The answer where `get` had none; made once for all who ask meanwhile.

        While the store is away, the last answer with its age (RFC 5861, section 4). Raises StoreUnavailable where there is none.
        """
        feed, key = self._feed, (hospital_id, query)
        if not feed.is_fresh(hospital_id):
            await feed.catch_up(CATCH_UP_S)
            answer = self.get(hospital_id, query)
            if answer is not None:
                return Shown(answer)
            if self._monotonic_s() < self._avoid_until_s and (stale := self._stale(key)) is not None:
                return stale
        making = self._making.get(key)
        if making is None and recipe.here and feed.age_ms() < FRESH_MS:
            making = await self._make_here(key, recipe)
        elif making is None:
            making = self._making[key] = asyncio.create_task(self._make(key, recipe), name=f"answer of {hospital_id}")
            making.add_done_callback(partial(self._end, key))
        # The feed may lose the store while we wait: whoever came before that must not wait for a reading that says nothing.
        while not making.done() and not (await asyncio.wait([making], timeout=PATIENCE_S))[0]:
            if not feed.is_away:
                continue
            self._avoid_until_s = self._monotonic_s() + AVOIDED_S
            if (stale := self._stale(key)) is not None:
                return stale
        if making.cancelled():  # whoever made it has gone
            return await self.make(hospital_id, query, recipe)
        try:
            return Shown(making.result().value)
        except StoreUnavailable:
            self._avoid_until_s = self._monotonic_s() + AVOIDED_S
            if (stale := self._stale(key)) is None:
                raise
            return stale

    def _stale(self, key: tuple[str, Hashable]) -> Shown[V] | None:
        """The last answer, if it is not too old and the clock has not made another of it."""
        made = self._shelf.get(key)
        if made is None or not made.from_ms <= self._feed.store_now_ms(key[0]) < made.until_ms:
            return None
        settled = not made.through and made.settled_at == made.of.tick
        age_s = self._monotonic_s() - (max(made.known_s, self._feed.sure_s) if settled else made.known_s)
        if age_s > STALE_S:
            return None
        self._count_stale()
        return Shown(made.value, age_s)

    async def _make_here(self, key: tuple[str, Hashable], recipe: Recipe[V]) -> asyncio.Future[Made[V]]:
        """In the reader's own turn of the loop: a task, and waiting for it, takes more turns, which beside a crowd are long."""
        making = self._making[key] = asyncio.get_running_loop().create_future()
        try:
            making.set_result(await self._make(key, recipe))
        except Exception as error:
            making.set_exception(error)
        finally:
            del self._making[key]
            making.cancel()  # in vain, unless we are cancelled
        return making

    async def _make(self, key: tuple[str, Hashable], recipe: Recipe[V]) -> Made[V]:
        if self._feed.age_ms() < FRESH_MS:
            made = await recipe.compose()
            self._count_composed()
        else:
            made = await recipe.read()
            self._count_read()
        made.of = self._days.ticks(key[0])
        self._shelf.put(key, made)
        return made

    def _end(self, key: tuple[str, Hashable], making: asyncio.Future[Made[V]]) -> None:
        del self._making[key]
        if not making.cancelled():
            making.exception()  # when everybody has gone, it is nobody's error

    def _may_be_shown(self, made: Made[V], hospital_id: str) -> bool:
        """Whether it holds as far as we know, or shows what was true a moment ago where we cannot know."""
        if self._feed.age_ms() >= FRESH_MS:
            return (self._monotonic_s() - made.known_s) * 1000 < FRESH_MS
        if made.through or self._feed.is_behind(hospital_id):
            return False
        tick = made.of.tick
        current = self._is_current(made, hospital_id)
        if current:
            made.settled_at = tick
        return current is not None

    def _is_current(self, made: Made[V], hospital_id: str) -> bool | None:
        """None: something is to be read again. False: something has changed, and may be shown as it was a little longer."""
        days, current = self._days, True
        for date, departments in made.departments.items():
            if days.departments(hospital_id, date) != departments:
                return None
        for key, tick in made.ticks.items():
            if days.tick_of(key) != tick:
                kept = days.kept(key)
                if kept is None or kept.tick != tick:
                    return None
                current = False
        return current

    def _flush_hits(self) -> None:
        """A counter costs a reader more than the answer does: it is brought up to date with every poll."""
        hits, self._hits = self._hits, 0
        self._count_hits(hits)
