"""The messages of one frame, in their order: what is short is handed on together, so that it shares commits."""

from __future__ import annotations

from itertools import zip_longest
from typing import NamedTuple, Protocol

from connectors.hl7v2.answerer import Answers
from connectors.hl7v2.reading import Read
from connectors.hl7v2.turns import Turns
from connectors.port import Inbound, InboundAnswer

TOGETHER, TOGETHER_BYTES = 64, 65_536


class Desk(Protocol):
    """What is done with each message."""

    @property
    def takes_several(self) -> bool:
        """Whether `hand_on_together` may be called."""
        ...

    async def look_at(self, payload: bytes, peer: str) -> Read: ...
    async def answer_read(self, payload: bytes, read: Read, peer: str) -> Answers: ...
    async def answer_busy(self, head: bytes, peer: str) -> Answers: ...
    async def hand_on_together(self, reads: list[Read], peer: str) -> list[InboundAnswer]: ...
    def answer_given(self, payload: bytes, read: Read, given: InboundAnswer, peer: str) -> Answers: ...


class _Waits(NamedTuple):
    payload: bytes
    read: Read
    answers: list[bytes]


class Filing:
    """Answers them one after the other. `again`: one was not stored and may come again; what stands behind it is put off."""

    def __init__(self, desk: Desk, peer: str) -> None:
        self._desk = desk
        self._peer = peer
        self._turns = Turns()
        self._ends_at = self._turns.begin()
        self._waiting: list[_Waits] = []
        self._bytes = 0
        self.again = False

    async def take(self, payload: bytes, answers: list[bytes]) -> None:
        """The next message. What is due for it comes into `answers`, at the latest with `finish`."""
        await self._give_turn()
        if not self.again:
            read = await self._desk.look_at(payload, self._peer)
            if self._desk.takes_several and _is_short(payload, read):
                self._waiting.append(_Waits(payload, read, answers))
                self._bytes += len(payload)
                if len(self._waiting) >= TOGETHER or self._bytes >= TOGETHER_BYTES:
                    await self.finish()
                return
            await self.finish()
            if not self.again:
                self._add(answers, await self._desk.answer_read(payload, read, self._peer))
                return
        self._add(answers, await self._desk.answer_busy(payload, self._peer))

    async def finish(self) -> None:
        """Hand on what waits."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        if not waiting:
            return
        given = await self._desk.hand_on_together([one.read for one in waiting], self._peer)
        for one, answer in zip_longest(waiting, given):
            await self._give_turn()
            if answer is None:
                due = await self._desk.answer_busy(one.payload, self._peer)
            else:
                due = self._desk.answer_given(one.payload, one.read, answer, self._peer)
            self._add(one.answers, due)

    async def _give_turn(self) -> None:
        """Beside a quick disk nothing else is waited for."""
        self._ends_at = await self._turns.go_on(self._ends_at)

    def _add(self, answers: list[bytes], due: Answers) -> None:
        self.again |= due.again
        answers += due


def _is_short(payload: bytes, read: Read) -> bool:
    inbound: Inbound | None = read.inbound
    if read.is_answer or read.fault is not None or inbound is None:
        return False
    return inbound.series is None and len(payload) <= TOGETHER_BYTES
