"""How API processes ask the process that works a hospital: the questions, and the envelope that they travel in.

A question and its answer are sealed with the installation's data key, bound to the process that is asked and to each other.
A question that is old or comes a second time is refused, so that whoever overhears the network learns and replays nothing.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from typing import Any

import msgspec

from booking.store.crypto import SealBroken, Vault
from mappings.canonical import Attachment, Bill, Patient, Report, Settlement
from monitoring.traces import stored_here

PATH = "/ask"
FRESH_S = 30.0  # how old a question may be, by the store's clock as both sides know it
MOST_REMEMBERED = 100_000
MAX_QUESTION_BYTES = 1_000_000
MAX_ANSWER_BYTES = 100_000_000  # an attachment, and what its encoding adds

# Every question that `booking.ports.LiveHis` has: what it is asked with, and what comes back.
QUESTIONS: dict[str, tuple[Any, Any]] = {
    "bills": (tuple[Patient], list[Bill]),
    "presettlement": (tuple[Bill, Patient, str], Settlement),
    "reports": (tuple[Patient], list[Report]),
    "report": (tuple[Patient, str], Report | None),
    "attachment": (tuple[Attachment], Attachment),
}
# Records travel as JSON, which keeps the offset of an instant; the envelope around them holds bytes.
_arguments = {name: msgspec.json.Decoder(type=given) for name, (given, _) in QUESTIONS.items()}
_results = {name: msgspec.json.Decoder(type=found) for name, (_, found) in QUESTIONS.items()}
_encode_content = msgspec.json.Encoder().encode
_encode = msgspec.msgpack.Encoder().encode


class QuestionRefused(Exception):
    """A question that was altered, is too old, was asked before, or is none. The text names no value of it."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One live read. `arguments` are those of the method `name` of LiveHis, encoded; its caller waits for `within_s` more.

    `trace` is that of whoever asks.
    """

    id: str
    sent_ms: int
    hospital_id: str
    name: str
    arguments: bytes
    within_s: float | None = None
    trace: str | None = None


MOVED = "moved"  # instead of an API code: the hospital is not worked there any more


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """`result` encoded, or the code and detail of a LiveFailed, or MOVED."""

    result: bytes = b""
    failed: str | None = None
    detail: str = ""


class StoreClock:
    """The store's clock as of the last transaction, carried on by our own: the clocks of two machines may differ."""

    def __init__(self) -> None:
        self._ahead_ms = time.time() * 1000 - time.monotonic() * 1000

    def note(self, now_ms: int) -> None:
        """A transaction has just read the clock."""
        self._ahead_ms = now_ms - time.monotonic() * 1000

    def now_ms(self) -> int:
        return int(time.monotonic() * 1000 + self._ahead_ms)


class Asking:
    """One question of an API process to a node: `sealed` is what to send, `read` opens what came back."""

    def __init__(
        self,
        vault: Vault,
        clock: StoreClock,
        node_id: str,
        hospital_id: str,
        name: str,
        arguments: tuple[Any, ...],
        *,
        within_s: float | None = None,
    ) -> None:
        self._vault = vault
        self._name = name
        self._id = secrets.token_hex(16)
        question = Question(
            id=self._id,
            sent_ms=clock.now_ms(),
            hospital_id=hospital_id,
            name=name,
            arguments=_encode_content(arguments),
            within_s=within_s,
            trace=stored_here(),
        )
        self.sealed = vault.seal(_encode(question), _question_place(node_id))

    def read(self, sealed: bytes) -> Answer:
        """The answer to this question. Raises SealBroken, msgspec.DecodeError."""
        return _answer.decode(self._vault.open(sealed, _answer_place(self._id)))

    def result(self, answer: Answer) -> Any:
        """What the read has found. Raises msgspec.DecodeError."""
        return _results[self._name].decode(answer.result)


class Questions:
    """The questions that reach one node."""

    def __init__(self, vault: Vault, clock: StoreClock, node_id: str) -> None:
        self._vault = vault
        self._clock = clock
        self._place = _question_place(node_id)
        self._seen: OrderedDict[str, int] = OrderedDict()

    def open(self, sealed: bytes) -> tuple[Question, tuple[Any, ...]]:
        """The question and its decoded arguments, once. Raises QuestionRefused."""
        try:
            question = _question.decode(self._vault.open(sealed, self._place))
            arguments = _arguments[question.name].decode(question.arguments)
        except (SealBroken, msgspec.DecodeError, KeyError) as e:
            raise QuestionRefused(f"it cannot be read: {type(e).__name__}") from None
        self._admit(question)
        return question, arguments

    def _admit(self, question: Question) -> None:
        now_ms = self._clock.now_ms()
        fresh_ms = int(FRESH_S * 1000)
        while self._seen and next(iter(self._seen.values())) < now_ms - 3 * fresh_ms:
            self._seen.popitem(last=False)
        if abs(now_ms - question.sent_ms) > fresh_ms:
            raise QuestionRefused("it is too old, or from the future")
        if question.id in self._seen:
            raise QuestionRefused("it was asked before")
        if len(self._seen) >= MOST_REMEMBERED:
            raise QuestionRefused("too many questions")
        self._seen[question.id] = now_ms

    def seal(self, question: Question, answer: Answer) -> bytes:
        """What to send back."""
        return self._vault.seal(_encode(answer), _answer_place(question.id))


def encode_result(result: Any) -> bytes:
    """What a live read has found, for `Answer.result`."""
    return _encode_content(result)


_question = msgspec.msgpack.Decoder(type=Question)
_answer = msgspec.msgpack.Decoder(type=Answer)


def _question_place(node_id: str) -> str:
    return f"ask.question.{node_id}"


def _answer_place(question_id: str) -> str:
    return f"ask.answer.{question_id}"
