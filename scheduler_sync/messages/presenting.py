"""A stored message as text: what is known of it, its body, its answer, and what to do next."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Iterator
from typing import Any

import msgspec

from booking.store.crypto import SealBroken, Vault
from connectors.hl7v2.masking import is_hl7, message_lines
from connectors.masking import Line, body_lines, visible
from scheduler_sync.messages.search import Found, Whole
from scheduler_sync.messages.store import SAME_ID

MOST_SHOWN = 2_000  # lines of one body
_NEXT = {
    "received": "It waits to be applied. If it stays so, see the log (`messages_not_applied`, `store_unavailable`).",
    "applied": "Nothing: it was applied.",
    "quarantined": "Correct it in a profile of the site's own (the reason names the path), try `hisbridge messages replay "
    "HOSPITAL ID --dry-run`, and replay it without `--dry-run`.",
    SAME_ID: "Compare it with the other one (`messages list` with its `--control-id`). Where both are meant, `hisbridge messages "
    'replay HOSPITAL ID`. A sender whose ids come again by design needs `same_id = "apply"`.',
    "done": "Nothing: it was answered. What the answer means is the booking's matter.",
    "failed": "Nothing was done at the hospital. What must be done is tried again by itself, or waits in `hisbridge commands "
    "list`.",
    "unknown": "No usable answer came. The hospital is asked by itself; what cannot be found out waits in `hisbridge commands "
    "list`.",
    "refused": "It was not taken, and nothing of it was applied. See the reason; what matters the hospital must send again. "
    "A type that nobody needs (200, 201) goes into the connector's `ignore`.",
    "duplicate": "Nothing: the same message is stored already.",
}


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes of a stored message and of its answer."""

    body: bytes
    reply: bytes | None = None


def open_message(vault: Vault, whole: Whole) -> Opened:
    """Raises SealBroken."""
    reply = None if whole.sealed_reply is None else vault.open(whole.sealed_reply, whole.reply_place)
    return Opened(body=vault.open(whole.sealed_body, whole.body_place), reply=reply)


def lines_of(data: bytes, *, charset: str, masked: bool) -> list[Line]:
    """A body of any protocol, line by line."""
    return message_lines(data, charset=charset, masked=masked) if is_hl7(data) else body_lines(data, masked=masked)


def describe(
    one: Found, opened: Opened | SealBroken, *, vault: Vault, zone: dt.tzinfo, charset: str, masked: bool
) -> Iterator[str]:
    """The lines that `hisbridge messages show` prints. Every character can be seen."""
    moment = dt.datetime.fromtimestamp(one.at_ms / 1000, zone)
    known = {
        "id": one.id,
        "time": moment.isoformat(" ", "milliseconds"),
        "direction": {"in": "in, from the hospital", "out": "out, to the hospital"}.get(one.direction, one.direction),
        "connector": f"{one.connector}, {one.peer}",
        "verb": one.verb,
        "type": one.message_type,
        "control id": one.control_id,
        "booking": one.order_no,
        "state": one.state,
        "answered": one.answer,
        "reason": one.reason,
    }
    if isinstance(opened, Opened):
        known["body"] = _size(opened.body, one.hospital_id, vault)
    for name, value in known.items():
        if value:
            yield f"{name + ':':<12}{visible(value)}"
    told = _NEXT[SAME_ID] if one.state == "quarantined" and one.reason == SAME_ID else _NEXT.get(one.state, "")
    yield f"{'next:':<12}{told.replace('HOSPITAL ID', f'{one.hospital_id} {one.id}')}"
    if isinstance(opened, SealBroken):
        yield f"{'body:':<12}cannot be read: {opened}"
        return
    yield from _body(opened.body, charset, masked)
    if opened.reply is not None:
        yield ""
        yield "Its answer:"
        yield from _body(opened.reply, charset, masked)


def as_text(data: bytes, *, charset: str, masked: bool) -> str:
    """A body in one text, as it is exported: HL7 v2 with CR between the segments."""
    end = "\r" if is_hl7(data) else "\n"
    return "".join(line.text + end for line in lines_of(data, charset=charset, masked=masked))


def exported(one: dict[str, Any], opened: Opened, *, charset: str, masked: bool) -> dict[str, Any]:
    """A line of NDJSON: what is known, and the bodies. Unmasked ones are base64, byte for byte."""
    for name, data in (("body", opened.body), ("reply", opened.reply)):
        if data is None:
            one[name] = None
        elif masked:
            one[name] = as_text(data, charset=charset, masked=True)
        else:
            one[f"{name}_base64"] = base64.b64encode(data).decode("ascii")
    return one


def _size(body: bytes, hospital_id: str, vault: Vault) -> str:
    digest = vault.digest("body", hospital_id, body.decode("latin-1"))[:16]
    return f"{len(body)} bytes, digest {digest}"


def _body(data: bytes, charset: str, masked: bool) -> Iterator[str]:
    lines = lines_of(data, charset=charset, masked=masked)
    for line in lines[:MOST_SHOWN]:
        if not line.name:
            yield f"  {visible(line.text)}"
            continue
        yield f"{line.name}  {line.title}".rstrip()
        for place, title, value in line.values:
            yield f"  {place:<8}{title:<24}{visible(value)}".rstrip()
    if len(lines) > MOST_SHOWN:
        yield f"  ... {len(lines) - MOST_SHOWN} more lines: export it to see them"
