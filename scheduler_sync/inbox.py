"""The inbox: what a HIS sends us is stored before it is acknowledged, applied at once, and set aside when it cannot be.

Store, apply and mark are three commits in two databases. What a crash or a store that was away left stored but not marked is
applied before any newer message: a second time it changes nothing, and out of its order it would.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence

from booking.billing import SetAside, put_bill
from booking.fetches import put_departments, put_practitioners, reopen
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
from scheduler_sync.messages.store import (
    count_quarantined,
    find_duplicate,
    mark_message,
    read_events,
    store_message,
    unapplied,
)

log = get_logger("inbox")


class Inbox:
    """The inbox of one hospital; `handle` is what connectors are given."""

    def __init__(self, store: Store, messages: Store, hospital: Hospital) -> None:
        self._store = store
        self._messages = messages
        self._hospital = hospital
        self._order = asyncio.Lock()  # events of one hospital are applied in the order in which they were stored
        self._left = True  # something may be stored and not applied: known to be false only after a look

    async def handle(self, inbound: Inbound) -> InboundAnswer:
        """Store, apply, answer. Refused only when nothing was stored; retryable when the peer should send it again."""
        try:
            async with self._order:
                await self._heal()
                return await self._handle(inbound)
        except StoreUnavailable as e:
            log.error("message_not_stored", hospital=self._hospital.id, connector=inbound.connector, reason=str(e))
            return Refused(code="store_unavailable", text="the message could not be stored", retryable=True)
        except (
            Exception
        ) as e:  # whatever it is: a peer that gets no answer sends the same for ever, and nothing behind it
            log.error(
                "message_not_stored", hospital=self._hospital.id, connector=inbound.connector, reason=type(e).__name__
            )
            return Refused(code="cannot_be_stored", text="the message cannot be stored", retryable=False)

    async def _handle(self, inbound: Inbound) -> InboundAnswer:
        async with self._messages.write(self._hospital.id) as tx:
            known = await find_duplicate(tx, inbound)
            if known is not None:
                return Applied(duplicate=True, quarantined=known.state == "quarantined")
            message_id = await store_message(tx, inbound)
            self._left = True
        reason = inbound.problem or await self._apply(inbound.events)
        await self._mark(message_id, reason)
        self._left = False
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
        return Applied(quarantined=reason is not None)

    async def heal(self) -> int:
        """Apply what a crash has left stored but not applied; returns how many. What cannot be applied is set aside."""
        async with self._order:
            self._left = True
            return await self._heal()

    async def _heal(self) -> int:
        healed = 0
        while self._left:
            async with self._messages.read(self._hospital.id) as tx:
                left = await unapplied(tx)
            for message_id, sealed in left:
                await self._mark(message_id, await self._apply_stored(sealed))
            healed += len(left)
            self._left = bool(left)
        return healed

    async def _apply_stored(self, sealed: bytes) -> str | None:
        try:
            events = read_events(self._messages, self._hospital.id, sealed)
        except Exception as e:  # a key that is gone, a record of another version: one message must not hold up the rest
            return f"cannot be read ({type(e).__name__})"
        return await self._apply(events)

    async def _mark(self, message_id: str, reason: str | None) -> None:
        async with self._messages.write(self._hospital.id) as tx:
            await mark_message(tx, message_id, "applied" if reason is None else "quarantined", reason)

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
        except StoreUnavailable:
            raise
        except Exception as e:
            # Whatever a message breaks, its peer must go on. The text of these may quote a value of the message; the kind is
            # all that may be told.
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
        case ScheduleChanged(schedule_id=schedule_id):
            await reopen(tx, schedule_id)
            tx.ring(fetch_topic(tx.hospital_id))
        case PatientChanged(patient=patient):
            await hear_patient(tx, patient)
        case PatientMerged():
            await merge_persons(tx, surviving_mrn=event.surviving_mrn, retired_mrn=event.retired_mrn)
        case ReportIssued(report=report):
            await put_report(tx, report, occurred_ms=_ms(event.occurred_at))
        case BillIssued(bill=bill):
            await put_bill(tx, bill, currency=hospital.currency, occurred_ms=_ms(event.occurred_at))
        case DepartmentChanged(department=department):
            await put_departments(tx, [department])
        case PractitionerChanged(practitioner=practitioner):
            await put_practitioners(tx, [practitioner])


def _ms(instant: dt.datetime | None) -> int | None:
    return None if instant is None else round(instant.timestamp() * 1000)
