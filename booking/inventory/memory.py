"""What can be refused without the store: slots that were sold out, or not yet on sale, a moment ago.

An entry says what the store said at one of its writes (`seq`). It is believed only while the change feed is at most `FRESH_MS`
behind and has seen that write, and is dropped when the feed shows that the slot's day has changed since. A key that was
accepted before is always looked up in the store: its answer is the first success, sold out or not.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Protocol

import msgspec

from booking.feed import FRESH_MS
from booking.inventory.bloom import Bloom
from booking.inventory.requests import HoldRequest, Refused
from booking.inventory.rows import Batch
from booking.rules.judging import has_seat, not_released, sold_out

MOST_ENTRIES = 100_000
# A slot that opens within this time is asked of the store, whose clock is the one that counts.
OPENING_SOON_MS = 30

Fragment = tuple[str, str, str]
"""Hospital, date, department."""


class Freshness(Protocol):
    """What memory needs of the change feed."""

    def age_ms(self) -> float:
        """How old our knowledge of the store may be."""
        ...

    def seen(self, hospital_id: str) -> int:
        """The last write of this hospital whose changes we know."""
        ...

    def store_now_ms(self, hospital_id: str = "") -> int:
        """The store's clock, as well as we know it, never ahead of it."""
        ...


class _Entry(msgspec.Struct):
    refused: Refused
    opens_at_ms: int | None
    seq: int
    fragment: Fragment


class Memory:
    """What one process remembers of refusals and of accepted keys. Bounded in entries; forgetting is always safe."""

    def __init__(self, feed: Freshness, *, clock: Callable[[], float] = time.time) -> None:
        self._feed = feed
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._of: defaultdict[Fragment, set[str]] = defaultdict(set)
        self._keys = Bloom(clock=clock)

    def refuse(self, hospital_id: str, request: HoldRequest) -> Refused | None:
        """The refusal of a hold, if it is certain without the store."""
        entry = self._entries.get((hospital_id, request.slot_id))
        if entry is None or self._feed.age_ms() > FRESH_MS or self._feed.seen(hospital_id) < entry.seq:
            return None
        if (
            entry.opens_at_ms is not None
            and self._feed.store_now_ms(hospital_id) >= entry.opens_at_ms - OPENING_SOON_MS
        ):
            return None
        if self.may_be_accepted(hospital_id, request.client_id, request.key):
            return None
        return entry.refused

    def may_be_accepted(self, hospital_id: str, client_id: str, key: str) -> bool:
        """False only for a key that was certainly not accepted before."""
        return f"{hospital_id}\0{client_id}\0{key}" in self._keys

    def is_new(self, hospital_id: str, client_id: str, key: str) -> bool:
        """Whether a key was certainly not accepted before, here or in another process, up to a moment ago."""
        return self._feed.age_ms() <= FRESH_MS and not self.may_be_accepted(hospital_id, client_id, key)

    def note_key(self, hospital_id: str, client_id: str, key: str) -> None:
        """A key was accepted, here or in another process."""
        self._keys.add(f"{hospital_id}\0{client_id}\0{key}")

    def note_batch(self, hospital_id: str, batch: Batch, zone: dt.tzinfo) -> None:
        """Remember what a batch has shown of its slots. `zone` is the hospital's: a remembered refusal reads as a new one."""
        now_ms, seq = batch.facts.now_ms, batch.facts.seq
        if not batch.granted:
            seq -= 1  # nothing was written: what we saw is the state after the write before
        for slot in batch.facts.slots.values():
            opens_at_ms = slot.schedule.opens_at_ms
            fragment = (hospital_id, slot.schedule.date, slot.schedule.department_id)
            if slot.stopped or slot.schedule.stopped or slot.starts_at_ms <= now_ms:
                self._drop(hospital_id, slot.id)
            elif opens_at_ms is not None and now_ms < opens_at_ms:
                refused = not_released(slot.id, opens_at_ms, zone)
                self._put(hospital_id, slot.id, _Entry(refused, opens_at_ms, seq, fragment))
            elif not has_seat(slot):
                self._put(hospital_id, slot.id, _Entry(sold_out(slot.id), None, seq, fragment))
            else:
                self._drop(hospital_id, slot.id)

    def on_fragment(self, hospital_id: str, date: str, department_id: str, changed: int) -> None:
        """The change feed: a department's day was changed by this write."""
        fragment = (hospital_id, date, department_id)
        for slot_id in list(self._of.get(fragment, ())):
            entry = self._entries.get((hospital_id, slot_id))
            if entry is None or entry.seq < changed:
                self._drop(hospital_id, slot_id)

    def on_key(self, hospital_id: str, client_id: str, key: str) -> None:
        """The change feed: a key was accepted."""
        self.note_key(hospital_id, client_id, key)

    def _put(self, hospital_id: str, slot_id: str, entry: _Entry) -> None:
        known = self._entries.get((hospital_id, slot_id))
        if known is not None and known.seq > entry.seq:
            return
        self._entries[hospital_id, slot_id] = entry
        self._of[entry.fragment].add(slot_id)
        if len(self._entries) > MOST_ENTRIES:
            (oldest_hospital, oldest), _ = next(iter(self._entries.items()))
            self._drop(oldest_hospital, oldest)

    def _drop(self, hospital_id: str, slot_id: str) -> None:
        entry = self._entries.pop((hospital_id, slot_id), None)
        if entry is None:
            return
        slots = self._of[entry.fragment]
        slots.discard(slot_id)
        if not slots:
            del self._of[entry.fragment]
