"""Requests on the connections that the HIS has made to us: for a site where no port of the HIS can be reached.

Whoever connects is told of patients, so the listener must know whom it lets in (`allow`, or `tls_client_ca_file`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

from connectors.hl7v2 import er7
from connectors.hl7v2.answerer import Answerer
from connectors.hl7v2.answers import SentIds, Stray
from connectors.hl7v2.conversation import Conversation, NotSent, Request, Terms, take_answer
from connectors.hl7v2.hearing import Hearing
from connectors.hl7v2.wire import Wire
from monitoring.logs import get_logger
from monitoring.sparse import SparseLog

log = get_logger(__name__)

ENDED = {"by the HIS": "peer", "by us": "stopping", "lost": "lost"}


class InboundLine:
    """One connection of the HIS's. It takes the place of connectors.hl7v2.session.Session in the listener."""

    def __init__(self, lines: InboundLines, conversation: Conversation) -> None:
        self._lines = lines
        self._conversation = conversation

    @property
    def idle(self) -> bool:
        """Whether no message is in hand, in either direction."""
        return self._conversation.idle

    def stop(self) -> None:
        """Take no message after the one in hand."""
        self._conversation.stop()

    async def run(self) -> str:
        """Until the connection ends: why, as one of `metrics.MLLP_ENDED`."""
        self._lines.enter(self._conversation)
        try:
            await self._conversation.run()
        finally:
            self._lines.leave(self._conversation)
        if self._conversation.ended == "silent":
            return "slow_message" if self._conversation.in_message else "idle"
        return ENDED.get(self._conversation.ended, "lost")


class InboundLines:
    """The HIS's connections, as far as they carry requests of ours. One message in flight on each; see client.Requests."""

    def __init__(
        self,
        *,
        where: Mapping[str, str] | None = None,
        max_message_bytes: int,
        frame_timeout_s: float,
        idle_timeout_s: float,
        on_up: Callable[[bool], None],
        on_stray: Callable[[str], None],
        read_answer: Callable[[bytes], er7.Message],
        write_commit: Callable[[er7.Message], bytes],
    ) -> None:
        self.answerer: Answerer | None = None  # set before the listener is started
        self.stray_answers: Counter[str] = Counter()
        self._on_up = on_up
        self._on_stray = on_stray
        self._warn = SparseLog(partial(log.warning, **(where or {})))
        self._terms = Terms(
            max_message_bytes=max_message_bytes,
            frame_timeout_s=frame_timeout_s,
            idle_timeout_s=idle_timeout_s,
            read_answer=read_answer,
            write_commit=write_commit,
            count_stray=self._count_stray,
            sent=SentIds(),
        )
        self._open: list[Conversation] = []
        self._busy: set[Conversation] = set()
        self._change = asyncio.Event()
        self._closed = False

    def start(self) -> None:
        """The HIS connects when it does."""
        self._on_up(bool(self._open))

    def hear(self, answerer: Answerer) -> None:
        """Who answers the HIS's own messages."""
        self.answerer = answerer

    def line(self, wire: Wire, peer: str, pause_s: Callable[[], float]) -> InboundLine:
        """A connection has come. `pause_s`: see Hearing."""
        hearing = None if self.answerer is None else Hearing(self.answerer, peer, pause_s)
        return InboundLine(self, Conversation(wire, self._terms, hearing))

    async def request(self, request: Request, timeout_s: float) -> er7.Message:
        """Send one message on a connection of the HIS's, within `timeout_s` in all. Raises NotSent, NoAnswer."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        conversation = await self._acquire(deadline)
        answered = False
        try:
            reply = await conversation.ask(request, deadline)
            answered = True
            return reply
        finally:
            self._busy.discard(conversation)
            self._tell()
            if not answered:
                # What comes late would be taken for the answer to the next one by a HIS that counts and does not name.
                conversation.drop()

    async def check(self, timeout_s: float) -> None:
        """Make sure that the HIS is connected. Raises NotSent."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        self._busy.discard(await self._acquire(deadline))
        self._tell()

    def take_answer(self, payload: bytes) -> list[bytes] | None:
        """See LinePool.take_answer."""
        return take_answer(self._terms, payload)

    async def close(self) -> None:
        """Send nothing more; the listener closes the connections."""
        self._closed = True
        self._tell()
        await self._terms.close()
        self._on_up(False)

    def enter(self, conversation: Conversation) -> None:
        self._open.append(conversation)
        self._on_up(True)
        self._tell()

    def leave(self, conversation: Conversation) -> None:
        self._open.remove(conversation)
        self._on_up(bool(self._open))

    def keep_strays(self, keep: Callable[[Stray, bytes], None]) -> None:
        """Hand what answers nothing to `keep` as well, as far as it was read."""
        self._terms.keep_stray = keep

    def _count_stray(self, kind: Stray) -> None:
        self.stray_answers[kind.value] += 1
        self._on_stray(kind.value)
        self._warn("hl7_stray_answer", reason=kind.value, host="inbound")

    def _tell(self) -> None:
        """Something has changed for those who wait for a connection."""
        self._change.set()
        self._change = asyncio.Event()

    async def _acquire(self, deadline: float) -> Conversation:
        """The connection that was used last, so that one that the HIS has forgotten is not. Raises NotSent."""
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    if self._closed:
                        raise NotSent("closing")
                    free = [one for one in self._open if one not in self._busy and one.is_usable()]
                    if free:
                        chosen = max(free, key=lambda one: one.used_at)
                        self._busy.add(chosen)
                        return chosen
                    await self._change.wait()
        except TimeoutError as error:
            reason = "every connection to the HIS is busy" if self._open else "the HIS is not connected"
            raise NotSent(reason) from error
