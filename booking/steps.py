"""Steps of those who have a seat, payments and cancellations: who asks while others are served is served with those who do so.

Seconds after a release the first patients learn that their seat is locked, and pay within the same moments, a hundred a second.
Each with a transaction of its own, they stood behind each other's commits; together, one transaction serves sixteen. Alone, a
step is made at once, by whoever asks. A step that is refused leaves nothing behind: it is made by itself, and the others
without it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from booking.bookings import own_booking, unknown_booking
from booking.errors import Refusal
from booking.gathering import Gathering, booking_rows, gathered
from booking.records import Booking
from booking.store.engine import WRITER_TIMEOUT_S, Store, StoreBusy, StoreUnavailable
from booking.store.turns import Of
from monitoring.logs import request_id
from monitoring.trace_context import here, nobodys

MOST_TOGETHER = 16  # on SQLite they are made on the event loop: about 10 ms

Name = tuple[str, str]
"""Channel and trade number of a payment."""


class Step:
    """What one caller wants done to a booking of theirs. `work` is given it, and a transaction; what it returns is the answer.

    `names`: the payment that it will ask for, which is read beforehand. Raised by `work`: Refusal.
    """

    __slots__ = ("answer", "begun", "booking_id", "client_id", "is_for_itself", "names", "request_id", "trace", "work")

    def __init__(
        self,
        client_id: str,
        booking_id: str,
        work: Callable[[Gathering, Booking], Awaitable[Any]],
        names: Sequence[Name] = (),
    ) -> None:
        self.client_id = client_id
        self.booking_id = booking_id
        self.work = work
        self.names = names
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.begun = False
        self.is_for_itself = False  # it has made a transaction fail that was others' as well
        self.trace, self.request_id = here.get(), request_id.get()


class Steps:
    """One for each process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, deque[Step]] = {}  # of the hospitals where somebody is being served
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, hospital_id: str, step: Step) -> Any:
        """Make a step. Raises Refusal, StoreUnavailable."""
        waiting = self._waiting.get(hospital_id)
        if waiting is not None:
            waiting.append(step)
            return await self._served(step)
        self._waiting[hospital_id] = deque()
        try:
            return await self._make_alone(hospital_id, step)
        finally:
            self._go_on(hospital_id)

    async def _served(self, step: Step) -> Any:
        """Wait to be served; whoever has not begun after WRITER_TIMEOUT_S is told that the store is busy."""
        try:
            while not (await asyncio.wait([step.answer], timeout=WRITER_TIMEOUT_S))[0]:
                if not step.begun:
                    raise StoreBusy("no turn to write in time")
        except BaseException:  # also when whoever asked goes away: what has not begun is not done
            step.answer.cancel()
            raise
        return await step.answer

    def _go_on(self, hospital_id: str) -> None:
        """Serve those who asked meanwhile, in a task that nobody's going away ends, and of nobody's trace."""
        if not self._waiting[hospital_id]:
            del self._waiting[hospital_id]
            return
        task = asyncio.create_task(self._serve(hospital_id), context=nobodys())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, hospital_id: str) -> None:
        request_id.set(None)
        waiting = self._waiting[hospital_id]
        try:
            while waiting:
                await self._serve_some(hospital_id, waiting)
                while waiting and waiting[0].answer.done():
                    waiting.popleft()
        finally:
            del self._waiting[hospital_id]
            for step in waiting:  # nobody, unless the process ends
                step.answer.cancel()

    async def _serve_some(self, hospital_id: str, waiting: deque[Step]) -> None:
        steps: list[Step] = []
        answers: list[Any] = []
        failing: Step | None = None
        try:
            async with self._store.write(hospital_id, here=True, of=Of.STEPS) as tx:
                steps += _taken(waiting)  # now: whoever has come while the turn was waited for is served as well
                rows = await booking_rows(tx, [step.booking_id for step in steps])
                async with gathered(tx, rows, with_seats=False, names=[n for step in steps for n in step.names]) as it:
                    for failing in steps:
                        answers.append(await _made(it, failing))
                    failing = None
        except StoreUnavailable as e:
            # Nobody is told that all are busy who has not waited: see `_served`.
            _tell_all(steps or ([] if isinstance(e, StoreBusy) else _taken(waiting)), e)
        except Exception as e:
            if len(steps) < 2:
                _tell_all(steps or _taken(waiting), e)
                return
            for step in [failing] if failing is not None else steps:  # at the commit nobody knows whose failure it is
                step.is_for_itself = True
            _put_back(waiting, steps)
            steps = []
        else:
            for step, answer in zip(steps, answers, strict=True):
                _tell(step, answer)
        finally:
            for step in steps:  # all are told, unless the process ends
                step.answer.cancel()

    async def _make_alone(self, hospital_id: str, step: Step) -> Any:
        async with self._store.write(hospital_id, here=True, of=Of.STEPS) as tx:
            if not (rows := await booking_rows(tx, [step.booking_id])):
                raise unknown_booking(step.booking_id)
            async with gathered(tx, rows, with_seats=False, names=step.names) as it:
                return await step.work(it, await own_booking(it, step.client_id, step.booking_id))


def _taken(waiting: deque[Step]) -> list[Step]:
    """The first of those who wait; of one booking's steps only the first, as a later one may depend on it."""
    steps: dict[str, Step] = {}
    left: list[Step] = []
    while waiting and len(steps) < MOST_TOGETHER:
        step = waiting.popleft()
        if step.answer.done():  # whoever asked has gone away
            continue
        if steps and (step.is_for_itself or step.booking_id in steps):
            left.append(step)
            continue
        step.begun = True
        steps[step.booking_id] = step
        if step.is_for_itself:
            break
    waiting.extendleft(reversed(left))
    return list(steps.values())


def _put_back(waiting: deque[Step], steps: Sequence[Step]) -> None:
    """What they did was rolled back: they are first in the next transactions, in the order in which they came."""
    for step in steps:
        step.begun = False
    waiting.extendleft(reversed(steps))


async def _made(it: Gathering, step: Step) -> Any:
    """The answer to one of several. Raises whatever may leave something behind that the others' commit must not contain."""
    try:
        booking = await own_booking(it, step.client_id, step.booking_id)
    except Refusal as refusal:
        return refusal
    with _standing_for(step):
        return await step.work(it, booking)


@contextmanager
def _standing_for(step: Step) -> Iterator[None]:
    """What is logged and begun within belongs to the request of this step."""
    trace, request = here.set(step.trace), request_id.set(step.request_id)
    try:
        yield
    finally:
        request_id.reset(request)
        here.reset(trace)


def _tell(step: Step, answer: Any) -> None:
    if step.answer.done():
        return
    if isinstance(answer, Refusal):
        step.answer.set_exception(answer)
    else:
        step.answer.set_result(answer)


def _tell_all(steps: Sequence[Step], error: Exception) -> None:
    for step in steps:
        if not step.answer.done():
            step.answer.set_exception(error)
