"""What every connector is given: the hospital it serves, its own options, and its profile."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import msgspec


class HospitalContext(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a hospital that connectors need. `zone` resolves times without an offset; `currency` is ISO 4217.

    `writes`: whether anything may be written there at all.
    `clock_warn_s` is how far the HIS's clock may be off before the log says so. `calls_at_once`: what the HIS bears.
    """

    id: str
    zone: ZoneInfo
    currency: str = "CNY"
    clock_warn_s: float = 5.0
    calls_at_once: int = 8
    writes: bool = True


class ConnectorOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options that every connector takes, from `[hospital.<id>.connector.<name>]`; each protocol adds its own.

    `timeout_s` overrides the profile's time-outs verb by verb. `max_message_bytes` bounds every message read.
    """

    protocol: str
    profile: str
    timeout_s: dict[str, float] = {}
    max_message_bytes: int = 10_000_000
