"""What is stored and not applied yet, in its order, and how much of it there may be before peers have to wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection

from scheduler_sync.applying import Waiting

MOST_WAITING = 1_000  # messages
MOST_WAITING_BYTES = 32 * 1024 * 1024


class Backlog:
    """The queue between storing and applying. Messages that are only in the store are counted in `unread`."""

    def __init__(self, most: int = MOST_WAITING, most_bytes: int = MOST_WAITING_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._queue: deque[Waiting] = deque()
        self._bytes = 0
        self._room = asyncio.Event()
        self._news: asyncio.Future[None] | None = None
        self.unread = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether the next one has to wait."""
        return len(self._queue) + self.unread >= self._most or self._bytes >= self._most_bytes

    async def room(self, within_s: float) -> None:
        """Wait until there is room. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while self.full:
                self._room.clear()
                await self._room.wait()

    def append(self, message: Waiting) -> None:
        """A message that was stored after all the others."""
        self._queue.append(message)
        self._bytes += message.size
        self.wake()

    def wake(self) -> None:
        """Let whoever waits for the next message look again."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def news(self) -> None:
        """Wait for the next `append` or `wake`. For one at a time."""
        self._news = asyncio.get_running_loop().create_future()
        await self._news

    def holds(self, message_id: str) -> bool:
        """Whether a message waits here."""
        return any(message.id == message_id for message in self._queue)

    def at(self, place: int) -> Waiting | None:
        """The message behind so many others, None where there are not so many."""
        return self._queue[place] if place < len(self._queue) else None

    def pop(self) -> Waiting:
        """The oldest one is dealt with."""
        message = self._queue.popleft()
        self._bytes -= message.size
        self._room.set()
        return message

    def drop(self, ids: Collection[str]) -> list[Waiting]:
        """Take these out, wherever they stand; returns those that were there."""
        dropped = [message for message in self._queue if message.id in ids]
        if dropped:
            self._queue = deque(message for message in self._queue if message.id not in ids)
            self._bytes -= sum(message.size for message in dropped)
            self._room.set()
        return dropped
