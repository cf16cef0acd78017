"""What the message store is told of the calls to a HIS over SOAP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from connectors.port import Passed, Verb
from connectors.recording import Passing, WireRecord, shown_name
from connectors.soap.client import HttpReply, NotSent, Sent, peer_of
from connectors.soap.errors import ExchangeError, HttpFailed, Refused
from connectors.soap.rules import UNKNOWN
from connectors.soap.verbs import Case

OF_NOBODY = frozenset(
    {
        Verb.PING,
        Verb.FETCH_DEPARTMENTS,
        Verb.FETCH_PRACTITIONERS,
        Verb.FETCH_SCHEDULES,
        Verb.FETCH_SLOTS,
        Verb.FETCH_STOPS,
    }
)
"""Reads of the catalogue, asked by the thousand: kept only where they failed."""


class Asked:
    """One call on its way; `answered` passes its reply through."""

    def __init__(self, passing: Passing) -> None:
        self._passing = passing

    def answered(self, reply: HttpReply) -> HttpReply:
        """The reply, noted."""
        self._passing.answer, self._passing.answer_code = reply.body, str(reply.status)
        return reply


@contextmanager
def asking(record: WireRecord, verb: Verb, case: Case, request: object, sent: Sent) -> Iterator[Asked]:
    """Around one call, and the reading of its reply."""
    with record.asking(
        verb.value,
        _about(request),
        peer=peer_of(sent.url),
        message_type=shown_name(case.trade or case.operation),
        control_id="",
        request=sent.body if sent.body is not None else urlsplit(sent.url).query.encode(),
        not_sent=NotSent,
    ) as passing:
        try:
            yield Asked(passing)
        except ExchangeError as error:
            passing.state, passing.error = _state_of(error), f"answered {error}"
            raise
        passing.kept = verb not in OF_NOBODY


def _about(request: object) -> object:
    """The record of the port that a call is about, where a read is asked with more than that."""
    if not isinstance(request, Mapping):
        return request
    return request.get("patient") or _about(request.get("request"))


def _state_of(error: ExchangeError) -> Passed:
    """As in connectors.soap.outcome: FAILED only where nothing was done."""
    match error:
        case Refused(refusal=refusal):
            return Passed.UNKNOWN if refusal.code == UNKNOWN else Passed.FAILED
        case HttpFailed(status=status) if 400 <= status < 500 and status != 408:
            return Passed.FAILED
    return Passed.UNKNOWN
