"""API keys: `Authorization: Bearer <key>` (RFC 6750), looked up by their SHA-256.

A key is `hb_<id>_<secret>` with 256 random bits, so that one round of SHA-256 is enough to store it (there is nothing to
guess from); any other literal that a site has stored works too. The store is asked by digest: the time a comparison takes
tells nothing about a key, because nobody can steer a digest.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Protocol

import msgspec

from booking.api.problems import ApiProblem
from monitoring.logs import get_logger

log = get_logger(__name__)

SCOPES: dict[str, str] = {
    "booking": "hospitals, slots and bookings",
    "patients": "create and read patients",
    "billing": "bills, payments and refunds",
    "reports": "reports and their attachments",
    "events": "the event feed and webhooks",
    "reconciliation": "merchant bills and reconciliations",
}
"""Every scope, and what it opens."""

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="hisbridge"'}
_CHALLENGE_INVALID = {"WWW-Authenticate": 'Bearer realm="hisbridge", error="invalid_token"'}
MAX_KEY_CHARS = 512
GRACE_S = 60.0
RETRY_S = 1.0
"""How often the store is asked again for a key that it could not tell of."""
PATIENCE_S = 0.25
"""How long a request waits for a store that says nothing, where its key was good before."""


class ApiClient(msgspec.Struct, frozen=True, kw_only=True):
    """A portal. `hospitals` None means all of them, those added later too."""

    id: str
    name: str
    scopes: frozenset[str]
    hospitals: frozenset[str] | None = None

    def may_use(self, hospital_id: str) -> bool:
        return self.hospitals is None or hospital_id in self.hospitals


class KeyStore(Protocol):
    """Where keys are kept. Answers None for a digest that is unknown, revoked or expired."""

    async def lookup(self, digest: str) -> ApiClient | None: ...


class _Entry(msgspec.Struct):
    """`since_s`: when the store was last asked and answered."""

    client: ApiClient | None
    since_s: float
    refresh_at_s: float
    expires_at_s: float


class Authenticator:
    """Finds the client of a request, asking the store at most once per key and `ttl_s`.

    A revoked key therefore works for up to `ttl_s` longer. Unknown keys are remembered in a cache of their own, so that
    guessing pushes no real client out of memory. Requests that wait for the same key share one look-up; a key that is in use is
    looked up again beside them after half of its time, so that no crowd waits for the store every `ttl_s`. While the store
    cannot be asked, or says nothing, keys that were good stay good for up to `GRACE_S` more: what is answered from memory needs
    no store.
    """

    def __init__(
        self, keys: KeyStore, *, ttl_s: float = 10.0, size: int = 1024, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = keys
        self._ttl_s = ttl_s
        self._size = size
        self._clock = clock
        self._known: OrderedDict[bytes, _Entry] = OrderedDict()
        self._refused: OrderedDict[bytes, _Entry] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[_Entry]] = {}
        self._by_header: dict[str, _Entry] = {}  # known clients only: whoever guesses fills another cache

    def recall(self, authorization: str | None) -> ApiClient | None:
        """The client of a header that was good a moment ago, without a digest; None: ask `authenticate`."""
        entry = self._by_header.get(authorization or "")
        if entry is None:
            return None
        now_s = self._clock()
        if entry.refresh_at_s <= now_s:
            if entry.expires_at_s <= now_s:
                return None
            self._refresh(authorization or "", entry)
        return entry.client

    async def authenticate(self, authorization: str | None) -> ApiClient:
        """The client, or ApiProblem unauthenticated. What the store raises comes through."""
        if not authorization:
            raise ApiProblem("unauthenticated", "the Authorization header is missing", headers=_CHALLENGE)
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key or len(key) > MAX_KEY_CHARS:
            raise ApiProblem("unauthenticated", "expected: Authorization: Bearer <api key>", headers=_CHALLENGE)
        digest = _digest(key)
        entry = self._known.get(digest) or self._refused.get(digest)
        if entry is None or entry.expires_at_s <= self._clock():
            entry = await self._ask(digest, self._known.get(digest))
        if entry.client is None:
            raise ApiProblem("unauthenticated", "this key is not known", headers=_CHALLENGE_INVALID)
        if len(self._by_header) >= self._size:
            self._by_header.clear()
        self._by_header[authorization] = entry
        return entry.client

    def forget(self) -> None:
        """Ask the store again for every key: call it when keys change in this process."""
        self._by_header.clear()
        self._known.clear()
        self._refused.clear()

    async def _ask(self, digest: bytes, known: _Entry | None) -> _Entry:
        task = self._looking_up(digest)
        if known is not None and not self._is_over(known):
            await asyncio.wait([task], timeout=PATIENCE_S)
            if not task.done():  # nobody else waits for this look-up: what comes of it is known a second later
                known.refresh_at_s, known.expires_at_s = self._clock() + RETRY_S, self._grace_ends_s(known)
                return known
        return await asyncio.shield(task)

    def _grace_ends_s(self, known: _Entry) -> float:
        return known.since_s + self._ttl_s + GRACE_S

    def _is_over(self, known: _Entry) -> bool:
        return self._clock() >= self._grace_ends_s(known)

    def _refresh(self, authorization: str, entry: _Entry) -> None:
        """Look the key up again, while `entry` still answers for it."""
        digest = _digest(authorization.partition(" ")[2].strip())
        if digest not in self._asking:
            task = self._looking_up(digest)
            task.add_done_callback(lambda done: self._refreshed(authorization, entry, done))

    def _refreshed(self, authorization: str, before: _Entry, done: asyncio.Task[_Entry]) -> None:
        if done.cancelled() or done.exception() is not None:  # whoever asks when the time is over is told
            return
        if self._by_header.get(authorization) is before:
            if done.result().client is None:
                del self._by_header[authorization]
            else:
                self._by_header[authorization] = done.result()

    def _looking_up(self, digest: bytes) -> asyncio.Task[_Entry]:
        task = self._asking.get(digest)
        if task is None:
            task = asyncio.create_task(self._look_up(digest))
            self._asking[digest] = task
            task.add_done_callback(partial(self._looked_up, digest))
        return task

    def _looked_up(self, digest: bytes, done: asyncio.Task[_Entry]) -> None:
        self._asking.pop(digest, None)
        if not done.cancelled():
            done.exception()  # when nobody waits any more, it is nobody's error

    async def _look_up(self, digest: bytes) -> _Entry:
        try:
            client = await self._keys.lookup(digest.hex())
        except Exception as error:  # whatever it is: raised where no grace is left, else told here
            known, now_s = self._known.get(digest), self._clock()
            if known is None or self._is_over(known):
                raise
            log.warning(
                "key_not_looked_up", client=known.client.id if known.client else None, reason=type(error).__name__
            )
            known.refresh_at_s, known.expires_at_s = now_s + RETRY_S, max(known.expires_at_s, now_s + 2 * RETRY_S)
            return known
        self._known.pop(digest, None)
        self._refused.pop(digest, None)
        cache = self._known if client is not None else self._refused
        now_s = self._clock()
        entry = cache[digest] = _Entry(client, now_s, now_s + self._ttl_s / 2, now_s + self._ttl_s)
        if len(cache) > self._size:
            cache.popitem(last=False)
        return entry


def require_access(client: ApiClient, *, scopes: frozenset[str], hospital_id: str | None) -> None:
    """Raise forbidden_scope or forbidden_hospital unless the client has every scope and the hospital."""
    if not scopes <= client.scopes:
        missing = sorted(scopes - client.scopes)
        raise ApiProblem("forbidden_scope", extra={"scopes": missing})
    if hospital_id is not None and not client.may_use(hospital_id):
        raise ApiProblem("forbidden_hospital")


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


def new_api_key(client_id: str) -> str:
    """A fresh key. Show it once; store only `digest_api_key(key)`."""
    return f"hb_{client_id}_{secrets.token_urlsafe(32)}"


def digest_api_key(key: str) -> str:
    """What is stored of a key: its SHA-256 in 64 hex characters."""
    return sha256(key.encode()).hexdigest()
