"""The hours in which a hospital takes no holds, as an instant of the store's clock."""

from __future__ import annotations

import datetime as dt

from booking.release import closed_until
from booking.settings import Hospital


def closed_until_ms(hospital: Hospital, now_ms: int) -> int | None:
    """When holds are taken again; None while they are taken now."""
    if not hospital.release.closed:
        return None
    zone = hospital.zone
    until = closed_until(hospital.release, dt.datetime.fromtimestamp(now_ms / 1000, zone), zone)
    return None if until is None else round(until.timestamp() * 1000)
