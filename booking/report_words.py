"""What a new word on a report makes of what is known of it, however each of them came. Pure.

A HIS tells of one report in two ways: it pushes it when it is issued, and it answers when it is asked (pulled). What is pushed
has a time of its own, by which an older word is known; an answer has none. It may come from a system that has not heard yet of a
correction, or that knows nothing of the documents: it must not take away what was pushed, nor what was pushed late what was
answered since.
"""

from __future__ import annotations

import datetime as dt

import msgspec

from mappings.canonical import Report, ReportStatus

_RANKS = {
    ReportStatus.UNKNOWN: 0,
    ReportStatus.REGISTERED: 0,
    ReportStatus.PARTIAL: 1,
    ReportStatus.PRELIMINARY: 2,
    ReportStatus.FINAL: 3,
    ReportStatus.AMENDED: 4,
    ReportStatus.CORRECTED: 4,
    ReportStatus.CANCELLED: 5,
    ReportStatus.ENTERED_IN_ERROR: 5,
}
"""How far a report has come. A lower rank is the word of who has not heard of the higher one yet."""

_ONE_MINUTE = dt.timedelta(minutes=1)


def word_taken(report: Report, known: Report, *, pushed: bool, known_pushed: bool) -> Report | None:
    """What is known after `report` was told of what was `known`; None where it adds nothing, or is behind.

    `pushed`: it comes with the HIS's own time, and is no older than what is known by such a time. `known_pushed`: what is known
    was pushed at some time.
    """
    if report == known or is_heading_of(report, known):
        return None
    if pushed == known_pushed:
        return report
    if _is_behind(report, known):
        return None
    if report.status != known.status or not _is_same_issue(report, known):
        return report
    both = msgspec.structs.replace(
        report,
        observations=report.observations or known.observations,
        attachments=report.attachments or known.attachments,
        conclusion=report.conclusion or known.conclusion,
        interpreter=report.interpreter or known.interpreter,
        his_refs={**known.his_refs, **report.his_refs},
    )
    # What it is called in each of its systems says nothing to a patient.
    return None if both == msgspec.structs.replace(known, his_refs=both.his_refs) else both


def is_heading_of(report: Report, known: Report) -> bool:
    """Whether a report is only the heading of the whole one that we have: a list must not take its results away."""
    if report.observations or report.attachments or not (known.observations or known.attachments):
        return False
    return report.status == known.status and _is_same_issue(report, known)


def _is_behind(report: Report, known: Report) -> bool:
    """Whether a word says less than is known, and does not say that it is the newer one."""
    if _RANKS[report.status] >= _RANKS[known.status]:
        return False
    return report.issued_at is None or known.issued_at is None or report.issued_at <= known.issued_at


def _is_same_issue(report: Report, known: Report) -> bool:
    """Whether two words are of one issue. Lists tell minutes where the message told seconds, and some only the day."""
    if report.issued_at is None or known.issued_at is None:
        return report.issued_at is None
    if report.issued_at.time() == dt.time():
        return report.issued_at.date() == known.issued_at.astimezone(report.issued_at.tzinfo).date()
    return abs(report.issued_at - known.issued_at) < _ONE_MINUTE
