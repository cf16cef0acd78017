"""Lab and exam reports and their documents."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from booking import people, reporting
from booking.api.context import Context
from booking.api.document_answers import kept_document, linked_document, whole_document
from booking.api.present import instant, report_version, report_view
from booking.api.problems import ApiProblem
from booking.api.report_auditing import Reading, on_record
from booking.api.report_looks import WAIT_S, Looks
from booking.api.routing import Call, RequestClass, Route
from booking.api.taking_over import take_over
from booking.api.views.records import ReportHistory, ReportList, ReportView
from booking.ports import LiveFailed
from booking.records import Person
from booking.report_links import link_of
from booking.report_reads import ReadLog, What
from booking.report_rules import ReportRule
from mappings.canonical import Report
from monitoring.logs import get_logger

log = get_logger("reports")


class ReportHandlers:
    """Reports are read live where the hospital answers such a question, else from what it has sent."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._reads = context.reads or ReadLog(context.store)
        self._looks = Looks()

    async def list(self, call: Call[None, None]) -> ReportList:
        async with on_record(self._context, self._reads, call, What.LIST) as reading:
            person = await self._person(call, reading)
            as_of = await self.refresh(call.hospital_id, person, call.left_s())
            async with self._context.store.read(call.hospital_id) as tx:
                rows = await reporting.reports_of(tx, person, self._rule(call.hospital_id))
            reading.shows(*rows)
            zone = self._context.hospital(call).zone
            return ReportList(items=[report_view(r, zone, whole=False) for r in rows], as_of=as_of)

    async def get(self, call: Call[None, None]) -> ReportView:
        async with on_record(self._context, self._reads, call, What.DETAIL) as reading:
            person, row = await self._own(call, reading)
            row = await self.complete(call.hospital_id, person, row, call.left_s())
            reading.shows(row)
            return self._view(call.hospital_id, person, row)

    def _view(self, hospital_id: str, person: Person, row: reporting.ReportRow) -> ReportView:
        zone, as_of = self._context.hospitals[hospital_id].zone, self.as_of(hospital_id, person, row)
        told_at = instant(row.updated_ms, zone)
        return msgspec.structs.replace(report_view(row, zone, whole=True), as_of=as_of, told_at=told_at)

    async def versions(self, call: Call[None, None]) -> ReportHistory:
        """As stored: what a HIS said before, nobody can ask it."""
        hospital = self._context.hospitals[call.hospital_id]
        async with on_record(self._context, self._reads, call, What.VERSIONS) as reading:
            _, row = await self._own(call, reading)
            async with self._context.store.read(call.hospital_id) as tx:
                rows = await reporting.versions_of(tx, row, hospital.reports)
            reading.shows(*rows)
            return ReportHistory(items=[report_version(r, hospital.zone) for r in rows])

    async def attachment(self, call: Call[None, None]) -> web.Response:
        """On the record once, before its first byte."""
        async with on_record(self._context, self._reads, call, What.ATTACHMENT) as reading:
            _, row = await self._own(call, reading)
            return await self._document(call, reading, row)

    async def earlier_attachment(self, call: Call[None, None]) -> web.Response:
        """The same of a version that was."""
        async with on_record(self._context, self._reads, call, What.ATTACHMENT) as reading:
            _, row = await self._own(call, reading)
            async with self._context.store.read(call.hospital_id) as tx:
                version = await reporting.version_of(tx, row, int(call.path["version"]), self._rule(call.hospital_id))
            if version is None:
                raise ApiProblem("attachment_unknown", f"Report {row.id} has no such version that may be seen.")
            return await self._document(call, reading, version, present=version.version == row.version)

    async def _document(
        self, call: Call[None, None], reading: Reading, row: reporting.ReportRow, *, present: bool = True
    ) -> web.Response:
        number = int(call.path["n"])
        if not 1 <= number <= len(row.record.attachments):
            raise ApiProblem("attachment_unknown", f"Report {row.id} has {len(row.record.attachments)} attachments.")
        reading.shows(row, attachment=number)
        attachment = row.record.attachments[number - 1]
        if attachment.document is not None:
            return await kept_document(
                self._context.documents,
                call.hospital_id,
                attachment.content_type,
                attachment.document,
                expected=present,
            )
        link = link_of(attachment.url, self._rule(call.hospital_id).links) if attachment.data is None else None
        if link is not None and self._context.links is not None:
            found = await self._context.links.open(call.hospital_id, link, within_s=call.left_s())
            return await linked_document(attachment.content_type, found)
        if attachment.data is None:
            attachment = await self._context.live.attachment(call.hospital_id, attachment, within_s=call.left_s())
        return whole_document(attachment.content_type, attachment.data or b"")

    async def _person(self, call: Call[None, None], reading: Reading) -> Person:
        async with self._context.store.read(call.hospital_id) as tx:
            patient, person = await people.own_patient(tx, call.caller.id, call.path["patient_id"])
        reading.of(patient, person)
        return person

    async def _own(self, call: Call[None, None], reading: Reading) -> tuple[Person, reporting.ReportRow]:
        person = await self._person(call, reading)
        async with self._context.store.read(call.hospital_id) as tx:
            row = await reporting.own_report(tx, person, call.path["report_id"], self._rule(call.hospital_id))
        return person, row

    async def refresh(self, hospital_id: str, person: Person, within_s: float | None) -> str:
        """Take over what the hospital tells now; `live`, or `stored` where it is not asked."""
        capability = self._context.live.capabilities(hospital_id)["fetch_reports"]
        if capability == "pushed" or person.record.mrn is None:
            return "stored"
        told = await self._context.live.reports(hospital_id, person.record, within_s=within_s)
        mrn = person.record.mrn
        await take_over(
            self._context.store,
            hospital_id,
            person,
            told,
            is_known=partial(reporting.is_known, mrn=mrn),
            put=partial(reporting.put_report, mrn=mrn, rule=self._rule(hospital_id)),
            heavy=any(report.attachments for report in told),
        )
        for report in told:
            if report.observations or report.attachments:
                self._looks.told((hospital_id, person.id, report.id))
        return "live"

    async def complete(
        self, hospital_id: str, person: Person, row: reporting.ReportRow, within_s: float | None
    ) -> reporting.ReportRow:
        """The report as the hospital tells it now; as stored where it is not asked, or does not answer in time.

        Raises LiveFailed where only the heading is stored, as from a list, and the report itself cannot be had.
        """
        is_whole = bool(row.record.observations or row.record.attachments)
        key = (hospital_id, person.id, row.record.id)
        if is_whole and not (self._is_asked(hospital_id, person) and self._looks.is_due(key)):
            return row
        if is_whole:
            within_s = WAIT_S if within_s is None else min(within_s, WAIT_S)
        try:
            told = await self._context.live.report(hospital_id, person.record, row.record.id, within_s=within_s)
        except LiveFailed as e:
            self._looks.failed(key)
            if not is_whole and e.code != "not_offered_by_hospital":
                raise
            return row
        if told is None:
            self._looks.failed(key)
            return row
        self._looks.told(key)
        return await self._take_over(hospital_id, person, row, told)

    def _is_asked(self, hospital_id: str, person: Person) -> bool:
        capability = self._context.live.capabilities(hospital_id).get("fetch_report")
        return capability == "native" and person.record.mrn is not None

    def as_of(self, hospital_id: str, person: Person, row: reporting.ReportRow) -> str:
        """`live`: the hospital has told it just now. `stored`: it is not asked, or does not answer."""
        return "live" if self._looks.is_fresh((hospital_id, person.id, row.record.id)) else "stored"

    async def _take_over(
        self, hospital_id: str, person: Person, row: reporting.ReportRow, told: Report
    ) -> reporting.ReportRow:
        """What the hospital says of this report, stored; what the patient may see of it."""
        # The owner's other numbers mean the same person: what was listed under one is completed under that one.
        whole = msgspec.structs.replace(told, mrn=row.record.mrn)
        async with self._context.store.read(hospital_id) as tx:
            if told.id != row.record.id or not await people.means(tx, person, told.mrn):
                # Never another's results, and never under a heading that is not theirs.
                log.warning("report_set_aside", hospital=hospital_id, reason="not the report that was asked for")
                return row
            if await reporting.is_known(tx, whole, mrn=str(row.record.mrn)):
                return row
        rule, zone = self._rule(hospital_id), self._context.hospitals[hospital_id].zone
        async with self._context.store.write(hospital_id) as tx:
            put = await reporting.put_report(tx, whole, rule=rule, zone=zone)
            # What has come meanwhile may not be for the patient yet: then what they have seen is what they see.
            return put if reporting.is_released(tx, put, rule) else row

    def _rule(self, hospital_id: str) -> ReportRule:
        return self._context.hospitals[hospital_id].reports


_VERSION = Annotated[int, Meta(ge=1, le=1_000_000_000)]


def report_routes(context: Context) -> list[Route]:
    """The routes of this group."""
    handlers, scopes = ReportHandlers(context), ("reports",)
    of = "/v1/hospitals/{hospital_id}/patients/{patient_id}/reports"
    live = ("his_unavailable", "his_refused", "his_reply_invalid", "not_offered_by_hospital")
    return [
        Route("GET", of, handlers.list, summary="A patient's reports", tag="reports",
              request_class=RequestClass.LIVE, heeds_wait=True, response=ReportList,
              scopes=scopes, errors=("patient_unknown", *live)),
        Route("GET", of + "/{report_id}", handlers.get, summary="A report with its results", tag="reports",
              request_class=RequestClass.LIVE, heeds_wait=True,
              response=ReportView, scopes=scopes, errors=("patient_unknown", "report_unknown", *live)),
        Route("GET", of + "/{report_id}/versions", handlers.versions, summary="What a report said before it changed",
              tag="reports", request_class=RequestClass.READ, response=ReportHistory, scopes=scopes,
              errors=("patient_unknown", "report_unknown")),
        Route("GET", of + "/{report_id}/versions/{version}/attachments/{n}", handlers.earlier_attachment,
              summary="A document of what a report said before", tag="reports",
              request_class=RequestClass.LIVE, heeds_wait=True, scopes=scopes, path_types={"version": _VERSION, "n": int},
              produces="application/octet-stream", response=bytes,
              errors=("patient_unknown", "report_unknown", "attachment_unknown", *live),
              description="Documents above 64 KB are kept for the last 10 versions."),
        Route("GET", of + "/{report_id}/attachments/{n}", handlers.attachment, summary="A document of a report",
              tag="reports",
              request_class=RequestClass.LIVE, heeds_wait=True, scopes=scopes, path_types={"n": int},
              produces="application/octet-stream", response=bytes,
              errors=("patient_unknown", "report_unknown", "attachment_unknown", *live)),
    ]  # fmt: skip
