"""What fails again and again while the store answers: one message must not hold up a hospital for ever.

A store that is away, a full disk and a message on which the server gives up (a statement over its time, a backend that dies of
it) look alike in one try. They differ in time: the first two fail whatever is written.
"""

from __future__ import annotations

import asyncio
import sqlite3

from booking.store.engine import StoreBusy, StoreUnavailable
from scheduler_sync.leases import NotOurs

TRIES = 5
OVER_S = 30.0  # seconds between the first and the last of them at least: a server that restarts is back by then

# The state of the store, which a small write may survive and a large one may not: PostgreSQL's SQLSTATE (appendix A) by their
# beginnings (resources, system, read-only, rights on files, lock not had in time), SQLite's primary result codes.
_STATES_OF_STORE = ("53", "58", "25006", "42501", "55P03")
_CODES_OF_STORE = frozenset(
    {
        sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
    }
)  # fmt: skip


class Stubborn:
    """Counts the failures of one thing at a time. Between two of them the caller must have written something else."""

    def __init__(self) -> None:
        self._name = ""
        self._tries = 0
        self._first_s = self._last_s = 0.0
        self._kind = ""

    def note(self, name: str, error: StoreUnavailable) -> None:
        """It has failed so."""
        if isinstance(error, StoreBusy | NotOurs) or _is_of_store(error):
            return
        now_s = asyncio.get_running_loop().time()
        if name != self._name:
            self._name, self._tries, self._first_s = name, 0, now_s
        self._tries += 1
        self._last_s = now_s
        self._kind = type(_origin(error)).__name__

    def forget(self, name: str) -> None:
        """It was given up: should it come again, it is tried as if for the first time."""
        if name == self._name:
            self._name, self._tries = "", 0

    def reason(self, name: str) -> str | None:
        """Why it should be given up, for a person to read; None while it may be tried again."""
        if name != self._name or self._tries < TRIES or self._last_s - self._first_s < OVER_S:
            return None
        return f"cannot be applied ({self._kind}, {self._tries} times)"


def _origin(error: StoreUnavailable) -> BaseException:
    """The driver's own error; SQLAlchemy wraps asyncpg's twice."""
    cause = error.__cause__ or error
    origin = getattr(cause, "orig", None)
    return cause if origin is None else origin.__cause__ or origin


def _is_of_store(error: StoreUnavailable) -> bool:
    origin = _origin(error)
    if isinstance(origin, sqlite3.Error):
        return getattr(origin, "sqlite_errorcode", 0) & 0xFF in _CODES_OF_STORE
    return str(getattr(origin, "sqlstate", None) or "").startswith(_STATES_OF_STORE)
