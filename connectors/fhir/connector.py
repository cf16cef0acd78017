"""The FHIR connector: the port's verbs over one FHIR server. Which resource carries which verb is INTEROP.md's table."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec

from connectors.config import HospitalContext
from connectors.fhir import appointments, billing, bookings, locks, patients, reports
from connectors.fhir.changes import Changes
from connectors.fhir.client import ExchangeError, FhirClient, ReplyInvalid
from connectors.fhir.deadlines import Deadline
from connectors.fhir.documents import Document
from connectors.fhir.exchange import Exchange
from connectors.fhir.openings import Openings
from connectors.fhir.outcomes import error_of_read
from connectors.fhir.pushing import Pushing
from connectors.fhir.record import asked_for
from connectors.fhir.writes import Ended, Write
from connectors.persons import without_others
from connectors.port import (
    BillPayment,
    Capability,
    Gate,
    HisError,
    HisReplyInvalid,
    HisUnavailable,
    IdempotencyKey,
    Inbound,
    InboundHandler,
    Inventory,
    NotOffered,
    Order,
    Outcome,
    QueryBack,
    Recorder,
    RefundOrder,
    Refused,
    Rejected,
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
    Report,
    Schedule,
    ScheduleStopped,
    Settlement,
    Slot,
    StatementLine,
)
from mappings.profile import Profile

T = TypeVar("T")

# What this connector has code for; whatever else a profile may say is off.
_CARRIED = frozenset(Verb) - {
    Verb.CHECK_IN,
    Verb.PRESETTLE_BILL,
}


class FhirConnector:
    """A `Connector` (see connectors.port), which also `FetchesInventory`, `FetchesChanges`, `AsksByItself` and `ReadsAgain`."""

    def __init__(
        self,
        hospital: HospitalContext,
        name: str,
        profile: Profile,
        exchange: Exchange,
        client: FhirClient,
        timeout_s: dict[str, float],
        *,
        changes: Changes,
        push: Pushing | None = None,
        changes_every_s: float = 0.0,
    ) -> None:
        self._changes, self.changes_every_s = changes, changes_every_s
        self._push = push
        self.hospital_id = hospital.id
        self.name = name
        self._exchange = exchange
        self._client = client
        self._openings = Openings(exchange)
        self._traits = {verb: _traits(profile, verb, timeout_s) for verb in Verb}

    def traits(self, verb: Verb) -> VerbTraits:
        """What this connector can do for `verb`."""
        return self._traits[verb]

    async def start(self) -> None:
        """Open the session; connects to nothing yet."""
        await self._client.open()

    async def close(self) -> None:
        """Close every connection, and end the process that sifts pages."""
        if self._push is not None:
            await self._push.close()
        await self._exchange.sifter.close()
        await self._client.close()

    def record_exchanges(self, recorder: Recorder) -> None:
        """See connectors.port.Recording."""
        self._client.record.recorder = recorder

    def ask_through(self, gate: Gate) -> None:
        """See connectors.port.AsksByItself."""
        if self._push is not None:
            self._push.ask_through(gate)

    async def serve(self, handler: InboundHandler) -> None:
        """Hand what changes at the server to `handler` from now on; with a `listen_port`, take notifications."""
        self._changes.handler = handler
        if self._push is not None:
            await self._push.start()

    @property
    def tells_registrations(self) -> bool:
        """See connectors.port.FetchesChanges."""
        return self._changes.watches("Appointment")

    @property
    def listen_port(self) -> int:
        """The port that the server can reach us at; 0 while nothing is served."""
        return 0 if self._push is None else self._push.push.port

    def check_listener(self) -> None:
        """See connectors.port.ChecksListener."""
        if self._push is not None:
            self._push.push.check()

    def read_again(self, raw: bytes, peer: str) -> Inbound | Refused:
        """See connectors.port.ReadsAgain."""
        return self._changes.read_again(raw, peer)

    async def fetch_changes(self) -> int:
        """See connectors.port.FetchesChanges."""
        try:
            return await self._changes.look()
        except HisError as error:
            error.hospital_id, error.verb = self.hospital_id, "fetch_changes"
            raise

    # reads ---------------------------------------------------------------------------------------------------------

    async def ping(self) -> None:
        """Ask for the CapabilityStatement; a server of another FHIR version is HisReplyInvalid."""

        async def look(deadline: Deadline) -> None:
            await self._exchange.statements.look(deadline)

        await self._read(Verb.PING, look)

    async def fetch_departments(self) -> Sequence[Department]:
        return await self._records(Verb.FETCH_DEPARTMENTS, {})

    async def fetch_practitioners(self) -> Sequence[Practitioner]:
        return await self._records(Verb.FETCH_PRACTITIONERS, {})

    async def fetch_schedules(self, window: Window) -> Sequence[Schedule]:
        """A FHIR Schedule may span days: it is told apart into sessions by the Slots that it has in the window."""
        return await self._read(Verb.FETCH_SCHEDULES, lambda deadline: self._openings.schedules(window, deadline))

    async def fetch_slots(self, window: Window, schedules: Sequence[Schedule]) -> Sequence[Slot]:
        """The segments of `schedules` in the window; of all schedules where none is given."""
        of = {schedule.id for schedule in schedules}
        return await self._read(Verb.FETCH_SLOTS, lambda deadline: self._openings.slots(window, of, deadline))

    async def fetch_stops(self, window: Window) -> Sequence[ScheduleStopped]:
        """Sessions, or segments of them, all of whose Slots came, could be read, and are unavailable."""
        return await self._read(Verb.FETCH_STOPS, lambda deadline: self._openings.stops(window, deadline))

    async def fetch_inventory(self, window: Window) -> Inventory:
        """See connectors.port.FetchesInventory."""
        return await self._read(Verb.FETCH_SLOTS, lambda deadline: self._openings.inventory(window, deadline))

    async def find_patient(self, patient: Patient) -> Sequence[Patient]:
        return without_others(await self._records(Verb.FIND_PATIENT, patient, whole=True), patient)

    async def fetch_registration(self, order: Order) -> Registration | None:
        return await self._read(
            Verb.FETCH_REGISTRATION,
            lambda deadline: appointments.fetch_registration(self._exchange, order, deadline),
            order,
        )

    async def fetch_bills(self, patient: Patient) -> Sequence[Bill]:
        return await self._read(
            Verb.FETCH_BILLS, lambda deadline: billing.fetch_bills(self._exchange, patient, deadline), patient
        )

    async def fetch_settlement(self, payment: BillPayment) -> Settlement | None:
        return await self._read(
            Verb.FETCH_SETTLEMENT, lambda deadline: billing.fetch_settlement(self._exchange, payment, deadline), payment
        )

    async def fetch_refund(self, refund: RefundOrder) -> Settlement | None:
        return await self._read(
            Verb.FETCH_REFUND, lambda deadline: billing.fetch_refund(self._exchange, refund, deadline), refund
        )

    async def fetch_reports(self, patient: Patient) -> Sequence[Report]:
        return await self._read(
            Verb.FETCH_REPORTS, lambda deadline: reports.fetch_reports(self._exchange, patient, deadline), patient
        )

    async def fetch_report(self, patient: Patient, report_id: str) -> Report | None:
        return await self._read(
            Verb.FETCH_REPORT,
            lambda deadline: reports.fetch_report(self._exchange, patient, report_id, deadline),
            patient,
        )

    async def fetch_attachment(self, attachment: Attachment) -> Attachment:
        """The same attachment with its bytes; they come raw, or inside a Binary resource."""

        async def fetch(deadline: Deadline) -> Attachment:
            if attachment.data is not None or attachment.url is None:
                return attachment
            try:
                reply = await self._client.download(attachment.url, attachment.content_type, deadline=deadline)
            except ReplyInvalid as error:
                raise HisReplyInvalid(str(error)) from error
            except ExchangeError as error:
                raise HisUnavailable(str(error)) from error
            if reply.status != 200:
                raise error_of_read(reply, {})
            data = reply.data
            if isinstance(reply.body, dict) and reply.body.get("resourceType") == "Binary":
                binary = await self._exchange.map_all(self._exchange.calls["fetch_attachment"], Document(reply.body))
                data = binary[0].data or b""
            return msgspec.structs.replace(attachment, data=data)

        return await self._read(Verb.FETCH_ATTACHMENT, fetch)

    async def fetch_statement(self, date: dt.date) -> Sequence[StatementLine]:
        return await self._records(Verb.FETCH_STATEMENT, {"date": date}, whole=True)

    # writes --------------------------------------------------------------------------------------------------------

    async def create_patient(self, patient: Patient) -> Outcome:
        return await self._write(Verb.CREATE_PATIENT, patient, lambda write: patients.create_patient(write, patient))

    async def lock_slot(self, order: Order) -> Outcome:
        return await self._write(Verb.LOCK_SLOT, order, lambda write: locks.lock_slot(write, order))

    async def unlock_slot(self, order: Order) -> Outcome:
        return await self._write(Verb.UNLOCK_SLOT, order, lambda write: bookings.unlock_slot(write, order))

    async def book(self, order: Order) -> Outcome:
        return await self._write(Verb.BOOK, order, lambda write: bookings.book(write, order))

    async def register(self, order: Order) -> Outcome:
        return await self._write(Verb.REGISTER, order, lambda write: bookings.register(write, order))

    async def cancel_registration(self, order: Order) -> Outcome:
        return await self._write(
            Verb.CANCEL_REGISTRATION, order, lambda write: bookings.cancel_registration(write, order)
        )

    async def check_in(self, order: Order) -> Outcome:
        return self._refuse(Verb.CHECK_IN)

    async def presettle_bill(self, payment: BillPayment) -> Outcome:
        return self._refuse(Verb.PRESETTLE_BILL)

    async def settle_bill(self, payment: BillPayment) -> Outcome:
        return await self._write(Verb.SETTLE_BILL, payment, lambda write: billing.settle_bill(write, payment))

    async def refund(self, refund: RefundOrder) -> Outcome:
        return await self._write(Verb.REFUND, refund, lambda write: billing.refund(write, refund))

    # inside --------------------------------------------------------------------------------------------------------

    async def _records(self, verb: Verb, request: Any, *, whole: bool = False) -> list[Any]:
        async def fetch(deadline: Deadline) -> list[Any]:
            call = self._exchange.calls[verb.value]
            document = await self._exchange.search(call, request, deadline, whole=whole)
            return await self._exchange.map_all(call, document, whole=whole)

        return await self._read(verb, fetch, request)

    async def _read(self, verb: Verb, work: Callable[[Deadline], Awaitable[T]], about: object = None) -> T:
        traits = self._traits[verb]
        if traits.capability is not Capability.NATIVE:
            raise self._not_offered(verb)
        try:
            deadline = Deadline(traits.timeout_s)
            if verb is not Verb.PING:
                await self._exchange.statements.known(deadline)
            with asked_for(verb, about):
                return await work(deadline)
        except HisError as error:
            error.hospital_id, error.verb = self.hospital_id, verb.value
            raise

    async def _write(self, verb: Verb, about: object, work: Callable[[Write], Awaitable[Outcome]]) -> Outcome:
        traits = self._traits[verb]
        if traits.capability is not Capability.NATIVE:
            return self._refuse(verb)
        write = Write(self._exchange, traits.timeout_s)
        try:
            await self._exchange.statements.known(write.deadline)
        except HisReplyInvalid as error:  # a server of another version: nothing was asked of it
            return Rejected(code="not_sent", text=str(error), retryable=True)
        try:
            with asked_for(verb, about):
                return await work(write)
        except Ended as ended:
            return ended.outcome

    def _not_offered(self, verb: Verb) -> NotOffered:
        return NotOffered(f"{verb} is not offered", hospital_id=self.hospital_id, verb=verb.value)

    @staticmethod
    def _refuse(verb: Verb) -> Rejected:
        return Rejected(code="not_offered", text=f"{verb} is not offered")


def _traits(profile: Profile, verb: Verb, timeout_s: dict[str, float]) -> VerbTraits:
    spec = profile.verbs.get(verb.value)
    if spec is None or verb not in _CARRIED:
        return VerbTraits()
    return VerbTraits(
        capability=Capability(spec.capability),
        query_back=QueryBack(spec.query_back),
        key=IdempotencyKey(spec.key),
        timeout_s=timeout_s.get(verb.value, spec.timeout_s),
    )
