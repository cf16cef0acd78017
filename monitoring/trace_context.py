"""W3C Trace Context, level 1: what travels between programs, and which trace this task works for.

https://www.w3.org/TR/trace-context-1/ (sections 3.2 traceparent, 3.3 tracestate). What breaks its rules is ignored, as it says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextvars import Context, ContextVar, copy_context

import msgspec

# Version 00 has exactly four fields; of a later one the first four are read, and nothing is known of what follows a dash.
_PARENT = re.compile(r"(?P<version>[0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?P<rest>-.*)?")
_SIMPLE_KEY = r"[a-z0-9][a-z0-9_\-*/]{0,255}"
_TENANT_KEY = r"[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}"
_MEMBER = re.compile(
    rf"(?:{_SIMPLE_KEY}|{_TENANT_KEY})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_MOST_MEMBERS = 32
# At least so many are to be passed on (section 3.3.1.5). With more of them a caller could make the fields of a request to a HIS
# larger than its server takes, and its refusals would be taken for an outage.
_MOST_STATE_CHARS = 512
# An ID number or a phone filled up with zeros, which is no random id: nothing of a patient may become an id that is exported.
_NUMBER = re.compile(r"0{5}[0-9]+")


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """A place in a trace: what is done for it is done for `span_id`. `state` is the callers' own, passed on as it came."""

    trace_id: str
    span_id: str
    sampled: bool
    state: str = ""

    @property
    def traceparent(self) -> str:
        """As a header's value."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


UNSAMPLED = TraceContext("", "", False)
"""Work for a request that was decided not to be traced, and that no caller has a name for: it begins no trace of its own."""

here: ContextVar[TraceContext | None] = ContextVar("trace", default=None)
"""What this task works for; None where no request or command stands behind it. Set only while tracing is on."""


def nobodys() -> Context:
    """A copy of this task's context that works for nobody: for a task that outlives what begins it."""
    context = copy_context()
    context.run(here.set, None)
    return context


def read_context(traceparents: Sequence[str], tracestates: Sequence[str] = ()) -> TraceContext | None:
    """The caller's context, from all values of its headers; None where it sent none that can be used."""
    if len(traceparents) != 1:
        return None
    found = _PARENT.fullmatch(traceparents[0].strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    if not trace_id.strip("0") or not span_id.strip("0") or _NUMBER.fullmatch(trace_id) or _NUMBER.fullmatch(span_id):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & 1), _read_state(tracestates))


def read_traceparent(value: str | None) -> TraceContext | None:
    """The context that `TraceContext.traceparent` has written."""
    return None if value is None else read_context((value,))


def _read_state(values: Sequence[str]) -> str:
    """The members of all tracestate fields in a row, the last ones left out where all are too long; nothing where one breaks the
    rules.
    """
    members = [member for value in values for part in value.split(",") if (member := part.strip(" \t"))]
    if len(members) > _MOST_MEMBERS or not all(_MEMBER.fullmatch(member) for member in members):
        return ""
    while len(state := ",".join(members)) > _MOST_STATE_CHARS:
        members.pop()
    return state
