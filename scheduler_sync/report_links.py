"""Fetching documents that a report names by an address, piece by piece: a picture of 100 MB is never in memory.

Asked for by whoever answers the portal: what holds pictures is no part of the HIS, and they need not take the way of its answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import aiohttp
from yarl import URL

from booking.ports import LinkedDocument, LiveFailed
from monitoring.logs import get_logger

log = get_logger("report_links")

FIRST_S = 15.0  # for a connection and the head of the answer
READ_S = 15.0  # between two pieces
WHOLE_S = 600.0
AT_ONCE = 8  # connections to one hospital's servers
PIECE_BYTES = 262_144
MOST_BYTES = 500_000_000
_GONE = (404, 410)


class HospitalLinks:
    """A `booking.ports.Links`. To be closed. Redirects are not followed: they could lead anywhere."""

    def __init__(self, *, first_s: float = FIRST_S, read_s: float = READ_S, most_bytes: int = MOST_BYTES) -> None:
        self._first_s, self._read_s, self._most_bytes = first_s, read_s, most_bytes
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def start(self) -> None:
        """There is nothing to do before the first document."""

    async def open(self, hospital_id: str, url: URL, *, within_s: float | None = None) -> LinkedDocument:
        """The document at this address, of which nothing was read yet. Raises LiveFailed."""
        first_s = self._first_s if within_s is None else max(0.0, min(within_s, self._first_s))
        try:
            async with asyncio.timeout(first_s):
                answer = await self._session(hospital_id).get(url, allow_redirects=False)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as e:
            log.warning("link_failed", hospital=hospital_id, reason=type(e).__name__)
            raise LiveFailed("his_unavailable", "The hospital's server of documents did not answer in time.") from None
        failed = self._refused(answer)
        if failed is not None:
            answer.close()
            log.warning("link_failed", hospital=hospital_id, status=answer.status)
            raise failed
        return LinkedDocument(
            content_type=answer.content_type if "Content-Type" in answer.headers else None,
            size_bytes=answer.content_length,
            pieces=self._pieces(hospital_id, answer),
        )

    def _refused(self, answer: aiohttp.ClientResponse) -> LiveFailed | None:
        if answer.status in _GONE:
            return LiveFailed("his_refused", "The hospital's server of documents does not have it.")
        if answer.status >= 500 or answer.status == 429:
            return LiveFailed("his_unavailable", "The hospital's server of documents cannot give it now.")
        if answer.status != 200:
            return LiveFailed("his_refused", "The hospital's server of documents does not give it.")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            return LiveFailed("his_reply_invalid", "The document is packed, though that was not asked for.")
        if (answer.content_length or 0) > self._most_bytes:
            return LiveFailed("his_reply_invalid", "The document is larger than any that is passed on.")
        return None

    async def _pieces(self, hospital_id: str, answer: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        """Raises ConnectionResetError where it breaks off: whoever reads must not take what has come for the whole."""
        size = 0
        try:
            async for piece in answer.content.iter_chunked(PIECE_BYTES):
                size += len(piece)
                if size > self._most_bytes:
                    log.warning("link_failed", hospital=hospital_id, reason="too large")
                    raise ConnectionResetError("the document is larger than any that is passed on")
                yield piece
        except (aiohttp.ClientError, TimeoutError) as e:
            log.warning("link_failed", hospital=hospital_id, reason=type(e).__name__, size_bytes=size)
            raise ConnectionResetError("the document broke off") from None
        finally:
            answer.close()

    def _session(self, hospital_id: str) -> aiohttp.ClientSession:
        session = self._sessions.get(hospital_id)
        if session is None:
            session = self._sessions[hospital_id] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=AT_ONCE),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=WHOLE_S, sock_read=self._read_s),
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,
                trust_env=False,
            )
        return session

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()
