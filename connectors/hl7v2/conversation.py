"""One connection with the HIS: one request of ours at a time, read all the time, and where the site wants it the HIS's own
messages on it too.

    RequestFailed
    |-- NotSent      not one byte left: sending it again cannot double anything
    `-- NoAnswer     bytes left and no answer to them came: it may or may not have been done

An answer is the one whose MSA-2 is our MSH-10. Whatever else arrives (a late answer, somebody else's, garbage) is counted and
ignored; the wait goes on. An answer that cannot be read ends it at once: what it said will not come again.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Literal

import msgspec

from connectors.hl7v2 import er7
from connectors.hl7v2.answers import SentIds, Stray, glance, messages_in
from connectors.hl7v2.batches import TooMany
from connectors.hl7v2.charset import HL7CharsetError
from connectors.hl7v2.framing import Deframer, Frame, FrameEmpty, FrameTooLarge, frame
from connectors.hl7v2.hearing import Hearing
from connectors.hl7v2.weight import is_heavy
from connectors.hl7v2.wire import Wire

CLOSE_GRACE_S = 2.0
LEFT_WITHIN_S = 5.0
SILENCE_S = 86_400.0  # a dead peer is found by TCP's keep-alive, not by its silence

_HANGUP = getattr(select, "POLLRDHUP", 0) | getattr(select, "POLLHUP", 0) | getattr(select, "POLLERR", 0)


class RequestFailed(Exception):
    """A request got no answer."""


class NotSent(RequestFailed):
    """Nothing left our machine."""


class NoAnswer(RequestFailed):
    """Bytes left, and no usable answer came back."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One message to send. `skip_commit`: CA is not its answer. `enhanced`: its MSH-15 or MSH-16 is set, so that an answer may
    ask for a commit acknowledgement of its own (v2.5.1 ch. 2.9.3.2).
    """

    message: bytes
    control_id: str
    skip_commit: bool = False
    enhanced: bool = False


class Terms(msgspec.Struct, kw_only=True):
    """What all conversations with one HIS have in common.

    `read_answer` raises ER7Error and HL7CharsetError. `write_commit` gives the CA for an answer that asks for one. A connection
    ends after `idle_timeout_s` without a byte. `waiting`: who waits for which answer, on whatever connection it comes. `left`:
    messages of the HIS that are in hand while their connection is over.
    """

    max_message_bytes: int
    frame_timeout_s: float
    read_answer: Callable[[bytes], er7.Message]
    write_commit: Callable[[er7.Message], bytes]
    count_stray: Callable[[Stray], None]
    keep_stray: Callable[[Stray, bytes], None] | None = None
    sent: SentIds
    idle_timeout_s: float = SILENCE_S
    waiting: dict[str, Conversation] = msgspec.field(default_factory=dict)
    left: set[asyncio.Task[None]] = msgspec.field(default_factory=set)

    def leave(self, task: asyncio.Task[None]) -> None:
        """Let it end by itself; whoever closes waits for it."""
        self.left.add(task)
        task.add_done_callback(self.left.discard)

    async def close(self) -> None:
        """Wait for what is in hand, at most LEFT_WITHIN_S."""
        if not self.left:
            return
        _, late = await asyncio.wait(set(self.left), timeout=LEFT_WITHIN_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


class _Waiting:
    """A request on its way. `committed`: the HIS has stored it, which is not done: the application's own answer follows."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.answer: asyncio.Future[er7.Message] = asyncio.get_running_loop().create_future()
        self.committed = False


class Conversation:
    """Must be run for as long as the connection lives; `ask` may be called meanwhile, one at a time.

    `fruitful`: something was answered on it, by either side. `ended`: how it did.
    """

    def __init__(self, wire: Wire, terms: Terms, hearing: Hearing | None = None) -> None:
        self._wire = wire
        self._terms = terms
        self._hearing = hearing
        self._waiting: _Waiting | None = None
        self._stopping = False
        self._deframer = Deframer(terms.max_message_bytes)
        self._loop = asyncio.get_running_loop()
        self.began_at = self.used_at = self._loop.time()
        self.alive = True
        self.fruitful = False
        self.ended: Literal["", "by us", "by the HIS", "silent", "lost"] = ""

    @property
    def idle(self) -> bool:
        """Whether no message is in hand, in either direction."""
        return self._waiting is None and (self._hearing is None or self._hearing.idle)

    @property
    def in_message(self) -> bool:
        """Whether a message of the HIS has begun and not ended."""
        return self._deframer.in_frame

    @property
    def hears(self) -> bool:
        """Whether the HIS may send its own messages on it."""
        return self._hearing is not None

    @property
    def idle_s(self) -> float:
        """How long nothing has been asked or answered on it."""
        return self._loop.time() - self.used_at

    def is_usable(self) -> bool:
        """Whether it can be written to: not lost, and not closed by the HIS (a FIN that nobody has read yet counts)."""
        return self.alive and not self._wire.transport.is_closing() and not _is_hung_up(self._wire.transport)

    def stop(self) -> None:
        """Take no message of the HIS after the one in hand, let our own be answered; then the connection ends."""
        self._stopping = True
        if self._hearing is not None and self._waiting is None:
            self._hearing.stop()

    def drop(self) -> None:
        """Close the connection at once, if it is not: a run that was cancelled before its first step has not."""
        self.alive = False
        self._wire.transport.abort()

    # --- asking ----------------------------------------------------------------------------------------------------------

    async def ask(self, request: Request, deadline: float) -> er7.Message:
        """Send one message and wait for its answer until `deadline` (the loop's clock). Raises NotSent, NoAnswer.

        After a failure the connection is of no use: a HIS that answers one by one would let the next request wait behind
        this one.
        """
        if not self.is_usable():
            raise NotSent("the connection was lost before the message left")
        waiting = self._waiting = _Waiting(request)
        if self._hearing is not None:
            self._hearing.note_waiting(True)
        self._terms.sent.add(request.control_id)
        self._terms.waiting[request.control_id] = self
        try:
            async with asyncio.timeout_at(deadline):
                # The time-out of the write is the caller's: one of its own would end the wait for the answer with it.
                await self._wire.write(frame(request.message), SILENCE_S)
                return await waiting.answer
        except TimeoutError as error:
            if waiting.committed:
                raise NoAnswer("only a commit acknowledgement came within the time-out") from error
            raise NoAnswer("no answer within the time-out") from error
        except OSError as error:
            raise NoAnswer("connection lost") from error
        finally:
            self._waiting = None
            self._terms.waiting.pop(request.control_id, None)
            self.used_at = self._loop.time()
            if self._hearing is not None:
                self._hearing.note_waiting(False)
            if self._stopping:
                self.stop()
            if waiting.answer.done() and not waiting.answer.cancelled():
                waiting.answer.exception()

    # --- reading ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read until the connection ends. Then it is closed, and whoever waits has no answer."""
        reason = "connection closed"
        hearing = None if self._hearing is None else self._loop.create_task(self._hearing.run(self.say))
        if hearing is not None:
            hearing.add_done_callback(self._heard)
        self.ended = "by us"
        try:
            await self._read()
            self.ended, reason = "by the HIS", "connection closed by the HIS"
        except TimeoutError:
            self.ended, reason = "silent", "a message that had begun did not end"
        except OSError as error:
            self.ended, reason = "lost", f"connection lost: {type(error).__name__}"
        finally:
            if self._stopping:
                self.ended = "by us"
            self.alive = False
            self._end(NoAnswer(reason))
            if self._hearing is not None and hearing is not None:
                if self.ended == "by the HIS":  # it may have closed its direction only
                    await self._hearing.finish(CLOSE_GRACE_S)
                # What is in hand is stored; the HIS, which has no answer, sends it again.
                self._hearing.stop()
                self._terms.leave(hearing)
            await self._wire.aclose(CLOSE_GRACE_S)

    def _heard(self, task: asyncio.Task[None]) -> None:
        """Who is not answered must see that: the HIS sends again what has no acknowledgement."""
        if task.cancelled():
            return
        if (error := task.exception()) is None:
            self._wire.transport.close()  # stopped; what was said still goes out
            return
        if not isinstance(error, OSError):
            self._loop.call_exception_handler(
                {"message": "a message of the HIS failed", "exception": error, "task": task}
            )
        self._wire.transport.abort()

    async def say(self, message: bytes, within_s: float) -> None:
        """Send what is no request: an acknowledgement. Raises OSError; a time-out is one too."""
        await self._wire.write(frame(message), within_s)
        self.used_at = self._loop.time()
        self.fruitful = True

    async def _read(self) -> None:
        deframer, ends_by = self._deframer, 0.0
        while True:
            if self._hearing is not None:
                await self._hearing.may_read()
            wait_s = ends_by - self._loop.time() if deframer.in_frame else self._terms.idle_timeout_s
            data = await self._wire.read(max(wait_s, 0.001))
            if not data:
                return
            was_inside, ended = deframer.in_frame, False
            for event in deframer.feed(data):
                ended = True
                if isinstance(event, Frame):
                    await self._take(event.payload)
                elif isinstance(event, FrameTooLarge):
                    self._take_too_large(event.head)
                elif not isinstance(event, FrameEmpty):  # which some peers send to keep the connection alive
                    self._terms.count_stray(Stray.GARBAGE)
            if deframer.in_frame and (ended or not was_inside):
                ends_by = self._loop.time() + self._terms.frame_timeout_s

    async def _take(self, payload: bytes) -> None:
        seen = glance(payload)
        if not seen.is_message:
            self._stray(Stray.GARBAGE, payload)
            return
        try:
            parts = messages_in(payload)
        except TooMany as error:
            self._take_unreadable(Stray.GARBAGE, seen.names, str(error), payload)
            return
        glances = [seen] if len(parts) == 1 else [glance(part) for part in parts]
        if not any(one.is_answer for one in glances):
            self._hear(payload)
            return
        for part, one in zip(parts, glances, strict=True):
            if len(parts) > 1:
                await asyncio.sleep(0)  # thousands fit into one frame
            if one.is_answer:
                await self._take_answer(part, one.names)
            else:
                self._hear(part)

    def _hear(self, payload: bytes) -> None:
        """A message of the HIS's own."""
        if self._hearing is None:
            self._stray(Stray.FOREIGN, payload)
        else:
            self._hearing.take(payload)

    async def _take_answer(self, payload: bytes, names: str) -> None:
        try:
            if is_heavy(payload):
                message = await asyncio.to_thread(self._terms.read_answer, payload)
            else:
                message = self._terms.read_answer(payload)
        except er7.ER7Error:
            self._take_unreadable(Stray.GARBAGE, names, "the answer is no HL7 message", payload)
            return
        except HL7CharsetError:
            self._take_unreadable(Stray.GARBAGE, names, "the answer cannot be decoded", payload)
            return
        await self._match(message, message.value("MSA", 2).strip(), payload)

    def _take_too_large(self, head: bytes) -> None:
        seen = glance(head)
        if seen.is_message and not seen.is_answer and self._hearing is not None:
            self._hearing.take_too_large(head)
        elif seen.is_message:
            self._take_unreadable(Stray.TOO_LARGE, seen.names, "the answer is larger than max_message_bytes", head)
        else:
            self._stray(Stray.TOO_LARGE, head)

    def _take_unreadable(self, kind: Stray, names: str, reason: str, data: bytes) -> None:
        """An HL7 message that cannot be read, on a connection where one answer is due: unless it names another, it is that."""
        self._stray(kind, data)
        if self._waiting is not None and names in ("", self._waiting.request.control_id):
            self._end(NoAnswer(reason))

    def take_from_elsewhere(self, message: er7.Message) -> bytes | None:
        """The answer to what is asked here, come on another connection; the commit acknowledgement that it wants, if any.

        In enhanced mode an application may answer on a connection of its own (v2.5.1 ch. 2.9.3.2).
        """
        waiting = self._waiting
        return None if waiting is None else self._accept(waiting, message)

    async def _match(self, message: er7.Message, named: str, payload: bytes) -> None:
        waiting = self._waiting
        if waiting is None or waiting.answer.done() or named != waiting.request.control_id:
            kind = self._terms.sent.stray(named)
            self._stray(kind, payload)
            if not named and waiting is not None:
                # It may be a refusal of what could not be read at all: nothing can be credited to it, and no more will come.
                self._end(NoAnswer("the answer names no message (MSA-2 is empty)"))
            elif kind is Stray.DUPLICATE and (commit := self._commit(message)) is not None:
                await self.say(commit, CLOSE_GRACE_S)  # the HIS has not seen ours
            return
        if (commit := self._accept(waiting, message)) is not None:
            await self.say(commit, CLOSE_GRACE_S)

    def _accept(self, waiting: _Waiting, message: er7.Message) -> bytes | None:
        if waiting.answer.done():
            return None
        if waiting.request.skip_commit and message.value("MSA", 1) == "CA":
            waiting.committed = True
            return None
        self._terms.sent.note_answer(waiting.request.control_id)
        self.fruitful = True
        waiting.answer.set_result(message)
        return self._commit(message) if waiting.request.enhanced else None

    def _commit(self, message: er7.Message) -> bytes | None:
        """The commit acknowledgement that an application's answer asks for; a commit acknowledgement never does."""
        if message.value("MSH", 15) not in ("AL", "SU") or message.value("MSA", 1) not in ("AA", "AE", "AR"):
            return None
        return self._terms.write_commit(message)

    def _stray(self, kind: Stray, data: bytes) -> None:
        self._terms.count_stray(kind)
        if self._terms.keep_stray is not None:
            self._terms.keep_stray(kind, data)

    def _end(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.answer.done():
            self._waiting.answer.set_exception(error)


def take_answer(terms: Terms, payload: bytes) -> list[bytes] | None:
    """Give an answer to whoever waits for it; what to say to it, None if nobody does or it cannot be read."""
    conversation = terms.waiting.get(glance(payload).names)
    if conversation is None:
        return None
    try:
        message = terms.read_answer(payload)
    except (er7.ER7Error, HL7CharsetError):
        return None
    commit = conversation.take_from_elsewhere(message)
    return [] if commit is None else [commit]


def _is_hung_up(transport: asyncio.Transport) -> bool:
    """Whether the peer has closed, as the kernel knows it: the loop may not have looked yet."""
    sock = transport.get_extra_info("socket")
    if sock is None or not _HANGUP or (number := sock.fileno()) < 0:
        return False
    poll = select.poll()
    poll.register(number, _HANGUP)
    return bool(poll.poll(0))
