"""Waking those who wait for a change, within this process. A wake-up is a hint: waiters look again and keep a poll beside it."""

from __future__ import annotations

import asyncio
from collections import defaultdict


class Bell:
    """`ring(topic)` wakes every `wait(topic)`; nothing is kept for those who come later."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)

    def ring(self, topic: str) -> None:
        """Wake all who wait for `topic` now."""
        for future in self._waiting.pop(topic, ()):
            if not future.done():
                future.set_result(None)

    def listen(self, topic: str) -> asyncio.Future[None]:
        """A future that the next ring completes. Take it before you look, then await it: no ring is missed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[topic].add(future)
        future.add_done_callback(lambda f: self._forget(topic, f))
        return future

    def _forget(self, topic: str, future: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(topic)
        if waiting is not None:
            waiting.discard(future)
            if not waiting:
                del self._waiting[topic]

    async def wait(self, topic: str, timeout_s: float) -> bool:
        """Wait for a ring; False after `timeout_s`."""
        return await wait_for_ring(self.listen(topic), timeout_s)


async def wait_for_ring(future: asyncio.Future[None], timeout_s: float) -> bool:
    """Wait for a future of `Bell.listen`; False after `timeout_s`, and the future is given up."""
    done, _ = await asyncio.wait([future], timeout=max(0.0, timeout_s))
    if not done:
        future.cancel()
    return bool(done)
