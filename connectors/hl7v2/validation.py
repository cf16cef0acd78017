"""Checking messages against the standard's tables, beside the service: what is found, or that nobody could look in time."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence

from connectors.hl7v2.elsewhere import Elsewhere, Lost, Setup
from connectors.hl7v2.findings import Finding
from monitoring.trace_context import nobodys

WITHIN_S = 5.0
STARTS_WITHIN_S = 120.0
"""The process imports the tables at the lowest priority: on a machine at work that may take many times WITHIN_S."""
IDLE_S = 3600.0
MOST_WAITING, MOST_WAITING_BYTES = 200, 4_000_000

_SMALLEST = b"MSH|^~\\&|||||||ACK|0|P|2.5.1\r"
"""Its answer says that the process is ready."""

Noted = Callable[[Sequence[Finding] | None], None]
"""Is told what was found; None: nobody could look."""


class Validator:
    """Checks one message after the other in a process of its own. To be closed."""

    def __init__(self, default_charset: str) -> None:
        self._default_charset = default_charset
        self._elsewhere = Elsewhere(Setup(job="validate"), idle_s=IDLE_S)
        self._starting: asyncio.Task[None] | None = None
        self._waiting: deque[tuple[bytes, Noted]] = deque()
        self._bytes = 0
        self._working: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to start the process, so that the first message need not wait for it."""
        if self._elsewhere.process_id is None and (self._starting is None or self._starting.done()):
            self._starting = asyncio.create_task(self._start(), context=nobodys())

    async def check(self, payload: bytes) -> Sequence[Finding] | None:
        """What is wrong with a message; None where its version has no tables, or where it was not looked at within WITHIN_S."""
        try:
            async with asyncio.timeout(WITHIN_S):
                self.start()
                if self._starting is not None:
                    await asyncio.shield(self._starting)  # it goes on where this message waits no longer
                found: Sequence[Finding] | None = await self._elsewhere.ask(
                    payload, self._default_charset, within_s=WITHIN_S
                )
        except (Lost, TimeoutError):
            return None
        return found

    def check_later(self, payload: bytes, noted: Noted) -> None:
        """Let a message be checked when there is time. While too much waits it is not."""
        if len(self._waiting) >= MOST_WAITING or self._bytes + len(payload) > MOST_WAITING_BYTES:
            noted(None)
            return
        self._waiting.append((payload, noted))
        self._bytes += len(payload)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())

    async def close(self) -> None:
        """What waits is not looked at any more."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await self._elsewhere.close()

    async def _start(self) -> None:
        with contextlib.suppress(Lost):  # the message that waits for it finds out as well
            await self._elsewhere.ask(_SMALLEST, self._default_charset, within_s=STARTS_WITHIN_S)

    async def _work(self) -> None:
        while self._waiting:
            payload, noted = self._waiting.popleft()
            self._bytes -= len(payload)
            noted(await self.check(payload))
