"""Documents of what a report said before: kept for some versions, given by the same rules as the report, and on record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from booking.people import hear_patient
from booking.report_documents import MOST_DOCUMENT_VERSIONS
from booking.report_reads import WantedReads, find_reads
from booking.report_rules import ReportRule
from booking.reporting import put_report
from booking.store.engine import Store
from booking.store.tables import report_documents
from mappings.canonical import Attachment, Report, ReportKind, ReportStatus
from scheduler_sync.messages.documents import MessageDocuments
from scheduler_sync.messages.old_documents import forget_documents
from tests.booking.api.fhir.site import FhirSite, serve_fhir
from tests.booking.world import HOSPITAL, ZHANG, make_hospital, put_patient
from tests.stores import BEGIN_MS, Wall

S = ReportStatus
DAY_S = 24 * 3600


class Clinic:
    """张伟's report R1, whose documents are kept apart, in the versions that a test tells."""

    def __init__(self, site: FhirSite, messages: Store, patient_id: str) -> None:
        self.site, self.messages, self.patient_id = site, messages, patient_id
        self.kept = MessageDocuments(messages)
        self.report_id = ""
        self._told = 0

    async def tell(self, *texts: bytes, status: S = S.FINAL, short: bool = False) -> None:
        """The next version, with these documents."""
        self._told += 1
        pages = [
            Attachment(content_type="application/pdf", data=text, document=None)
            if short
            else Attachment(content_type="application/pdf", document=await self.kept.put(HOSPITAL, text))
            for text in texts
        ]
        report = Report(id="R1", kind=ReportKind.EXAM, status=status, mrn="M1", attachments=tuple(pages))
        async with self.site.store.write(HOSPITAL) as tx:
            self.report_id = (await put_report(tx, report, occurred_ms=BEGIN_MS + self._told * 1000)).id

    async def get(self, path: str, **more: Any) -> tuple[int, bytes]:
        of = f"/v1/hospitals/{HOSPITAL}/patients/{self.patient_id}/reports/{self.report_id}"
        told = await self.site.ask(f"{of}/{path}", **more)
        return told.status, told.body

    async def forget(self, wall: Wall) -> int:
        wall.turn(400 * DAY_S)

        async def go_on() -> bool:
            return True

        return await forget_documents(self.site.store, self.messages, HOSPITAL, keep_days=30, pause=go_on)


@pytest.fixture
async def clinic(store: Store, messages: Store) -> AsyncIterator[Clinic]:
    hospital = make_hospital(reports=ReportRule(release="reviewed"))
    async with serve_fhir(store, hospital, documents=MessageDocuments(messages)) as site:
        site.ward.off = {"fetch_reports", "fetch_report"}
        patient_id = await put_patient(store)
        async with store.write(HOSPITAL) as tx:
            await hear_patient(tx, msgspec.structs.replace(ZHANG, mrn="M1"))
        yield Clinic(site, messages, patient_id)


async def last_versions(store: Store) -> list[int | None]:
    """Of the documents that are kept for the report: until which version it shows them, None for now."""
    async with store.read(HOSPITAL) as tx:
        rows = await tx.all(select(report_documents.c.last_version))
    return sorted((row["last_version"] for row in rows), key=lambda version: version or 10**9)


async def test_documents_of_each_version_are_given_and_each_read_is_on_record(clinic: Clinic, store: Store) -> None:
    await clinic.tell(b"first " * 10, b"picture " * 10)
    await clinic.tell(b"second " * 10, status=S.CORRECTED)
    status, body = await clinic.get("versions")
    told = msgspec.json.decode(body)["items"]
    assert (status, [[one["n"] for one in version["attachments"]] for version in told]) == (200, [[1], [1, 2]])
    for path, text in (
        ("versions/1/attachments/1", b"first " * 10), ("versions/1/attachments/2", b"picture " * 10),
        ("versions/2/attachments/1", b"second " * 10), ("attachments/1", b"second " * 10),
    ):  # fmt: skip
        assert await clinic.get(path) == (200, text), path
    async with store.read(HOSPITAL) as tx:
        rows = await find_reads(tx, WantedReads(), limit=4)
    shown = [(row.reports.removeprefix(clinic.report_id), row.outcome) for row in rows[::-1]]
    assert shown == [(":1/1", "given"), (":1/2", "given"), (":2/1", "given"), (":2/1", "given")]


@pytest.mark.parametrize("path", ["versions/3/attachments/1", "versions/1/attachments/2", "versions/1/attachments/0"])
async def test_what_there_is_not_is_unknown_and_on_record(clinic: Clinic, store: Store, path: str) -> None:
    await clinic.tell(b"first")
    await clinic.tell(b"second")
    status, body = await clinic.get(path)
    assert (status, msgspec.json.decode(body)["code"]) == (404, "attachment_unknown")
    async with store.read(HOSPITAL) as tx:
        assert [row.outcome for row in await find_reads(tx, WantedReads())] == ["unknown"]


@pytest.mark.parametrize("version", ["0", "-1", "x", "99999999999999999999", "1" * 500])
async def test_version_that_can_be_none_is_refused_with_its_place(clinic: Clinic, version: str) -> None:
    await clinic.tell(b"first")
    status, body = await clinic.get(f"versions/{version}/attachments/1")
    assert (status, msgspec.json.decode(body)["code"]) == (422, "invalid_field")


async def test_what_was_not_released_then_is_not_given_afterwards(clinic: Clinic) -> None:
    await clinic.tell(b"before the doctor saw it", status=S.PRELIMINARY)
    await clinic.tell(b"final")
    assert (await clinic.get("versions/1/attachments/1"))[0] == 404
    assert (await clinic.get("versions/2/attachments/1")) == (200, b"final")


async def test_nothing_earlier_is_given_when_the_report_was_entered_in_error(clinic: Clinic) -> None:
    await clinic.tell(b"somebody else's, perhaps")
    await clinic.tell(b"void", status=S.ENTERED_IN_ERROR)
    assert (await clinic.get("versions/1/attachments/1"))[0] == 404


async def test_short_documents_of_before_are_given_from_their_version(clinic: Clinic) -> None:
    await clinic.tell(b"first", short=True)
    await clinic.tell(b"second", short=True)
    assert await clinic.get("versions/1/attachments/1") == (200, b"first")


async def test_another_portal_is_told_that_there_is_none(clinic: Clinic) -> None:
    await clinic.tell(b"first")
    await clinic.tell(b"second")
    assert (await clinic.get("versions/1/attachments/1", by="another"))[0] == 404


async def test_documents_of_the_last_versions_are_kept_and_older_ones_go(
    clinic: Clinic, store: Store, wall: Wall
) -> None:
    told = MOST_DOCUMENT_VERSIONS + 3
    for n in range(1, told + 1):
        await clinic.tell(b"version %d" % n)
    oldest = told - MOST_DOCUMENT_VERSIONS + 1
    assert await last_versions(store) == [*range(oldest, told), None]
    assert await clinic.forget(wall) == oldest - 1
    assert await clinic.get(f"versions/{oldest}/attachments/1") == (200, b"version %d" % oldest)
    status, body = await clinic.get(f"versions/{oldest - 1}/attachments/1")
    assert (status, msgspec.json.decode(body)["code"]) == (404, "attachment_unknown")


async def test_document_stays_when_it_comes_back_and_goes_with_the_last_version_that_shows_it(
    clinic: Clinic, store: Store, wall: Wall
) -> None:
    for text in (b"A", b"B", b"A"):
        await clinic.tell(text)
    assert await last_versions(store) == [2, None]
    assert await clinic.forget(wall) == 0
    for n in range(MOST_DOCUMENT_VERSIONS):
        await clinic.tell(b"later %d" % n)
    assert await clinic.forget(wall) == 2
