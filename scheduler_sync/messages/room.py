"""Keeping what a hospital has in the message store within its bytes: messages, exchanges and documents together.

First goes what nobody needs: documents that no report shows and no kept message may bring again. Then the oldest messages and
exchanges, of which more documents may be needed no longer. A document that a report shows stays.
"""

from __future__ import annotations

from booking.store.engine import Store
from scheduler_sync.messages.groups import read_totals
from scheduler_sync.messages.old_documents import DocumentWalk, Pause, unneeded_before_ms
from scheduler_sync.messages.retention import YOUNGEST_DAYS, forget_for_size


class Room:
    """The bound of one hospital. `begin_again` once a day: in between a document is looked at once."""

    def __init__(self, store: Store, message_store: Store, hospital_id: str, *, most_bytes: int, pause: Pause) -> None:
        """`store` is the one with the reports. `most_bytes` 0: no bound."""
        self._store = store
        self._message_store = message_store
        self._hospital_id = hospital_id
        self._most_bytes = most_bytes
        self._pause = pause
        self.begin_again()

    def begin_again(self) -> None:
        """Look at the oldest documents once more: reports may show some of them no longer."""
        self._walk = DocumentWalk(self._store, self._message_store, self._hospital_id, self._pause)

    async def make(self) -> None:
        """Delete until it fits, or until nothing more may go. Raises StoreUnavailable."""
        while (before_ms := await self._over()) is not None:
            if not await self._walk.forget_page(before_ms) and not await forget_for_size(
                self._message_store, self._hospital_id, most_bytes=self._most_bytes
            ):
                return
            if not await self._pause():
                return

    async def _over(self) -> int | None:
        """None where it fits; else before which time documents may go."""
        if self._most_bytes <= 0:
            return None
        async with self._message_store.read(self._hospital_id) as tx:
            if sum((await read_totals(tx, self._hospital_id)).values()) <= self._most_bytes:
                return None
            return await unneeded_before_ms(tx, YOUNGEST_DAYS)
