"""Identifiers: time-ordered for rows of ours, derived from the HIS's keys for what a HIS owns."""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
import time

import uuid_utils

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id() -> str:
    """A UUIDv7 in its usual 36 characters: sorts by time of creation (RFC 9562, 5.7)."""
    return str(uuid_utils.uuid7())


def new_ids(count: int) -> list[str]:
    """So many of `new_id`, in their order: rows that are written together then lie together, and are served as they came."""
    return sorted(new_id() for _ in range(count))


def new_ids_at(now_ms: int, count: int = 1, *, seq: int = 0) -> list[str]:
    """UUIDv7s that sort by the store's time, then by `seq` (`Tx.seq`), then as they are made here.

    The machines of several processes have clocks of their own; the store has one. Of the 74 bits that RFC 9562 (5.7) leaves to
    us 20 are `seq`, 20 a count and 34 are random.
    """
    ids = []
    for _ in range(count):
        rest = (seq & 0xFFFFF) << 54 | (next(_made) & 0xFFFFF) << 34 | int.from_bytes(os.urandom(5)) >> 6
        number = now_ms << 80 | 0x7 << 76 | (rest >> 62) << 64 | 0b10 << 62 | rest & (1 << 62) - 1
        text = f"{number:032x}"
        ids.append(f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}")
    return ids


_made = itertools.count()


def first_id(ms: int) -> str:
    """The smallest UUIDv7 of an instant (RFC 9562, 5.7: 48 bits of milliseconds come first)."""
    text = f"{ms:012x}"
    return f"{text[:8]}-{text[8:]}"


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

    10 digits of the second, 3 of the millisecond in which they are made, 7 random ones: those of one batch lie together in the
    store's index. The first is never 0 (from 2001 to 2286): some systems strip leading zeros. Unique per hospital by that index.
    """
    # The machine's own milliseconds: where the hospital's clock stands still, because the machine's was turned back, they go on.
    head = f"{now_ms // 1000:010d}{time.time_ns() // 1_000_000 % 1000:03d}"
    numbers: set[int] = set()
    while len(numbers) < count:
        # Of 64 bits the remainder favours none of 10^7 numbers by more than 1 in 10^12.
        drawn = struct.iter_unpack("<Q", os.urandom(8 * (count - len(numbers))))
        numbers.update(number % 10**7 for (number,) in drawn)
    return [f"{head}{number:07d}" for number in sorted(numbers)]
