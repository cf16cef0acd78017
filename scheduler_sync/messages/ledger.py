"""Writing the messages of one hospital as the only process that may: who has lost the hospital stores nothing any more.

The message store is another database than the one with the leases, so that no transaction covers both. But each write of a
hospital's messages is numbered under the hospital's lock. Whoever begins to work a hospital writes here before it reads what is
left: a process whose number follows its own last one knows that nobody has, and that whoever comes will find what it stores.
Where somebody has written meanwhile, the lease is asked for, inside the transaction: nobody can take the hospital over and look
before that ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from booking.store.engine import Store, StoreUnavailable, Tx
from scheduler_sync.leases import Fence, NotOurs


class _Refused(Exception):
    """Kept apart from what the message store itself says: it works."""


class Ledger:
    """The messages of one hospital, for one writer at a time."""

    def __init__(self, messages: Store, store: Store, hospital_id: str, fence: Fence | None) -> None:
        """`store` is the one with the leases; `fence` is None where no other process exists."""
        self.messages = messages
        self.hospital_id = hospital_id
        self._store = store
        self._fence = fence
        self._seq: int | None = None  # of our newest write

    @property
    def shared(self) -> bool:
        """Whether another process may come to work the hospital."""
        return self._fence is not None

    @asynccontextmanager
    async def write(self, *, here: bool = False) -> AsyncIterator[Tx]:
        """A write of the message store, as `Store.write`. Raises StoreUnavailable; of its kind, NotOurs writes nothing."""
        try:
            async with self.messages.write(self.hospital_id, here=here) as tx:
                if self._fence is not None and (self._seq is None or tx.seq != self._seq + 1):
                    await self._ask(self._fence)
                yield tx
        except _Refused as e:
            raise NotOurs(str(e)) from e
        self._seq = tx.seq

    async def _ask(self, fence: Fence) -> None:
        try:
            async with self._store.read(self.hospital_id) as tx:
                ours = await fence(tx)
        except StoreUnavailable as e:
            raise _Refused(f"whether the hospital is still ours cannot be known: {e}") from e
        if not ours:
            raise _Refused("another process works this hospital")
