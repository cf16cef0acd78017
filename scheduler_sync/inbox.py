"""The inbox: what a HIS sends us is stored before it is acknowledged, applied at once, and set aside when it cannot be.

Storing and applying are commits in two databases; that a message was applied is noted in the commit that stores the next one.
So at most the newest is ever applied and not noted. What a crash or a store that was away left so is applied before any newer
message: a second time it changes nothing, and out of its order it would.
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
from booking.stops import apply_stop, carry_left_stops, carry_stop
from booking.store.budget import Budget
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
from scheduler_sync.messages.journal import take_message
from scheduler_sync.messages.store import count_quarantined, mark_message, read_events, unapplied

log = get_logger("inbox")

MARK_AFTER_S = 0.05


class Inbox:
    """The inbox of one hospital; `handle` is what connectors are given."""

    def __init__(
        self, store: Store, messages: Store, hospital: Hospital, *, mark_after_s: float = MARK_AFTER_S
    ) -> None:
        self._store = store
        self._messages = messages
        self._hospital = hospital
        self._mark_after_s = mark_after_s
        self._order = asyncio.Lock()  # events of one hospital are applied in the order in which they were stored
        self._left = True  # something may be stored and not applied: known to be false only after a look
        self._applied: str | None = None  # the newest message, where it was applied and is not marked so yet
        self._marking: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Note what is not noted yet. After it nothing may be handled."""
        if self._marking is not None:
            self._marking.cancel()
            await asyncio.gather(self._marking, return_exceptions=True)
        try:
            await self.note()
        except StoreUnavailable as e:  # it is applied again at the next start, which changes nothing
            log.error("store_unavailable", hospital=self._hospital.id, reason=str(e))

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
        marks = [] if self._applied is None else [(self._applied, "applied", None)]
        taken = await take_message(self._messages, self._hospital.id, inbound, marks)
        self._applied = None
        if taken.known_as is not None:
            return Applied(duplicate=True, quarantined=taken.known_as == "quarantined")
        self._left = True
        reason = inbound.problem or await self._apply(inbound.events)
        if reason is None:
            await self._note_later(taken.id)
        else:
            await self._mark(taken.id, reason)
            log.warning(
                "message_set_aside",
                hospital=self._hospital.id,
                connector=inbound.connector,
                message_type=inbound.message_type,
                control_id=inbound.control_id,
                message_id=taken.id,
                reason=reason,
            )
        self._left = False
        return Applied(quarantined=reason is not None)

    async def _note_later(self, message_id: str) -> None:
        """That it was applied is noted with the next message, or soon when none comes: one commit less for each of a stream."""
        self._applied = message_id
        if self._mark_after_s <= 0:
            await self._note()
        elif self._marking is None or self._marking.done():
            self._marking = asyncio.create_task(self._note_soon(), name=f"inbox {self._hospital.id}")

    async def _note_soon(self) -> None:
        waiting: str | None = None
        while self._applied is not None:
            # As long as messages follow each other, each notes the one before it.
            if waiting == self._applied:
                try:
                    await self.note()
                except StoreUnavailable as e:
                    log.error("store_unavailable", hospital=self._hospital.id, reason=str(e))
            waiting = self._applied
            await asyncio.sleep(self._mark_after_s)

    async def note(self) -> None:
        """Note now that the newest message was applied. Raises StoreUnavailable."""
        async with self._order:
            await self._note()

    async def _note(self) -> None:
        if self._applied is not None:
            await self._mark(self._applied, None)
            self._applied = None

    async def heal(self) -> int:
        """Apply what a crash has left stored but not applied; returns how many. What cannot be applied is set aside.

        Stops that it left half carried out are carried out.
        """
        async with self._order:
            await self._note()
            self._left = True
            healed = await self._heal()
        await carry_left_stops(self._store, self._hospital)
        return healed

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
        """Apply all events of one message; returns why they cannot be, None when they were.

        In one transaction, and the bookings of a stop in as many more as it takes.
        """
        try:
            async with self._store.write(self._hospital.id, here=not _is_heavy(events)) as tx:
                for event in events:
                    await apply_event(tx, self._hospital, event, budget=Budget())
            for event in events:
                if isinstance(event, ScheduleStopped):
                    await carry_stop(self._store, self._hospital, event)
        except (SetAside, IllegalMove, RuleBroken) as e:
            return str(e)
        except StoreUnavailable:
            raise
        except Exception as e:
            # Whatever a message breaks, its peer must go on. The text of these may quote a value of the message; the kind is
            # all that may be told.
            return f"cannot be applied ({type(e).__name__})"
        return None


def _is_heavy(events: Sequence[AnyEvent]) -> bool:
    """Whether applying takes long statements: a report may be megabytes, a merge moves all that a person has."""
    return any(isinstance(event, ReportIssued | PatientMerged) for event in events)


async def apply_event(tx: Tx, hospital: Hospital, event: AnyEvent, *, budget: Budget | None = None) -> None:
    """Apply one event. Applying it again changes nothing. `budget` is for a stop, see `booking.stops.apply_stop`."""
    match event:
        case RegistrationChanged(registration=registration):
            await hear_visit(tx, hospital, registration, occurred_at=event.occurred_at)
        case ScheduleStopped():
            await apply_stop(tx, hospital, event, budget=budget)
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
