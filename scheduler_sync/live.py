"""Live reads for portals: implements `booking.ports.LiveHis` over the hospitals' gateways."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from booking.ports import LiveFailed
from connectors.port import HisError, HisRefused, HisReplyInvalid, HisUnavailable, NotOffered, Verb
from mappings.canonical import Attachment, Bill, Patient, Report, StatementLine
from scheduler_sync.gateway import HospitalLink


class LiveReads:
    """What portals ask a HIS directly."""

    def __init__(self, links: Mapping[str, HospitalLink]) -> None:
        self._links = links

    def has(self, hospital_id: str) -> bool:
        """Whether this process works the hospital now."""
        return hospital_id in self._links

    def capabilities(self, hospital_id: str) -> dict[str, str]:
        return self._links[hospital_id].capabilities()

    def his_status(self, hospital_id: str) -> str:
        return self._links[hospital_id].status

    async def bills(self, hospital_id: str, patient: Patient) -> list[Bill]:
        return list(await self._read(hospital_id, Verb.FETCH_BILLS, patient))

    async def reports(self, hospital_id: str, patient: Patient) -> list[Report]:
        return list(await self._read(hospital_id, Verb.FETCH_REPORTS, patient))

    async def report(self, hospital_id: str, patient: Patient, report_id: str) -> Report | None:
        found: Report | None = await self._read(hospital_id, Verb.FETCH_REPORT, patient, report_id)
        return found

    async def attachment(self, hospital_id: str, attachment: Attachment) -> Attachment:
        found: Attachment = await self._read(hospital_id, Verb.FETCH_ATTACHMENT, attachment)
        return found

    async def statement(self, hospital_id: str, date: dt.date) -> list[StatementLine]:
        return list(await self._read(hospital_id, Verb.FETCH_STATEMENT, date))

    async def _read(self, hospital_id: str, verb: Verb, *arguments: Any) -> Any:
        try:
            return await self._links[hospital_id].read(verb, *arguments)
        except NotOffered:
            raise LiveFailed("not_offered_by_hospital", f"{verb.value} is off at this hospital.") from None
        except HisUnavailable as e:
            raise LiveFailed("his_unavailable", "The hospital's system did not answer in time.") from e
        except HisRefused as e:
            raise LiveFailed("his_refused", e.code) from e
        except HisReplyInvalid as e:
            raise LiveFailed("his_reply_invalid", "The hospital's system answered something unreadable.") from e
        except HisError as e:
            raise LiveFailed("his_unavailable", type(e).__name__) from e
