"""HL7 v2 messages read or checked in a process of their own (see connectors.elsewhere); `aside` is its side."""

from __future__ import annotations

from typing import Any

import msgspec

from connectors import elsewhere
from connectors.config import HospitalContext
from connectors.elsewhere import AGAIN_AFTER_S, IDLE_S, Failed, Lost, command_of
from connectors.hl7v2.options import Settings
from mappings.profile import Profile

__all__ = ["Elsewhere", "Failed", "Lost", "Setup"]

_COMMAND = command_of("connectors.hl7v2.aside")


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is for: `read` needs all of it, `validate` nothing more."""

    job: str
    hospital: HospitalContext | None = None
    name: str = ""
    settings: Settings | None = None
    connection: dict[str, Any] = {}
    profile: Profile | None = None


class Elsewhere(elsewhere.Elsewhere):
    """One process for HL7 v2 messages, started on demand. To be closed."""

    setup: Setup

    def __init__(self, setup: Setup, *, idle_s: float = IDLE_S, again_after_s: float = AGAIN_AFTER_S) -> None:
        super().__init__(setup, lambda: _COMMAND, idle_s=idle_s, again_after_s=again_after_s)
