"""What the hospital tells of a patient's visits: registrations and reports."""

from __future__ import annotations

import datetime as dt

from booking.api.views.base import View


class RegistrationView(View, frozen=True):
    """A visit as the hospital tells it, also one that was not booked here."""

    id: str
    status: str
    booking_id: str | None
    his_id: str | None
    starts_at: dt.datetime | None
    ends_at: dt.datetime | None
    department_name: str | None
    practitioner_name: str | None


class RegistrationList(View, frozen=True):
    """A patient's registrations, latest start first."""

    items: list[RegistrationView]
    next: str | None = None


class ObservationView(View, frozen=True):
    """One result. `flag` of HL7 table 0078: H, L, HH, LL, N, A ...; `note`: what the laboratory remarks on this value."""

    name: str
    code: str | None
    value: str | None
    unit: str | None
    reference_range: str | None
    flag: str | None
    status: str
    note: str | None = None


class AttachmentView(View, frozen=True):
    """A document of a report; fetch it under its number."""

    n: int
    content_type: str
    title: str | None


class ReportView(View, frozen=True):
    """A report. `version` grows with each correction. Of a report by itself `as_of` is `live` where the hospital has told it just
    now, `stored` where it is not asked or does not answer; `told_at` is when this version came here."""

    id: str
    kind: str
    status: str
    version: int
    name: str | None
    issued_at: dt.datetime | None
    effective_at: dt.datetime | None
    conclusion: str | None = None
    observations: list[ObservationView] = []
    attachments: list[AttachmentView] = []
    as_of: str | None = None
    told_at: dt.datetime | None = None


class ReportVersion(View, frozen=True):
    """What a report said at one time. `told_at` is when the hospital told it, by its own time or else by ours. Its documents are
    fetched under `versions/{version}/attachments/{n}`."""

    version: int
    status: str
    told_at: dt.datetime
    issued_at: dt.datetime | None
    conclusion: str | None
    observations: list[ObservationView]
    attachments: list[AttachmentView] = []


class ReportHistory(View, frozen=True):
    """A report as it is and as it was, newest first."""

    items: list[ReportVersion]


class ReportList(View, frozen=True):
    """A patient's reports, newest first, without results."""

    items: list[ReportView]
    as_of: str
    next: str | None = None
