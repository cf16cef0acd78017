"""What becomes of one call of the HIS: read, handed to the handler, and only then answered.

A call that cannot be mapped is stored for a person and answered as done, as with HL7 v2: a failure would make the HIS repeat it
for ever, or block what stands behind it. What could not be stored is answered with the dialect's own failure, so that it comes
again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

from connectors.config import HospitalContext
from connectors.port import Inbound, InboundAnswer, InboundHandler, Passed, Refused, Stored
from connectors.recording import WireRecord
from connectors.soap.answers import Answer, AnswerWriter, fault
from connectors.soap.calls import BadCall, CallReader, Heard
from connectors.soap.questions import Questions
from connectors.soap.served import Outcome, ServerSpec
from connectors.soap.wsdl_out import write_wsdl
from connectors.soap.xpath import XPathLanguage
from mappings.canonical import RefundState
from mappings.context import MapContext, MappingError
from mappings.engine import RecordMap, compile_record_map
from mappings.profile import Profile
from monitoring import metrics
from monitoring.logs import get_logger
from monitoring.sparse import SparseLog

log = get_logger(__name__)

LARGE_BYTES = 20_000  # a call of this size takes a millisecond to read, and a dense one fifty: off the event loop
FAILED = "failed"
_COUNTED = {
    Outcome.UNREADABLE: "unreadable_document",
    Outcome.UNSIGNED: "unsigned",
    Outcome.STALE: "stale",
    Outcome.UNKNOWN_TRADE: "unknown_trade",
    Outcome.RETRY: "not_stored",
    Outcome.REFUSED: "not_stored",
}


class Receiver:
    """Answers the calls of one HIS by its profile. Raises ProfileError where that, or a secret that it names, is wrong."""

    def __init__(
        self,
        profile: Profile,
        spec: ServerSpec,
        namespace: str,
        keys: Mapping[str, bytes],
        *,
        hospital: HospitalContext,
        name: str,
        max_bytes: int,
        context: Callable[[], MapContext],
        record: WireRecord,
    ) -> None:
        self.spec, self._namespace, self._context = spec, namespace, context
        self._hospital_id, self._name, self._record = hospital.id, name, record
        self._reader = CallReader(profile, spec, keys, max_chars=max_bytes)
        self._writer = AnswerWriter(profile, spec, namespace, keys)
        self._maps: dict[str, tuple[RecordMap, ...]] = {
            kind: tuple(
                compile_record_map(profile, profile.inbound_path(kind, n), entry, XPathLanguage())
                for n, entry in enumerate(entries)
            )
            for kind, entries in profile.inbound.items()
        }
        try:
            self.wsdl("http://his.example/")
        except (LookupError, ValueError) as error:  # a name that XML cannot have, or a {placeholder} that there is not
            hint = f"no WSDL can be made of operations, service, soap_action and result: {error}"
            profile.fail("connection.server", hint)
        self.questions = Questions(profile, spec)
        self._writer.check(profile, context(), self.questions.trees)
        metrics.register_message_types({*self._maps, *spec.questions})
        self.handler: InboundHandler | None = None
        self._refused = {
            reason: metrics.soap_calls_refused.labels(hospital.id, name, reason) for reason in metrics.SOAP_REFUSED
        }
        self._warn = SparseLog(partial(log.warning, hospital=hospital.id, connector=name))

    def wsdl(self, address: str) -> bytes:
        """What is served at `?wsdl`."""
        return write_wsdl(self.spec, self._namespace, address)

    def turn_away(self, reason: str, error: BadCall, peer: str, *, status: int | None = None) -> Answer:
        """A request that is no call; `reason` is one of `metrics.SOAP_REFUSED`."""
        self._refused[reason].inc()
        metrics.count_inbound(self._hospital_id, self._name, "other", "unreadable")
        self._warn("soap_call_refused", reason=str(error), peer=peer)
        return fault(error, status=status)

    async def answer(self, body: bytes, http_charset: str | None, peer: str) -> Answer:
        """The answer to one request, after the handler has returned."""
        ctx = self._context()
        try:
            heard, inbound = await self._look_at(body, http_charset, peer, ctx)
        except BadCall as error:
            return self.turn_away("not_a_call", error, peer)
        if heard.decoded_as is not None:
            metrics.count_decode_fallback(self._hospital_id, self._name, heard.decoded_as)
        given = None if inbound is None else await self._hand_on(inbound, peer)
        outcome, told = _outcome(heard, given), tuple[RefundState, ...]()
        tree = None
        if heard.outcome is None and heard.root is not None and heard.trade in self.questions:
            outcome, found = await self.questions.answer(heard.trade, heard.root, ctx)
            tree, told = (self.questions.trees[heard.trade] if found else None), tuple(found)
        self._tally(heard, given, outcome, peer)
        try:
            answer = self._writer.write(heard, outcome, ctx, tree=tree, refunds=told)
        except (MappingError, ValueError) as error:  # it is stored all the same, and a repeat will be a duplicate
            log.error(
                "soap_answer_unwritten", reason=type(error).__name__, hospital=self._hospital_id, connector=self._name
            )
            answer = fault(BadCall("Server", "the answer cannot be written", heard.version))
        self._note(heard, inbound, given, outcome, body, peer, answer)
        return answer

    def read_again(self, raw: bytes, peer: str) -> Inbound | Refused:
        """A stored call as the present profile maps it."""
        ctx = self._context()
        try:
            heard = self._reader.read(raw, None, ctx, again=True)
        except BadCall as error:
            return Refused(code="refused", text=str(error), retryable=False)
        inbound = self._mapped(heard, raw, peer, ctx)
        if inbound is None and heard.outcome is None:
            return Refused(code="question", text="it asks, and tells nothing", retryable=False)
        return inbound or Refused(code=str(heard.outcome), text=heard.reason, retryable=False)

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _look_at(
        self, body: bytes, http_charset: str | None, peer: str, ctx: MapContext
    ) -> tuple[Heard, Inbound | None]:
        """Raises BadCall."""

        def look() -> tuple[Heard, Inbound | None]:
            heard = self._reader.read(body, http_charset, ctx)
            return heard, self._mapped(heard, body, peer, ctx)

        return await asyncio.to_thread(look) if len(body) > LARGE_BYTES else look()

    def _mapped(self, heard: Heard, raw: bytes, peer: str, ctx: MapContext) -> Inbound | None:
        """What the handler is given; None for what is not taken."""
        root = heard.root
        if heard.outcome is not None or root is None or heard.trade in self.questions:
            return None
        maps = self._maps.get(heard.trade)
        if maps is None:
            heard.turned(Outcome.UNKNOWN_TRADE, "the profile's `inbound` has no such trade")
            return None
        mapped = [one.read(root, ctx) for one in maps]
        problems = [str(problem) for one in mapped for problem in one.problems]
        events = tuple(record for one in mapped for record in one.records)
        if not events and not problems:
            problems.append(f"inbound.{heard.trade}: nothing in the call fits the profile")
        found = self._reader.found_by(root) if problems else {}
        id_key = f"{self._name}|{heard.trade}|{heard.id}"
        return Inbound(
            hospital_id=self._hospital_id,
            connector=self._name,
            peer=peer,
            message_type=heard.trade,
            control_id=heard.id,
            dedup_key=f"{id_key}|{heard.digest}",
            same_id_key=id_key if heard.id else None,
            raw=raw,
            # All or nothing: half a call applied would look as if it had been whole.
            events=() if problems else events,
            problem=problems[0] if problems else None,
            order_no=found.get("order_no"),
            mrn=found.get("mrn"),
        )

    async def _hand_on(self, inbound: Inbound, peer: str) -> InboundAnswer:
        try:
            if self.handler is None:
                raise RuntimeError("nobody takes calls")
            return await self.handler(inbound)
        except Exception as error:  # the HIS must keep what we did not store, and see that we did not
            log.error(
                "soap_call_not_handled",
                error=type(error).__name__,
                type=inbound.message_type,
                peer=peer,
                hospital=self._hospital_id,
                connector=self._name,
                exc_info=error,
            )
            return Refused(code=FAILED, text="", retryable=True)

    # --- telling -----------------------------------------------------------------------------------------------------

    def _tally(self, heard: Heard, given: InboundAnswer | None, outcome: Outcome, peer: str) -> None:
        """What is stored is counted by the inbox, once it has been applied or set aside."""
        if outcome in _COUNTED:
            self._refused[_COUNTED[outcome]].inc()
            result = FAILED if isinstance(given, Refused) and given.code == FAILED else "refused"
            metrics.count_inbound(self._hospital_id, self._name, heard.trade or "other", result)
            self._warn(
                "soap_call_refused",
                reason=heard.reason or outcome.value,
                type=metrics.message_type_label(heard.trade),
                peer=peer,
            )
        elif heard.trade in self.questions:
            metrics.count_inbound(self._hospital_id, self._name, heard.trade, "answered")
        elif outcome is Outcome.DUPLICATE:
            metrics.count_inbound(self._hospital_id, self._name, heard.trade, "duplicate")
        if isinstance(given, Stored) and given.same_id:
            metrics.count_oddity(self._hospital_id, self._name, "same_id")

    def _note(
        self,
        heard: Heard,
        inbound: Inbound | None,
        given: InboundAnswer | None,
        outcome: Outcome,
        body: bytes,
        peer: str,
        answer: Answer,
    ) -> None:
        """Tell the message store; what is stored stands there already, and what was asked and answered is no message."""
        if heard.trade in self.questions and outcome in (Outcome.DONE, Outcome.NOT_FOUND):
            return
        if isinstance(given, Stored) and not given.duplicate and inbound is not None:
            self._record.acknowledged(inbound.dedup_key, answer.code)
            return
        duplicate = isinstance(given, Stored)
        error = (
            "stored before: the same call came within the last 7 days" if duplicate else heard.reason or "not stored"
        )
        self._record.not_taken(
            Passed.DUPLICATE if duplicate else Passed.REFUSED,
            peer=peer,
            message_type=heard.trade or heard.operation,
            control_id=heard.id,
            request=body,
            error=f"{outcome}: {error}" if not duplicate else error,
            answer=answer.body,
            answer_code=answer.code,
        )


def _outcome(heard: Heard, given: InboundAnswer | None) -> Outcome:
    if heard.outcome is not None or given is None:
        return heard.outcome or Outcome.REFUSED
    if isinstance(given, Refused):
        return Outcome.RETRY if given.retryable else Outcome.REFUSED
    return Outcome.DUPLICATE if given.duplicate else Outcome.DONE
