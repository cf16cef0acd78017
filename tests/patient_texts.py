"""Looking for what belongs to patients, in every form in which it could stand somewhere it must not."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import quote

FRACTION = re.compile(rb"((?<![\d.])\d+\.)\d+(?![\d.])")
"""The fraction of a measured number (0.13800000000082946 s), in which any digits may come, but not the end of an OID."""


def personal(person: Mapping[str, object]) -> list[str]:
    """The names and numbers of a patient."""
    found = [str(person[name]) for name in ("name", "id_number", "phone")]
    for inner in ("card", "guardian"):
        part = person.get(inner)
        if isinstance(part, dict):
            found += [str(value) for name, value in part.items() if name != "type"]
    return found


def encodings(text: str) -> set[bytes]:
    """The bytes by which a text could stand in a file, JSON escapes included."""
    return {
        text.encode("utf-8"),
        text.encode("gb18030"),
        text.encode("utf-16-le"),
        text.encode("ascii", "backslashreplace"),
    }


def wrapped(text: str) -> set[bytes]:
    """The forms in which a text could travel inside another one: percent-encoded, escaped, as base64, as hex."""
    data = text.encode()
    forms = {
        quote(text),
        quote(text).lower(),
        quote(text, safe=""),
        json.dumps(text)[1:-1],
        data.hex(),
        data.hex().upper(),
    }
    for before in range(3):
        # Without the first and the last characters, which depend on what stands beside it.
        packed = base64.b64encode(b"\0" * before + data).decode().rstrip("=")
        forms.add(packed[(before * 8 + 5) // 6 : (before + len(data)) * 8 // 6])
    forms |= {form.replace("+", "-").replace("/", "_") for form in forms}  # base64url
    return {form.encode() for form in forms if len(form) >= 6}


def assert_absent(
    data: bytes, texts: Iterable[str], where: str, *, forms: Callable[[str], set[bytes]] = encodings
) -> None:
    """None of these texts stands in `data`, in any of its forms. Fails showing what stands around it."""
    data = FRACTION.sub(rb"\1", data)
    for text in texts:
        for form in forms(text):
            at = data.find(form)
            assert at < 0, f"{text!r} stands in {where}: ...{data[max(0, at - 80) : at + 80]!r}..."
