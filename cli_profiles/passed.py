"""What passed on the wire and what it became, as it may be shown."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from connectors.hl7v2.masking import is_hl7, message_lines
from connectors.masking import body_lines, mask_text, visible
from connectors.soap.client import HttpReply, Sent
from connectors.soap.xml import Undecodable, XmlError, decode, parse
from mappings.canonical import Department, Practitioner, Record, Schedule, ScheduleStopped, Slot

MOST_LINES = 400
_CODE = re.compile(r"-?[A-Za-z]{0,3}[-_]?\d{1,8}(?:: |$)|[A-Za-z](?:: |$)")
_FAULT = re.compile(r"SOAP fault [A-Za-z.]{0,40}: ?")
_NOBODYS = (Department, Practitioner, Schedule, Slot, ScheduleStopped)
"""Records that tell of no patient."""


def request_lines(sent: Sent, *, masked: bool) -> Iterator[str]:
    """An HTTP request, and the documents inside its arguments."""
    address, mark, query = sent.url.partition("?")
    yield f"{sent.method} {address}{mark}{mask_text(query) if masked else query}"
    for name, value in sent.headers.items():
        yield f"{name}: {value}"
    yield from _body(sent.body or b"", masked)


def reply_lines(reply: HttpReply | None, *, masked: bool) -> Iterator[str]:
    """An HTTP reply, and the documents inside it."""
    if reply is None:
        yield "no whole answer came"
        return
    yield f"HTTP {reply.status}, {reply.content_type}, charset {reply.charset or 'not given'}, {len(reply.body)} bytes"
    yield from _body(reply.body, masked)


def message_text(data: bytes | None, *, charset: str, masked: bool) -> Iterator[str]:
    """An HL7 v2 message, segment by segment; any other body as it is."""
    if data is None:
        yield "no answer came"
        return
    if not is_hl7(data):
        yield from _body(data, masked)
        return
    for line in message_lines(data, charset=charset, masked=masked):
        yield line.text


def sentence(said: str, known: Iterable[str], *, masked: bool, coded: bool = False) -> str:
    """What a HIS said: the words that a profile knows, and of all others only about how long they are.

    `coded`: it begins with the HIS's code, as where the profile knows none of its words.
    """
    if not masked:
        return visible(said)
    head = _FAULT.match(said) or (_CODE.match(said) if coded else None)
    before = "" if head is None else head[0]
    words = "|".join(re.escape(one) for one in sorted(filter(None, known), key=len, reverse=True))
    parts = re.split(f"({words})", said[len(before) :]) if words else [said[len(before) :]]
    return visible(before + "".join(part if n % 2 else mask_text(part.strip()) for n, part in enumerate(parts)))


def _body(body: bytes, masked: bool) -> Iterator[str]:
    lines = [line.text for line in body_lines(body, masked=masked)]
    if masked:
        for name, text in _inside(body):
            lines += [f"inside {name}:", *(f"  {line.text}" for line in body_lines(text.encode(), masked=True))]
    yield from lines[:MOST_LINES]
    if len(lines) > MOST_LINES:
        yield f"... {len(lines) - MOST_LINES} more lines"


def _inside(body: bytes) -> Iterator[tuple[str, str]]:
    """The documents that stand as texts in a body's elements."""
    try:
        root = parse(decode(body).text)
    except (XmlError, Undecodable):
        return
    for element in root.iter("*"):
        text = (element.text or "").strip()
        if text[:1] in ("<", "{", "["):
            yield str(element.tag).rpartition("}")[2], text


def record_line(record: Record, *, masked: bool) -> str:
    """A record in one line of JSON."""
    plain = msgspec.to_builtins(record) if not masked or isinstance(record, _NOBODYS) else _masked(record)
    return f"{type(record).__name__} {visible(json.dumps(plain, ensure_ascii=False))}"


def _masked(value: Any) -> Any:
    """Of values only about how long they are; words of an enumeration as they are."""
    match value:
        case msgspec.Struct():
            fields = {name: getattr(value, name) for name in value.__struct_fields__}
            return {name: _masked(one) for name, one in fields.items() if one not in (None, (), {})}
        case enum.Enum():
            return value.value
        case dict():
            return {name: _masked(one) for name, one in value.items()}
        case list() | tuple():
            return [_masked(one) for one in value]
        case None | bool():
            return value
    return mask_text(str(value))
