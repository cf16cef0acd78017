"""What becomes of one inbound message: read, handed to the handler, and only then acknowledged."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from connectors.config import HospitalContext
from connectors.hl7v2.acks import Fault, Verdict
from connectors.hl7v2.answerer import Answers
from connectors.hl7v2.answering import acknowledge, fault_of
from connectors.hl7v2.batches import File, TooMany, may_be_several, split_file, write_file
from connectors.hl7v2.elsewhere import Elsewhere, Lost, Setup
from connectors.hl7v2.filing import Filing
from connectors.hl7v2.mapping import ProfileMaps
from connectors.hl7v2.options import Settings
from connectors.hl7v2.reading import Read, Reader, read_head
from connectors.hl7v2.record import note_heard
from connectors.hl7v2.tally import FAILED, Tally
from connectors.hl7v2.validation import Validator
from connectors.hl7v2.weight import is_heavy
from connectors.port import Inbound, InboundAnswer, InboundHandler, InboundsHandler, Refused
from connectors.recording import WireRecord

ELSEWHERE_BYTES = 262_144
"""A thread that reads so much holds the interpreter too often: larger messages go to another process."""

READ_WITHIN_S = 120.0
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
        self.handle_together: InboundsHandler | None = None
        self.record = WireRecord(name)
        self.take_answer: Callable[[bytes], list[bytes] | None] = _nobody_waits
        self.tally = Tally(hospital.id, name)
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
            self.tally.odd("batch_count")
            self.tally.warn("hl7_batch_count_wrong", peer, reason=wrong)
        acks: list[list[bytes]] = [[] for _ in file.batches]
        filing = Filing(self, peer)
        for batch, answers in zip(file.batches, acks, strict=True):
            for start, stop in batch.spans:
                await filing.take(payload[start:stop], answers)
        await filing.finish()
        again = filing.again
        if not file.has_batches:
            return Answers((ack for answers in acks for ack in answers), again=again)
        if file.size and not any(acks):
            return Answers(again=again)  # none of them asked for an answer
        return Answers([write_file(file, acks, dt.datetime.now(self.hospital.zone))], again=again)

    def _refuse_file(self, first: bytes, reason: str, peer: str) -> Answers:
        read = read_head(first)
        self.tally.count(read.kind, "refused")
        self.tally.warn("hl7_batch_refused", peer, reason=reason)
        return self._acknowledge(read, Fault("207", reason=reason))

    async def _answer_message(self, payload: bytes, peer: str) -> Answers:
        return await self.answer_read(payload, await self.look_at(payload, peer), peer)

    async def look_at(self, payload: bytes, peer: str) -> Read:
        """Read one message, and hold it against the standard's tables where the site wants that."""
        read = await self._read(payload, peer)
        self.tally.read(read, peer)
        if self.validator is None or read.fault is not None or read.is_answer or is_alone(read):
            return read
        return await self._validated(self.validator, payload, read, peer)

    async def answer_read(self, payload: bytes, read: Read, peer: str) -> Answers:
        """Hand on what is to be handed on, and answer."""
        if read.is_answer or is_alone(read):
            await asyncio.sleep(0)  # nothing else is waited for, and thousands of these fit into one frame or one read
        if read.is_answer:
            note_heard(self.record, payload, peer, read)
            if (said := self.take_answer(payload)) is not None:
                return Answers(said)
            # It answers nothing of ours, and must not be answered itself.
            self.tally.count(read.kind, "ignored")
            return Answers()
        return await self._settle(payload, read, peer)

    async def _validated(self, validator: Validator, payload: bytes, read: Read, peer: str) -> Read:
        """Refused where the site is strict and something was found. What nobody could look at is taken."""
        note = partial(self.tally.findings, read.kind, peer)
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

    async def _settle(self, payload: bytes, read: Read, peer: str) -> Answers:
        """Hand on what is to be handed on, and answer. What the handler refuses outweighs what reading found: it comes again."""
        if is_alone(read):
            refused = "unreadable" if read.header is None and read.fault is not TOO_LARGE else "refused"
            self.tally.count(read.kind, "ignored" if read.fault is None else refused)
        if read.inbound is not None:
            return self.answer_given(payload, read, await self._hand_on(read, read.inbound, peer), peer)
        acks = self._acknowledge(read, read.fault)
        note_heard(self.record, payload, peer, read, fault=read.fault, acks=acks)
        return acks

    def answer_given(self, payload: bytes, read: Read, given: InboundAnswer, peer: str) -> Answers:
        """The answer to a message for which the handler has given this."""
        alone = is_alone(read)
        if not alone:
            self.tally.given(read.kind, given)
        if read.inbound is not None:
            self.tally.numbered(read.inbound, given, peer)
        fault = fault_of(given) or read.fault
        acks = self._acknowledge(read, fault, given.expected)
        note_heard(self.record, payload, peer, read, given=None if alone else given, fault=fault, acks=acks)
        return acks

    @property
    def takes_several(self) -> bool:
        """See filing.Desk."""
        return self.handle_together is not None

    async def hand_on_together(self, reads: list[Read], peer: str) -> list[InboundAnswer]:
        """What the handler says to messages that can be stored; shorter where one may come again, with which it ends."""
        inbounds = [read.inbound for read in reads if read.inbound is not None]
        if self.handle_together is None:
            raise RuntimeError("nobody takes several messages at once")
        try:
            return list(await self.handle_together(inbounds))
        except Exception as error:  # as in _hand_on
            self.tally.failed(reads[0].kind, error, peer)
            return [Refused(code=FAILED, text="", retryable=True)]

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
            self.tally.odd("read_here")
            return None
        if read.inbound is None:
            return read
        return msgspec.structs.replace(read, inbound=msgspec.structs.replace(read.inbound, raw=payload))

    async def _hand_on(self, read: Read, inbound: Inbound, peer: str) -> InboundAnswer:
        try:
            return await self.handler(inbound)
        except Exception as error:  # the peer must keep what we did not store, and see that we did not
            self.tally.failed(read.kind, error, peer)
            return Refused(code=FAILED, text="", retryable=True)

    async def answer_too_large(self, head: bytes, peer: str) -> Answers:
        """Reject a message that passed the size limit; its head is enough to name it."""
        self.tally.warn("hl7_message_too_large", peer)
        read = self.reader.read_head(head, peer, TOO_LARGE)
        return await self._settle(head, read, peer)

    async def answer_busy(self, head: bytes, peer: str) -> Answers:
        """Put a message, or the first of a file, off: AE, and it may come again. An acknowledgement is dropped as always."""
        await asyncio.sleep(0)  # thousands fit into one frame
        read = read_head(head[max(head.find(b"MSH"), 0) :])
        if read.header is not None and read.header.code == "ACK":
            self.tally.count(read.kind, "ignored")
            return Answers()
        self.tally.count(read.kind, "refused")
        fault = Fault("207", verdict=Verdict.ERROR, reason="one before it was not stored")
        acks = self._acknowledge(read, fault)
        note_heard(self.record, head, peer, read, fault=fault, acks=acks)
        return acks

    def count_unreadable(self, size: int, reason: str, peer: str) -> None:
        """Count bytes that were no message."""
        self.tally.count("other", "unreadable")
        self.tally.warn("hl7_bytes_dropped", peer, reason=reason, size=size)

    def count_empty(self, count: int) -> None:
        """Count frames without a message: they are no message to refuse, and there is nothing to answer to."""
        self.tally.count("other", "ignored", count)

    def _acknowledge(self, read: Read, fault: Fault | None, expected: int | None = None) -> Answers:
        now = dt.datetime.now(self.hospital.zone)
        return acknowledge(read, fault, now, always=self.settings.ack == "always", expected=expected)


def is_alone(read: Read) -> bool:
    """Whether nothing of it is to be stored: at most its number passes."""
    return read.inbound is None or (read.inbound.series is not None and read.inbound.series.alone)


def _nobody_waits(payload: bytes) -> None:
    """Nothing is asked of this HIS."""
