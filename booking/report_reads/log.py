"""Writing reads down before their reports leave: those that arrive together share a transaction."""

from __future__ import annotations

import asyncio
from collections import deque

from booking.report_reads.chain import append_reads, scope_of
from booking.report_reads.rows import ReportRead
from booking.store.engine import Store, StoreBusy, StoreUnavailable
from booking.store.turns import Of
from monitoring import metrics
from monitoring.logs import get_logger, request_id
from monitoring.trace_context import nobodys

MOST_TOGETHER = 64  # on SQLite they are written on the event loop: some two milliseconds
MOST_WAITING = 4_096

_One = tuple[tuple[ReportRead, ...], asyncio.Future[None]]
_Waiting = deque[_One]

log = get_logger("report_reads")


class ReadLog:
    """One for each process, or several: the chain is continued from the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, _Waiting] = {}  # of the hospitals where somebody is being served
        self._tasks: set[asyncio.Task[None]] = set()

    async def record(self, hospital_id: str, *reads: ReportRead) -> None:
        """Returns when the reads are on the disk. Raises StoreUnavailable: then their reports must not be given."""
        if not reads:
            return
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(hospital_id)
        if waiting is None:
            waiting = self._waiting[hospital_id] = deque()
            # A task of nobody's: that a caller goes away ends no other's record.
            task = asyncio.create_task(self._serve(hospital_id, waiting), context=nobodys())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif len(waiting) >= MOST_WAITING:
            raise StoreBusy("too many reads wait to be recorded")
        waiting.append((reads, told))
        await told

    async def _serve(self, hospital_id: str, waiting: _Waiting) -> None:
        request_id.set(None)
        try:
            while waiting:
                await self._serve_some(hospital_id, waiting)
        finally:
            del self._waiting[hospital_id]
            for _, told in waiting:  # nobody, unless the process ends
                told.cancel()

    async def _serve_some(self, hospital_id: str, waiting: _Waiting) -> None:
        taken: list[_One] = []
        try:
            async with self._store.write(scope_of(hospital_id), here=True, of=Of.BINDS) as tx:
                taken += _taken(waiting)  # now: whoever has come while the turn was waited for is served as well
                await append_reads(tx, hospital_id, [read for reads, _ in taken for read in reads])
        except StoreUnavailable as e:
            _fail(hospital_id, taken or _taken(waiting), e)
        except Exception as e:
            log.error("report_reads_not_written", hospital=hospital_id, exc_info=e)
            _fail(hospital_id, taken or _taken(waiting), StoreUnavailable(type(e).__name__))
        else:
            for reads, told in taken:
                for read in reads:
                    metrics.report_reads.labels(hospital=hospital_id, outcome=read.outcome.value).inc()
                if not told.done():
                    told.set_result(None)
        finally:
            for _, told in taken:  # all are told, unless the process ends
                told.cancel()


def _fail(hospital_id: str, taken: list[_One], error: StoreUnavailable) -> None:
    metrics.report_reads_unrecorded.labels(hospital=hospital_id).inc(len(taken))
    for _, told in taken:
        if not told.done():
            told.set_exception(error)


def _taken(waiting: _Waiting) -> list[_One]:
    """The first of those who wait and have not gone away: nothing is given to those."""
    taken: list[_One] = []
    while waiting and len(taken) < MOST_TOGETHER:
        one = waiting.popleft()
        if not one[1].done():
            taken.append(one)
    return taken
