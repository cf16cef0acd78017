"""Live reads for portals: implements `booking.ports.LiveHis` over the hospitals' gateways."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any

import msgspec

from booking.ports import LiveFailed
from connectors.port import (
    Accepted,
    BillPayment,
    Capability,
    HisError,
    HisRefused,
    HisReplyInvalid,
    HisUnavailable,
    NotOffered,
    Rejected,
    Unknown,
    Verb,
)
from mappings.canonical import Attachment, Bill, Patient, Payment, Report, Settlement
from scheduler_sync.gateway import HospitalLink


class LiveReads:
    """What portals ask a HIS directly."""

    def __init__(self, links: Mapping[str, HospitalLink]) -> None:
        self._links = links
        self._going_on: set[asyncio.Task[Any]] = set()

    def has(self, hospital_id: str) -> bool:
        """Whether this process works the hospital now."""
        return hospital_id in self._links

    def capabilities(self, hospital_id: str) -> dict[str, str]:
        return self._links[hospital_id].capabilities()

    def his_status(self, hospital_id: str) -> str:
        return self._links[hospital_id].status

    async def bills(self, hospital_id: str, patient: Patient, *, within_s: float | None = None) -> list[Bill]:
        return list(await self._read(hospital_id, Verb.FETCH_BILLS, within_s, patient))

    async def presettlement(
        self, hospital_id: str, bill: Bill, patient: Patient, order_no: str, *, within_s: float | None = None
    ) -> Settlement:
        # Nobody has paid yet: the bill's own amount stands in, under names that no channel has.
        nothing = Payment(channel="", trade_no="", amount_fen=bill.amount_fen, paid_at=dt.datetime.now(dt.UTC))
        asked = BillPayment(order_no=order_no, bill=bill, patient=patient, payment=nothing)
        return await self._within(within_s, self._presettled(hospital_id, asked))  # type: ignore[no-any-return]

    async def _presettled(self, hospital_id: str, asked: BillPayment) -> Settlement:
        link = self._links[hospital_id]
        if link.traits(Verb.PRESETTLE_BILL).capability != Capability.NATIVE:
            raise LiveFailed("not_offered_by_hospital", f"{Verb.PRESETTLE_BILL.value} is off at this hospital.")
        match await link.write(Verb.PRESETTLE_BILL, asked):
            case Accepted(record=record, his_refs=his_refs):
                told = record if isinstance(record, Settlement) else Settlement()
                return msgspec.structs.replace(told, his_refs={**told.his_refs, **his_refs})
            case Rejected(code="not_offered"):
                raise LiveFailed("not_offered_by_hospital", f"{Verb.PRESETTLE_BILL.value} is off for this bill.")
            case Rejected(code=code, retryable=retryable):
                if retryable or code in ("not_sent", "busy"):
                    raise LiveFailed("his_unavailable", "The hospital's system cannot calculate it now.")
                raise LiveFailed("his_refused", code)
            case Unknown():
                raise LiveFailed("his_unavailable", "The hospital's system did not answer in time.")

    async def reports(self, hospital_id: str, patient: Patient, *, within_s: float | None = None) -> list[Report]:
        return list(await self._read(hospital_id, Verb.FETCH_REPORTS, within_s, patient))

    async def report(
        self, hospital_id: str, patient: Patient, report_id: str, *, within_s: float | None = None
    ) -> Report | None:
        found: Report | None = await self._read(hospital_id, Verb.FETCH_REPORT, within_s, patient, report_id)
        return found

    async def attachment(
        self, hospital_id: str, attachment: Attachment, *, within_s: float | None = None
    ) -> Attachment:
        found: Attachment = await self._read(hospital_id, Verb.FETCH_ATTACHMENT, within_s, attachment)
        return found

    async def _read(self, hospital_id: str, verb: Verb, within_s: float | None, *arguments: Any) -> Any:
        link = self._links[hospital_id]
        if within_s is None:
            return await self._told(verb, link.read(verb, *arguments))
        return await self._within(within_s, self._told(verb, link.read(verb, *arguments, within_s=within_s)))

    async def _within(self, within_s: float | None, asked: Coroutine[Any, Any, Any]) -> Any:
        """What was asked; it goes on by itself when the caller has waited for `within_s`."""
        if within_s is None:
            return await asked
        reading = asyncio.create_task(asked)
        self._going_on.add(reading)
        reading.add_done_callback(self._ended)
        await asyncio.wait((reading,), timeout=within_s)
        if not reading.done():
            raise LiveFailed("his_unavailable", "The hospital's system did not answer within the caller's time.")
        return reading.result()

    def _ended(self, reading: asyncio.Task[Any]) -> None:
        self._going_on.discard(reading)
        if not reading.cancelled():
            reading.exception()  # whoever asked may have gone

    @staticmethod
    async def _told(verb: Verb, read: Awaitable[Any]) -> Any:
        try:
            return await read
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
