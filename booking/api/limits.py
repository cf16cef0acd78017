"""How much the API takes on: requests in flight in all, a rate for each client, connections. What is refused is counted."""

from __future__ import annotations

import math
import sys
import time
from collections import OrderedDict
from collections.abc import Callable

from booking.api.problems import ApiProblem
from monitoring.logs import get_logger

log = get_logger(__name__)

MAX_CLIENTS = 10_000
KEPT_DESCRIPTORS = 256
"""Left for the databases, the HIS connections, the logs and the admin listener."""


class _Bucket:
    __slots__ = ("at_s", "tokens")

    def __init__(self, tokens: float, at_s: float) -> None:
        self.tokens = tokens
        self.at_s = at_s


class ClientRate:
    """A token bucket for each client: `rate_per_s` on average, `burst` at once. A rate of 0 means no limit."""

    def __init__(self, rate_per_s: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate_per_s = rate_per_s
        self._burst = float(burst)
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, client_id: str) -> None:
        """Count one request. Raises ApiProblem rate_limited with the time until the next one fits."""
        if not self._rate_per_s:
            return
        now_s = self._clock()
        bucket = self._buckets.get(client_id)
        if bucket is None:
            bucket = self._buckets[client_id] = _Bucket(self._burst, now_s)
            if len(self._buckets) > MAX_CLIENTS:
                self._buckets.popitem(last=False)
        bucket.tokens = min(self._burst, bucket.tokens + (now_s - bucket.at_s) * self._rate_per_s)
        bucket.at_s = now_s
        if bucket.tokens < 1.0:
            wait_s = (1.0 - bucket.tokens) / self._rate_per_s
            raise ApiProblem("rate_limited", retry_after_s=max(1, math.ceil(wait_s)))
        bucket.tokens -= 1.0

    def give_back(self, client_id: str) -> None:
        """The request that was counted last will be counted again."""
        bucket = self._buckets.get(client_id)
        if bucket is not None:
            bucket.tokens += 1.0


class InFlight:
    """How many requests are being answered. Above `limit` new ones are shed at once, while they are cheap to refuse."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0

    @property
    def is_full(self) -> bool:
        return self.count >= self.limit

    def enter(self) -> None:
        """Raises ApiProblem overloaded; otherwise `leave` must follow."""
        if self.is_full:
            raise ApiProblem("overloaded", retry_after_s=1)
        self.count += 1

    def leave(self) -> None:
        self.count -= 1


def allow_connections(wanted: int) -> int:
    """How many connections this process may have, at most `wanted`; where it can, it raises `ulimit -n` for them first.

    The soft limit goes up to the hard one. What is still missing is a warning: accepting a connection without a descriptor
    for it fails, and opening the database then fails too.
    """
    if sys.platform == "win32":  # no such limit
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + KEPT_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = max(soft - KEPT_DESCRIPTORS, soft // 2)
    log.warning("max_connections_lowered", wanted=wanted, allowed=allowed, descriptors=soft, do="raise ulimit -n")
    return allowed
