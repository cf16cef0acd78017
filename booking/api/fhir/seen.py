"""Reads of reports through the facade, for the record: what was looked at while an answer was made, and what of it is in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from booking.api.fhir.ids import row_id_to_fhir
from booking.api.routing import Call
from booking.report_reads import Outcome, ReportRead, What
from booking.report_reads.rows import asked_id, told_of
from booking.reporting import ReportRow

_KINDS = ("DiagnosticReport", "Observation")
_Of = tuple[str | None, str | None, str | None]
"""user_ref, patient id and person id."""


class SeenReports:
    """Of one request. `user_ref` and patient are the caller's own."""

    def __init__(self) -> None:
        self._own: dict[str, tuple[str, _Of]] = {}
        self._refused: dict[tuple[Outcome, _Of], list[str]] = {}
        self._asked: list[_Of] = []

    def own(self, row: ReportRow, patient: dict[str, str], person_id: str) -> None:
        """A report that may be shown."""
        self._own[row_id_to_fhir(row.id)] = (
            told_of(row.id, row.version),
            (patient["user_ref"], patient["id"], person_id),
        )

    def completed(self, row: ReportRow) -> None:
        """It was asked for at the HIS meanwhile: this is how it is shown."""
        fhir_id = row_id_to_fhir(row.id)
        self._own[fhir_id] = told_of(row.id, row.version), self._own[fhir_id][1]

    def asked_of(self, patient: dict[str, str], person_id: str) -> None:
        """Somebody's reports were looked for."""
        self._asked.append((patient["user_ref"], patient["id"], person_id))

    def refused(
        self,
        outcome: Outcome,
        report_id: str | None = None,
        *,
        patient_id: str | None = None,
        person_id: str | None = None,
    ) -> None:
        """One that must not, or somebody whose reports must not."""
        of = (None, None if patient_id is None else asked_id(patient_id), person_id)
        told = self._refused.setdefault((outcome, of), [])
        if report_id is not None:
            told.append(told_of(asked_id(report_id)))

    def record(self, call: Call[Any, Any], shown: Iterable[dict[str, Any]], outcome: Outcome) -> list[ReportRead]:
        """One read for each patient whose reports are among the resources that are shown, and for each refusal."""
        given: dict[tuple[What, _Of], dict[str, None]] = {}
        for resource in shown:
            if resource["resourceType"] in _KINDS:
                is_whole = resource["resourceType"] == "DiagnosticReport"
                report_id = resource["id"] if is_whole else resource["id"].rpartition(".")[0]
                told, of = self._own[report_id]
                given.setdefault((What.DETAIL if is_whole else What.OBSERVATION, of), {})[told] = None
        for of in self._asked:
            if not any(named == of for _, named in given):
                given[What.LIST, of] = {}
        reads = [_read(call, what, of, tuple(told), outcome) for (what, of), told in given.items()]
        return reads + [_read(call, What.DETAIL, of, tuple(told), why) for (why, of), told in self._refused.items()]

    def missed(self, call: Call[Any, Any]) -> list[ReportRead]:
        """The same where nothing is shown at all: what was found is not what was asked for, a line or a version of it."""
        found = [_read(call, What.DETAIL, of, (told,), Outcome.UNKNOWN) for told, of in self._own.values()]
        return found + self.record(call, (), Outcome.UNKNOWN)


def _read(call: Call[Any, Any], what: What, of: _Of, reports: tuple[str, ...], outcome: Outcome) -> ReportRead:
    user_ref, patient_id, person_id = of
    return ReportRead(
        client_id=call.caller.id,
        user_ref=user_ref,
        patient_id=patient_id,
        person_id=person_id,
        what=what,
        reports=reports,
        outcome=outcome,
        request_id=call.request_id,
    )
