"""Reports as the portals of an example read them, by the handlers of the API."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from booking.api.context import Context
from booking.api.report_looks import Looks
from booking.api.report_routes import ReportHandlers
from booking.api.views.records import ReportView
from booking.errors import Refusal
from booking.inventory.writer import HoldWriter
from booking.ports import LiveFailed
from booking.report_reads import ReadLog
from booking.settings import Hospital
from booking.store.engine import Store
from connectors.port import Verb
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.live import LiveReads
from tests.visits.reached import REACHED


class _Once:
    """A link that asks once: what fails is not waited for."""

    def __init__(self, link: HospitalLink) -> None:
        self._link = link

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    async def read(self, verb: Verb, *arguments: Any, **options: Any) -> Any:
        return await self._link.read(verb, *arguments, attempts=1, **options)


class Reading:
    """Of one life of the process."""

    def __init__(self, store: Store, hospital: Hospital, link: HospitalLink, writer: HoldWriter) -> None:
        live = LiveReads({hospital.id: cast(HospitalLink, _Once(link))})
        self._hospital_id = hospital.id
        self._handlers = ReportHandlers(
            Context(store=store, hospitals={hospital.id: hospital}, live=live, holds=writer, reads=ReadLog(store))
        )
        self._handlers._looks = Looks(lambda: store.wall_ms() / 1000)

    async def list(self, portal: str, patient_id: str) -> list[ReportView] | None:
        """A patient's reports; None where they could not be had."""
        try:
            found = await self._handlers.list(self._call(portal, patient_id=patient_id))
        except LiveFailed as e:
            REACHED.note("reports", e.code)
            return None
        REACHED.note("reports", "some listed" if found.items else "none to list")
        return found.items

    async def one(self, portal: str, patient_id: str, report_id: str) -> ReportView | None:
        """One of them; None where it is not given."""
        try:
            found = await self._handlers.get(self._call(portal, patient_id=patient_id, report_id=report_id))
        except (LiveFailed, Refusal) as e:
            REACHED.note("report", e.code)
            return None
        REACHED.note("report", f"{found.status}, {found.as_of}")
        return found

    def _call(self, portal: str, **path: str) -> Any:
        return SimpleNamespace(
            hospital_id=self._hospital_id, caller=SimpleNamespace(id=portal), path=path, left_s=lambda: None, request_id="r"
        )  # fmt: skip
