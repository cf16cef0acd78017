"""When a report may be seen by its patient: the hospital's rule. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from mappings.canonical import Report, ReportStatus

_CORRECTIONS = frozenset(
    {ReportStatus.AMENDED, ReportStatus.CORRECTED, ReportStatus.CANCELLED, ReportStatus.ENTERED_IN_ERROR}
)
REVIEWED = _CORRECTIONS | {ReportStatus.FINAL}
"""What a doctor has verified, and what came of that."""


class ReportRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[hospital.<id>.reports]`. `release`: `any` shows every report as it comes, `reviewed` only those that a doctor has
    verified (final and later). `delay_s` is waited from the issue on, so that a doctor may speak to the patient first.

    `links`: below which addresses documents are fetched that a report only names (see `booking.report_links`).
    """

    release: Annotated[str, Meta(pattern="^(any|reviewed)$")] = "any"
    delay_s: Annotated[int, Meta(ge=0, le=2_592_000)] = 0
    links: Annotated[tuple[Annotated[str, Meta(max_length=500)], ...], Meta(max_length=50)] = ()


def shown_from_ms(rule: ReportRule, report: Report, heard_ms: int) -> int | None:
    """From when on a report may be seen; None: not in the status that it has. `heard_ms` counts where it names no issue.

    A correction waits from the examination on, where that is known, and else not at all: who has read the wrong one must not wait
    for the right one anew.
    """
    if rule.release == "reviewed" and report.status not in REVIEWED:
        return None
    if rule.delay_s == 0:
        return 0
    if report.status in _CORRECTIONS:
        since_ms = None if report.effective_at is None else round(report.effective_at.timestamp() * 1000)
        return 0 if since_ms is None else since_ms + 1000 * rule.delay_s
    issued_ms = heard_ms if report.issued_at is None else round(report.issued_at.timestamp() * 1000)
    return issued_ms + 1000 * rule.delay_s
