"""A scripted HIS behind the connector port, with a switch for every call, and the desk at which the outbox works against it.

It keeps orders as a real HIS does, so that a lost reply and a lost request look the same to us and are not.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import select

from booking.bookings import expire_due
from booking.commands import wake_topic
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import outbox
from connectors.port import (
    Accepted,
    BillPayment,
    Capability,
    HisError,
    InboundHandler,
    Order,
    Outcome,
    QueryBack,
    RefundOrder,
    Rejected,
    Unknown,
    Verb,
    VerbTraits,
    Window,
)
from mappings.canonical import (
    Attachment,
    Bill,
    Department,
    Patient,
    Practitioner,
    Registration,
    RegistrationStatus,
    Report,
    Schedule,
    ScheduleStopped,
    Settlement,
    Slot,
    StatementLine,
)
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.outbox import OutboxWorker
from tests.booking.world import HOSPITAL
from tests.stores import Wall

Step = Callable[["Peer", Verb, Any], Awaitable[Outcome]]
_AFTER = {
    Verb.LOCK_SLOT: RegistrationStatus.LOCKED,
    Verb.BOOK: RegistrationStatus.LOCKED,
    Verb.REGISTER: RegistrationStatus.REGISTERED,
    Verb.UNLOCK_SLOT: RegistrationStatus.RELEASED,
    Verb.CANCEL_REGISTRATION: RegistrationStatus.RELEASED,
}


# --- the switches ------------------------------------------------------------------------------------------------------


async def accept(peer: Peer, verb: Verb, argument: Any) -> Outcome:
    """Do it and say so."""
    return peer.commit(verb, argument)


async def lose_reply(peer: Peer, verb: Verb, argument: Any) -> Outcome:
    """Do it; the reply never comes."""
    peer.commit(verb, argument)
    return Unknown(reason="time-out")


async def lose_request(peer: Peer, verb: Verb, argument: Any) -> Outcome:
    """The request never arrives, which we cannot know."""
    return Unknown(reason="time-out")


async def crash(peer: Peer, verb: Verb, argument: Any) -> Outcome:
    """A fault in the connector itself."""
    raise RuntimeError("a fault of ours")


def refuse(code: str, *, retryable: bool = False) -> Step:
    """Refuse with this code."""

    async def step(peer: Peer, verb: Verb, argument: Any) -> Outcome:
        return Rejected(code=code, retryable=retryable)

    return step


def hang(gate: asyncio.Event, then: Step = accept, *, first: Step | None = None) -> Step:
    """Wait at the gate, then do as told; `first` happens before the wait."""

    async def step(peer: Peer, verb: Verb, argument: Any) -> Outcome:
        if first is not None:
            await first(peer, verb, argument)
        await gate.wait()
        return await then(peer, verb, argument)

    return step


class Peer:
    """The scripted HIS. `script(verb, ...)` says what its next calls do; afterwards it accepts. `seen` is what came."""

    def __init__(self, *, off: Sequence[Verb] = (), query_back: QueryBack = QueryBack.KEY) -> None:
        self.hospital_id = HOSPITAL
        self.name = "peer"
        self.seen: list[tuple[Verb, str]] = []
        self.orders: dict[str, RegistrationStatus] = {}
        self.patients: list[Patient] = []
        self.settled: dict[str, Settlement] = {}
        self.refunded: dict[str, RefundOrder] = {}
        self.tells_mrn = True
        self.departments: list[Department] = []
        self.practitioners: list[Practitioner] = []
        self.schedules: list[Schedule] = []
        self.slots: list[Slot] = []
        self.stops: list[ScheduleStopped] = []
        self.read_errors: defaultdict[Verb, deque[HisError]] = defaultdict(deque)
        self.overlaps = 0
        self._off = frozenset(off)
        self._query_back = query_back
        self._steps: defaultdict[Verb, deque[Step]] = defaultdict(deque)
        self._in_flight: Counter[str] = Counter()

    def script(self, verb: Verb, *steps: Step) -> None:
        """What the next calls of a verb do."""
        self._steps[verb].extend(steps)

    def calls(self, *verbs: Verb) -> list[str]:
        """The verbs seen so far, in order; only these, if any are named."""
        return [v.value for v, _ in self.seen if not verbs or v in verbs]

    def commit(self, verb: Verb, argument: Any) -> Outcome:
        """What the HIS does when a request reaches it."""
        match argument:
            case Order(order_no=key):
                return self._commit_order(verb, key)
            case Patient():
                mrn = f"M{len(self.patients) + 1}"
                self.patients.append(
                    Patient(name=argument.name, mrn=mrn, id_type=argument.id_type, id_number=argument.id_number)
                )
                return Accepted(record=self.patients[-1] if self.tells_mrn else None)
            case BillPayment(order_no=key):
                self.settled[key] = Settlement(receipt_no=f"R{key}")
                return Accepted(record=self.settled[key])
            case RefundOrder():
                if argument.refund.refund_no in self.refunded:
                    return Rejected(code="already_done")
                self.refunded[argument.refund.refund_no] = argument
                return Accepted()
        raise AssertionError(f"nobody asks for {verb}")

    def _commit_order(self, verb: Verb, key: str) -> Outcome:
        known, after = self.orders.get(key), _AFTER[verb]
        if after == RegistrationStatus.RELEASED:
            if known is None:
                return Rejected(code="not_found")
            if known == after:
                return Rejected(code="already_done")
        elif known is not None and verb != Verb.REGISTER:
            return Rejected(code="already_exists")
        self.orders[key] = after
        return Accepted(his_refs={verb.value: f"{verb.value}-{key}"}, record=Registration(status=after, order_no=key))

    # --- the port

    def traits(self, verb: Verb) -> VerbTraits:
        capability = Capability.OFF if verb in self._off else Capability.NATIVE
        return VerbTraits(capability=capability, query_back=self._query_back, timeout_s=1.0)

    async def start(self) -> None: ...
    async def close(self) -> None: ...
    async def serve(self, handler: InboundHandler) -> None: ...

    async def _write(self, verb: Verb, key: str, argument: Any) -> Outcome:
        self.seen.append((verb, key))
        self._in_flight[key] += 1
        self.overlaps += self._in_flight[key] > 1
        try:
            step = self._steps[verb].popleft() if self._steps[verb] else accept
            return await step(self, verb, argument)
        finally:
            self._in_flight[key] -= 1

    def _read(self, verb: Verb, key: str = "") -> None:
        self.seen.append((verb, key))
        if self.read_errors[verb]:
            raise self.read_errors[verb].popleft()

    async def ping(self) -> None:
        self._read(Verb.PING)

    async def fetch_departments(self) -> Sequence[Department]:
        self._read(Verb.FETCH_DEPARTMENTS)
        return self.departments

    async def fetch_practitioners(self) -> Sequence[Practitioner]:
        self._read(Verb.FETCH_PRACTITIONERS)
        return self.practitioners

    async def fetch_schedules(self, window: Window) -> Sequence[Schedule]:
        self._read(Verb.FETCH_SCHEDULES)
        return self.schedules

    async def fetch_slots(self, window: Window, schedules: Sequence[Schedule]) -> Sequence[Slot]:
        self._read(Verb.FETCH_SLOTS)
        return self.slots

    async def fetch_stops(self, window: Window) -> Sequence[ScheduleStopped]:
        self._read(Verb.FETCH_STOPS)
        return self.stops

    async def find_patient(self, patient: Patient) -> Sequence[Patient]:
        self._read(Verb.FIND_PATIENT)
        return [p for p in self.patients if p.id_number == patient.id_number]

    async def fetch_registration(self, order: Order) -> Registration | None:
        self._read(Verb.FETCH_REGISTRATION, order.order_no)
        status = self.orders.get(order.order_no)
        return None if status is None else Registration(status=status, order_no=order.order_no, his_refs={"back": "1"})

    async def fetch_bills(self, patient: Patient) -> Sequence[Bill]:
        self._read(Verb.FETCH_BILLS)
        return []

    async def fetch_settlement(self, payment: BillPayment) -> Settlement | None:
        self._read(Verb.FETCH_SETTLEMENT, payment.order_no)
        return self.settled.get(payment.order_no)

    async def fetch_refund(self, refund: RefundOrder) -> Settlement | None:
        self._read(Verb.FETCH_REFUND, refund.refund.refund_no)
        return Settlement() if refund.refund.refund_no in self.refunded else None

    async def fetch_reports(self, patient: Patient) -> Sequence[Report]:
        self._read(Verb.FETCH_REPORTS)
        return []

    async def fetch_report(self, patient: Patient, report_id: str) -> Report | None:
        self._read(Verb.FETCH_REPORT)
        return None

    async def fetch_attachment(self, attachment: Attachment) -> Attachment:
        self._read(Verb.FETCH_ATTACHMENT)
        return attachment

    async def fetch_statement(self, date: dt.date) -> Sequence[StatementLine]:
        self._read(Verb.FETCH_STATEMENT)
        return []

    async def create_patient(self, patient: Patient) -> Outcome:
        return await self._write(Verb.CREATE_PATIENT, str(patient.id_number), patient)

    async def lock_slot(self, order: Order) -> Outcome:
        return await self._write(Verb.LOCK_SLOT, order.order_no, order)

    async def unlock_slot(self, order: Order) -> Outcome:
        return await self._write(Verb.UNLOCK_SLOT, order.order_no, order)

    async def book(self, order: Order) -> Outcome:
        return await self._write(Verb.BOOK, order.order_no, order)

    async def register(self, order: Order) -> Outcome:
        return await self._write(Verb.REGISTER, order.order_no, order)

    async def cancel_registration(self, order: Order) -> Outcome:
        return await self._write(Verb.CANCEL_REGISTRATION, order.order_no, order)

    async def check_in(self, order: Order) -> Outcome:
        return await self._write(Verb.CHECK_IN, order.order_no, order)

    async def presettle_bill(self, payment: BillPayment) -> Outcome:
        return await self._write(Verb.PRESETTLE_BILL, payment.order_no, payment)

    async def settle_bill(self, payment: BillPayment) -> Outcome:
        return await self._write(Verb.SETTLE_BILL, payment.order_no, payment)

    async def refund(self, refund: RefundOrder) -> Outcome:
        return await self._write(Verb.REFUND, refund.refund.refund_no, refund)


# --- the desk ----------------------------------------------------------------------------------------------------------


async def until(check: Callable[[], Awaitable[bool]]) -> None:
    """Poll until it holds; a bound, not a measure."""
    async with asyncio.timeout(15):
        while not await check():  # noqa: ASYNC110 - what is waited for lies in a database
            await asyncio.sleep(0.005)


class Desk:
    """One outbox worker at work, and the clock of its store."""

    def __init__(self, store: Store, hospital: Hospital, peer: Peer, wall: Wall) -> None:
        self.store, self.hospital, self.peer, self.wall = store, hospital, peer, wall
        self.link = HospitalLink(hospital, {peer.name: peer})
        self.worker = OutboxWorker(store, hospital, self.link)
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._task = asyncio.create_task(self.worker.run(self._stopping))

    async def die(self) -> None:
        """As a crash: what is in flight is lost with the process."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.worker.stop_waiting()

    async def close(self) -> None:
        """As a stop: what is in flight may finish."""
        self._stopping.set()
        self.store.bell.ring(wake_topic(self.hospital.id))
        if self._task is not None:
            await self._task

    def turn(self, seconds: float) -> None:
        """Let time pass, and let the worker see it."""
        self.wall.turn(seconds)
        self.store.bell.ring(wake_topic(self.hospital.id))

    async def row(self, line: str) -> dict[str, Any]:
        """The newest command of a line."""
        async with self.store.read(HOSPITAL) as tx:
            found = await tx.first(
                select(outbox)
                .where(outbox.c.hospital_id == HOSPITAL, outbox.c.line == line)
                .order_by(outbox.c.id.desc())
                .limit(1)
            )
        assert found is not None
        return found

    async def until_row(self, line: str, **values: Any) -> dict[str, Any]:
        """Wait until the newest command of a line has these values."""

        async def check() -> bool:
            row = await self.row(line)
            return all(row[name] == value for name, value in values.items())

        await until(check)
        return await self.row(line)

    async def until_seen(self, verb: Verb, times: int = 1) -> None:
        """Wait until the HIS has been asked so often."""

        async def check() -> bool:
            return len(self.peer.calls(verb)) >= times

        await until(check)

    async def expire(self) -> int:
        """Let the clock's sweep run once."""
        async with self.store.write(HOSPITAL) as tx:
            return await expire_due(tx, self.hospital)


@asynccontextmanager
async def desk(store: Store, hospital: Hospital, peer: Peer, wall: Wall) -> AsyncIterator[Desk]:
    """An open desk, closed afterwards."""
    it = Desk(store, hospital, peer, wall)
    it.open()
    try:
        yield it
    finally:
        await it.die()
