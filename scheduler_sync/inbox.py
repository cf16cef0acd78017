"""The inbox: what a HIS sends us is stored before it is acknowledged, applied at once, and set aside when it cannot be.

Store, apply and mark are three commits in two databases. A crash in between is healed at the next start: what is stored but
not marked is applied again, which changes nothing the second time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sqlalchemy.exc import IntegrityError

from booking.billing import SetAside, put_bill
from booking.catalog import put_departments, put_practitioners
from booking.lifecycle import IllegalMove
from booking.moves import RuleBroken, fetch_topic
from booking.people import hear_patient, merge_persons
from booking.reporting import put_report
from booking.settings import Hospital
from booking.stops import apply_stop
from booking.store.engine import Store, StoreUnavailable, Tx
from booking.visits import hear_visit
from connectors.port import Applied, Inbound, InboundAnswer, Refused
from mappings.canonical import (
    AnyEvent,
    BillIssued,
    DepartmentChanged,
    PatientChanged,
    PatientMerged,
    PractitionerChanged,
    RegistrationChanged,
    ReportIssued,
    ScheduleChanged,
    ScheduleStopped,
)
from monitoring import metrics
from monitoring.logs import get_logger
from scheduler_sync.messages.store import count_quarantined, find_duplicate, mark_message, store_message, unapplied

log = get_logger("inbox")


class Inbox:
    """The inbox of one hospital; `handle` is what connectors are given."""

    def __init__(self, store: Store, messages: Store, hospital: Hospital) -> None:
        self._store = store
        self._messages = messages
        self._hospital = hospital
        self._order = asyncio.Lock()  # events of one hospital are applied in the order in which they were stored

    async def handle(self, inbound: Inbound) -> InboundAnswer:
        """Store, apply, answer. Refused only when nothing was stored and the peer should send it again."""
        try:
            async with self._order:
                return await self._handle(inbound)
        except StoreUnavailable as e:
            log.error("message_not_stored", hospital=self._hospital.id, connector=inbound.connector, reason=str(e))
            return Refused(code="store_unavailable", text="the message could not be stored", retryable=True)

    async def _handle(self, inbound: Inbound) -> InboundAnswer:
        async with self._messages.write(self._hospital.id) as tx:
            known = await find_duplicate(tx, inbound)
            message_id = known.id if known is not None else await store_message(tx, inbound)
        if known is not None and known.state != "received":
            return Applied(duplicate=True, quarantined=known.state == "quarantined")
        reason = inbound.problem or await self._apply(inbound.events)
        async with self._messages.write(self._hospital.id) as tx:
            await mark_message(tx, message_id, "applied" if reason is None else "quarantined", reason)
        if reason is not None:
            log.warning(
                "message_set_aside",
                hospital=self._hospital.id,
                connector=inbound.connector,
                message_type=inbound.message_type,
                control_id=inbound.control_id,
                message_id=message_id,
                reason=reason,
            )
        return Applied(duplicate=known is not None, quarantined=reason is not None)

    async def heal(self) -> int:
        """Apply what a crash has left stored but not applied; returns how many."""
        async with self._messages.read(self._hospital.id) as tx:
            left = await unapplied(tx)
        for message_id, events in left:
            reason = await self._apply(events)
            async with self._messages.write(self._hospital.id) as tx:
                await mark_message(tx, message_id, "applied" if reason is None else "quarantined", reason)
        return len(left)

    async def measure(self) -> None:
        """Refresh the gauge of what waits for a person."""
        async with self._messages.read(self._hospital.id) as tx:
            waiting = await count_quarantined(tx)
        metrics.dead_letters.labels(hospital=self._hospital.id, box="inbox").set(waiting)

    async def _apply(self, events: Sequence[AnyEvent]) -> str | None:
        """Apply all events of one message in one transaction; returns why they cannot be, None when they were."""
        try:
            async with self._store.write(self._hospital.id) as tx:
                for event in events:
                    await apply_event(tx, self._hospital, event)
        except (SetAside, IllegalMove, RuleBroken) as e:
            return str(e)
        except (LookupError, ValueError, IntegrityError) as e:
            # The text of these may quote a value of the message; its kind is all that may be told.
            return f"cannot be applied ({type(e).__name__})"
        return None


async def apply_event(tx: Tx, hospital: Hospital, event: AnyEvent) -> None:
    """Apply one event. Applying it again changes nothing."""
    match event:
        case RegistrationChanged(registration=registration):
            await hear_visit(tx, hospital, registration, occurred_at=event.occurred_at)
        case ScheduleStopped():
            await apply_stop(tx, hospital, event)
            tx.ring(fetch_topic(tx.hospital_id))
        case ScheduleChanged():
            tx.ring(fetch_topic(tx.hospital_id))
        case PatientChanged(patient=patient):
            await hear_patient(tx, patient)
        case PatientMerged():
            await merge_persons(tx, surviving_mrn=event.surviving_mrn, retired_mrn=event.retired_mrn)
        case ReportIssued(report=report):
            occurred_ms = None if event.occurred_at is None else round(event.occurred_at.timestamp() * 1000)
            await put_report(tx, report, occurred_ms=occurred_ms)
        case BillIssued(bill=bill):
            await put_bill(tx, bill, currency=hospital.currency)
        case DepartmentChanged(department=department):
            await put_departments(tx, [department])
        case PractitionerChanged(practitioner=practitioner):
            await put_practitioners(tx, [practitioner])
