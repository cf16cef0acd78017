"""What the clock does: expiring holds, numbering events, measuring, and forgetting what is past its keep."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from booking.bookings import any_due, expire_due
from booking.idempotency import forget_keys
from booking.merchant_bills import forget_merchant_bills
from booking.news import forget_events
from booking.reconciled import forget_reconciliations
from booking.report_reads import cut_reads
from booking.retention import (
    KEEP_CATALOGUE_DAYS,
    KEEP_MERCHANT_BILLS_DAYS,
    forget_commands,
    forget_rooms,
    forget_slots,
    forget_waitlist,
    oldest_day,
)
from booking.returned_seats import any_back, sell_again
from booking.seats_left import count_seats_left
from booking.settings import Hospital
from booking.store.bell import Bell
from booking.store.budget import Budget
from booking.store.engine import Store, StoreUnavailable
from booking.waitlist.offering import anything_to_do, serve_lines
from booking.waitlist.records import count_entries
from booking.webhooks import SCOPE as WEBHOOKS
from monitoring import metrics
from monitoring.logs import get_logger
from scheduler_sync.messages.old_documents import forget_documents
from scheduler_sync.messages.retention import (
    MB,
    forget_exchanges,
    forget_messages,
    forget_refused,
)
from scheduler_sync.messages.room import Room
from scheduler_sync.messages.series import forget_series

log = get_logger("sweeps")

EXPIRE_EVERY_S = 0.5
RETURN_EVERY_S = 5.0
WAITLIST_EVERY_S = 1.0
NEWS_EVERY_S = 1.0  # beside the bell
NEWS_PAUSE_S = 0.1  # what rings meanwhile is done in one round
MEASURE_EVERY_S = 5.0
FORGET_EVERY_S = 600.0
FORGET_PAUSE_S = 0.02  # between two deletions: those who wait to write come first


async def repeat(
    stopping: asyncio.Event,
    every_s: float,
    work: Callable[[], Awaitable[object]],
    *,
    name: str,
    hospital_id: str = "",
    bell: Bell | None = None,
    topic: str = "",
) -> None:
    """Do `work` every so often until `stopping`, and soon after `topic` has rung. A store that is away is tried again."""
    while not stopping.is_set():
        rung = None if bell is None else bell.listen(topic)
        try:
            await work()
        except StoreUnavailable as e:
            log.error("store_unavailable", sweep=name, hospital=hospital_id, reason=str(e))
        if rung is None:
            await _pause(stopping, every_s)
            continue
        await _pause(stopping, NEWS_PAUSE_S)
        await _pause(stopping, every_s - NEWS_PAUSE_S, rung)
        rung.cancel()


async def _pause(stopping: asyncio.Event, seconds: float, rung: asyncio.Future[None] | None = None) -> None:
    """Wait so long, or until the stop or the ring."""
    stop = asyncio.ensure_future(stopping.wait())
    either: list[asyncio.Future[Any]] = [stop] if rung is None else [stop, rung]
    try:
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()


async def expire_holds(store: Store, hospital: Hospital) -> int:
    """Expire what is due at one hospital, in small transactions."""
    total = 0
    while True:
        async with store.read(hospital.id, here=True) as tx:
            if not await any_due(tx):
                return total
        async with store.write(hospital.id, here=True) as tx:
            expired = await expire_due(tx, hospital, budget=Budget())
        total += expired
        if expired == 0:  # only what cannot expire: the next sweep looks again
            return total


async def return_seats(store: Store, hospital: Hospital) -> int:
    """Sell the seats again that were held back until now, in small transactions; also where the rule is no longer set."""
    total = 0
    while True:
        async with store.read(hospital.id, here=True) as tx:
            if not await any_back(tx):
                return total
        async with store.write(hospital.id, here=True) as tx:
            total += await sell_again(tx)


async def serve_waitlist(store: Store, hospital: Hospital) -> int:
    """Offer what has come back to the first in line, and end what is over, in small transactions."""
    total = 0
    while True:
        async with store.read(hospital.id, here=True) as tx:
            if not await anything_to_do(tx, hospital):
                return total
        async with store.write(hospital.id, here=True) as tx:
            moved = await serve_lines(tx, hospital)
        total += moved
        if moved == 0:
            return total


async def clear_without_rule(store: Store, hospital: Hospital, stopping: asyncio.Event) -> None:
    """Whoever still waits at a hospital that has no waitlist any more is told so, once at the start."""
    while not stopping.is_set():
        try:
            await serve_waitlist(store, hospital)
        except StoreUnavailable as e:
            log.error("store_unavailable", sweep="waitlist", hospital=hospital.id, reason=str(e))
            await _pause(stopping, WAITLIST_EVERY_S)
        else:
            return


async def measure_waitlist(store: Store, hospital_id: str) -> None:
    """Refresh the gauge of who waits."""
    async with store.read(hospital_id) as tx:
        entries = await count_entries(tx)
    for state, number in entries.items():
        metrics.waitlist_entries.labels(hospital=hospital_id, state=state).set(number)


async def measure_seats(store: Store, hospital_id: str) -> None:
    """Refresh the gauge of what a release has left."""
    left = await count_seats_left(store, hospital_id)
    metrics.seats_left.labels(hospital=hospital_id, window="coming").set(left.coming)
    metrics.seats_left.labels(hospital=hospital_id, window="fresh").set(left.fresh)


class Forgetting:
    """Deletes what is past its keep, a few rows at a time, with room for others in between."""

    def __init__(
        self,
        store: Store,
        messages: Store,
        hospitals: Sequence[Hospital],
        stopping: asyncio.Event,
        *,
        keep_messages_days: int,
        keep_messages_mb: int = 0,
        keep_report_reads_days: int = 365,
    ) -> None:
        """`keep_messages_mb` is of each hospital; 0: no bound."""
        self._keep_report_reads_days = keep_report_reads_days
        self._stopping = stopping
        self._store = store
        self._messages = messages
        self._hospitals = hospitals
        self._keep_messages_days = keep_messages_days
        most_bytes = keep_messages_mb * MB
        self._rooms = {
            hospital.id: Room(store, messages, hospital.id, most_bytes=most_bytes, pause=self._room)
            for hospital in hospitals
        }
        self._slots_done: dict[str, dt.date] = {}
        self._documents_done: dict[str, dt.date] = {}

    async def forget_old(self) -> None:
        """One round over everything, until nothing is left that may go."""
        await self._until_none(lambda: forget_events(self._store))
        for scope in (WEBHOOKS, *(h.id for h in self._hospitals)):
            await self._until_none(lambda scope=scope: forget_keys(self._store, scope))  # type: ignore[misc]
        for hospital in self._hospitals:
            await self._forget_of(hospital)

    async def _forget_of(self, hospital: Hospital) -> None:
        async with self._store.read(hospital.id) as tx:
            today = dt.datetime.fromtimestamp(tx.now_ms / 1000, hospital.zone).date()
        before, bills_before = (
            today - dt.timedelta(days=days) for days in (KEEP_CATALOGUE_DAYS, KEEP_MERCHANT_BILLS_DAYS)
        )
        await self._until_none(lambda: forget_commands(self._store, hospital.id))
        await self._until_none(lambda: forget_rooms(self._store, hospital.id))
        await self._until_none(lambda: forget_waitlist(self._store, hospital.id))
        keep_reads = self._keep_report_reads_days
        await self._until_none(lambda: cut_reads(self._store, hospital.id, keep_days=keep_reads))
        await self._forget_messages(hospital.id)
        await self._until_none(lambda: forget_merchant_bills(self._store, hospital.id, before=bills_before))
        await self._until_none(lambda: forget_reconciliations(self._store, hospital.id, before=bills_before))
        if self._documents_done.get(hospital.id) != today:
            await forget_documents(
                self._store,
                self._messages,
                hospital.id,
                keep_days=self._keep_messages_days,
                pause=self._room,
            )
            self._rooms[hospital.id].begin_again()
            if not self._stopping.is_set():
                self._documents_done[hospital.id] = today
        since = self._slots_done.get(hospital.id)
        if since != before:  # once a day: the days are over, and nothing about them changes
            await self._forget_days(hospital.id, since, before)
            if not self._stopping.is_set():
                self._slots_done[hospital.id] = before

    async def _forget_messages(self, hospital_id: str) -> None:
        store, days = self._messages, self._keep_messages_days
        await self._until_none(lambda: forget_messages(store, hospital_id, keep_days=days))
        await self._until_none(lambda: forget_exchanges(store, hospital_id, keep_days=days))
        await self._until_none(lambda: forget_refused(store, hospital_id))
        await self._until_none(lambda: forget_series(store, hospital_id))
        await self._rooms[hospital_id].make()

    async def _forget_days(self, hospital_id: str, since: dt.date | None, before: dt.date) -> None:
        """Day by day: what was ever booked stays, and of years at once each look would walk past all of it."""
        day = await oldest_day(self._store, hospital_id, since=since, before=before)
        while day is not None and not self._stopping.is_set():
            after = day + dt.timedelta(days=1)
            await self._until_none(partial(forget_slots, self._store, hospital_id, since=day, before=after))
            await _pause(self._stopping, FORGET_PAUSE_S)
            day = await oldest_day(self._store, hospital_id, since=after, before=before)

    async def _room(self) -> bool:
        await _pause(self._stopping, FORGET_PAUSE_S)
        return not self._stopping.is_set()

    async def _until_none(self, forget: Callable[[], Awaitable[int]]) -> None:
        while not self._stopping.is_set() and await forget() > 0:
            await _pause(self._stopping, FORGET_PAUSE_S)
