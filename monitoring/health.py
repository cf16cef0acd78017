"""Whether this process should get work.

Alive means that the event loop turns. Ready means that every registered check passes and that the process is not draining.
A HIS that is down does not make us unready: the API still answers for the other hospitals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

ReadyCheck = Callable[[], Awaitable[str | None]]
"""Returns None when all is well, else a reason in a few words, without patient data."""


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `/readyz`: `reasons` names every check that did not pass."""

    ready: bool
    draining: bool
    reasons: dict[str, str] = {}


class Health:
    """The checks of one process. Checks run side by side, each for at most `timeout_s`."""

    def __init__(self, *, timeout_s: float = 2.0) -> None:
        self._checks: dict[str, ReadyCheck] = {}
        self._timeout_s = timeout_s
        self._leaving = False
        self._draining = False

    @property
    def leaving(self) -> bool:
        """Whether connections are to end after their next answer."""
        return self._leaving

    @property
    def draining(self) -> bool:
        """Whether new requests are to be turned away."""
        return self._draining

    def register(self, name: str, check: ReadyCheck) -> None:
        """Add a check under `name`; a second one under the same name replaces the first."""
        self._checks[name] = check

    def forget(self, name: str) -> None:
        """Drop the check of this name."""
        self._checks.pop(name, None)

    def names(self) -> frozenset[str]:
        """The names of all checks."""
        return frozenset(self._checks)

    def start_leaving(self) -> None:
        """From now on not ready, for good: requests that still come are answered, each as the last of its connection."""
        self._leaving = True

    def start_draining(self) -> None:
        """From now on nothing new is begun, while what is in flight finishes."""
        self._leaving = True
        self._draining = True

    async def readiness(self) -> Readiness:
        names = list(self._checks)
        results = await asyncio.gather(*(self._run(self._checks[name]) for name in names))
        reasons = {name: reason for name, reason in zip(names, results, strict=True) if reason is not None}
        if self._leaving:
            reasons["draining"] = "this process is shutting down"
        return Readiness(ready=not reasons, draining=self._leaving, reasons=reasons)

    async def _run(self, check: ReadyCheck) -> str | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await check()
        except TimeoutError:
            return f"no answer in {self._timeout_s:g} s"
        except Exception as error:
            return f"the check failed: {type(error).__name__}"
