"""The settings of a hospital's waiting room, and the openings that it opens for. Pure."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from booking.release import ReleaseRule, openings


class WaitingRoomRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[hospital.<id>.waiting_room]`. It opens `opens_before_s` before each opening of the release rule (None: it does not),
    and where `opens_by_load` says so, when holds wait for longer than the engine can make good. By itself it never opens.

    `rate_per_s` is admitted a second to begin with, `most_per_s` at most; between them the rate follows what keeps the delay of
    holds below `delay_s`. Who is admitted may hold `holds` seats within `admitted_s`. The room closes when for `quiet_s` nobody
    waited and holds were quick, when the release is sold out, and `lasts_s` after the release in any case.
    """

    opens_before_s: Annotated[float, Meta(ge=1, le=86_400)] | None = None
    opens_by_load: bool = False
    rate_per_s: Annotated[float, Meta(ge=0.1, le=100_000)] = 50.0
    most_per_s: Annotated[float, Meta(ge=0.1, le=100_000)] = 1_000.0
    delay_s: Annotated[float, Meta(ge=0.01, le=5)] = 0.2
    admitted_s: Annotated[float, Meta(ge=5, le=3_600)] = 300.0
    holds: Annotated[int, Meta(ge=1, le=1_000)] = 3
    quiet_s: Annotated[float, Meta(ge=1, le=3_600)] = 60.0
    lasts_s: Annotated[float, Meta(ge=10, le=43_200)] = 3_600.0

    @property
    def is_used(self) -> bool:
        """Whether it can open at all."""
        return self.opens_before_s is not None or self.opens_by_load


class OpenedBy(StrEnum):
    """What has opened a room."""

    RELEASE = "release"
    LOAD = "load"


class ClosedBecause(StrEnum):
    """Why a room has closed: nobody waited any more, no seat of the release was left, or its time was over."""

    CALM = "calm"
    SOLD_OUT = "sold_out"
    OVER = "over"


def room_problems(rule: WaitingRoomRule, release: ReleaseRule) -> list[tuple[str, str]]:
    """What cannot be meant: (setting, what is expected)."""
    problems = []
    if rule.opens_before_s is not None and release.time is None:
        problems.append(("opens_before_s", "expected release.time: without it nobody knows when to open"))
    if rule.rate_per_s > rule.most_per_s:
        problems.append(("rate_per_s", f"expected at most most_per_s ({rule.most_per_s:g})"))
    return problems


MISSED_MS = 300_000
"""So long after an opening its room opens all the same, if nobody was there to open it in time."""


def release_to_open_for(rule: WaitingRoomRule, release: ReleaseRule, zone: dt.tzinfo, now_ms: int) -> int | None:
    """The opening that the room is to be open for now, a coming one or one that has just been; None: none, or not by schedule."""
    if rule.opens_before_s is None:
        return None
    found = openings(release, zone, now_ms + 1, now_ms + int(rule.opens_before_s * 1000))
    return found[0][0] if found else last_release(release, zone, now_ms, within_ms=MISSED_MS)


def last_release(release: ReleaseRule, zone: dt.tzinfo, now_ms: int, *, within_ms: int) -> int | None:
    """The opening that was last, if it was within this time; None otherwise."""
    found = openings(release, zone, now_ms - within_ms, now_ms)
    return found[-1][0] if found else None
