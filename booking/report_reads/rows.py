"""What is recorded of a read."""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,80}")
NO_ID = "(no id)"


class What(StrEnum):
    """What was asked for."""

    LIST = "list"
    """Headings, or how many there are."""

    DETAIL = "detail"
    VERSIONS = "versions"
    ATTACHMENT = "attachment"
    OBSERVATION = "observation"
    """Lines of reports by themselves, as the FHIR facade gives them."""


class Outcome(StrEnum):
    """What came of it."""

    GIVEN = "given"
    UNCHANGED = "unchanged"
    """304: the reader has it."""

    NOT_RELEASED = "not_released"
    NOT_THEIRS = "not_theirs"
    """Of a person who is no patient of this client, or of another one than was named."""

    UNKNOWN = "unknown"
    """There is no such report or document."""


class ReportRead(msgspec.Struct, frozen=True, kw_only=True):
    """One read. `reports` are those that were shown, or the one that was asked for: `id:version`, documents with `/number`.

    `person_id` is whose they are, None where nobody knows. No name and no number of a document stands in it.
    """

    client_id: str
    what: What
    outcome: Outcome
    request_id: str
    user_ref: str | None = None
    patient_id: str | None = None
    person_id: str | None = None
    reports: tuple[str, ...] = ()


class ReadRow(msgspec.Struct, frozen=True, kw_only=True):
    """A read as it is stored; `number` counts up for each hospital without a gap."""

    number: int
    at_ms: int
    client_id: str
    user_ref: str | None
    patient_id: str | None
    person_id: str | None
    what: str
    reports: str
    outcome: str
    request_id: str


def asked_id(text: str) -> str:
    """An id as a caller has written it, fit to be stored: what cannot be one of ours might be a name."""
    return text if _ID.fullmatch(text) else NO_ID


def told_of(report_id: str, version: int | None = None, attachment: int | None = None) -> str:
    """How a report stands in `ReportRead.reports`."""
    told = report_id if version is None else f"{report_id}:{version}"
    return told if attachment is None else f"{told}/{attachment}"
