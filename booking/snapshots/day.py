"""A department's day, ready-made: every slot as the JSON that is sent, for each thing that the clock alone makes of it.

A slot has up to three faces: not on sale yet, on sale (or sold out), and past. All are rendered when the day is read, so that
an opening costs no reading and no encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

Render = Callable[[dict[str, Any], int], bytes]
"""A row of the store as it is shown at an instant (ms)."""

FOREVER_MS = 1 << 62
# Our idea of the store's clock may step back a little: a face that has only just passed is kept.
JUST_PASSED_MS = 60_000
# What Python takes for one slot beside its bytes: two tuples, three texts, two numbers, two bytes objects.
_SLOT_BYTES, _DAY_BYTES = 560, 1_000


class Item(NamedTuple):
    """One slot as shown now."""

    starts_at_ms: int
    id: str
    practitioner_id: str | None
    json: bytes


class Shown:
    """A day as shown from one instant until just before another one."""

    __slots__ = ("from_ms", "items", "until_ms")

    def __init__(self, from_ms: int, until_ms: int, items: list[Item]) -> None:
        self.from_ms = from_ms
        self.until_ms = until_ms
        self.items = items


class _Slot(NamedTuple):
    starts_at_ms: int
    id: str
    practitioner_id: str | None
    faces: tuple[tuple[int, bytes], ...]
    """Each with the instant at which the next one begins; the last one is for ever."""


class Day:
    """One reading of a day. `read_s` is when it began, on the monotonic clock; `tick` is the last change noticed before it.

    `changed_s`: nothing committed after that instant is in it, because something has changed since; None: it is current.
    """

    __slots__ = ("_shown", "_slots", "changed_s", "nbytes", "read_s", "tick")

    def __init__(self, slots: tuple[_Slot, ...], *, tick: int, read_s: float) -> None:
        self._slots = slots
        self._shown: Shown | None = None
        self.tick = tick
        self.read_s = read_s
        self.changed_s: float | None = None
        self.nbytes = _DAY_BYTES + sum(_SLOT_BYTES + sum(len(json) for _, json in slot.faces) for slot in slots)

    def shown(self, now_ms: int) -> Shown:
        """The day as of now, from memory."""
        shown = self._shown
        if shown is None or not shown.from_ms <= now_ms < shown.until_ms:
            shown = self._shown = _show(self._slots, now_ms)
        return shown


def make_day(rows: Iterable[dict[str, Any]], render: Render, now_ms: int, *, tick: int, read_s: float) -> Day:
    """A day from its rows, which are ordered by start and id."""
    slots = tuple(
        _Slot(row["starts_at_ms"], row["id"], row["practitioner_id"], _faces(row, render, now_ms)) for row in rows
    )
    return Day(slots, tick=tick, read_s=read_s)


def next_change_ms(row: dict[str, Any], now_ms: int) -> int:
    """When the clock alone will show the slot differently: when it opens, when the visit begins, or never."""
    coming = (ms for ms in (row["opens_at_ms"], row["starts_at_ms"]) if ms is not None and ms > now_ms)
    return min(coming, default=FOREVER_MS)


def _faces(row: dict[str, Any], render: Render, now_ms: int) -> tuple[tuple[int, bytes], ...]:
    faces: list[tuple[int, bytes]] = []
    at_ms = now_ms - JUST_PASSED_MS
    while at_ms < FOREVER_MS:
        until_ms = next_change_ms(row, at_ms)
        json = render(row, at_ms)
        if faces and faces[-1][1] == json:
            faces.pop()
        faces.append((until_ms, json))
        at_ms = until_ms
    return tuple(faces)


def _show(slots: tuple[_Slot, ...], now_ms: int) -> Shown:
    items: list[Item] = []
    from_ms, until_ms = 0, FOREVER_MS
    for starts_at_ms, slot_id, practitioner_id, faces in slots:
        begins_ms = 0
        for ends_ms, json in faces:  # noqa: B007 - the face at which the loop ends
            if now_ms < ends_ms:
                break
            begins_ms = ends_ms
        from_ms, until_ms = max(from_ms, begins_ms), min(until_ms, ends_ms)
        items.append(Item(starts_at_ms, slot_id, practitioner_id, json))
    return Shown(from_ms, until_ms, items)
