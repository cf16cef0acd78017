"""How a hospital learns who came: its settings, and when a visit counts as missed by its rule. Pure."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import msgspec
from msgspec import Meta

from booking.release import instant_at


class VisitRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[hospital.<id>.visits]`. `ask_every_s`: how often the HIS is asked about today's visits whose outcome is not known, 0
    never; `ask_days`: for how many days more, every few hours.

    `no_show_after_h`: so many hours after the end of its day a booking that nobody has come for is a `no_show`; None: only
    when the HIS says so.
    """

    ask_every_s: Annotated[float, Meta(ge=0, le=86_400)] = 900
    ask_days: Annotated[int, Meta(ge=0, le=14)] = 2
    no_show_after_h: Annotated[int, Meta(ge=1, le=336)] | None = None

    @property
    def days(self) -> int:
        """How many days back are looked at: those that are asked about, and those that may become missed now."""
        return self.ask_days if self.no_show_after_h is None else max(self.ask_days, 2 + self.no_show_after_h // 24)


def missed_from_ms(rule: VisitRule, date: dt.date, zone: dt.tzinfo) -> int | None:
    """From when on a visit of that day counts as missed, where nobody has said otherwise; None: never by rule."""
    if rule.no_show_after_h is None:
        return None
    ends = instant_at(date + dt.timedelta(days=1), 0, zone)
    return round(ends.timestamp() * 1000) + rule.no_show_after_h * 3_600_000
