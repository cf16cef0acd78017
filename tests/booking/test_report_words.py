"""Pulled and pushed reports of the same thing become one: what an answer of the HIS and its news make of each other."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest

from booking.people import hear_patient
from booking.report_rules import ReportRule
from booking.reporting import put_report
from booking.store.engine import Store
from mappings.canonical import Attachment, Observation, Report, ReportKind, ReportStatus
from tests.booking.api.fhir.site import FhirSite, serve_fhir
from tests.booking.world import HOSPITAL, ZHANG, make_hospital, put_patient
from tests.stores import BEGIN_MS

S = ReportStatus
ZONE = dt.timezone(dt.timedelta(hours=8))
ISSUED = dt.datetime(2031, 3, 3, 10, 30, 20, tzinfo=ZONE)
PDF = Attachment(content_type="application/pdf", data=b"%PDF-1.7 of the laboratory")
PAGE = Attachment(content_type="application/pdf", data=b"%PDF-1.7 of the hospital's system")


def report(status: ReportStatus = S.FINAL, value: str | None = "7.2", **changes: Any) -> Report:
    """A blood count, issued at 10:30:20; without a value and documents it is the heading that a list shows."""
    told = () if value is None else (Observation(name="WBC", value=value),)
    known = Report(id="R1", kind=ReportKind.LAB, status=status, mrn="M1", issued_at=ISSUED, observations=told)
    return msgspec.structs.replace(known, **changes)


class Word(msgspec.Struct, frozen=True):
    """One word on the report: pushed so many minutes after the issue, or, with None, an answer."""

    report: Report
    minute: int | None = None


def pulled(status: ReportStatus = S.FINAL, value: str | None = "7.2", **changes: Any) -> Word:
    return Word(report(status, value, **changes))


def pushed(minute: int, status: ReportStatus = S.FINAL, value: str | None = "7.2", **changes: Any) -> Word:
    return Word(report(status, value, **changes), minute)


# What is told, in this order; status, value and documents of what is known afterwards, and which version it is.
TABLE: dict[str, tuple[list[Word], tuple[str, str | None, list[Attachment], int]]] = {
    "the answer says the same": ([pushed(0, attachments=(PDF,)), pulled(attachments=(PDF,))], ("final", "7.2", [PDF], 1)),
    "the answer knows of no documents": ([pushed(0, attachments=(PDF,)), pulled()], ("final", "7.2", [PDF], 1)),
    "the answer has documents alone": (
        [pushed(0), pulled(value=None, attachments=(PAGE,))], ("final", "7.2", [PAGE], 2),
    ),
    "the answer has other names for it": (
        [pushed(0, his_refs={"order": "1"}), pulled(his_refs={"report": "2"})], ("final", "7.2", [], 1),
    ),
    "the answer has a new value under the same status": ([pushed(0), pulled(value="7.3")], ("final", "7.3", [], 2)),
    "the news know of no documents": ([pulled(attachments=(PAGE,)), pushed(0)], ("final", "7.2", [PAGE], 1)),
    # A list tells minutes, or the day.
    "a heading in minutes": (
        [pushed(0), pulled(value=None, issued_at=ISSUED.replace(second=0))], ("final", "7.2", [], 1),
    ),
    "a heading with the day alone": (
        [pushed(0), pulled(value=None, issued_at=dt.datetime(2031, 3, 3, tzinfo=ZONE))], ("final", "7.2", [], 1),
    ),
    "a heading of the minute after": (
        [pushed(0), pulled(value=None, issued_at=ISSUED + dt.timedelta(minutes=1))], ("final", None, [], 2),
    ),
    "a heading with the next day": (
        [pushed(0), pulled(value=None, issued_at=dt.datetime(2031, 3, 4, tzinfo=ZONE))], ("final", None, [], 2),
    ),
    # The answer comes from who has not heard of it yet.
    "the answer is behind a final one": ([pushed(0), pulled(S.PRELIMINARY, "7.1")], ("final", "7.2", [], 1)),
    "the answer is behind a correction": ([pushed(0, S.CORRECTED, "9.9"), pulled()], ("corrected", "9.9", [], 1)),
    "the answer is behind an error": ([pushed(0, S.ENTERED_IN_ERROR), pulled()], ("entered_in_error", "7.2", [], 1)),
    "the answer says no status": ([pushed(0), pulled(S.UNKNOWN)], ("final", "7.2", [], 1)),
    "the answer is behind and has no issue": (
        [pushed(0), pulled(S.PRELIMINARY, "7.1", issued_at=None)], ("final", "7.2", [], 1),
    ),
    "the answer takes it back by a later issue": (
        [pushed(0), pulled(S.PRELIMINARY, "7.1", issued_at=ISSUED + dt.timedelta(seconds=1))], ("preliminary", "7.1", [], 2),
    ),
    "the answer is ahead": ([pushed(0, attachments=(PDF,)), pulled(S.CORRECTED, "9.9")], ("corrected", "9.9", [], 2)),
    # The news were under way for long.
    "the news are behind the answer": ([pulled(S.CORRECTED, "9.9"), pushed(0)], ("corrected", "9.9", [], 1)),
    "the news say the same as the answer": (
        [pulled(S.CORRECTED, "9.9"), pushed(1, S.CORRECTED, "9.9")], ("corrected", "9.9", [], 1),
    ),
    # One way alone: its last word counts, also where a doctor has taken the verification back.
    "taken back by an answer": ([pulled(), pulled(S.PRELIMINARY, "7.1")], ("preliminary", "7.1", [], 2)),
    "taken back by news": ([pushed(0), pushed(1, S.PRELIMINARY, "7.1")], ("preliminary", "7.1", [], 2)),
    "a document withdrawn by news": ([pushed(0, attachments=(PDF,)), pushed(1)], ("final", "7.2", [], 2)),
    "a document withdrawn by an answer": ([pulled(attachments=(PDF,)), pulled()], ("final", "7.2", [], 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
async def test_report_is_one_when_it_is_told_in_both_ways(store: Store, name: str) -> None:
    told, (status, value, documents, version) = TABLE[name]
    for word in told:
        occurred_ms = None if word.minute is None else round(ISSUED.timestamp() * 1000) + word.minute * 60_000
        async with store.write(HOSPITAL) as tx:
            row = await put_report(tx, word.report, occurred_ms=occurred_ms)
    values = [one.value for one in row.record.observations]
    assert (row.status, values, list(row.record.attachments), row.version) == (
        status, [] if value is None else [value], documents, version,
    )  # fmt: skip


class Clinic:
    """张伟's final report as it was pushed, with a document, at a hospital that answers for reports as well."""

    def __init__(self, site: FhirSite, patient_id: str) -> None:
        self.site = site
        self.of = f"/v1/hospitals/{HOSPITAL}/patients/{patient_id}/reports"

    async def read(self) -> list[tuple[str, str, int, int]]:
        """Of each report in the list, read by itself: status, value, version and how many documents."""
        items = (await self.site.ask(self.of)).json["items"]
        found = [(await self.site.ask(f"{self.of}/{one['id']}")).json for one in items]
        return [(r["status"], r["observations"][0]["value"], r["version"], len(r["attachments"])) for r in found]


@pytest.mark.parametrize(
    "answer",
    [
        report(),
        report(value=None),
        report(value=None, issued_at=ISSUED.replace(second=0)),
        report(S.PRELIMINARY, "7.1"),
        report(S.PRELIMINARY, None, issued_at=None),
    ],
)
@pytest.mark.parametrize("release", ["any", "reviewed"])
async def test_portal_sees_one_whole_report_when_list_and_report_are_answered_with_less(
    store: Store, answer: Report, release: str
) -> None:
    async with serve_fhir(store, make_hospital(reports=ReportRule(release=release))) as site:
        patient_id = await put_patient(store)
        async with store.write(HOSPITAL) as tx:
            await hear_patient(tx, msgspec.structs.replace(ZHANG, mrn="M1"))
            await put_report(tx, report(attachments=(PDF,)), occurred_ms=BEGIN_MS, told=True)
        site.ward.reported = [answer]
        clinic = Clinic(site, patient_id)
        for _ in range(2):
            assert await clinic.read() == [("final", "7.2", 1, 1)]
