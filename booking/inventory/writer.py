"""The writer of holds: bounded queues with deadlines, drained in turn into batches, and nobody answered before it is certain."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import msgspec
from prometheus_client import Counter

from booking.commands import wake_topic
from booking.errors import Refusal
from booking.inventory.decide import decide
from booking.inventory.memory import Memory
from booking.inventory.outcomes import Batches, CommitUnknown, Violation
from booking.inventory.postgres import PostgresBatches
from booking.inventory.requests import Answer, Facts, HoldRequest, KeyFacts, Refused, Terms
from booking.inventory.rows import Batch, Render, build
from booking.inventory.sqlite import SqliteBatches
from booking.news import NUMBERED, SEQUENCER
from booking.rules.settings import wanted_by
from booking.settings import Hospital
from booking.store.crypto import HospitalVault
from booking.store.engine import WRITER_TIMEOUT_S, Store, StoreBusy, StoreUnavailable, changes_topic
from booking.store.ids import new_ids
from booking.store.turns import Of
from booking.waiting_room.gate import CODE as WAITING_ROOM
from booking.waiting_room.gate import Gate
from monitoring import metrics
from monitoring.logs import get_logger
from monitoring.traces import is_tracing, working_for
from monitoring.traces import span as traced

log = get_logger("holds")

MOST_IN_BATCH = 256
# How long a batch waits at most for those who are just coming in. One that comes alone waits for one turn of the loop.
LET_IN_S = 0.005
# How long those wait whose commit's answer was lost, while the store comes back. Then they are told to ask again.
SETTLE_S = 10.0
SETTLE_PAUSE_S = 0.1
LATE_EVERY_S = 0.1

_LATE = "the turn of this request did not come in time"
_NOT_KNOWN = "it is not known whether the store took this; ask again with the same key"

TermsOf = Callable[[Hospital, int], Terms]
"""What a hospital allows at an instant of the store's clock, in milliseconds."""


Outcome = Answer | Refused
"""Refusals travel as data: an exception kept in a future of its own traceback is a cycle for the collector to find."""


class Crowded(Exception):
    """The hospital's queue is full, or the request's turn did not come in time. Nothing was decided."""


class _Item(msgspec.Struct):
    request: HoldRequest
    asked_s: float
    deadline_s: float
    answer: asyncio.Future[Outcome]


class HoldWriter:
    """Holds of all hospitals, in one process. `render` makes the body of a success.

    `queue` bounds how many holds of one hospital may wait, `deadline_s` for how long.
    """

    def __init__(
        self,
        store: Store,
        *,
        terms: TermsOf,
        render: Callable[[Hospital], Render],
        memory: Memory | None = None,
        gate: Gate | None = None,
        queue: int = 5_000,
        deadline_s: float = 5.0,
        batches: Batches | None = None,
    ) -> None:
        self._store = store
        self._terms = terms
        self._render = render
        self._memory = memory
        self._gate = gate
        self._queue = queue
        self._deadline_s = deadline_s
        self._batches = batches or (SqliteBatches(store) if store.dialect == "sqlite" else PostgresBatches(store))
        self._waiting: dict[str, deque[_Item]] = {}
        self._hospitals: dict[str, Hospital] = {}
        self._ready: deque[str] = deque()
        self._scheduled: set[str] = set()  # in `_ready`, or with a batch under way: one at a time for each hospital
        self._work = asyncio.Semaphore(0)
        self._unsettled: set[tuple[str, str, str]] = set()
        self._runners: list[asyncio.Task[None]] = []
        self._watch: asyncio.Task[None] | None = None
        self._closing = False
        self._impatient = 0  # how many asked with a deadline of their own since all queues were looked through
        # Looking up a series costs more than the answer from memory does.
        self._count_refused = _counting(metrics.holds, "refused_from_memory")
        self._count_turned_away = _counting(metrics.waiting_room_refused)

    async def start(self) -> None:
        """Begin to drain the queues."""
        await self._batches.start()
        self._runners = [asyncio.create_task(self._run(), name=f"holds {n}") for n in range(self._batches.parallel)]
        self._watch = asyncio.create_task(self._turn_away_late(), name="holds: deadlines")

    async def close(self) -> None:
        """Decide what waits, then stop."""
        self._closing = True
        for _ in self._runners:
            self._work.release()
        if self._runners:
            await asyncio.wait(self._runners)
        if self._watch is not None:
            self._watch.cancel()
        await self._batches.close()

    def waiting(self, hospital_id: str) -> int:
        """How many holds of a hospital wait for their batch."""
        return len(self._waiting.get(hospital_id, ()))

    def oldest_s(self) -> float:
        """How long the hold has waited that waits longest for its batch."""
        return max(map(self.delay_s, self._waiting), default=0.0)

    def delay_s(self, hospital_id: str) -> float:
        """How long the first of a hospital's queue has waited by now; 0 where nobody waits."""
        waiting = self._waiting.get(hospital_id)
        return asyncio.get_running_loop().time() - waiting[0].asked_s if waiting else 0.0

    async def hold(self, hospital: Hospital, request: HoldRequest, *, within_s: float | None = None) -> Answer:
        """Take a seat, or give the key's first success again.

        Raises Refusal, Crowded, StoreUnavailable (nothing was decided, or it is not known what: ask again with the same key).
        The decision does not depend on whether the caller still waits for it.
        """
        # A caller that is cancelled cancels this future and nothing else: its item stays in the queue and is decided.
        return granted(await self.ask(hospital, request, within_s=within_s))

    def ask(
        self, hospital: Hospital, request: HoldRequest, *, within_s: float | None = None
    ) -> asyncio.Future[Outcome]:
        """Ask for a seat without waiting: see `hold`, and `granted` for what comes of it.

        A caller that waits only for `within_s` is turned away then, as at the deadline of all, unless its batch has begun.
        Raises Refusal (certain without the store) and Crowded at once.
        """
        if self._unsettled and (hospital.id, request.client_id, request.key) in self._unsettled:
            raise Refusal("request_in_progress", "A request with this Idempotency-Key is still being settled.")
        if self._gate is not None and hospital.mode == "live":
            turned_away = self._gate.refuse(hospital.id, request)
            if turned_away is not None and self._is_new(hospital.id, request):
                self._count_turned_away(hospital.id)
                raise _refusal(turned_away)
        # What was sold out a moment ago was so for those for whom no seat is set aside.
        if self._memory is not None and hospital.mode == "live" and request.offer is None:
            refused = self._memory.refuse(hospital.id, request)
            if refused is not None:
                self._count_refused(hospital.id)
                raise _refusal(refused)
        return self._enqueue(hospital, request, within_s)

    def _is_new(self, hospital_id: str, request: HoldRequest) -> bool:
        """Whether this key was certainly not accepted before: whoever was let in once gets the first answer again."""
        return self._memory is not None and self._memory.is_new(hospital_id, request.client_id, request.key)

    def _enqueue(self, hospital: Hospital, request: HoldRequest, within_s: float | None) -> asyncio.Future[Outcome]:
        loop = asyncio.get_running_loop()
        waiting = self._waiting.setdefault(hospital.id, deque())
        if self._closing or len(waiting) >= self._queue:
            metrics.holds.labels(hospital.id, "shed").inc()
            if not self._closing:
                metrics.requests_shed.labels("hold", "hold_queue").inc()
            raise Crowded("the queue of this hospital is full")
        answer: asyncio.Future[Outcome] = loop.create_future()
        if hospital.id not in self._scheduled:
            self._scheduled.add(hospital.id)
            self._ready.append(hospital.id)
            self._work.release()
        self._hospitals[hospital.id] = hospital
        now_s, patience_s = loop.time(), self._deadline_s
        if within_s is not None and within_s < patience_s:
            patience_s = within_s
            self._impatient += 1
        waiting.append(_Item(request, now_s, now_s + patience_s, answer))
        return answer

    # --- draining -------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._work.acquire()
            if not self._ready:
                if self._closing:
                    return
                continue
            hospital_id = self._ready.popleft()
            await self._let_in(self._waiting[hospital_id])
            items = self._take(self._waiting[hospital_id])
            try:
                if items:
                    await self._serve(self._hospitals[hospital_id], items)
            except Exception as error:  # a fault of ours must not end the work for everybody
                log.error("batch_failed", hospital=hospital_id, exc_info=error)
                _fail(items, error)
            if self._waiting[hospital_id]:
                self._ready.append(hospital_id)  # behind all others who wait
                self._work.release()
            else:
                self._scheduled.discard(hospital_id)

    @staticmethod
    async def _let_in(waiting: deque[_Item]) -> None:
        """Wait while more come in at each turn of the loop: what a batch costs once is shared by all who are in it.

        Otherwise a batch of the first few who were heard would follow each one of all the others.
        """
        loop = asyncio.get_running_loop()
        ends_s, there = loop.time() + LET_IN_S, 0
        while there < len(waiting) < MOST_IN_BATCH and loop.time() < ends_s:
            there = len(waiting)
            await asyncio.sleep(0)

    @staticmethod
    def _take(waiting: deque[_Item]) -> list[_Item]:
        now_s = asyncio.get_running_loop().time()
        items: list[_Item] = []
        while waiting and len(items) < MOST_IN_BATCH:
            item = waiting.popleft()
            if item.deadline_s <= now_s:
                _turn_away(item)
            else:
                items.append(item)
        return items

    async def _turn_away_late(self) -> None:
        """Whoever's deadline passes in the queue is told so then, not when the batch before it is through."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LATE_EVERY_S)
            impatient, self._impatient = self._impatient, 0
            for waiting in self._waiting.values():
                if impatient and waiting:
                    self._impatient += _turn_away_impatient(waiting, loop.time(), self._deadline_s)
                while waiting and waiting[0].deadline_s <= loop.time():
                    _turn_away(waiting.popleft())

    async def _serve(
        self, hospital: Hospital, items: Sequence[_Item], *, again: bool = True, settles: bool = True
    ) -> None:
        """One batch. What a constraint refuses is halved until the culprit is alone; it gets one more try with new ids.

        A lost commit is settled once: a store that keeps losing them is away.
        """
        try:
            batch = await (self._transact_traced if is_tracing() else self._transact)(hospital, items)
        except StoreUnavailable as error:
            self._store.note_write(error)
            _fail(items, error)
        except Violation as error:
            log.error("batch_refused_by_constraint", hospital=hospital.id, items=len(items), constraint=str(error))
            if len(items) > 1:
                half = len(items) // 2
                await self._serve(hospital, items[:half], settles=settles)
                await self._serve(hospital, items[half:], settles=settles)
            elif again:
                await self._serve(hospital, items, again=False, settles=settles)
            else:
                _fail(items, error)
        except CommitUnknown as error:
            log.error("commit_unknown", hospital=hospital.id, items=len(items), reason=str(error))
            if settles:
                await self._settle(hospital, items)
            else:
                _fail(items, StoreUnavailable(_NOT_KNOWN))
        else:
            self._tell(hospital, items, batch)

    async def _transact_traced(self, hospital: Hospital, items: Sequence[_Item]) -> Batch:
        """A batch has as many parents as it has requests that are traced: child of the first, linked with all."""
        spans = [item.request.span for item in items if item.request.span is not None]
        if not spans:
            with working_for(None):
                return await self._transact(hospital, items)
        with (
            working_for(spans[0].context.traceparent),
            traced("holds commit", links=[span.context for span in spans]) as one,
        ):
            if one is not None:
                one.attributes |= {"hisbridge.hospital": hospital.id, "hisbridge.batch.size": len(items)}
                for span in spans[1:]:
                    span.link(one.context)
            batch = await self._transact(hospital, items)
            if one is not None:
                one.set("hisbridge.batch.granted", batch.granted)
            return batch

    async def _transact(self, hospital: Hospital, items: Sequence[_Item]) -> Batch:
        requests = [item.request for item in items]
        booking_ids = new_ids(len(items))
        render = self._render(hospital)
        vault = HospitalVault(self._store.vault, hospital.id)

        def work(facts: Facts) -> Batch:
            decisions = decide(requests, booking_ids, facts, self._terms(hospital, facts.now_ms))
            return build(hospital, requests, booking_ids, decisions, facts, vault, render)

        async with self._turn(hospital.id):
            return await self._batches.transact(hospital.id, requests, work, wanted_by(hospital.rules))

    @asynccontextmanager
    async def _turn(self, hospital_id: str) -> AsyncIterator[None]:
        """Hold the process's turn to write. Raises StoreBusy."""
        turn = self._store.turn(hospital_id)
        try:
            await turn.acquire(Of.HOLDS, timeout_s=WRITER_TIMEOUT_S)
        except TimeoutError:
            raise StoreBusy("no turn to write in time") from None
        try:
            yield
        finally:
            turn.release()

    def _tell(self, hospital: Hospital, items: Sequence[_Item], batch: Batch) -> None:
        """The commit is certain: remember, wake, answer."""
        if self._memory is not None:
            self._memory.note_batch(hospital.id, batch, hospital.zone)
        replayed = turned_away = 0
        for item, answer in zip(items, batch.answers, strict=True):
            if isinstance(answer, Answer):
                replayed += answer.replayed
                if self._memory is not None:
                    self._memory.note_key(hospital.id, item.request.client_id, item.request.key)
            elif answer.code == WAITING_ROOM:
                turned_away += 1
            if not item.answer.done():
                item.answer.set_result(answer)
        if batch.granted:
            self._store.note_write(None)
            self._store.ring((wake_topic(hospital.id), changes_topic(hospital.id), self._news_topic))
            metrics.bookings.labels(hospital=hospital.id, state="held").inc(batch.granted)
            metrics.hold_batch_size.observe(len(items))
        if batch.offers:
            self._store.ring((SEQUENCER,))
            metrics.waitlist.labels(hospital=hospital.id, outcome="accepted").inc(len(batch.offers))
        if turned_away:
            metrics.waiting_room_refused.labels(hospital.id).inc(turned_away)
        metrics.holds.labels(hospital.id, "granted").inc(batch.granted)
        metrics.holds.labels(hospital.id, "replayed").inc(replayed)
        metrics.holds.labels(hospital.id, "refused").inc(len(items) - batch.granted - replayed)

    @property
    def _news_topic(self) -> str:
        return NUMBERED if self._store.dialect == "sqlite" else SEQUENCER

    # --- when the commit's answer was lost ------------------------------------------------------------------------

    async def _settle(self, hospital: Hospital, items: Sequence[_Item]) -> None:
        """Ask the keys what happened, before anybody is answered. A batch is stored as a whole or not at all."""
        bound = {(hospital.id, item.request.client_id, item.request.key) for item in items}
        self._unsettled |= bound
        try:
            known = await self._recall(hospital, items)
        finally:
            self._unsettled -= bound
        if known is None:
            _fail(items, StoreUnavailable(_NOT_KNOWN))
            return
        vault = HospitalVault(self._store.vault, hospital.id)
        undecided = []
        for item, stored in zip(items, known, strict=True):
            if stored is None or stored.digest != item.request.digest:
                undecided.append(item)  # not granted: then nothing was written for it, and it may be decided now
            elif not item.answer.done():
                body = vault.unseal(stored.sealed_body, "idempotency_keys", "body")
                item.answer.set_result(Answer(stored.status, body))
        if undecided:
            await self._serve(hospital, undecided, settles=False)

    async def _recall(self, hospital: Hospital, items: Sequence[_Item]) -> list[KeyFacts | None] | None:
        ends_s = asyncio.get_running_loop().time() + SETTLE_S
        while True:
            try:
                async with self._turn(hospital.id):
                    return await self._batches.recall(hospital.id, [item.request for item in items])
            except StoreUnavailable as error:
                if asyncio.get_running_loop().time() >= ends_s:
                    log.error("commit_not_settled", hospital=hospital.id, items=len(items), reason=str(error))
                    return None
                await asyncio.sleep(SETTLE_PAUSE_S)


def granted(outcome: Outcome) -> Answer:
    """The answer to a hold. Raises Refusal where it was refused."""
    if isinstance(outcome, Answer):
        return outcome
    raise _refusal(outcome)


def _refusal(refused: Refused) -> Refusal:
    return Refusal(refused.code, refused.detail, **refused.extra)


def _turn_away(item: _Item) -> None:
    metrics.requests_shed.labels("hold", "deadline").inc()
    _fail([item], Crowded(_LATE))


def _turn_away_impatient(waiting: deque[_Item], now_s: float, deadline_s: float) -> int:
    """Turn away those of a queue whose own deadline has passed, wherever they stand; how many such deadlines are left."""
    kept = [item for item in waiting if item.deadline_s > now_s]
    if len(kept) < len(waiting):
        late = [item for item in waiting if item.deadline_s <= now_s]
        waiting.clear()  # the very queue that a batch may be taken from
        waiting.extend(kept)
        for item in late:
            _turn_away(item)
    return sum(item.deadline_s < item.asked_s + deadline_s for item in kept)


def _fail(items: Sequence[_Item], error: Exception) -> None:
    for item in items:
        if not item.answer.done():
            item.answer.set_exception(error)
            item.answer.exception()  # a caller that has gone leaves nobody to be told


def _counting(counter: Counter, *outcome: str) -> Callable[[str], None]:
    """Counts one outcome (where the counter has several), by hospital."""
    series: dict[str, Counter] = {}

    def count(hospital_id: str) -> None:
        one = series.get(hospital_id)
        if one is None:
            one = series[hospital_id] = counter.labels(hospital_id, *outcome)
        one.inc()

    return count


def count_waiting(writer: HoldWriter, hospitals: Iterable[str]) -> None:
    """Let every scrape ask how many holds wait, and let what is counted begin at 0: Prometheus sees only increases."""
    for hospital_id in hospitals:
        metrics.holds_waiting.labels(hospital_id).set_function(partial(_waiting, writer, hospital_id))
        metrics.bookings.labels(hospital=hospital_id, state="held")
        for outcome in ("granted", "replayed", "refused", "refused_from_memory", "shed"):
            metrics.holds.labels(hospital_id, outcome)


def _waiting(writer: HoldWriter, hospital_id: str) -> float:
    return float(writer.waiting(hospital_id))
