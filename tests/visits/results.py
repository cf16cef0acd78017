"""Reports: issued, corrected, told or not, and read."""

from __future__ import annotations

from hypothesis import strategies as st

from mappings.canonical import ReportStatus
from tests.visits.actions import action
from tests.visits.machine import ANY, PATIENTS, PORTAL, READ, Bench

AFTER_WORD = {
    ReportStatus.PRELIMINARY: ReportStatus.FINAL,
    ReportStatus.FINAL: ReportStatus.CORRECTED,
    ReportStatus.CORRECTED: ReportStatus.CORRECTED,
}
"""What the next word on a report is."""


class Results(Bench):
    """The laboratory, and who reads what it has found."""

    @action(number=ANY, status=st.sampled_from([ReportStatus.PRELIMINARY, ReportStatus.FINAL]), tells=st.booleans())
    def issue_report(self, number: int, status: ReportStatus, tells: bool) -> None:
        his = self.clinic.his
        people = list(his.people.values())
        his.word_on_report(f"R{len(his.reports) + 1}", str(people[number % len(people)].mrn), status, tells=tells)

    @action(weight=3, needs=lambda self: bool(self.clinic.his.reports), number=ANY, tells=st.booleans())
    def go_on_with_report(self, number: int, tells: bool) -> None:
        his = self.clinic.his
        known = list(his.reports.values())
        report = known[-1 - number % len(known)]
        his.word_on_report(report.id, str(report.mrn), AFTER_WORD[report.status], tells=tells)

    @action(
        weight=4,
        needs=lambda self: bool(self.clinic.his.reports),
        portal=PORTAL,
        patient=PATIENTS,
        number=ANY,
        faults=READ,
    )
    def read_reports(self, portal: str, patient: int, number: int, faults: list[str]) -> None:
        self.clinic.his.faults.extend(faults)
        self.live(self.clinic.read_reports(portal, patient, number))
        self.clinic.his.faults.clear()
