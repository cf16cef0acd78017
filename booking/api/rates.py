"""Token buckets, and how they are told to callers: the fields of draft-ietf-httpapi-ratelimit-headers-11."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from typing import NamedTuple

MOST_BUCKETS = 100_000


class RatePolicy:
    """`rate_per_s` on average, `burst` at once. `name` is what callers know it by; an empty bucket is full after `window_s`."""

    __slots__ = ("burst", "member", "name", "quoted", "rate_per_s", "window_s")

    def __init__(self, name: str, rate_per_s: float, burst: int) -> None:
        self.name = name
        self.rate_per_s = rate_per_s
        self.burst = burst
        self.window_s = max(1, math.ceil(burst / rate_per_s))
        # Rendered once: every answer tells it.
        self.quoted = f'"{name}"'.encode()
        self.member = b"%b;q=%d;w=%d" % (self.quoted, burst, self.window_s)


class Left(NamedTuple):
    """What is left of a bucket: whole requests, and seconds until it is full, or, where nothing is left, until one fits."""

    granted: bool
    remaining: int
    reset_s: int


class _Bucket:
    __slots__ = ("at_s", "tokens")

    def __init__(self, tokens: float, at_s: float) -> None:
        self.tokens = tokens
        self.at_s = at_s


class Rates:
    """A bucket for each key, of this process alone. The least recently used ones are forgotten beyond `most`: full again."""

    def __init__(
        self, policy: RatePolicy, *, most: int = MOST_BUCKETS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.policy = policy
        self._most = most
        self._clock = clock
        self._buckets: OrderedDict[Hashable, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Hashable) -> Left:
        """Count one request where it fits. One that does not fit costs nothing."""
        rate_per_s, burst = self.policy.rate_per_s, self.policy.burst
        now_s = self._clock()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(burst, now_s)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
            bucket.tokens = min(burst, bucket.tokens + (now_s - bucket.at_s) * rate_per_s)
            bucket.at_s = now_s
        if bucket.tokens < 1.0:
            return Left(False, 0, max(1, math.ceil((1.0 - bucket.tokens) / rate_per_s)))
        bucket.tokens -= 1.0
        return Left(True, int(bucket.tokens), math.ceil((burst - bucket.tokens) / rate_per_s))

    def give_back(self, key: Hashable) -> None:
        """The request that was counted last will be counted again, or is not to be counted."""
        bucket = self._buckets.get(key)
        if bucket is not None:
            bucket.tokens += 1.0


def render_rates(told: Collection[tuple[RatePolicy, Left]]) -> bytes:
    """`RateLimit-Policy` and `RateLimit`, each with its CRLF: one member for each policy that the request fell under."""
    policies = b", ".join([policy.member for policy, _ in told])
    lefts = b", ".join([b"%b;r=%d;t=%d" % (policy.quoted, left.remaining, left.reset_s) for policy, left in told])
    return b"RateLimit-Policy: %b\r\nRateLimit: %b\r\n" % (policies, lefts)
