"""Identifiers: time-ordered for rows of ours, derived from the HIS's keys for what a HIS owns."""

from __future__ import annotations

import hashlib
import os
import struct

import uuid_utils

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id() -> str:
    """A UUIDv7 in its usual 36 characters: sorts by time of creation (RFC 9562, 5.7)."""
    return str(uuid_utils.uuid7())


def derived_id(prefix: str, *parts: str) -> str:
    """An id that is the same on every fetch: `prefix` and 26 characters of a SHA-256 over the HIS's keys.

    Parts are length-prefixed, so that ("ab", "c") and ("a", "bc") differ. 130 bits: no collision to be expected.
    """
    digest = hashlib.sha256("".join(f"{len(p)}:{p}" for p in parts).encode()).digest()
    number = int.from_bytes(digest[:17], "big") >> 6
    return prefix + "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def new_order_no(now_ms: int) -> str:
    """One of `new_order_nos`."""
    return new_order_nos(now_ms, 1)[0]


def new_order_nos(now_ms: int, count: int) -> list[str]:
    """Numbers that a HIS sees: 20 digits each, because old systems cut longer ones.

    10 digits of the second, 10 random ones. The first is never 0 (from 2001 to 2286): some systems strip leading zeros.
    Unique per hospital by the store's own index.
    """
    # Of 64 bits the remainder favours none of 10^10 numbers by more than 1 in 10^9.
    second, entropy = f"{now_ms // 1000:010d}", os.urandom(8 * count)
    return [f"{second}{number % 10**10:010d}" for (number,) in struct.iter_unpack("<Q", entropy)]
