"""Applying what a HIS has told: several messages in one transaction of the booking store, each of them exactly once.

Applying and marking are commits in two databases. Which messages were applied and are perhaps not marked so stands in the
booking store (`applied_messages`), written by the transaction that applies them: a crash between the two commits is known for
what it is, and nothing is applied a second time over something newer. So is a message of thousands of events that was begun: it
takes as many transactions as it needs, because holds wait behind each.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar

import msgspec
from sqlalchemy import bindparam, select

from booking.billing import hear_bill
from booking.fetches import put_departments, put_practitioners, reopen
from booking.moves import fetch_topic
from booking.people import hear_patient, merge_persons, refuse_unlinked, take_apart
from booking.refunds import take_back
from booking.reporting import put_report
from booking.settings import Hospital
from booking.stops import apply_stop, carry_stop
from booking.store.budget import Budget
from booking.store.engine import Store, Tx
from booking.store.fixed import Fixed
from booking.store.tables import applied_messages
from booking.visits import hear_visit
from mappings.canonical import (
    AnyEvent,
    BillIssued,
    DepartmentChanged,
    PatientChanged,
    PatientMerged,
    PatientUnlinked,
    PractitionerChanged,
    RefundAsked,
    RegistrationChanged,
    ReportIssued,
    ScheduleChanged,
    ScheduleStopped,
)
from monitoring.traces import Kind, span, working_for
from scheduler_sync.leases import Fence, NotOurs

E = TypeVar("E")

MOST_AT_ONCE = 32  # messages in one transaction, which takes no new one beyond its budget (DESIGN section 4: 20 ms)

MASTER_AT_ONCE = 25  # records of master data in one statement: written in a millisecond

LONG_BYTES = 65_536  # sealing and writing a report of this size takes a millisecond


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is stored and not applied. `problem`: why its events cannot be read. `size`: bytes as received.

    `trace` is that of its arrival, where it was traced and is not found after a crash. `row_is_long`: so is what is stored of it,
    or nobody knows.
    """

    id: str
    connector: str
    message_type: str
    control_id: str
    events: tuple[AnyEvent, ...]
    size: int
    problem: str | None = None
    trace: str | None = None
    row_is_long: bool = True

    @property
    def apart(self) -> bool:
        """Whether it gets a transaction of its own: long statements, a stop, which goes on in further ones, or no events."""
        return self.problem is not None or self.heavy or any(isinstance(e, ScheduleStopped) for e in self.events)

    @property
    def heavy(self) -> bool:
        """Whether applying takes long statements: a report may be megabytes."""
        return self.size > LONG_BYTES and any(isinstance(e, ReportIssued) for e in self.events)

    @property
    def divisible(self) -> bool:
        """Whether its events can be applied in several transactions: none speaks of another, and none can be refused."""
        return all(isinstance(e, _ALONE) or (isinstance(e, ReportIssued) and bool(e.report.mrn)) for e in self.events)


_ALONE = (PatientMerged, PatientChanged, DepartmentChanged, PractitionerChanged, ScheduleChanged)


class Applied(NamedTuple):
    """What one transaction has applied: so many messages, and of the one behind them so many events; 0: it was not begun."""

    messages: int
    events: int


class Begun(NamedTuple):
    """A message of which so many events are applied."""

    id: str
    events: int


Next = Callable[[int], Awaitable[Waiting | None]]
"""Given how many a transaction has applied: the message that shall be the next in it, None to end it."""


async def apply_messages(
    store: Store,
    hospital: Hospital,
    following: Next,
    *,
    unmarked: Sequence[str],
    fence: Fence | None,
    heavy: bool,
    begun: int = 0,
) -> Applied:
    """Apply messages as they are given, until the time is over: at least one, or some events of one that is `divisible`.

    One transaction for all of them, and for one that stands `apart` as many more as its stop takes. `unmarked` are the ids of
    earlier ones that are not marked yet. Of the first one so many events were applied before as have `begun`. Raises
    StoreUnavailable, NotOurs where the lease is lost, and what an event raises: nothing was applied then, except the first part
    of a stop.
    """
    done: list[Waiting] = []
    events = 0
    async with store.write(hospital.id, here=not heavy) as tx:
        budget = Budget()
        await _check(tx, fence)
        ids = [*unmarked]
        while not (done and budget.spent) and (message := await following(len(done))) is not None:
            events = await _apply(tx, hospital, message, budget, 0 if done else begun)
            if events:
                ids.append(f"{message.id}:{events}")
                break
            ids.append(message.id)
            done.append(message)
        await _note_applied(tx, ids)
    for message in done:
        for event in message.events:
            if isinstance(event, ScheduleStopped):
                await carry_stop(store, hospital, event)
    return Applied(len(done), events)


async def _apply(tx: Tx, hospital: Hospital, message: Waiting, budget: Budget, begun: int) -> int:
    """Apply what has not begun; how many events of it are applied where the time was over before their end, else 0."""
    if message.trace is not None:
        with working_for(message.trace), span("inbound apply", kind=Kind.CONSUMER):
            return await _apply(tx, hospital, msgspec.structs.replace(message, trace=None), budget, begun)
    divisible = True if begun else None
    number = begun
    while number < len(message.events):
        if number > begun and budget.spent:
            if divisible is None:
                divisible = message.divisible
            if divisible:
                return number
            await asyncio.sleep(0)  # others may not write, but the loop is theirs
        number += await _apply_next(tx, hospital, message.events, number, budget)
    return 0


async def _apply_next(tx: Tx, hospital: Hospital, events: Sequence[AnyEvent], number: int, budget: Budget) -> int:
    """Apply the event of this number, and of master data those that follow it; how many."""
    match events[number]:
        case DepartmentChanged():
            places = [e.department for e in _run(events, number, DepartmentChanged)]
            await put_departments(tx, places)
            return len(places)
        case PractitionerChanged():
            people = [e.practitioner for e in _run(events, number, PractitionerChanged)]
            await put_practitioners(tx, people)
            return len(people)
        case event:
            await apply_event(tx, hospital, event, budget=budget)
            return 1


def _run(events: Sequence[AnyEvent], number: int, kind: type[E]) -> list[E]:
    found: list[E] = []
    for event in events[number : number + MASTER_AT_ONCE]:
        if not isinstance(event, kind):
            break
        found.append(event)
    return found


async def _check(tx: Tx, fence: Fence | None) -> None:
    if fence is not None and not await fence(tx):
        raise NotOurs("another process works this hospital")


async def _note_applied(tx: Tx, ids: Sequence[str]) -> None:
    await tx.upsert(applied_messages, [{"hospital_id": tx.hospital_id, "ids": " ".join(ids)}])


_APPLIED = Fixed(select(applied_messages.c.ids).where(applied_messages.c.hospital_id == bindparam("of_hospital")))


async def applied_ids(store: Store, hospital_id: str) -> tuple[Sequence[str], Begun | None]:
    """The newest messages that were applied, whether they are marked or not, and the one that was begun. Raises StoreUnavailable.

    It waits for whatever still writes: a commit whose answer was lost has happened by then, or never will.
    """
    async with store.write(hospital_id, here=True) as tx:
        row = await tx.first(_APPLIED, {"of_hospital": hospital_id})
    ids = [] if row is None else row["ids"].split()
    if not ids or ":" not in ids[-1]:
        return ids, None
    begun, _, events = ids.pop().partition(":")
    return ids, Begun(begun, int(events))


async def forget_begun(store: Store, hospital_id: str, *, unmarked: Sequence[str], fence: Fence | None) -> None:
    """Let the message that was begun begin anew. Arguments and errors as of `apply_messages`."""
    async with store.write(hospital_id, here=True) as tx:
        await _check(tx, fence)
        await _note_applied(tx, unmarked)


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
        case PatientUnlinked(mrn=mrn):
            await refuse_unlinked(tx, mrn)
        case ReportIssued(report=report):
            await put_report(
                tx,
                report,
                occurred_ms=_ms(event.occurred_at),
                told=True,
                rule=hospital.reports,
                zone=hospital.zone,
            )
        case BillIssued(bill=bill):
            await hear_bill(tx, bill, currency=hospital.currency, occurred_ms=_ms(event.occurred_at))
        case RefundAsked():
            await take_back(tx, event)
        case DepartmentChanged(department=department):
            await put_departments(tx, [department])
        case PractitionerChanged(practitioner=practitioner):
            await put_practitioners(tx, [practitioner])


async def shield_patients(store: Store, hospital: Hospital, events: Sequence[AnyEvent], *, fence: Fence | None) -> None:
    """Before a message waits for a person: what its word makes doubtful is shown to nobody any more. Raises StoreUnavailable."""
    mrns = [event.mrn for event in events if isinstance(event, PatientUnlinked)]
    if not mrns:
        return
    async with store.write(hospital.id) as tx:
        await _check(tx, fence)
        await take_apart(tx, mrns)


def _ms(instant: dt.datetime | None) -> int | None:
    return None if instant is None else round(instant.timestamp() * 1000)
