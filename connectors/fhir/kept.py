"""Replies that are kept to be asked about again: with their ETag, and packed, because pages of Slots repeat themselves.

What is unchanged (304) is unpacked anew for whoever asks. An ETag is believed for so long only: of a server that makes it of
something else than the content, the worst is that a change is seen `WHOLE_EVERY_S` late.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from time import monotonic
from typing import Generic, TypeVar

import msgspec

MOST_KEPT = 4_000
MOST_KEPT_BYTES = 8_000_000
LARGEST_BYTES = 500_000
"""So many replies at most, so many bytes of them once packed, and none larger before."""

WHOLE_EVERY_S = 3_600.0
"""A reply is asked for anew, whatever its ETag, when it was sent so long ago."""

IDLE_S = 3_600.0
"""What nobody has asked for again for so long makes room; until then what comes is not kept. A search that is larger than all the
room would otherwise push out its own first pages, and none would ever be there."""

Key = TypeVar("Key")


class Unchanged(msgspec.Struct, frozen=True):
    """A reply of before: its ETag, its body packed."""

    etag: str
    packed: bytes
    sent_at: float


class Kept(Generic[Key]):
    """The replies of one server, bounded."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, tuple[Unchanged, float]] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def known(self, key: Key) -> Unchanged | None:
        """What was kept, where it may still be asked about by its ETag."""
        found = self._kept.get(key)
        if found is None or monotonic() - found[0].sent_at >= WHOLE_EVERY_S:
            return None
        return found[0]

    def confirm(self, key: Key) -> None:
        """It was asked for again, and is the same."""
        found = self._kept.get(key)
        if found is not None:
            self._kept[key] = (found[0], monotonic())
            self._kept.move_to_end(key)

    def keep(self, key: Key, etag: str, packed: bytes) -> None:
        """In place of what was kept under this key, where there is room."""
        self.drop(key)
        now = monotonic()
        while self._kept and self._is_full(packed) and now - next(iter(self._kept.values()))[1] >= IDLE_S:
            self.drop(next(iter(self._kept)))
        if not self._is_full(packed):
            self._kept[key] = (Unchanged(etag, packed, now), now)
            self.size_bytes += len(packed)

    def drop(self, key: Key) -> None:
        """Keep it no longer."""
        found = self._kept.pop(key, None)
        if found is not None:
            self.size_bytes -= len(found[0].packed)

    def _is_full(self, packed: bytes) -> bool:
        return len(self._kept) >= MOST_KEPT or self.size_bytes + len(packed) > MOST_KEPT_BYTES


def pack(data: bytes) -> bytes:
    """Quick rather than small: a page of 40 kB takes a third of a millisecond."""
    return zlib.compress(data, 1)


def unpack(packed: bytes) -> bytes:
    """What was packed."""
    return zlib.decompress(packed)
