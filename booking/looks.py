"""Looks at bookings: whoever asks while others are being answered is answered together with those who ask meanwhile.

After a release thousands wait for the hospital and look every few seconds. On PostgreSQL each look alone is four statements for
its process and for the database; together, four statements answer fifty. A look shows whatever was committed before it was
asked for: it never joins a reading that has begun. Alone it is read at once; while several ask, readings keep a pace, so that
more share each. On SQLite it is made at once on the event loop, where waiting saves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import msgspec

from booking.gathering import booking_rows, load_booking
from booking.money import Purse, purse_of, purses_of
from booking.records import Booking, booking_from_row
from booking.rescheduling.places import Place, places_of
from booking.store.crypto import SealBroken
from booking.store.engine import Store, Tx
from monitoring.logs import request_id
from monitoring.trace_context import nobodys

MOST_TOGETHER = 50  # rows decoded in one turn of the loop: about as long as a batch of holds takes
CROWD_PACE_S = (
    0.05  # from reading to reading while several ask at once: they wait half of it, and eight share four statements
)
SLOW_S = 0.5  # a reading that takes longer, as on a connection whose other end is gone, holds up nobody else


class Look(msgspec.Struct, frozen=True):
    """A booking at `now_ms` by the store's clock, its money, and where it is; None for a slot that is gone."""

    booking: Booking
    now_ms: int
    purse: Purse
    place: Place | None = None


class _Asked:
    """Those who wait for one booking."""

    __slots__ = ("answer", "booking_id")

    def __init__(self, booking_id: str) -> None:
        self.booking_id = booking_id
        self.answer: asyncio.Future[Look | None] = asyncio.get_running_loop().create_future()


class Looks:
    """One for each process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asked: dict[str, list[_Asked]] = {}  # by hospital: whom the next reading is for
        self._tasks: set[asyncio.Task[None]] = set()

    async def look(self, hospital_id: str, booking_id: str) -> Look | None:
        """A booking of this hospital, None if there is none. Raises StoreUnavailable; SealBroken where its key is lost."""
        if self._store.dialect == "sqlite":
            async with self._store.read(hospital_id, here=True) as tx:
                booking = await load_booking(tx, booking_id)
                if booking is None:
                    return None
                place = (await places_of(tx, [booking.slot_id])).get(booking.slot_id)
                return Look(booking, tx.now_ms, await purse_of(tx, booking_id), place)
        asked = _Asked(booking_id)
        if (waiting := self._asked.get(hospital_id)) is not None:
            waiting.append(asked)
        else:
            self._asked[hospital_id] = [asked]
            self._start(self._serve(hospital_id))
        return await asked.answer

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # A task of its own, of nobody's trace: whoever asks first may go away, and the others still want their answers.
        task = asyncio.create_task(work, context=nobodys())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(self, hospital_id: str) -> None:
        """Start readings until nobody asks any more."""
        request_id.set(None)
        loop = asyncio.get_running_loop()
        try:
            while asked := [one for one in self._asked[hospital_id] if not one.answer.done()]:
                begun_s = loop.time()
                now, self._asked[hospital_id] = asked[:MOST_TOGETHER], asked[MOST_TOGETHER:]
                await asyncio.wait([self._start(self._answer(hospital_id, now))], timeout=SLOW_S)
                if len(now) > 1 and len(self._asked[hospital_id]) < MOST_TOGETHER:
                    await asyncio.sleep(begun_s + CROWD_PACE_S - loop.time())
        finally:
            _tell(self._asked.pop(hospital_id), asyncio.CancelledError())  # nobody, unless the process ends

    async def _answer(self, hospital_id: str, asked: Sequence[_Asked]) -> None:
        try:
            found = await self._read(hospital_id, sorted({one.booking_id for one in asked}))
        except BaseException as e:
            _tell(asked, e)
            if not isinstance(e, Exception):  # the process ends
                raise
            return
        for one in asked:
            answer = found.get(one.booking_id)
            if isinstance(answer, Exception):
                _tell([one], answer)
            elif not one.answer.done():
                one.answer.set_result(answer)

    async def _read(self, hospital_id: str, booking_ids: Sequence[str]) -> dict[str, Look | Exception]:
        async with self._store.read(hospital_id) as tx:
            bookings: dict[str, Booking | Exception] = {
                row["id"]: _booking(tx, row) for row in await booking_rows(tx, booking_ids)
            }
            purses = await purses_of(tx, list(bookings))
            slot_ids = [booking.slot_id for booking in bookings.values() if isinstance(booking, Booking)]
            places = await places_of(tx, slot_ids)
            return {
                booking_id: Look(booking, tx.now_ms, purses[booking_id], places.get(booking.slot_id))
                if isinstance(booking, Booking)
                else booking
                for booking_id, booking in bookings.items()
            }


def _booking(tx: Tx, row: dict[str, Any]) -> Booking | Exception:
    """One that cannot be read is told to whoever asks for it, and to nobody else."""
    try:
        return booking_from_row(tx, row)
    except (SealBroken, msgspec.MsgspecError) as e:
        return e


def _tell(asked: Sequence[_Asked], error: BaseException) -> None:
    for one in asked:
        if one.answer.done():
            continue
        if isinstance(error, Exception):
            one.answer.set_exception(error)
        else:
            one.answer.cancel()
