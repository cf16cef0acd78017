"""The connector port over HL7 v2: requests by MLLP to the HIS, and a listener for what it sends unasked."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from connectors.clock import HisClock
from connectors.config import HospitalContext
from connectors.hl7v2 import er7
from connectors.hl7v2.bothways import InboundLines
from connectors.hl7v2.calling import make_pool
from connectors.hl7v2.charset import HL7CharsetError
from connectors.hl7v2.client import NoAnswer, NotSent
from connectors.hl7v2.exchange import Exchange
from connectors.hl7v2.judging import UNKNOWN, judge
from connectors.hl7v2.listening import listener, listener_tls
from connectors.hl7v2.mapping import CompiledVerb, ProfileMaps, first_text
from connectors.hl7v2.meters import ListenerMeters
from connectors.hl7v2.options import Options, resolve_settings
from connectors.hl7v2.reading import Reader
from connectors.hl7v2.receiver import Receiver
from connectors.hl7v2.record import note_stray, read_again
from connectors.hl7v2.server import MLLPServer
from connectors.hl7v2.weight import is_heavy_to_map
from connectors.payments import refund_of, settlement_of
from connectors.persons import without_others
from connectors.port import (
    Accepted,
    BillPayment,
    Capability,
    HisError,
    HisRefused,
    HisReplyInvalid,
    HisUnavailable,
    IdempotencyKey,
    Inbound,
    InboundHandler,
    InboundsHandler,
    NotOffered,
    Order,
    Outcome,
    QueryBack,
    Recorder,
    RefundOrder,
    Refused,
    Rejected,
    Unknown,
    Verb,
    VerbTraits,
    Window,
)
from connectors.recording import WireRecord
from mappings.canonical import (
    Attachment,
    Bill,
    Department,
    Patient,
    Practitioner,
    Record,
    Registration,
    RegistrationStatus,
    Report,
    Schedule,
    ScheduleStatus,
    ScheduleStopped,
    Settlement,
    Slot,
    StatementLine,
)
from mappings.engine import MappingError, RecordMap
from mappings.profile import Profile, load_profile
from monitoring import metrics
from monitoring.logs import get_logger

log = get_logger(__name__)

RecordT = TypeVar("RecordT", bound=Record)

CONTINUATION = "DSC-1"
"""Where a reply says that there is more (v2.5.1 ch. 2.15.4)."""

RETRYABLE = frozenset({"busy", "not_open_yet", "not_sent"})


class HL7v2Connector:
    """One HIS that speaks HL7 v2. Which message carries which verb is the profile's; see connectors.port.Connector."""

    def __init__(self, hospital: HospitalContext, name: str, options: Options, profile: Profile) -> None:
        self.hospital_id = hospital.id
        self.hospital = hospital
        self.name = name
        self.profile = profile
        self._max_message_bytes = options.max_message_bytes
        self._timeouts_s = options.timeout_s
        self._maps = ProfileMaps(profile)
        self.settings, self._connection = resolve_settings(options, profile.connection)
        metrics.register_message_types({*self._maps.inbound, *self.settings.ignore})
        self.pool = make_pool(hospital, name, self.settings, options.max_message_bytes)
        self._exchange = Exchange(hospital, self.settings, self._connection, self.pool, HisClock(hospital, name))
        self._exchange.record = self._record = WireRecord(name)
        self._server: MLLPServer | None = None
        self._receiver: Receiver | None = None
        self._handle_together: InboundsHandler | None = None

    @property
    def listen_port(self) -> int:
        """The port that the HIS can reach us at; 0 while nothing is served."""
        return self._server.port if self._server else 0

    def traits(self, verb: Verb) -> VerbTraits:
        spec = self.profile.verbs.get(verb.value)
        if spec is None or not self._can_carry(spec.capability):
            return VerbTraits()
        return VerbTraits(
            capability=Capability(spec.capability),
            query_back=QueryBack(spec.query_back),
            key=IdempotencyKey(spec.key),
            timeout_s=self._timeouts_s.get(verb.value, spec.timeout_s),
        )

    def _can_carry(self, capability: str) -> bool:
        """What the profile offers needs a HIS to ask (`host`, `port`) or a listener to be told (`listen_port`)."""
        if capability == Capability.NATIVE:
            return self.pool is not None
        return capability != Capability.PUSHED or self.settings.listen_port is not None or self.settings.both_ways

    def record_exchanges(self, recorder: Recorder) -> None:
        """See connectors.port.Recording."""
        self._record.recorder = recorder
        if self.pool is not None:
            self.pool.keep_strays(lambda kind, data: note_stray(self._record, self.settings, kind, data))

    def hand_on_together(self, handler: InboundsHandler) -> None:
        """See connectors.port.HandsOnTogether: the messages of a file or a batch."""
        self._handle_together = handler

    def read_again(self, raw: bytes, peer: str) -> Inbound | Refused:
        """See connectors.port.ReadsAgain."""
        return read_again(Reader(self.hospital, self.name, self.settings, self._connection, self._maps), raw, peer)

    def check_listener(self) -> None:
        """See connectors.port.ChecksListener."""
        listener_tls(self.settings, ListenerMeters(self.hospital_id, self.name))

    async def start(self) -> None:
        """Look whether the HIS is there, beside whatever comes next."""
        if self.pool is not None:
            self.pool.start()

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()
            self._server = None
        if self.pool is not None:
            await self.pool.close()
        if self._receiver is not None:
            await self._receiver.close()
            self._receiver = None

    async def serve(self, handler: InboundHandler) -> None:
        """Listen, if `listen_port` is set, and on our own connections with `both_ways`.

        Raises OSError when the port is taken, BadTLSFiles.
        """
        settings = self.settings
        if self._receiver is not None or not (settings.both_ways or settings.listen_port is not None):
            return
        metrics.greet_listener(self.hospital_id, self.name)
        receiver = Receiver(self.hospital, self.name, settings, self._connection, self._maps, handler)
        receiver.record = self._record
        if receiver.validator is not None:
            receiver.validator.start()
        receiver.handle_together = self._handle_together
        if self.pool is not None:
            receiver.take_answer = self.pool.take_answer
            if settings.both_ways:
                self.pool.hear(receiver)
        if settings.listen_port is not None:
            meters = ListenerMeters(self.hospital_id, self.name)
            lines = self.pool if isinstance(self.pool, InboundLines) else None
            server = listener(settings, receiver, meters, self._max_message_bytes, lines)
            await server.start(settings.listen_host, settings.listen_port)
            self._server = server
            log.info(
                "hl7_listening",
                on=f"{settings.listen_host}:{server.port}",
                tls=settings.tls_cert_file is not None,
                hospital=self.hospital_id,
                connector=self.name,
            )
        self._receiver = receiver

    # --- reads -----------------------------------------------------------------------------------------------------

    async def ping(self) -> None:
        """v2 has no message that only asks whether one is there: a connection that can be had counts as up."""
        if self.pool is None:
            raise NotOffered("no host is configured", hospital_id=self.hospital_id, verb="ping")
        try:
            await self.pool.check(self.traits(Verb.PING).timeout_s)
        except NotSent as error:
            raise HisUnavailable(str(error), hospital_id=self.hospital_id, verb="ping") from error

    async def fetch_schedules(self, window: Window) -> Sequence[Schedule]:
        """The schedules behind the slots that the HIS lists; one is open as long as one of its rows is.

        Its practitioner is who holds most of it: that somebody stands in for a part of it is a matter of those slots.
        """
        found: dict[tuple[str, dt.date, str], Schedule] = {}
        rows: dict[tuple[str, dt.date, str], Counter[tuple[str | None, str | None]]] = {}
        for schedule in await self._read_all(Verb.FETCH_SCHEDULES, window, Schedule):
            key = (schedule.id, schedule.date, schedule.session)
            if key not in found or schedule.status is ScheduleStatus.OPEN:
                found[key] = schedule
            rows.setdefault(key, Counter())[schedule.practitioner_id, schedule.practitioner_name] += 1
        for several, held_by in rows.items():
            if len(held_by) > 1:
                ((number, name), _) = held_by.most_common(1)[0]
                found[several] = msgspec.structs.replace(found[several], practitioner_id=number, practitioner_name=name)
        return list(found.values())

    async def fetch_slots(self, window: Window, schedules: Sequence[Schedule]) -> Sequence[Slot]:
        """The slots that the HIS lists. Several rows of one slot are its seats, free and taken ones: they are added up."""
        wanted = {(schedule.id, schedule.date) for schedule in schedules}
        found: dict[tuple[str, dt.date, dt.datetime], Slot] = {}
        for slot in await self._read_all(Verb.FETCH_SLOTS, window, Slot):
            if not wanted or (slot.schedule_id, slot.date) in wanted:
                key = (slot.id, slot.date, slot.starts_at)
                found[key] = _added(found[key], slot) if key in found else slot
        return list(found.values())

    async def find_patient(self, patient: Patient) -> Sequence[Patient]:
        found = await self._read_all(Verb.FIND_PATIENT, patient, Patient, empty_if_unknown=True)
        return without_others(found, patient)

    async def fetch_registration(self, order: Order) -> Registration | None:
        """The HIS's view of one order; a live one wins over released ones of the same key."""
        found = await self._read_all(Verb.FETCH_REGISTRATION, order, Registration, empty_if_unknown=True)
        mine = [one for one in found if one.order_no == order.order_no]
        if not mine and any(one.order_no is None for one in found):
            raise self._invalid(Verb.FETCH_REGISTRATION, "the reply does not say which order it speaks of")
        live = [one for one in mine if one.status is not RegistrationStatus.RELEASED]
        return next(iter(live or mine), None)

    async def fetch_departments(self) -> Sequence[Department]:
        raise self._not_offered(Verb.FETCH_DEPARTMENTS)

    async def fetch_practitioners(self) -> Sequence[Practitioner]:
        raise self._not_offered(Verb.FETCH_PRACTITIONERS)

    async def fetch_stops(self, window: Window) -> Sequence[ScheduleStopped]:
        return await self._read_all(Verb.FETCH_STOPS, window, ScheduleStopped)

    async def fetch_bills(self, patient: Patient) -> Sequence[Bill]:
        return await self._read_all(Verb.FETCH_BILLS, patient, Bill)

    async def fetch_settlement(self, payment: BillPayment) -> Settlement | None:
        found = await self._read_all(Verb.FETCH_SETTLEMENT, payment, Settlement, empty_if_unknown=True)
        try:
            return settlement_of(payment, found)
        except HisError as error:
            error.hospital_id, error.verb = self.hospital_id, Verb.FETCH_SETTLEMENT.value
            raise

    async def fetch_refund(self, refund: RefundOrder) -> Settlement | None:
        found = await self._read_all(Verb.FETCH_REFUND, refund, Settlement, empty_if_unknown=True)
        try:
            return refund_of(refund, found)
        except HisError as error:
            error.hospital_id, error.verb = self.hospital_id, Verb.FETCH_REFUND.value
            raise

    async def fetch_reports(self, patient: Patient) -> Sequence[Report]:
        return await self._read_all(Verb.FETCH_REPORTS, patient, Report)

    async def fetch_report(self, patient: Patient, report_id: str) -> Report | None:
        raise self._not_offered(Verb.FETCH_REPORT)

    async def fetch_attachment(self, attachment: Attachment) -> Attachment:
        raise self._not_offered(Verb.FETCH_ATTACHMENT)

    async def fetch_statement(self, date: dt.date) -> Sequence[StatementLine]:
        raise self._not_offered(Verb.FETCH_STATEMENT)

    # --- writes ----------------------------------------------------------------------------------------------------

    async def create_patient(self, patient: Patient) -> Outcome:
        """Create, then find: the acknowledgement of an ADT carries no number, and a patient without one is of no use."""
        outcome = await self._write(Verb.CREATE_PATIENT, patient)
        compiled = self._maps.verbs.get(Verb.CREATE_PATIENT.value)
        if not isinstance(outcome, Accepted) or compiled is None or compiled.then != Verb.FIND_PATIENT.value:
            return outcome
        try:
            found = await self.find_patient(patient)
        except (HisUnavailable, HisRefused, HisReplyInvalid, NotOffered) as error:
            return Unknown(reason=f"created, and its number could not be asked for: {type(error).__name__}")
        if len(found) != 1:
            return Unknown(reason=f"created, and {len(found)} records fit")
        return Accepted(his_refs=found[0].his_refs, record=found[0])

    async def lock_slot(self, order: Order) -> Outcome:
        return await self._write(Verb.LOCK_SLOT, order)

    async def unlock_slot(self, order: Order) -> Outcome:
        return await self._write(Verb.UNLOCK_SLOT, order)

    async def book(self, order: Order) -> Outcome:
        return await self._write(Verb.BOOK, order)

    async def register(self, order: Order) -> Outcome:
        return await self._write(Verb.REGISTER, order)

    async def cancel_registration(self, order: Order) -> Outcome:
        return await self._write(Verb.CANCEL_REGISTRATION, order)

    async def check_in(self, order: Order) -> Outcome:
        return await self._write(Verb.CHECK_IN, order)

    async def presettle_bill(self, payment: BillPayment) -> Outcome:
        return await self._write(Verb.PRESETTLE_BILL, payment)

    async def settle_bill(self, payment: BillPayment) -> Outcome:
        """An acknowledged DFT says that the payment is booked; no receipt comes back (v2.5.1 ch. 6.4.1)."""
        outcome = await self._write(Verb.SETTLE_BILL, payment)
        if isinstance(outcome, Accepted) and outcome.record is None:
            return Accepted(his_refs=outcome.his_refs, record=Settlement(bill_id=payment.bill.id))
        return outcome

    async def refund(self, refund: RefundOrder) -> Outcome:
        return await self._write(Verb.REFUND, refund)

    # --- the two ways to ask -----------------------------------------------------------------------------------------

    def _native(self, verb: Verb) -> CompiledVerb | None:
        native = self.traits(verb).capability is Capability.NATIVE
        return self._maps.verbs.get(verb.value) if native else None

    async def _read_all(
        self, verb: Verb, request: Record, kind: type[RecordT], *, empty_if_unknown: bool = False
    ) -> list[RecordT]:
        """All records that a query gives, over all its pages.

        One that cannot be mapped fails the whole: a list with a hole looks as if the HIS had withdrawn something.
        Raises HisError.
        """
        compiled = self._native(verb)
        if compiled is None or compiled.reply is None:
            raise self._not_offered(verb)
        records: list[RecordT] = []
        extra: dict[str, Any] = {}
        for _ in range(compiled.max_pages):
            reply = await self._query(verb, compiled, request, extra)
            judgement = judge(compiled, reply, self.settings.retry_errors)
            if judgement.code == "not_found" and empty_if_unknown:
                return records
            if judgement.code == UNKNOWN:
                raise HisUnavailable(judgement.text, hospital_id=self.hospital_id, verb=verb.value)
            if judgement.code is not None:
                code = judgement.code
                raise HisRefused(judgement.text, code=code, hospital_id=self.hospital_id, verb=verb.value)
            records += await self._map_all(verb, compiled.reply, reply, kind)
            cursor = first_text(compiled.cursor or CONTINUATION, reply)
            if not cursor:
                return records
            if compiled.cursor is None:
                raise self._invalid(verb, "the reply is one page of several, and the profile has no `pages`")
            extra = {"page.cursor": cursor}
        raise self._invalid(verb, f"more than {compiled.max_pages} pages")

    async def _query(self, verb: Verb, compiled: CompiledVerb, request: Record, extra: dict[str, Any]) -> er7.Message:
        where = {"hospital_id": self.hospital_id, "verb": verb.value}
        try:
            return await self._exchange.ask(compiled, request, self.traits(verb).timeout_s, extra)
        except (MappingError, HL7CharsetError) as error:
            raise HisRefused(str(error), code="invalid_request", **where) from error
        except (NotSent, NoAnswer) as error:
            raise HisUnavailable(str(error), **where) from error

    async def _map_all(
        self, verb: Verb, reply_map: RecordMap, reply: er7.Message, kind: type[RecordT]
    ) -> list[RecordT]:
        ctx = self._exchange.context(reply)
        if is_heavy_to_map(reply):
            mapped = await asyncio.to_thread(reply_map.read_aside, reply, ctx)
        else:
            mapped = reply_map.read(reply, ctx)
        if mapped.problems:
            raise self._invalid(verb, f"{len(mapped.problems)} records cannot be mapped: {mapped.problems[0]}")
        return [record for record in mapped.records if isinstance(record, kind)]

    async def _write(self, verb: Verb, request: Record) -> Outcome:
        compiled = self._native(verb)
        if compiled is None:
            return Rejected(code="not_offered")
        try:
            reply = await self._exchange.ask(compiled, request, self.traits(verb).timeout_s)
        except MappingError as error:
            return Rejected(code="invalid_request", text=str(error))
        except HL7CharsetError as error:
            return Rejected(code="charset", text=str(error))
        except NotSent as error:
            return Rejected(code="not_sent", text=str(error), retryable=True)
        except NoAnswer as error:
            return Unknown(reason=str(error))
        judgement = judge(compiled, reply, self.settings.retry_errors)
        if judgement.code == UNKNOWN:
            return Unknown(reason=judgement.text or "the answer does not say what was done")
        if judgement.code is not None:
            return Rejected(code=judgement.code, text=judgement.text, retryable=judgement.code in RETRYABLE)
        if compiled.reply is None:
            return Accepted()
        ctx = self._exchange.context(reply)
        try:
            if is_heavy_to_map(reply):
                record = await asyncio.to_thread(compiled.reply.read_one, reply, ctx)
            else:
                record = compiled.reply.read_one(reply, ctx)
        except MappingError as error:
            # The HIS says that it is done, and not what: the query-back will tell.
            return Unknown(reason=f"done, and the reply cannot be mapped: {error}")
        asked = request.order_no if isinstance(request, Order) else None
        if asked is not None and isinstance(record, Registration) and record.order_no not in (None, asked):
            return Unknown(reason="the answer speaks of another order")
        return Accepted(his_refs=record.his_refs, record=record)

    def _not_offered(self, verb: Verb) -> NotOffered:
        return NotOffered("not offered by this hospital", hospital_id=self.hospital_id, verb=verb.value)

    def _invalid(self, verb: Verb, text: str) -> HisReplyInvalid:
        return HisReplyInvalid(text, hospital_id=self.hospital_id, verb=verb.value)


def _added(one: Slot, other: Slot) -> Slot:
    """Two rows of one slot: the seats of both, open as long as one of them is."""
    open_one = other if one.status is ScheduleStatus.STOPPED else one
    return msgspec.structs.replace(open_one, seats_left=one.seats_left + other.seats_left)


def create(
    hospital: HospitalContext, name: str, options: Options, *, profiles_dir: Path | None = None
) -> HL7v2Connector:
    """Build the connector. Raises mappings.profile.ProfileError, and ValueError for bad settings."""
    profile = load_profile(options.profile, profiles_dir=profiles_dir)
    if profile.protocol != "hl7v2":
        raise ValueError(f"profile {profile.name} is for {profile.protocol}, not hl7v2")
    return HL7v2Connector(hospital, name, options, profile)
