"""What the wire asks of whoever answers the messages that come over it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Answers(list[bytes]):
    """The messages to send back, in order; empty where none is due.

    `again`: the message was not stored, and the peer may send it again (AE, CE): what stands behind it must not overtake it.
    """

    def __init__(self, messages: Iterable[bytes] = (), *, again: bool = False) -> None:
        super().__init__(messages)
        self.again = again


class Answerer(Protocol):
    """Answers the messages of one HIS."""

    async def answer(self, payload: bytes, peer: str) -> Answers:
        """Take one message."""
        ...

    async def answer_too_large(self, head: bytes, peer: str) -> Answers:
        """Reject one that is larger than allowed, by its head."""
        ...

    async def answer_busy(self, head: bytes, peer: str) -> Answers:
        """Put one off, by its head: it is not looked at now and may come again."""
        ...

    def count_unreadable(self, size: int, reason: str, peer: str) -> None:
        """Count bytes that were no message."""
        ...

    def count_empty(self, count: int) -> None:
        """Count frames without a message."""
        ...
