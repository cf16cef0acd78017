"""What becomes of one notification: the server is asked what has changed, and the notification answered when that is stored.

Nothing that a notification holds is believed but the names of resources, so that whoever can send one can at most make us read.
A notification is answered 200 when what it speaks of is stored, and 503 where it could not be read or stored: then the server
sends it again, and the next look by `_lastUpdated` finds it as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from connectors.fhir.changes import Changes
from connectors.fhir.notifications import Notification, Told, name_in
from connectors.fhir.numbering import Numbering
from connectors.port import Gate, HisError
from monitoring import metrics
from monitoring.logs import get_logger
from monitoring.sparse import SparseLog

log = get_logger(__name__)

ANSWER_WITHIN_S = 20.0  # servers give a notification up after half a minute or so; the reading goes on
MOST_WAITING = 100  # notifications whose resources are being read
ASKED_AS = "fetch_changes"
MOST_NAMES = 200  # beyond so many names the newest changes are asked for instead


async def ungated(_what: str, call: Callable[[], Awaitable[Any]]) -> Any:
    """A gate that is open."""
    return await call()


class NotFetched(Exception):
    """It could not be read or stored now; the text says why."""


class Notified:
    """Takes the notifications of one server, read already."""

    def __init__(self, changes: Changes, base_url: str, labels: dict[str, str]) -> None:
        self._changes, self._base_url, self._labels = changes, base_url, labels
        self.gate: Gate = ungated
        self._numbering = Numbering()
        self._turn = asyncio.Lock()
        self._next_look: asyncio.Task[int] | None = None
        self._working: set[asyncio.Task[Any]] = set()
        self._warn = SparseLog(log.warning)
        self._counted = {r: metrics.fhir_notifications.labels(**labels, result=r) for r in metrics.FHIR_NOTIFIED}

    def count(self, result: str) -> None:
        """Count one of `metrics.FHIR_NOTIFIED`."""
        self._counted[result].inc()

    async def take(self, told: Notification) -> None:
        """Returns when what it speaks of is stored. Raises NotFetched."""
        missed = self._numbering.missed(told)
        if missed:
            self.count("missed")
            log.warning("fhir_notifications_missed", subscription_told=told.told.value, **self._labels)
        if told.told in (Told.HANDSHAKE, Told.HEARTBEAT, Told.STATUS):
            if missed:
                self._begin(self.look())
            self.count(told.told.value if told.told is not Told.STATUS else "heartbeat")
            return
        names = [name for one in told.focus if (name := name_in(one, self._base_url)) is not None]
        await self._in_time(self._fetch(names, and_look=missed or not told.focus or len(names) > MOST_NAMES))
        self.count("taken")

    async def look(self) -> int:
        """Ask what has changed. Whoever comes while another waits for its turn shares that one's look. Raises HisError."""
        if self._next_look is None:
            self._next_look = self._begin(self._look_once())
        return await asyncio.shield(self._next_look)

    async def close(self) -> None:
        """End what is being read: the next start looks for it."""
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)

    async def _look_once(self) -> int:
        async with self._turn:
            self._next_look = None
            handed: int = await self.gate(ASKED_AS, self._changes.look)
            return handed

    async def _fetch(self, names: Sequence[str], *, and_look: bool) -> None:
        if names and len(names) <= MOST_NAMES:
            await self.gate(ASKED_AS, lambda: self._changes.fetch(names))
        if and_look:
            await self.look()

    async def _in_time(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._working) >= MOST_WAITING:
            work.close()
            raise NotFetched("too many notifications wait")
        task = self._begin(work)
        done, _ = await asyncio.wait([task], timeout=ANSWER_WITHIN_S)
        if not done:
            raise NotFetched("the server could not be read in time")
        if task.cancelled():
            raise NotFetched("we are stopping")
        if (error := task.exception()) is not None:
            raise NotFetched(str(error) if isinstance(error, HisError) else type(error).__name__) from error

    def _begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._working.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            told = str(error) if isinstance(error, HisError) else type(error).__name__
            self._warn("fhir_notified_not_fetched", reason=told, **self._labels)
