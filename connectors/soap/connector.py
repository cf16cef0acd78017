"""The connector port over SOAP services whose arguments are texts: a document in a string, and what stands beside it.

Nothing here knows an element of any HIS: operations, documents, codes and the success rule come from the profile.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from connectors.clock import HisClock
from connectors.config import HospitalContext
from connectors.payments import settlement_of
from connectors.persons import without_others
from connectors.port import (
    BillPayment,
    Capability,
    HisError,
    HisRefused,
    HisReplyInvalid,
    IdempotencyKey,
    Inbound,
    InboundHandler,
    Order,
    Outcome,
    QueryBack,
    QuestionHandler,
    Recorder,
    RefundOrder,
    Verb,
    VerbTraits,
    Window,
)
from connectors.port import Refused as Rejection
from connectors.recording import WireRecord
from connectors.soap.asking import Asking
from connectors.soap.client import NotSent, SoapClient
from connectors.soap.endpoint import Endpoint
from connectors.soap.exchange import Exchange, Watch
from connectors.soap.options import Options, read_connection, read_secrets
from connectors.soap.security import load, security_of, tls_context, vouch_of
from connectors.soap.serving import Serving
from connectors.soap.verbs import compile_verbs
from connectors.soap.wire import Wire
from connectors.soap.wsdl import BareService
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
from mappings.context import MapContext
from mappings.profile import load_profile
from monitoring.metrics import decode_fallbacks

_GONE = frozenset({RegistrationStatus.RELEASED, RegistrationStatus.ENTERED_IN_ERROR})


class SoapConnector:
    """See connectors.port.Connector. Made by `create`; `start` before the first call, `close` at the end."""

    def __init__(self, hospital: HospitalContext, name: str, options: Options, *, profiles_dir: Path | None) -> None:
        self.hospital_id, self.name = hospital.id, name
        self._hospital, self._options = hospital, options
        self._profile = load_profile(options.profile, profiles_dir=profiles_dir)
        if self._profile.protocol != "soap":
            self._profile.fail("protocol", "this profile is not for a SOAP connector")
        self._connection, self._settings = read_connection(self._profile, options.settings)
        # One that only listens has nobody to ask.
        self._asks = options.listen_port is None or options.endpoint is not None or options.wsdl is not None
        self._verbs = compile_verbs(self._profile, self._settings) if self._asks else {}
        self._asking = Asking(
            self._verbs,
            hospital_id=hospital.id,
            connector=name,
            at_once=min(self._connection.concurrency, hospital.calls_at_once // 2),
            ready=self._ready,
            context=self._context,
            timeout_s=self._timeout_s,
        )
        keys = read_secrets(options.secret_files)
        self._wire = Wire(self._profile, self._connection, keys, self._note_fallback)
        self._secure = None
        if self._connection.security is not None:
            try:
                self._secure = security_of(self._connection.security, self._settings, keys, options)
            except ValueError as error:
                self._profile.fail("connection.security", str(error))
        self._vouch = vouch_of(self._connection, options)
        self._tls = tls_context(options)
        self._record = WireRecord(name)
        self._serving = None
        if options.listen_port is not None:
            self._serving = Serving(
                self._profile, self._connection, options, keys,
                hospital=hospital, name=name, context=self._context, record=self._record,
            )  # fmt: skip
        self._endpoint = Endpoint(
            hospital_id=hospital.id,
            connector=name,
            wsdl=options.wsdl,
            address=options.endpoint if self._asks else "",
            bare=BareService(
                namespace=self._connection.namespace,
                qualified=self._connection.argument_qualified,
                soap_action=self._connection.soap_action,
                version=self._connection.soap_version,
            ),
            cdata=self._connection.cdata,
        )
        self._client: SoapClient | None = None
        self._exchange: Exchange | None = None
        self._watch: Watch | None = None

    def traits(self, verb: Verb) -> VerbTraits:
        spec = self._profile.verbs.get(verb.value)
        if spec is None or not self._can_carry(spec.capability):
            return VerbTraits()
        return VerbTraits(
            capability=Capability(spec.capability),
            query_back=QueryBack(spec.query_back),
            key=IdempotencyKey(spec.key),
            timeout_s=self._timeout_s(verb),
        )

    def _can_carry(self, capability: str) -> bool:
        """What the profile offers needs a HIS to ask (`endpoint`, `wsdl`) or a listener to be told (`listen_port`)."""
        if capability == Capability.NATIVE:
            return self._asks
        return capability != Capability.PUSHED or self._serving is not None

    @property
    def listen_port(self) -> int:
        """The port that the HIS can call us at; 0 while nothing is served."""
        return 0 if self._serving is None else self._serving.port

    def record_exchanges(self, recorder: Recorder) -> None:
        """See connectors.port.Recording. Of reads that tell of nobody only those are told that failed."""
        self._record.recorder = recorder

    def take_questions(self, handler: QuestionHandler) -> None:
        """See connectors.port.TakesQuestions."""
        if self._serving is not None:
            self._serving.take_questions(handler)

    def read_again(self, raw: bytes, peer: str) -> Inbound | Rejection:
        """See connectors.port.ReadsAgain."""
        if self._serving is None:
            return Rejection(code="not_offered", text="the connector has no listen_port any more", retryable=False)
        return self._serving.read_again(raw, peer)

    def check_listener(self) -> None:
        """See connectors.port.ChecksListener."""
        if self._serving is not None:
            self._serving.check()

    def watch(self, watch: Watch) -> None:
        """Tell `watch` what passes. Called before `start`."""
        self._watch = watch

    async def start(self) -> None:
        if self._client is not None:
            return
        if self._secure is not None:
            await asyncio.to_thread(load)
        self._client = SoapClient(
            clock=HisClock(self._hospital, self.name),
            max_connections=self._options.max_connections or self._hospital.calls_at_once,
            keepalive_s=self._options.keepalive_s,
            max_reply_bytes=self._options.max_message_bytes,
            tls=self._tls,
            send_traceparent=self._options.send_traceparent,
        )
        self._exchange = Exchange(
            self._client,
            self._endpoint,
            self._wire,
            self._connection,
            hospital_id=self.hospital_id,
            connector=self.name,
            max_chars=self._options.max_message_bytes,
            record=self._record,
            secure=self._secure,
            vouch=self._vouch,
        )
        self._exchange.watch = self._watch
        self._load_wsdl()

    async def close(self) -> None:
        if self._serving is not None:
            await self._serving.close()
        await self._endpoint.close()
        client, self._client, self._exchange = self._client, None, None
        if client is not None:
            await client.close()

    async def serve(self, handler: InboundHandler) -> None:
        """Listen for what the HIS calls, if `listen_port` is set. Raises OSError when the port is taken, BadTLSFiles."""
        if self._serving is not None:
            await self._serving.start(handler)

    # reads -------------------------------------------------------------------------------------------------------

    async def ping(self) -> None:
        await self._asking.ask(Verb.PING, {})

    async def fetch_departments(self) -> Sequence[Department]:
        return await self._asking.fetch(Verb.FETCH_DEPARTMENTS, {}, Department)

    async def fetch_practitioners(self) -> Sequence[Practitioner]:
        found = await self._asking.fetch(Verb.FETCH_PRACTITIONERS, {}, Practitioner)
        return list({(p.id, p.department_id): p for p in found}.values())

    async def fetch_schedules(self, window: Window) -> Sequence[Schedule]:
        return await self._asking.fetch(Verb.FETCH_SCHEDULES, window, Schedule)

    async def fetch_slots(self, window: Window, schedules: Sequence[Schedule]) -> Sequence[Slot]:
        """One or several calls by the profile's `per`; what belongs to none of `schedules` is left out, as are repeats."""
        known = {schedule.id for schedule in schedules}
        found = await self._asking.fetch(Verb.FETCH_SLOTS, window, Slot, schedules=schedules)
        # One schedule id, and with it one slot id, may stand for a whole plan of sessions: the day belongs to the key.
        return list({(s.id, s.date, s.session): s for s in found if s.schedule_id in known}.values())

    async def fetch_stops(self, window: Window) -> Sequence[ScheduleStopped]:
        return await self._asking.fetch(Verb.FETCH_STOPS, window, ScheduleStopped)

    async def find_patient(self, patient: Patient) -> Sequence[Patient]:
        return without_others(await self._asking.fetch(Verb.FIND_PATIENT, patient, Patient), patient)

    async def fetch_registration(self, order: Order) -> Registration | None:
        """The HIS's view of one order; a live one wins over released ones. What may be another's is HisReplyInvalid."""
        found = await self._asking.fetch(Verb.FETCH_REGISTRATION, order, Registration)
        ours = [one for one in found if _is_of(order, one)]
        if found and not ours:
            raise HisReplyInvalid("the HIS answered about another order", **self._asking.where(Verb.FETCH_REGISTRATION))
        return next(iter([one for one in ours if one.status not in _GONE] or ours), None)

    async def fetch_bills(self, patient: Patient) -> Sequence[Bill]:
        return await self._asking.fetch(Verb.FETCH_BILLS, patient, Bill)

    async def fetch_settlement(self, payment: BillPayment) -> Settlement | None:
        found = await self._asking.fetch(Verb.FETCH_SETTLEMENT, payment, Settlement)
        try:
            return settlement_of(payment, found)
        except HisError as error:
            error.hospital_id, error.verb = self.hospital_id, Verb.FETCH_SETTLEMENT.value
            raise

    async def fetch_refund(self, refund: RefundOrder) -> Settlement | None:
        return await self._asking.fetch_one(Verb.FETCH_REFUND, refund, Settlement)

    async def fetch_reports(self, patient: Patient) -> Sequence[Report]:
        return await self._asking.fetch(Verb.FETCH_REPORTS, patient, Report)

    async def fetch_report(self, patient: Patient, report_id: str) -> Report | None:
        return await self._asking.fetch_one(Verb.FETCH_REPORT, {"patient": patient, "report_id": report_id}, Report)

    async def fetch_attachment(self, attachment: Attachment) -> Attachment:
        found = await self._asking.fetch_one(Verb.FETCH_ATTACHMENT, attachment, Attachment)
        if found is None:
            raise HisRefused("no such attachment", code="not_found", **self._asking.where(Verb.FETCH_ATTACHMENT))
        return found

    async def fetch_statement(self, date: dt.date) -> Sequence[StatementLine]:
        return await self._asking.fetch(Verb.FETCH_STATEMENT, {"date": date}, StatementLine)

    # writes ------------------------------------------------------------------------------------------------------

    async def create_patient(self, patient: Patient) -> Outcome:
        return await self._asking.write(Verb.CREATE_PATIENT, patient)

    async def lock_slot(self, order: Order) -> Outcome:
        return await self._asking.write(Verb.LOCK_SLOT, order)

    async def unlock_slot(self, order: Order) -> Outcome:
        return await self._asking.write(Verb.UNLOCK_SLOT, order)

    async def book(self, order: Order) -> Outcome:
        return await self._asking.write(Verb.BOOK, order)

    async def register(self, order: Order) -> Outcome:
        return await self._asking.write(Verb.REGISTER, order)

    async def cancel_registration(self, order: Order) -> Outcome:
        return await self._asking.write(Verb.CANCEL_REGISTRATION, order)

    async def check_in(self, order: Order) -> Outcome:
        return await self._asking.write(Verb.CHECK_IN, order)

    async def presettle_bill(self, payment: BillPayment) -> Outcome:
        return await self._asking.write(Verb.PRESETTLE_BILL, payment)

    async def settle_bill(self, payment: BillPayment) -> Outcome:
        return await self._asking.write(Verb.SETTLE_BILL, payment)

    async def refund(self, refund: RefundOrder) -> Outcome:
        return await self._asking.write(Verb.REFUND, refund)

    # what asking needs ----------------------------------------------------------------------------------------------

    def _note_fallback(self, charset: str) -> None:
        decode_fallbacks.labels(hospital=self.hospital_id, connector=self.name, kind=charset).inc()

    def _ready(self) -> Exchange:
        if self._exchange is None:
            raise NotSent("the connector is not started")
        self._load_wsdl()
        return self._exchange

    def _load_wsdl(self) -> None:
        if self._client is not None:
            operations = {name for verb in self._verbs.values() for name in verb.operations}
            self._endpoint.load(self._client.session, operations)

    def _timeout_s(self, verb: Verb) -> float:
        spec = self._profile.verbs.get(verb.value)
        return self._options.timeout_s.get(verb.value, spec.timeout_s if spec is not None else 10.0)

    def _context(self) -> MapContext:
        return MapContext(
            hospital_id=self.hospital_id,
            zone=self._hospital.zone,
            currency=self._hospital.currency,
            now=dt.datetime.now(self._hospital.zone),
            connection=self._settings,
        )


def _is_of(order: Order, found: Registration) -> bool:
    """Whether the HIS speaks of this order: by our number, or where it repeats none by its own, if we have that.

    Person and schedule are not enough: an older booking of the same patient would pass for this one. A HIS that finds by our
    number and does not repeat it needs `echo: true` and a mapping of `order_no` from the request.
    """
    if found.order_no is not None:
        return found.order_no == order.order_no
    return found.his_id is not None and found.his_id in order.his_refs.values()


def create(
    hospital: HospitalContext, name: str, options: Options, *, profiles_dir: Path | None = None
) -> SoapConnector:
    """Make the connector of one hospital. Raises ProfileError for a bad profile, ValueError for bad options."""
    return SoapConnector(hospital, name, options, profiles_dir=profiles_dir)
