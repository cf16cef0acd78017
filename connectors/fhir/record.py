"""What the message store is told of the requests to a FHIR server.

Kept is what is about somebody: writes, looks at bookings, patients, bills and reports. Of the catalogue, of searches for changes
and of Subscriptions only what failed: they are asked by the thousand. Of an attachment the bytes are not kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from connectors.port import Passed, Verb
from connectors.recording import Passing, WireRecord, shown_id, shown_name

_OF_NOBODY = frozenset(
    {
        Verb.PING,
        Verb.FETCH_DEPARTMENTS,
        Verb.FETCH_PRACTITIONERS,
        Verb.FETCH_SCHEDULES,
        Verb.FETCH_SLOTS,
        Verb.FETCH_STOPS,
    }
)
_asked_for: ContextVar[tuple[Verb | None, object]] = ContextVar("asked_for", default=(None, None))


@contextmanager
def asked_for(verb: Verb, about: object) -> Iterator[None]:
    """What is asked inside is asked for this verb of the port, and about this record of it."""
    token = _asked_for.set((verb, about))
    try:
        yield
    finally:
        _asked_for.reset(token)


class Asked:
    """One request on its way."""

    def __init__(self, passing: Passing, kept: bool) -> None:
        self._passing, self._kept = passing, kept

    def answered(self, status: int, data: bytes | None) -> None:
        """The answer came, whatever its body is; None for one that is not to be kept."""
        passing = self._passing
        passing.answer, passing.answer_code = data, str(status)
        if status >= 400:
            passing.state = Passed.FAILED if status < 500 and status not in (408, 429) else Passed.UNKNOWN
            passing.error = f"answered HTTP {status}"

    def read(self) -> None:
        """It could be read: a reply to a GET that finds nothing is an answer."""
        passing = self._passing
        passing.kept = self._kept or passing.state is not None


@contextmanager
def asking(
    record: WireRecord, method: str, path: str, query: str, body: bytes | None, *, peer: str, not_sent: type[Exception]
) -> Iterator[Asked]:
    """Around one request and the reading of its reply; `path` is that below the server's [base]."""
    verb, about = _asked_for.get()
    kind, _, rest = path.strip("/").partition("/")
    operation = rest.removeprefix("$") if rest.startswith("$") else ""
    own = rest if rest and not operation else ""
    with record.asking(
        "" if verb is None else verb.value,
        about,
        peer=peer,
        message_type=shown_name("-".join(part for part in (method, kind or "transaction", operation) if part)),
        control_id=shown_id(f"{kind}/{own}"[:200]) if own else "",
        request=body if body is not None else query.encode(),
        not_sent=not_sent,
    ) as passing:
        yield Asked(passing, verb is not None and verb not in _OF_NOBODY)
