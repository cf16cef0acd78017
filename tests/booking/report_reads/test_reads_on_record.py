"""Every read of a report is on the record before its bytes leave: by /v1 and by the FHIR facade, given or refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from booking.people import hear_patient
from booking.report_reads import ReadLog, ReadRow, ReportRead, WantedReads, find_reads, verify_reads
from booking.report_rules import ReportRule
from booking.reporting import put_report
from booking.store.engine import Store, StoreUnavailable
from booking.store.tables import patients
from mappings.canonical import Attachment, Observation, Report, ReportKind, ReportStatus
from tests.booking.api.fhir.site import FhirSite, Told, serve_fhir
from tests.booking.world import CLIENT, HOSPITAL, LI, ZHANG, make_hospital, put_patient

PDF = b"%PDF-1.7 chest"
S = ReportStatus
OF = f"/v1/hospitals/{HOSPITAL}/patients"


def make_report(number: str, mrn: str, status: ReportStatus = S.FINAL) -> Report:
    page = Attachment(content_type="application/pdf", data=PDF)
    told = (Observation(name="WBC", value="7.2"),)
    return Report(
        id=number, kind=ReportKind.LAB, status=status, mrn=mrn, name="血常规", observations=told, attachments=(page,)
    )


class Clinic:
    """张伟 is a patient of both portals, with a report that may be seen and one that may not; 李娜 of the second one alone."""

    def __init__(self, site: FhirSite, ids: list[str], persons: list[str], reports: list[str]) -> None:
        self.site = site
        self.patient_id, self.theirs = ids
        self.zhang, self.li = persons
        self.released, self.unreleased, self.of_li = reports

    async def ask(self, path: str, *, by: str = CLIENT, **headers: str) -> Told:
        return await self.site.ask(path, by=by, headers={"X-Request-Id": "req-4711", **headers})

    async def rows(self) -> list[ReadRow]:
        """Oldest first."""
        async with self.site.store.read(HOSPITAL) as tx:
            return (await find_reads(tx, WantedReads()))[::-1]

    async def told(self) -> list[tuple[Any, ...]]:
        """What stands there of the reads."""
        return [(row.what, row.reports, row.outcome, row.patient_id, row.person_id) for row in await self.rows()]


@pytest.fixture
async def clinic(store: Store) -> AsyncIterator[Clinic]:
    async with serve_fhir(store, make_hospital(reports=ReportRule(release="reviewed"))) as site:
        site.ward.off = {"fetch_reports", "fetch_report"}
        ids = [await put_patient(store), await put_patient(store, LI, client="another")]
        await put_patient(store, ZHANG, client="another")
        reports, persons = [], []
        async with store.write(HOSPITAL) as tx:
            for record, mrn in ((ZHANG, "M1"), (LI, "M2")):
                await hear_patient(tx, msgspec.structs.replace(record, mrn=mrn))
            for number, mrn, status in (("R1", "M1", S.FINAL), ("R2", "M1", S.PRELIMINARY), ("R3", "M2", S.FINAL)):
                reports.append((await put_report(tx, make_report(number, mrn, status))).id)
            for one in ids:
                row = await tx.first(patients.select().where(patients.c.id == one))
                assert row is not None
                persons.append(row["person_id"])
        yield Clinic(site, ids, persons, reports)


async def test_what_was_given_is_on_record_with_who_whose_and_what(clinic: Clinic) -> None:
    report = f"{OF}/{clinic.patient_id}/reports/{clinic.released}"
    for path in (report, f"{report}/versions", f"{report}/attachments/1"):
        assert (await clinic.ask(path)).status == 200, path
    of = ("given", clinic.patient_id, clinic.zhang)
    assert await clinic.told() == [
        ("detail", f"{clinic.released}:1", *of),
        ("versions", f"{clinic.released}:1", *of),
        ("attachment", f"{clinic.released}:1/1", *of),
    ]
    rows = await clinic.rows()
    assert {(row.client_id, row.user_ref, row.request_id) for row in rows} == {(CLIENT, "u1", "req-4711")}
    assert (await verify_reads(clinic.site.store, HOSPITAL)).faults == ()


async def test_list_is_on_record_with_all_that_it_shows(clinic: Clinic) -> None:
    clinic.site.ward.off = set()
    assert (await clinic.ask(f"{OF}/{clinic.patient_id}/reports")).status == 200
    assert await clinic.told() == [("list", f"{clinic.released}:1", "given", clinic.patient_id, clinic.zhang)]


async def test_what_was_refused_is_on_record_with_the_reason_that_the_caller_is_not_told(clinic: Clinic) -> None:
    mine, foreign = f"{OF}/{clinic.patient_id}/reports", f"{OF}/{clinic.theirs}/reports"
    asked = [
        (f"{mine}/{clinic.unreleased}", "detail", clinic.unreleased, "not_released", clinic.zhang),
        (f"{mine}/{clinic.of_li}", "detail", clinic.of_li, "not_theirs", clinic.zhang),
        (f"{mine}/rp_none", "detail", "rp_none", "unknown", clinic.zhang),
        (f"{mine}/{clinic.released}/attachments/2", "attachment", f"{clinic.released}/2", "unknown", clinic.zhang),
        (f"{foreign}/{clinic.of_li}/versions", "versions", clinic.of_li, "not_theirs", clinic.li),
        (f"{OF}/%E5%BC%A0%E4%BC%9F/reports", "list", "", "not_theirs", None),
    ]
    answers = [await clinic.ask(path) for path, *_ in asked]
    assert {told.status for told in answers} == {404}
    details = {told.json["detail"].replace(one[2], "it") for told, one in zip(answers[:3], asked[:3], strict=True)}
    assert len(details) == 1
    assert [(what, reports, outcome, person) for what, reports, outcome, _, person in await clinic.told()] == [
        (what, reports, outcome, person) for _, what, reports, outcome, person in asked
    ]
    assert "张伟" not in "".join(str(row) for row in await clinic.rows())


async def test_fhir_reads_are_on_record_and_so_is_what_was_not_changed(clinic: Clinic) -> None:
    fhir_id = clinic.released.replace("_", "-")
    told = await clinic.ask(f"DiagnosticReport/{fhir_id}")
    assert (await clinic.ask(f"DiagnosticReport/{fhir_id}", **{"If-None-Match": told.headers["ETag"]})).status == 304
    assert (await clinic.ask(f"Observation/{fhir_id}.1")).status == 200
    for one in (clinic.unreleased, clinic.of_li, "rp_none"):
        assert (await clinic.ask(f"DiagnosticReport/{one.replace('_', '-')}")).status == 404
    for path in (f"DiagnosticReport/{fhir_id}/_history/7", f"Observation/{fhir_id}.9"):
        assert (await clinic.ask(path)).status == 404
    shown, of = f"{clinic.released}:1", (clinic.patient_id, clinic.zhang)
    assert await clinic.told() == [
        ("detail", shown, "given", *of),
        ("detail", shown, "unchanged", *of),
        ("observation", shown, "given", *of),
        ("detail", clinic.unreleased, "not_released", *of),
        ("detail", clinic.of_li, "not_theirs", None, clinic.li),
        ("detail", "rp-none", "unknown", None, None),
        *[("detail", shown, "unknown", *of)] * 2,
    ]


async def test_fhir_searches_are_on_record_by_what_they_show(clinic: Clinic) -> None:
    fhir_id = clinic.released.replace("_", "-")
    searches = [
        (f"DiagnosticReport?patient={clinic.patient_id}", ["detail"]),
        (f"DiagnosticReport?patient={clinic.patient_id}&_include=DiagnosticReport:result", ["detail", "observation"]),
        (f"Observation?patient={clinic.patient_id}", ["observation"]),
        (f"Observation?_id={fhir_id}.1", ["observation"]),
        (f"DiagnosticReport?patient={clinic.patient_id}&_summary=count", ["list"]),
        (f"DiagnosticReport?patient={clinic.patient_id}&status=corrected", ["list"]),
    ]
    for search, whats in searches:
        before = len(await clinic.rows())
        assert (await clinic.ask(search)).status == 200
        rows = (await clinic.rows())[before:]
        assert [row.what for row in rows] == whats, search
        assert {row.reports for row in rows} == {"" if whats == ["list"] else f"{clinic.released}:1"}, search
        assert {(row.outcome, row.person_id) for row in rows} == {("given", clinic.zhang)}, search


async def test_fhir_search_is_on_record_for_each_person_and_for_each_refusal(clinic: Clinic) -> None:
    ids = ",".join(one.replace("_", "-") for one in (clinic.released, clinic.of_li, clinic.unreleased))
    assert len((await clinic.ask(f"DiagnosticReport?_id={ids}", by="another")).resources) == 2
    told = {(reports, outcome, person) for _, reports, outcome, _, person in await clinic.told()}
    assert told == {
        (f"{clinic.released}:1", "given", clinic.zhang),
        (f"{clinic.of_li}:1", "given", clinic.li),
        (clinic.unreleased, "not_released", clinic.zhang),
    }
    assert (await clinic.ask(f"DiagnosticReport?patient={clinic.theirs}")).status == 200
    assert (await clinic.told())[-1] == ("detail", "", "not_theirs", clinic.theirs, clinic.li)


async def test_what_shows_no_report_is_not_on_record(clinic: Clinic) -> None:
    for path in (
        f"{OF}/{clinic.patient_id}",
        f"Patient/{clinic.patient_id}",
        "Slot",
        f"{OF}/{clinic.patient_id}/bills",
    ):
        assert (await clinic.ask(path)).status == 200, path
    assert (await clinic.ask(f"{OF}/{clinic.patient_id}/reports", by="booker")).status == 403
    assert await clinic.rows() == []


async def test_sixty_four_reads_at_once_are_all_on_record(clinic: Clinic) -> None:
    path = f"{OF}/{clinic.patient_id}/reports/{clinic.released}"
    told = await asyncio.gather(
        *(clinic.ask(f"{path}/attachments/1" if n % 2 else path, **{"X-Request-Id": f"request-{n}"}) for n in range(64))
    )
    assert {one.status for one in told} == {200}
    assert {row.request_id for row in await clinic.rows()} == {f"request-{n}" for n in range(64)}
    verdict = await verify_reads(clinic.site.store, HOSPITAL)
    assert (verdict.faults, verdict.rows) == ((), 64)


class Away(ReadLog):
    """A store that takes no records, or dies when it has taken one."""

    def __init__(self, store: Store, *, after: bool) -> None:
        super().__init__(store)
        self.after = after

    async def record(self, hospital_id: str, *reads: ReportRead) -> None:
        if self.after:
            await super().record(hospital_id, *reads)
        raise StoreUnavailable("gone")


@pytest.mark.parametrize("after", [False, True])
async def test_no_report_leaves_when_it_cannot_be_recorded(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """`after`: it is recorded, and we die before the answer: on record, and nobody has it. Never the other way round."""
    away = Away(clinic.site.store, after=after)
    log = clinic.site.parts.context.reads
    monkeypatch.setattr(log, "record", away.record)
    report, fhir_id = f"{OF}/{clinic.patient_id}/reports", clinic.released.replace("_", "-")
    paths = [
        report, *(f"{report}/{clinic.released}{what}" for what in ("", "/versions", "/attachments/1")),
        f"DiagnosticReport/{fhir_id}", f"Observation/{fhir_id}.1", f"DiagnosticReport?patient={clinic.patient_id}",
        f"Observation?_id={fhir_id}.1", f"{report}/{clinic.unreleased}",
    ]  # fmt: skip
    clinic.site.ward.off = set()
    for path in paths:
        told = await clinic.ask(path)
        assert told.status == 503, path
        assert PDF not in told.body
        assert b"WBC" not in told.body
    assert len(await clinic.rows()) == (len(paths) if after else 0)
    assert (await verify_reads(clinic.site.store, HOSPITAL)).faults == ()
