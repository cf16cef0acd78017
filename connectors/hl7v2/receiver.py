"""What becomes of one inbound message: read, handed to the handler, and only then acknowledged."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from connectors.config import HospitalContext
from connectors.hl7v2.acks import Fault, Verdict, codes_due, write_ack
from connectors.hl7v2.answerer import Answers
from connectors.hl7v2.batches import File, TooMany, may_be_several, split_file, write_file
from connectors.hl7v2.charset import HL7CharsetError, encode_message
from connectors.hl7v2.elsewhere import Elsewhere, Lost, Setup
from connectors.hl7v2.escapes import STANDARD
from connectors.hl7v2.findings import Finding
from connectors.hl7v2.mapping import ProfileMaps
from connectors.hl7v2.masterfile import write_mfk
from connectors.hl7v2.options import Settings
from connectors.hl7v2.reading import Read, Reader, read_head
from connectors.hl7v2.record import note_heard
from connectors.hl7v2.sparse import SparseLog
from connectors.hl7v2.validation import Validator
from connectors.hl7v2.weight import is_heavy
from connectors.port import Inbound, InboundAnswer, InboundHandler, Refused
from connectors.recording import WireRecord
from monitoring import metrics
from monitoring.logs import get_logger

log = get_logger(__name__)

ELSEWHERE_BYTES = 262_144
"""A thread that reads so much holds the interpreter too often: larger messages go to another process."""

READ_WITHIN_S = 120.0
FAILED = "failed"
TOO_LARGE = Fault("207", reason="the message is larger than is taken here")


class Receiver:
    """Answers the messages of one HIS. Used by MLLPServer."""

    def __init__(
        self,
        hospital: HospitalContext,
        name: str,
        settings: Settings,
        connection: dict[str, Any],
        maps: ProfileMaps,
        handler: InboundHandler,
    ) -> None:
        self.hospital = hospital
        self.name = name
        self.settings = settings
        self.handler = handler
        self.record = WireRecord(name)
        self.take_answer: Callable[[bytes], list[bytes] | None] = _nobody_waits
        self._warn = SparseLog(log.warning)
        self.reader = Reader(hospital, name, settings, connection, maps)
        self.validator = None if settings.validate == "off" else Validator(settings.charset)
        self.elsewhere = Elsewhere(
            Setup(
                job="read",
                hospital=hospital,
                name=name,
                settings=settings,
                connection=connection,
                profile=maps.profile,
            )
        )

    async def close(self) -> None:
        """End the processes beside the service."""
        await self.elsewhere.close()
        if self.validator is not None:
            await self.validator.close()

    async def answer(self, payload: bytes, peer: str) -> Answers:
        """The acknowledgements due for what one frame holds, after the handler has returned.

        Usually that is one message. Of several each is stored and acknowledged on its own, in order; a file or a batch is
        answered by one, with an acknowledgement in it for each message that asks for one.
        """
        heavy = is_heavy(payload)
        if not (await asyncio.to_thread(may_be_several, payload) if heavy else may_be_several(payload)):
            return await self._answer_message(payload, peer)
        try:
            file = await asyncio.to_thread(split_file, payload) if heavy else split_file(payload)
        except TooMany as error:
            return self._refuse_file(payload[error.first :], str(error), peer)
        if not file.has_batches and file.size <= 1:
            return await self._answer_message(payload, peer)
        return await self._answer_file(payload, file, peer)

    async def _answer_file(self, payload: bytes, file: File, peer: str) -> Answers:
        for wrong in file.wrong_counts():
            metrics.count_oddity(self.hospital.id, self.name, "batch_count")
            self._warn("hl7_batch_count_wrong", reason=wrong, peer=peer, hospital=self.hospital.id)
        acks: list[list[bytes]] = []
        again = False
        for batch in file.batches:
            acks.append([])
            for start, stop in batch.spans:
                answer = self.answer_busy if again else self._answer_message  # one that may come again is not overtaken
                answers = await answer(payload[start:stop], peer)
                again |= answers.again
                acks[-1] += answers
        if not file.has_batches:
            return Answers((ack for answers in acks for ack in answers), again=again)
        if file.size and not any(acks):
            return Answers(again=again)  # none of them asked for an answer
        return Answers([write_file(file, acks, dt.datetime.now(self.hospital.zone))], again=again)

    def _refuse_file(self, first: bytes, reason: str, peer: str) -> Answers:
        read = read_head(first)
        self._count(read.kind, "refused")
        self._warn("hl7_batch_refused", reason=reason, peer=peer, hospital=self.hospital.id)
        return self._acknowledge(read, Fault("207", reason=reason))

    async def _answer_message(self, payload: bytes, peer: str) -> Answers:
        read = await self._read(payload, peer)
        if read.decoded_as is not None:
            metrics.count_decode_fallback(self.hospital.id, self.name, read.decoded_as)
        if read.event:
            self._warn(read.event, reason=read.reason, peer=peer, hospital=self.hospital.id)
        if read.is_answer or is_alone(read):
            await asyncio.sleep(0)  # nothing else is waited for, and thousands of these fit into one frame or one read
        if read.is_answer:
            note_heard(self.record, payload, peer, read)
            if (said := self.take_answer(payload)) is not None:
                return Answers(said)
            # It answers nothing of ours, and must not be answered itself.
            self._count(read.kind, "ignored")
            return Answers()
        if self.validator is not None and read.fault is None and read.inbound is not None and not is_alone(read):
            read = await self._validated(self.validator, payload, read, peer)
        return await self._settle(payload, read, peer)

    async def _validated(self, validator: Validator, payload: bytes, read: Read, peer: str) -> Read:
        """Refused where the site is strict and something was found. What nobody could look at is taken."""
        note = partial(self._note_findings, read.kind, peer)
        if self.settings.validate != "strict":
            validator.check_later(payload, note)
            return read
        found = await validator.check(payload)
        note(found)
        if not found:
            return read
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        fault = Fault(found[0].code, found[0].location, reason=f"not as the standard's tables have it{more}")
        return self.reader.refused(read, fault, peer)

    def _note_findings(self, kind: str, peer: str, found: Sequence[Finding] | None) -> None:
        if found is None:
            metrics.count_oddity(self.hospital.id, self.name, "unchecked")
        elif found:
            metrics.count_oddity(self.hospital.id, self.name, "nonconforming")
            told = [str(one) for one in found]
            self._warn("hl7_message_nonconforming", findings=told, type=kind, peer=peer, hospital=self.hospital.id)

    async def _settle(self, payload: bytes, read: Read, peer: str) -> Answers:
        """Hand on what is to be handed on, and answer. What the handler refuses outweighs what reading found: it comes again."""
        given: InboundAnswer | None = None
        alone = is_alone(read)
        if alone:
            refused = "unreadable" if read.header is None and read.fault is not TOO_LARGE else "refused"
            self._count(read.kind, "ignored" if read.fault is None else refused)
        if read.inbound is not None:
            given = await self._hand_on(read, read.inbound, peer)
            if not alone:
                self._count_given(read.kind, given)
            self._note(read.inbound, given, peer)
        fault = _fault_of(given) or read.fault
        acks = self._acknowledge(read, fault, None if given is None else given.expected)
        note_heard(self.record, payload, peer, read, given=None if alone else given, fault=fault, acks=acks)
        return acks

    async def _read(self, payload: bytes, peer: str) -> Read:
        if len(payload) > ELSEWHERE_BYTES and (read := await self._read_elsewhere(payload, peer)) is not None:
            return read
        if is_heavy(payload):
            return await asyncio.to_thread(self.reader.read, payload, peer)
        return self.reader.read(payload, peer)

    async def _read_elsewhere(self, payload: bytes, peer: str) -> Read | None:
        """None where the other process was lost: the message is to be read here."""
        try:
            read: Read = await self.elsewhere.ask(payload, peer, within_s=READ_WITHIN_S)
        except Lost:
            metrics.count_oddity(self.hospital.id, self.name, "read_here")
            return None
        if read.inbound is None:
            return read
        return msgspec.structs.replace(read, inbound=msgspec.structs.replace(read.inbound, raw=payload))

    async def _hand_on(self, read: Read, inbound: Inbound, peer: str) -> InboundAnswer:
        try:
            return await self.handler(inbound)
        except Exception as error:  # the peer must keep what we did not store, and see that we did not
            self._log_failure(read, error, peer)
            return Refused(code=FAILED, text="", retryable=True)

    def _count_given(self, kind: str, given: InboundAnswer) -> None:
        """Where that ends the matter: what is stored is counted by the inbox, once it has been applied or set aside."""
        if isinstance(given, Refused):
            self._count(kind, "failed" if given.code == FAILED else "refused")
        elif given.duplicate:
            self._count(kind, "duplicate")

    def _note(self, inbound: Inbound, given: InboundAnswer, peer: str) -> None:
        """Count and tell what is odd with the sender's numbers and control ids."""
        number = None if inbound.series is None else inbound.series.number
        if isinstance(given, Refused):
            kind = "out_of_series" if given.out_of_series else ""
        elif number == -1:
            kind = "series_anew"
        else:
            kind = "same_id" if given.same_id else ""
        if kind:
            where = {"peer": peer, "hospital": self.hospital.id, "connector": self.name}
            metrics.count_oddity(self.hospital.id, self.name, kind)
            self._warn("hl7_message_odd", kind=kind, number=number, expected=given.expected, **where)

    async def answer_too_large(self, head: bytes, peer: str) -> Answers:
        """Reject a message that passed the size limit; its head is enough to name it."""
        self._warn("hl7_message_too_large", peer=peer, hospital=self.hospital.id, connector=self.name)
        read = self.reader.read_head(head, peer, TOO_LARGE)
        return await self._settle(head, read, peer)

    async def answer_busy(self, head: bytes, peer: str) -> Answers:
        """Put a message, or the first of a file, off: AE, and it may come again. An acknowledgement is dropped as always."""
        await asyncio.sleep(0)  # thousands fit into one frame
        read = read_head(head[max(head.find(b"MSH"), 0) :])
        if read.header is not None and read.header.code == "ACK":
            self._count(read.kind, "ignored")
            return Answers()
        self._count(read.kind, "refused")
        fault = Fault("207", verdict=Verdict.ERROR, reason="one before it was not stored")
        acks = self._acknowledge(read, fault)
        note_heard(self.record, head, peer, read, fault=fault, acks=acks)
        return acks

    def count_unreadable(self, size: int, reason: str, peer: str) -> None:
        """Count bytes that were no message."""
        self._count("other", "unreadable")
        self._warn("hl7_bytes_dropped", reason=reason, size=size, peer=peer, hospital=self.hospital.id)

    def count_empty(self, count: int) -> None:
        """Count frames without a message: they are no message to refuse, and there is nothing to answer to."""
        metrics.count_inbound(self.hospital.id, self.name, "other", "ignored", count)

    def _acknowledge(self, read: Read, fault: Fault | None, expected: int | None = None) -> Answers:
        verdict = Verdict.ACCEPTED if fault is None else fault.verdict
        now = dt.datetime.now(self.hospital.zone)
        codes = codes_due(read.header, verdict, always=self.settings.ack == "always")
        written = (_encoded(_written(read, code, now, fault, expected), read.codec) for code in codes)
        return Answers(written, again=verdict is Verdict.ERROR)

    def _log_failure(self, read: Read, error: Exception, peer: str) -> None:
        log.error(
            "hl7_message_not_handled",
            error=type(error).__name__,
            type=read.kind,
            peer=peer,
            hospital=self.hospital.id,
            connector=self.name,
            exc_info=error,
        )

    def _count(self, kind: str, result: str) -> None:
        metrics.count_inbound(self.hospital.id, self.name, kind, result)


def is_alone(read: Read) -> bool:
    """Whether nothing of it is to be stored: at most its number passes."""
    return read.inbound is None or (read.inbound.series is not None and read.inbound.series.alone)


def _fault_of(given: InboundAnswer | None) -> Fault | None:
    if not isinstance(given, Refused):
        return None
    verdict = Verdict.ERROR if given.retryable else Verdict.REJECTED
    return Fault("207", "MSH^1^13" if given.out_of_series else "", verdict, given.text)


def _written(read: Read, code: str, now: dt.datetime, fault: Fault | None, expected: int | None) -> str:
    if read.header is not None and read.master is not None and code.startswith("A"):
        return write_mfk(read.header, read.master, code, now, fault, expected)
    return write_ack(read.header, code, now, fault, expected)


def _encoded(ack: str, codec: str) -> bytes:
    """The acknowledgement in the message's own set.

    What the peer named itself with may be spelled in escapes that its set cannot carry: they go back as escapes, because an
    acknowledgement that cannot be written would make the peer send for ever what we have stored.
    """
    try:
        return encode_message(ack, codec)
    except HL7CharsetError:
        return "".join(c if c.isascii() else STANDARD.as_bytes(c) for c in ack).encode("ascii")


def _nobody_waits(payload: bytes) -> None:
    """Nothing is asked of this HIS."""
