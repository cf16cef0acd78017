"""What a request to the FHIR server shows to be let in, and what is done when it is not.

    Auth
    |-- NoAuth      nothing
    |-- Shown       a name and a password, or a token, from files: read again when they are refused
    `-- Tokens      access tokens of a token server, each kept until shortly before its end

A 401 means that nothing was done: the client asks `renewed` once, and sends the same request again where that says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Protocol

import msgspec

from connectors.fhir.deadlines import Deadline
from monitoring.logs import get_logger
from monitoring.sparse import SparseLog
from monitoring.trace_context import nobodys

log = get_logger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
REFUSED_YOUNG_S = 5.0  # a token refused at this age is not renewed: the next one would fare no better, at every call


class AuthFailed(Exception):
    """There is nothing to show: nothing was sent. The text says why, and holds no secret."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """An access token. `renew_at` and `ends_at` are seconds of `time.monotonic`, as is `began_at`, when it was asked for."""

    value: str
    began_at: float
    renew_at: float
    ends_at: float

    def __repr__(self) -> str:
        return "Token(***)"


class TokenRefused(AuthFailed):
    """The token server gave none. `retry_after_s`: how long it wants to be left alone, None where it does not say."""

    def __init__(self, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class Auth(Protocol):
    """One server's. Every method may be called concurrently."""

    async def header(self, deadline: Deadline) -> str | None:
        """The value of Authorization, None for none. Raises AuthFailed."""
        ...

    async def renewed(self, refused: str | None, deadline: Deadline) -> bool:
        """Whether, after a 401 to `refused`, there is something else to show. Never raises AuthFailed."""
        ...

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        ...


class NoAuth:
    """Nothing is shown; a client certificate may be."""

    async def header(self, deadline: Deadline) -> str | None:
        return None

    async def renewed(self, refused: str | None, deadline: Deadline) -> bool:
        return False

    async def close(self) -> None:
        return None


class Shown:
    """A value made of secrets; when it is refused they are read anew: somebody may have replaced the file."""

    def __init__(self, make: Callable[[], str]) -> None:
        """`make` reads the files. Raises ValueError, as it does."""
        self._make = make
        self._value = make()

    async def header(self, deadline: Deadline) -> str | None:
        return self._value

    async def renewed(self, refused: str | None, deadline: Deadline) -> bool:
        if self._value == refused:
            try:
                self._value = await asyncio.to_thread(self._make)
            except ValueError as error:
                log.error("fhir_secret_unreadable", reason=str(error))
                return False
        return self._value != refused

    async def close(self) -> None:
        return None


class Tokens:
    """Access tokens by `fetch`: one renewal at a time, for all calls that wait for it.

    A token is renewed from `renew_at` on, and used until `ends_at` where that fails. After a failure nothing is asked for a
    pause, 1 s at first and 60 s at most, or as long as the token server wants to be left alone.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Token]],
        *,
        on_fetched: Callable[[bool], None],
        where: dict[str, str],
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`fetch` raises TokenRefused; `on_fetched` is told how each renewal ended; `where` stands in each line of the log."""
        self._fetch, self._on_fetched, self._where, self._close = fetch, on_fetched, where, close
        self._token: Token | None = None
        self._renewal: asyncio.Task[Token] | None = None
        self._failure: TokenRefused | None = None
        self._not_before = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._warn = SparseLog(log.error)

    async def header(self, deadline: Deadline) -> str | None:
        token = self._token
        if token is None or monotonic() >= token.renew_at:
            token = await self._renew(deadline)
        return f"Bearer {token.value}"

    async def renewed(self, refused: str | None, deadline: Deadline) -> bool:
        token = self._token
        if token is not None and f"Bearer {token.value}" == refused:
            if monotonic() - token.began_at < REFUSED_YOUNG_S:
                return False
            self._token = None
        try:
            return await self.header(deadline) != refused
        except AuthFailed:
            return False

    async def close(self) -> None:
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
        if self._close is not None:
            await self._close()

    async def _renew(self, deadline: Deadline) -> Token:
        if self._renewal is None:
            if self._failure is not None and monotonic() < self._not_before:
                return self._old(self._failure)
            self._renewal = asyncio.create_task(self._fetch_one(), context=nobodys())
            self._renewal.add_done_callback(self._ended)
        renewal = self._renewal
        done, _ = await asyncio.wait([renewal], timeout=deadline.left_s())
        if not done or renewal.cancelled():
            return self._old(AuthFailed("the token server has not answered in time"))
        error = renewal.exception()
        if error is not None:
            return self._old(error if isinstance(error, AuthFailed) else AuthFailed(type(error).__name__))
        return renewal.result()

    def _old(self, error: AuthFailed) -> Token:
        """The token that we have, as long as it is good; else the error."""
        if self._token is not None and monotonic() < self._token.ends_at:
            return self._token
        raise error

    async def _fetch_one(self) -> Token:
        try:
            token = await self._fetch()
        except TokenRefused as error:
            pause_s = max(self._pause_s, error.retry_after_s or 0.0)
            self._failure, self._not_before = error, monotonic() + pause_s
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
            self._on_fetched(False)
            self._warn("fhir_no_token", reason=str(error), **self._where)
            raise
        self._token, self._failure, self._pause_s = token, None, FIRST_PAUSE_S
        self._on_fetched(True)
        return token

    def _ended(self, renewal: asyncio.Task[Token]) -> None:
        if self._renewal is renewal:
            self._renewal = None
        if not renewal.cancelled():
            renewal.exception()  # whoever waited has been told, and nobody may be left
