"""What a check says."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """One thing that must not be. `subject` is a booking, a visit, a segment: something to look up."""

    hospital: str
    subject: str
    text: str


class Check(msgspec.Struct, frozen=True):
    """One promise, and what was found against it. `examined` of `unit`: nothing found among nothing proves nothing."""

    name: str
    promise: str
    examined: int
    unit: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return not self.findings


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The same each time."""
    return tuple(sorted(findings, key=lambda f: (f.hospital, f.subject, f.text)))
