"""What a report said before it was corrected stays readable, for whom it was readable then."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest

from booking.people import hear_patient
from booking.report_history import MOST_VERSIONS
from booking.report_rules import ReportRule
from booking.reporting import put_report, versions_of
from booking.store.engine import Store
from mappings.canonical import Observation, Report, ReportKind, ReportStatus
from tests.booking.api.fhir.site import FhirSite, serve_fhir
from tests.booking.world import HOSPITAL, ZHANG, make_hospital, put_patient
from tests.stores import BEGIN_MS

S = ReportStatus
ALL = ReportRule()


def make_report(status: ReportStatus, value: str | None = "7.2") -> Report:
    """A blood count; without a value it is the heading that a list shows."""
    told = () if value is None else (Observation(name="WBC", value=value, reference_range="3.5-9.5", flag="N"),)
    return Report(id="R1", kind=ReportKind.LAB, status=status, mrn="M1", observations=told)


async def put(store: Store, *reports: Report) -> str:
    """The id of the one report that these are, each told a minute after the one before."""
    for minute, report in enumerate(reports):
        async with store.write(HOSPITAL) as tx:
            row = await put_report(tx, report, occurred_ms=BEGIN_MS + minute * 60_000)
    return row.id


async def history(store: Store, *reports: Report, rule: ReportRule = ALL) -> list[tuple[int, str, list[str | None]]]:
    await put(store, *reports[:-1])
    async with store.write(HOSPITAL) as tx:
        row = await put_report(tx, reports[-1], occurred_ms=BEGIN_MS + 24 * 3_600_000)
        return [
            (v.version, v.status, [o.value for o in v.record.observations]) for v in await versions_of(tx, row, rule)
        ]


async def test_every_word_is_kept_newest_first_when_a_report_is_completed_and_corrected(store: Store) -> None:
    told = [make_report(S.PRELIMINARY, "7.1"), make_report(S.FINAL, "7.2"), make_report(S.CORRECTED, "9.9")]
    assert await history(store, *told) == [
        (3, "corrected", ["9.9"]), (2, "final", ["7.2"]), (1, "preliminary", ["7.1"]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ([make_report(S.FINAL), make_report(S.FINAL)], [1]),  # said again
        ([make_report(S.FINAL, None), make_report(S.FINAL)], [2]),  # a list's heading, then the report itself
        ([make_report(S.FINAL), make_report(S.FINAL, None)], [1]),
        ([make_report(S.PRELIMINARY, None), make_report(S.FINAL)], [2, 1]),  # the status was another
    ],
)
async def test_what_says_nothing_of_its_own_is_no_version(store: Store, told: list[Report], kept: list[int]) -> None:
    assert [version for version, *_ in await history(store, *told)] == kept


async def test_nothing_that_was_not_released_is_shown_afterwards(store: Store) -> None:
    told = [make_report(S.PRELIMINARY), make_report(S.FINAL), make_report(S.CORRECTED)]
    found = await history(store, *told, rule=ReportRule(release="reviewed"))
    assert [status for _, status, _ in found] == ["corrected", "final"]


async def test_nothing_earlier_is_shown_when_the_report_was_entered_in_error(store: Store) -> None:
    found = await history(store, make_report(S.FINAL), make_report(S.ENTERED_IN_ERROR, "7.3"))
    assert [status for _, status, _ in found] == ["entered_in_error"]


async def test_oldest_versions_go_when_a_report_is_changed_without_end(store: Store) -> None:
    told = [make_report(S.FINAL, str(n)) for n in range(MOST_VERSIONS + 5)]
    found = await history(store, *told)
    assert [version for version, *_ in found] == list(range(MOST_VERSIONS + 5, 4, -1))


async def test_versions_are_read_over_http_by_their_patient_s_client_alone(store: Store) -> None:
    async with serve_fhir(store, make_hospital()) as site:
        patient_id = await put_patient(store)
        async with store.write(HOSPITAL) as tx:
            await hear_patient(tx, msgspec.structs.replace(ZHANG, mrn="M1"))
        report_id = await put(store, make_report(S.FINAL), make_report(S.CORRECTED, "9.9"))
        items = await versions(site, patient_id, report_id)
    assert [(one["version"], one["status"]) for one in items] == [(2, "corrected"), (1, "final")]
    assert [one["observations"][0]["value"] for one in items] == ["9.9", "7.2"]
    assert items[1]["observations"][0]["reference_range"] == "3.5-9.5"
    assert dt.datetime.fromisoformat(items[1]["told_at"]).timestamp() * 1000 == BEGIN_MS


async def versions(site: FhirSite, patient_id: str, report_id: str) -> list[Any]:
    told = await site.ask(f"/v1/hospitals/{HOSPITAL}/patients/{patient_id}/reports/{report_id}/versions")
    assert told.status == 200, told.body
    return list(told.json["items"])
