"""Texts and bodies for people who must not see patients' data: the form is shown, and of a value only about how long it is.

By allow list: what nobody has said to be harmless is masked. Of XML and JSON the names are shown, of other bodies only the size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

LONGEST_XML_CHARACTERS = 5_000_000
MOST_ITEMS = 1_000
MOST_DEPTH = 100
_CLASSES = ((4, "1-4"), (16, "5-16"), (64, "17-64"), (1_000, "65-1000"))
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,60}")
_TOKEN = re.compile(
    r"<!--(?P<comment>.*?)-->|<!\[CDATA\[(?P<cdata>.*?)\]\]>|<\?(?P<instruction>.*?)\?>|<!(?!\[|--)(?P<declaration>[^<>]*)>"
    r"|</(?P<end>[^<>]*)>|<(?P<start>[^<>/!?](?:[^<>\"']|\"[^\"<]*\"|'[^'<]*')*)>|(?P<text>[^<]+)",
    re.DOTALL,
)
_TAG = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_.-]{0,60}:)?[A-Za-z_][A-Za-z0-9_.-]{0,60}")
_ATTRIBUTE = re.compile(r"([^\s=\"']+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")

OF_A_PERSON = (
    r"(?<!\d)(?:1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3])\d{4}(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
    r"\d{3}[\dXx](?!\d)|(?<!\d)(?:86)?1[3-9]\d{9}(?!\d)"
)
"""A number that may be a person's: an identity number (GB 11643: a region, a day of birth) or a mobile phone. No time is one."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a body as it may be shown. For HL7 v2 `name` is the segment, `values` (place, name of the field, value)."""

    text: str
    name: str = ""
    title: str = ""
    values: tuple[tuple[str, str, str], ...] = ()


def mask_text(text: str) -> str:
    """About how long a text is: <1-4>, <5-16>, <17-64>, <65-1000> or <1000+> characters."""
    size = len(text)
    return f"<{next((name for most, name in _CLASSES if size <= most), '1000+')}>" if size else ""


def opaque(data: bytes, why: str, *, masked: bool) -> Line:
    """A body that cannot be shown in parts."""
    if masked:
        return Line(text=f"<{len(data)} bytes, {why}>")
    return Line(text=visible(data.decode("ascii", "backslashreplace")))


def visible(text: str) -> str:
    """With an escape for every character that cannot be seen, or that would change what is seen."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def body_lines(data: bytes, *, masked: bool) -> list[Line]:
    """An XML or JSON body, line by line; anything else as one."""
    text = _decoded(data)
    if text is None:
        return [opaque(data, "cannot be decoded", masked=masked)]
    start = text.lstrip()[:1]
    if not masked:
        return [Line(text=visible(line)) for line in re.split(r"\r\n|\r|\n", text)]
    try:
        if start == "<" and len(text) <= LONGEST_XML_CHARACTERS:
            return [Line(text=line) for line in _xml_lines(text)]
        if start in ("{", "["):
            tree = _masked_json(msgspec.json.decode(text.encode()), 0)
            return [Line(text=line) for line in json.dumps(tree, ensure_ascii=False, indent=1).split("\n")]
    except (ValueError, msgspec.DecodeError, RecursionError):
        return [opaque(data, "cannot be read", masked=True)]
    return [opaque(data, "of no known form", masked=True)]


def _decoded(data: bytes) -> str | None:
    for codec in ("utf-8-sig", "gb18030"):
        try:
            return data.decode(codec)
        except UnicodeDecodeError:
            continue
    return None


def _masked_json(value: Any, depth: int) -> Any:
    if depth > MOST_DEPTH:
        return "<deeper>"
    if isinstance(value, dict):
        pairs = list(value.items())
        found = {
            name if _NAME.fullmatch(name) else f"{mask_text(name)}#{place}": _masked_json(inner, depth + 1)
            for place, (name, inner) in enumerate(pairs[:MOST_ITEMS])
        }
        return found if len(pairs) <= MOST_ITEMS else {**found, "...": len(pairs) - MOST_ITEMS}
    if isinstance(value, list):
        items = [_masked_json(inner, depth + 1) for inner in value[:MOST_ITEMS]]
        return items if len(value) <= MOST_ITEMS else [*items, f"<{len(value) - MOST_ITEMS} more>"]
    if value is None:
        return None
    return mask_text(value) if isinstance(value, str) else f"<{type(value).__name__}>"


def _xml_lines(text: str) -> Iterator[str]:
    """Raises ValueError for what is no XML: half of it masked would be half of it shown."""
    depth = at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ValueError("no XML")
        at = found.end()
        kind, content = found.lastgroup or "", found[found.lastgroup or 0]
        if kind == "end":
            depth = max(0, depth - 1)
        indent = " " * min(depth, MOST_DEPTH)
        match kind:
            case "start":
                yield indent + _masked_tag(content)
                depth += 0 if content.endswith("/") else 1
            case "end":
                yield f"{indent}</{_tag_name(content.strip())}>"
            case "text" | "cdata":
                if content.strip():
                    yield indent + mask_text(content.strip())
            case _:
                yield f"{indent}<!{kind} {mask_text(content.strip())}>"


def _masked_tag(content: str) -> str:
    closed = content.endswith("/")
    name, *more = re.split(r"\s", content.rstrip("/"), maxsplit=1)
    rest = more[0] if more else ""
    found = [(one[1], one[2] or one[3] or "") for one in _ATTRIBUTE.finditer(rest)]
    attributes = "".join(f' {_tag_name(attribute)}="{mask_text(value)}"' for attribute, value in found)
    return f"<{_tag_name(name)}{attributes}{'/' if closed else ''}>"


def _tag_name(name: str) -> str:
    return name if _TAG.fullmatch(name) else "???"
