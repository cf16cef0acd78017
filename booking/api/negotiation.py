"""What a caller already has, what it can unpack, how long it waits: RFC 9110, sections 12.5.3 and 13.1.2, RFC 7240.

Callers send the same few header values over and over: each is read once.
"""

from __future__ import annotations

import re
from functools import lru_cache

_ETAG = re.compile(r'\s*(?:W/)?"([^\x00-\x20"\x7f]*)"\s*(?:,|$)')
_WAIT = re.compile(r'(?:^|,)\s*wait\s*=\s*"?([0-9]{1,9})"?\s*(?:[;,]|$)', re.IGNORECASE)
_MAX_CHARS = 2_000
MOST_WAIT_S = 86_400  # longer than anything here takes


@lru_cache(maxsize=1024)
def read_wait(prefer: str | None) -> int | None:
    """The seconds of `Prefer: wait=N` (RFC 7240, section 4.3), at least 1; the first one counts. None: no such wish.

    What cannot be read is ignored, as section 2 demands of preferences.
    """
    if not prefer or len(prefer) > _MAX_CHARS:
        return None
    found = _WAIT.search(prefer)
    return None if found is None else min(max(1, int(found[1])), MOST_WAIT_S)


@lru_cache(maxsize=1024)
def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether an answer may be packed with gzip. Without the header it is not: nobody asked for it."""
    if not accept_encoding or len(accept_encoding) > _MAX_CHARS:
        return False
    rest: bool | None = None
    for part in accept_encoding.lower().split(","):
        coding, _, parameters = part.partition(";")
        coding = coding.strip()
        if coding in ("gzip", "x-gzip"):
            return _weight(parameters) > 0.0
        if coding == "*":
            rest = _weight(parameters) > 0.0
    return bool(rest)


def _weight(parameters: str) -> float:
    """The `q` of a list's member; 1 without one, 0 where it cannot be read."""
    name, _, value = parameters.strip().partition("=")
    if not name:
        return 1.0
    try:
        return float(value) if name.strip() == "q" else 0.0
    except ValueError:
        return 0.0


def etag_matches(if_none_match: str | None, etag: str) -> bool:
    """Whether If-None-Match names `etag` (as it is sent, with its quotes): then the answer is 304.

    The comparison is the weak one; `*` matches whatever exists. A list that cannot be read matches nothing from there on.
    """
    if not if_none_match:
        return False
    return if_none_match.strip() == "*" or etag.removeprefix("W/").strip('"') in _opaque_tags(if_none_match)


@lru_cache(maxsize=4096)
def _opaque_tags(if_none_match: str) -> frozenset[str]:
    """What stands between the quotes of each tag: all that the weak comparison looks at."""
    tags: set[str] = set()
    at = 0
    while len(if_none_match) <= _MAX_CHARS and (match := _ETAG.match(if_none_match, at)):
        tags.add(match[1])
        at = match.end()
    return frozenset(tags)
