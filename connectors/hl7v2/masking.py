"""A message for a person to look at: segment by segment, by default with everything masked that is not known to be harmless."""

from __future__ import annotations

import re
from collections.abc import Iterator

from connectors.hl7v2 import er7
from connectors.hl7v2.charset import HL7CharsetError, decode_message
from connectors.hl7v2.escapes import Delimiters
from connectors.hl7v2.harmless import FIELDS, HARMLESS, SEGMENTS, Field
from connectors.hl7v2.segments import HEADERS, NULL, Segment
from connectors.masking import Line, mask_text, opaque

MOST_PARTS = 200  # of one field; what has more is masked as one
_MESSAGE_STARTS = re.compile(r"(?:^|(?<=[\r\n]))(?=MSH)")
_Z = re.compile(r"Z[A-Z0-9]{2}")
HIDDEN_NAME = "???"


def is_hl7(data: bytes) -> bool:
    """Whether it begins as a message, a batch or a file does."""
    return data.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n \t\x0b")[:3] in (b"MSH", b"BHS", b"FHS")


def message_lines(data: bytes, *, charset: str, masked: bool) -> list[Line]:
    """The segments of a message, a batch or a file. What cannot be read is one line, masked or not."""
    try:
        text = decode_message(data.lstrip(b"\r\n \t\x0b"), charset).text
    except HL7CharsetError as error:
        return [opaque(data, f"cannot be decoded: {error}", masked=masked)]
    lines: list[Line] = []
    for part in _MESSAGE_STARTS.split(text):
        if part.strip():
            lines += _part_lines(part, masked=masked)
    return lines


def _part_lines(part: str, *, masked: bool) -> Iterator[Line]:
    if not part.startswith("MSH"):
        # The head of a batch or a file. Whatever else stands there is masked as a whole.
        for line in re.split(r"[\r\n]+", part):
            delimiters = Delimiters.of_header(line) if line[:3] in HEADERS else None
            if delimiters is not None:
                yield _segment_line(Segment(line, 0, len(line), delimiters), masked=masked)
            elif line.strip():
                yield opaque(line.encode("utf-8", "replace"), "no segment", masked=masked)
        return
    try:
        message = er7.parse(part)
    except er7.ER7Error as error:
        yield opaque(part.encode("utf-8", "replace"), f"cannot be read: {error}", masked=masked)
        return
    for segment in message.segments:
        yield _segment_line(segment, masked=masked)


def _segment_line(segment: Segment, *, masked: bool) -> Line:
    marks = segment.delimiters
    name, title = segment.name, SEGMENTS.get(segment.name, "")
    pieces = segment.raw.split(marks.field)
    header = name in HEADERS
    if masked and not title and not _Z.fullmatch(name):
        name = HIDDEN_NAME
    known = HARMLESS.get(segment.name, {})
    fields: list[str] = []
    shown: list[tuple[str, str, str]] = []
    for place, raw in enumerate(pieces[1:], 1):
        number = place + 1 if header else place
        if header and place == 1:
            # The delimiters themselves. Only those of the message's own header have been found usable.
            known_usable = not masked or Delimiters.of_header(segment.raw) is not None
            fields.append(raw if known_usable else mask_text(raw))
            continue
        value = _masked_field(raw, marks, known.get(number)) if masked else raw
        fields.append(value)
        if raw:
            place_name = f"{name}-{number}"
            shown.append((place_name, FIELDS.get(place_name, ""), value))
    return Line(text=marks.field.join([name, *fields]), name=name, title=title, values=tuple(shown))


def _masked_field(raw: str, marks: Delimiters, field: Field | None) -> str:
    """The field with its parts, each of them shown or masked."""
    if not raw:
        return ""
    repetitions = _split(raw, marks.repetition)
    parts = sum(one.count(marks.component) if marks.component else 0 for one in repetitions) + len(repetitions)
    if parts > MOST_PARTS:
        return mask_text(raw)
    return marks.repetition.join(_masked_repetition(one, marks, field) for one in repetitions)


def _masked_repetition(raw: str, marks: Delimiters, field: Field | None) -> str:
    found = []
    for number, component in enumerate(_split(raw, marks.component), 1):
        if field is not None and (not field.components or number in field.components):
            found.append(component if field.looks.fullmatch(component) else _mask(component))
        else:
            found.append(marks.subcomponent.join(_mask(one) for one in _split(component, marks.subcomponent)))
    return marks.component.join(found)


def _mask(text: str) -> str:
    return text if text in ("", NULL) else mask_text(text)


def _split(text: str, mark: str) -> list[str]:
    pieces = text.split(mark, MOST_PARTS) if mark else [text]
    return [text] if len(pieces) > MOST_PARTS else pieces
