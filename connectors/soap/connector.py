"""The connector port over SOAP services whose arguments are texts: a document in a string, and what stands beside it.

Nothing here knows an element of any HIS: operations, documents, codes and the success rule come from the profile.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog
from lxml import etree

from connectors.clock import HisClock
from connectors.config import HospitalContext
from connectors.payments import settlement_of
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
    NotOffered,
    Order,
    Outcome,
    QueryBack,
    Recorder,
    RefundOrder,
    Rejected,
    Unknown,
    Verb,
    VerbTraits,
    Window,
)
from connectors.port import Refused as Rejection
from connectors.recording import WireRecord
from connectors.soap.client import Lost, NotSent, SoapClient
from connectors.soap.endpoint import Endpoint
from connectors.soap.exchange import Exchange, HttpFailed, Refused, RequestInvalid, Unreadable, Watch
from connectors.soap.options import Options, read_connection, read_secrets
from connectors.soap.outcome import accepted, cleaned, not_offered, outcome_of
from connectors.soap.rules import UNKNOWN
from connectors.soap.security import load, tls_context, username_token
from connectors.soap.serving import Serving
from connectors.soap.verbs import Case, CompiledVerb, Per, compile_verbs
from connectors.soap.wire import Wire
from connectors.soap.wsdl import BareService
from connectors.together import together
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
from mappings.context import MapContext, MappingError
from mappings.profile import load_profile
from monitoring.metrics import decode_fallbacks

log = structlog.get_logger(__name__)

T = TypeVar("T")

OFF_LOOP_ROWS = 50
"""A reply of more rows is mapped in a thread: 50 cost about 4 ms."""

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
        keys = read_secrets(options.secret_files)
        self._wire = Wire(self._profile, self._connection, keys, self._note_fallback)
        self._secure = None
        if self._connection.security is not None:
            self._secure = username_token(self._connection.security, self._settings, keys)
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
        self._log = log.bind(hospital=hospital.id, connector=name)

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
        """See connectors.port.Recording. Only what the HIS calls is told so far."""
        self._record.recorder = recorder

    def read_again(self, raw: bytes, peer: str) -> Inbound | Rejection:
        """See connectors.port.ReadsAgain."""
        if self._serving is None:
            return Rejection(code="not_offered", text="the connector has no listen_port any more", retryable=False)
        return self._serving.read_again(raw, peer)

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
            secure=self._secure,
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
        await self._ask(Verb.PING, {})

    async def fetch_departments(self) -> Sequence[Department]:
        return await self._fetch(Verb.FETCH_DEPARTMENTS, {}, Department)

    async def fetch_practitioners(self) -> Sequence[Practitioner]:
        found = await self._fetch(Verb.FETCH_PRACTITIONERS, {}, Practitioner)
        return list({(p.id, p.department_id): p for p in found}.values())

    async def fetch_schedules(self, window: Window) -> Sequence[Schedule]:
        return await self._fetch(Verb.FETCH_SCHEDULES, window, Schedule)

    async def fetch_slots(self, window: Window, schedules: Sequence[Schedule]) -> Sequence[Slot]:
        """One or several calls by the profile's `per`; what belongs to none of `schedules` is left out, as are repeats."""
        known = {schedule.id for schedule in schedules}
        found = await self._fetch(Verb.FETCH_SLOTS, window, Slot, schedules=schedules)
        # One schedule id, and with it one slot id, may stand for a whole plan of sessions: the day belongs to the key.
        return list({(s.id, s.date, s.session): s for s in found if s.schedule_id in known}.values())

    async def fetch_stops(self, window: Window) -> Sequence[ScheduleStopped]:
        return await self._fetch(Verb.FETCH_STOPS, window, ScheduleStopped)

    async def find_patient(self, patient: Patient) -> Sequence[Patient]:
        return without_others(await self._fetch(Verb.FIND_PATIENT, patient, Patient), patient)

    async def fetch_registration(self, order: Order) -> Registration | None:
        """The HIS's view of one order; a live one wins over released ones. What may be another's is HisReplyInvalid."""
        found = await self._fetch(Verb.FETCH_REGISTRATION, order, Registration)
        ours = [one for one in found if _is_of(order, one)]
        if found and not ours:
            raise HisReplyInvalid("the HIS answered about another order", **self._where(Verb.FETCH_REGISTRATION))
        return next(iter([one for one in ours if one.status not in _GONE] or ours), None)

    async def fetch_bills(self, patient: Patient) -> Sequence[Bill]:
        return await self._fetch(Verb.FETCH_BILLS, patient, Bill)

    async def fetch_settlement(self, payment: BillPayment) -> Settlement | None:
        found = await self._fetch(Verb.FETCH_SETTLEMENT, payment, Settlement)
        try:
            return settlement_of(payment, found)
        except HisError as error:
            error.hospital_id, error.verb = self.hospital_id, Verb.FETCH_SETTLEMENT.value
            raise

    async def fetch_refund(self, refund: RefundOrder) -> Settlement | None:
        return await self._fetch_one(Verb.FETCH_REFUND, refund, Settlement)

    async def fetch_reports(self, patient: Patient) -> Sequence[Report]:
        return await self._fetch(Verb.FETCH_REPORTS, patient, Report)

    async def fetch_report(self, patient: Patient, report_id: str) -> Report | None:
        return await self._fetch_one(Verb.FETCH_REPORT, {"patient": patient, "report_id": report_id}, Report)

    async def fetch_attachment(self, attachment: Attachment) -> Attachment:
        found = await self._fetch_one(Verb.FETCH_ATTACHMENT, attachment, Attachment)
        if found is None:
            raise HisRefused("no such attachment", code="not_found", **self._where(Verb.FETCH_ATTACHMENT))
        return found

    async def fetch_statement(self, date: dt.date) -> Sequence[StatementLine]:
        return await self._fetch(Verb.FETCH_STATEMENT, {"date": date}, StatementLine)

    # writes ------------------------------------------------------------------------------------------------------

    async def create_patient(self, patient: Patient) -> Outcome:
        return await self._write(Verb.CREATE_PATIENT, patient)

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
        return await self._write(Verb.SETTLE_BILL, payment)

    async def refund(self, refund: RefundOrder) -> Outcome:
        return await self._write(Verb.REFUND, refund)

    # how -----------------------------------------------------------------------------------------------------------

    async def _write(self, verb: Verb, request: Any) -> Outcome:
        compiled = self._verbs.get(verb.value)
        case = compiled.case_for(request) if compiled is not None else None
        if case is None:
            return not_offered(verb)
        if case.first is None:
            return await self._write_once(verb, case, request)
        before = await self._write_once(verb, case.first.case, request)
        if isinstance(before, Unknown) and case.first.asks:
            return Rejected(code="not_sent", text=f"the call before it failed: {before.reason}", retryable=True)
        if isinstance(before, Unknown) or (isinstance(before, Rejected) and before.code not in case.first.passes):
            return before
        refs = before.his_refs if isinstance(before, Accepted) else {}
        if refs and hasattr(request, "his_refs"):
            request = msgspec.structs.replace(request, his_refs=request.his_refs | refs)
        outcome = await self._write_once(verb, case, request)
        if isinstance(outcome, Accepted):
            return msgspec.structs.replace(outcome, his_refs=refs | outcome.his_refs)
        return outcome

    async def _write_once(self, verb: Verb, case: Case, request: Any) -> Outcome:
        try:
            root = await self._exchange_for(case, verb, request)
        except (NotSent, Lost, Refused, RequestInvalid, Unreadable, HttpFailed, MappingError) as error:
            return outcome_of(error, request)
        return accepted(case, root, self._context())

    async def _fetch_one(self, verb: Verb, request: Any, record: type[T]) -> T | None:
        found = await self._fetch(verb, request, record)
        return found[0] if found else None

    async def _fetch(self, verb: Verb, request: Any, record: type[T], schedules: Sequence[Schedule] = ()) -> list[T]:
        """All records of a read, over all the calls that the profile's `per` asks for. Raises HisError."""
        compiled = self._offered(verb)
        if compiled.per is None:
            return await self._fetch_once(verb, compiled, request, record)
        requests = await self._requests_per(compiled.per, request, schedules)
        fetched = await self._all([partial(self._fetch_once, verb, compiled, each, record) for each in requests])
        return [one for found in fetched for one in found]

    async def _requests_per(self, per: Per, request: Any, schedules: Sequence[Schedule]) -> list[Any]:
        window = msgspec.structs.asdict(request) if isinstance(request, Window) else {}
        if per is Per.SCHEDULES:
            return [window | {"schedule": schedule} for schedule in schedules]
        if isinstance(request, Window) and request.department_id is not None:
            return [request]
        departments = {department.id: department for department in await self.fetch_departments()}
        return [window | {"department_id": key, "department": value} for key, value in departments.items()]

    async def _fetch_once(self, verb: Verb, compiled: CompiledVerb, request: Any, record: type[T]) -> list[T]:
        calls = compiled.calls_for(request)
        if not calls or calls[0].reply is None:
            raise NotOffered(f"{verb} is not offered for this", **self._where(verb))
        found: list[T] = []
        for case in calls:
            found += await self._told(verb, compiled, case, request, record)
            if found and compiled.until_found:
                break
        then = compiled.then
        if then is None:
            return found

        async def completed(one: T) -> T:
            more = await self._ask_case(verb, then.case, {"record": one, "request": request})
            parts = await self._mapped(verb, compiled, then.case, more, object) if more is not None else []
            return msgspec.structs.replace(one, **{then.into: tuple(parts)})  # type: ignore[type-var]

        return await self._all([partial(completed, one) for one in found])

    async def _told(self, verb: Verb, compiled: CompiledVerb, case: Case, request: Any, record: type[T]) -> list[T]:
        """The records of one call, or of as many as the profile's `pages` need. Raises HisError: half a list is none."""
        pages = compiled.pages
        if pages is None:
            root = await self._ask_case(verb, case, request)
            return await self._mapped(verb, compiled, case, root, record) if root is not None else []
        found: list[T] = []
        before: list[bytes] = []
        for number in range(1, pages.most + 1):
            page = {"page.number": number, "page.offset": (number - 1) * pages.size, "page.size": pages.size}
            root = await self._ask_case(verb, case, request, page)
            if root is None:
                return found
            rows = [_bytes_of(row) for row in pages.rows(root, root)]
            if len(rows) > pages.size or (rows and rows == before):
                raise HisReplyInvalid(f"page {number} is no page of {pages.size} rows of its own", **self._where(verb))
            records = await self._mapped(verb, compiled, case, root, record)
            if records and not rows:
                raise HisReplyInvalid("pages.rows finds none of the rows that have records", **self._where(verb))
            found += records
            if len(rows) < pages.size:
                return found
            before = rows
        raise HisReplyInvalid(f"more than {pages.most} pages", **self._where(verb))

    async def _ask(self, verb: Verb, request: Any) -> None:
        case = self._offered(verb).case_for(request)
        if case is None:
            raise NotOffered(f"{verb} is not offered", **self._where(verb))
        await self._ask_case(verb, case, request)

    async def _ask_case(
        self, verb: Verb, case: Case, request: Any, extra: dict[str, Any] | None = None
    ) -> etree._Element | None:
        """One read call; None where the HIS says that there is nothing. Raises HisError."""
        where = self._where(verb)
        try:
            return await self._exchange_for(case, verb, request, extra)
        except Refused as error:
            refusal = error.refusal
            if refusal.code == "not_found":
                return None
            text = cleaned(refusal.text, request)
            if refusal.code == UNKNOWN:
                raise HisReplyInvalid(text, **where) from None
            raise HisRefused(text, code=refusal.code, **where) from None
        except (NotSent, Lost) as error:
            raise HisUnavailable(str(error), **where) from error
        except HttpFailed as error:
            kind = HisUnavailable if error.status >= 500 or error.status in (408, 429) else HisReplyInvalid
            raise kind(str(error), **where) from error
        except Unreadable as error:
            raise HisReplyInvalid(str(error), **where) from error
        except (RequestInvalid, MappingError) as error:
            raise HisRefused(str(error), code="invalid_request", **where) from error

    async def _exchange_for(
        self, case: Case, verb: Verb, request: Any, extra: dict[str, Any] | None = None
    ) -> etree._Element:
        if self._exchange is None:
            raise NotSent("the connector is not started")
        self._load_wsdl()
        ctx = self._context()
        if extra:
            ctx = msgspec.structs.replace(ctx, extra=extra)
        return await self._exchange.ask(case, request, ctx, timeout_s=self._timeout_s(verb))

    async def _mapped(
        self, verb: Verb, compiled: CompiledVerb, case: Case, root: etree._Element, record: type[T]
    ) -> list[T]:
        if case.reply is None:
            return []
        if sum(len(child) for child in root) > OFF_LOOP_ROWS:
            mapped = await asyncio.to_thread(case.reply.read_aside, root, self._context())
        else:
            mapped = case.reply.read(root, self._context())
        if mapped.problems:
            first = str(mapped.problems[0])
            self._log.warning("records_unmapped", verb=verb.value, count=len(mapped.problems), first=first)
            if not compiled.keep_partial or not mapped.records:
                raise HisReplyInvalid(f"{len(mapped.problems)} records cannot be mapped: {first}", **self._where(verb))
        return [one for one in mapped.records if isinstance(one, record)]

    async def _all(self, calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
        return await together(calls, at_once=min(self._connection.concurrency, self._hospital.calls_at_once // 2))

    def _offered(self, verb: Verb) -> CompiledVerb:
        compiled = self._verbs.get(verb.value)
        if compiled is None:
            raise NotOffered(f"{verb} is not offered by this HIS", **self._where(verb))
        return compiled

    def _note_fallback(self, charset: str) -> None:
        decode_fallbacks.labels(hospital=self.hospital_id, connector=self.name, kind=charset).inc()

    def _load_wsdl(self) -> None:
        if self._client is not None:
            operations = {name for verb in self._verbs.values() for name in verb.operations}
            self._endpoint.load(self._client.session, operations)

    def _timeout_s(self, verb: Verb) -> float:
        spec = self._profile.verbs.get(verb.value)
        return self._options.timeout_s.get(verb.value, spec.timeout_s if spec is not None else 10.0)

    def _where(self, verb: Verb) -> dict[str, str]:
        return {"hospital_id": self.hospital_id, "verb": verb.value}

    def _context(self) -> MapContext:
        return MapContext(
            hospital_id=self.hospital_id,
            zone=self._hospital.zone,
            currency=self._hospital.currency,
            now=dt.datetime.now(self._hospital.zone),
            connection=self._settings,
        )


def _bytes_of(row: Any) -> bytes:
    return row.encode() if isinstance(row, str) else etree.tostring(row)


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
