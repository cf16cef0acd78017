"""Reading requests into Structs, strictly, and saying what was wrong without repeating it.

A field that is not known is refused (a typo must not be silently ignored); so is a value of the wrong type. Error texts name
the place and what was expected, never the value: it may be a patient's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec

from booking.api.problems import ApiProblem, FieldError
from booking.api.views.base import PLAIN
from monitoring.masking import mask_text

_AT = re.compile(r"^(?P<text>.*?)(?: - at `(?P<path>\$.*)`)?$", re.DOTALL)
_NAMED_FIELD = re.compile(r"Object (?:contains unknown|missing required) field `(?P<name>.*)`", re.DOTALL)
_MAX_PATH_CHARS = 120
# No name, number or id has U+0000 in it, and PostgreSQL cannot store it.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def decode_body(data: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """The request's Struct. Raises ApiProblem malformed_json, unknown_field or invalid_field."""
    if b"u0000" in data and _NUL.search(data):
        raise ApiProblem("invalid_field", errors=(_field("$", "texts without U+0000"),))
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    except msgspec.DecodeError as error:
        if not data:
            raise ApiProblem("malformed_json", "The body is empty.") from None
        raise ApiProblem("malformed_json", str(error)) from None
    except UnicodeDecodeError as error:
        raise ApiProblem("malformed_json", f"not UTF-8 (byte {error.start} of a text)") from None
    except RecursionError:
        raise ApiProblem("malformed_json", "nested too deeply") from None


@lru_cache(maxsize=4096)
def decode_query(query: str, query_type: type[msgspec.Struct]) -> Any:
    """The query string as a Struct. A parameter may repeat only where its field is a tuple or list.

    Equal queries give one and the same Struct (portals ask for the same day over and over): nobody may change it.
    Raises ApiProblem unknown_field or invalid_field.
    """
    given: dict[str, list[str]] = {}
    try:
        for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=100, errors="strict"):
            given.setdefault(name, []).append(value)
    except (UnicodeDecodeError, ValueError):
        raise ApiProblem("invalid_field", errors=(_field("?", "UTF-8 and at most 100 parameters"),)) from None
    many = _repeatable(query_type)
    values: dict[str, Any] = {}
    for name, texts in given.items():
        if len(texts) > 1 and name not in many:
            raise ApiProblem("invalid_field", errors=(_field(f"?{name}", "to be given once"),))
        if any("\0" in text for text in texts):
            raise ApiProblem("invalid_field", errors=(_field(f"?{name}", "a text without U+0000"),))
        values[name] = texts if name in many else texts[0]
    try:
        return msgspec.convert(values, query_type, strict=False)
    except msgspec.ValidationError as error:
        raise _explain(str(error), prefix="?") from None


def convert_path(values: Mapping[str, str], types: Mapping[str, Any]) -> dict[str, Any]:
    """Path parameters, converted where `types` names a type. Raises ApiProblem invalid_field."""
    converted: dict[str, Any] = dict(values)
    for name, kind in types.items():
        try:
            converted[name] = msgspec.convert(values[name], kind, strict=False)
        except msgspec.ValidationError as error:
            problem = _explain(str(error))
            raise ApiProblem("invalid_field", errors=(_field(f"{{{name}}}", problem.errors[0].expected),)) from None
    return converted


def _explain(message: str, *, prefix: str = "$") -> ApiProblem:
    """msgspec's message as a problem. Its only part that repeats input, an enum's value, is left out."""
    match = _AT.match(message)
    text, path = (match["text"], match["path"] or "$") if match else (message, "$")
    named = _NAMED_FIELD.match(text)
    if named:
        path = f"{path}.{named['name']}"
    if prefix != "$":
        path = prefix + path.removeprefix("$").removeprefix(".")
    if text.startswith("Object contains unknown field"):
        return ApiProblem("unknown_field", errors=(_field(path, "no such field"),))
    if named:
        return ApiProblem("invalid_field", errors=(_field(path, "required"),))
    if text.startswith("Invalid enum value"):
        text = "one of the values listed in the schema"
    elif text.startswith("Invalid value "):
        text = "one of the variants listed in the schema"
    elif text.startswith("Invalid "):
        text = f"a valid {text.removeprefix('Invalid ')}"
    return ApiProblem("invalid_field", errors=(_field(path, _in_words(text)),))


_TYPES = {"str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false", "object": "an object",
          "array": "an array", "null": "null", "datetime": "a time", "date": "a date"}  # fmt: skip
_TYPE = re.compile(r"`([\w |]+)`")
_CHOICE = re.compile(r"`str` matching regex '\^\(([\w|]+)\)\$'")
_WORDS = (
    ("matching regex '^https?://'", "that begins with http:// or https://"),
    (f"matching regex {PLAIN!r}", "without control characters"),
    ("with a timezone component", "with its offset, as 2026-01-05T08:30:00+08:00"),
    ("RFC3339 encoded datetime", "time, as 2026-01-05T08:30:00+08:00"),
    ("RFC3339 encoded date", "date, as 2026-01-05"),
)


def _in_words(text: str) -> str:
    """What was expected, as a person says it: nobody reads an expression, and the field is called `expected` already."""
    text = text.removeprefix("Expected ").removeprefix("expected ")
    text = _CHOICE.sub(lambda found: "one of " + found[1].replace("|", ", "), text)
    for machines, words in _WORDS:
        text = text.replace(machines, words)
    return _TYPE.sub(lambda found: " or ".join(_TYPES.get(one, one) for one in found[1].split(" | ")), text)


def _field(path: str, expected: str) -> FieldError:
    """A caller chooses the names in a path: they are cut, and numbers of persons in them masked."""
    return FieldError(path=mask_text(path[:_MAX_PATH_CHARS]), expected=expected[:300])


@lru_cache(maxsize=256)
def _repeatable(query_type: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(query_type) if _is_sequence(field.type))


def _is_sequence(annotation: Any) -> bool:
    origin = get_origin(annotation) or annotation
    if origin in (tuple, list, set, frozenset):
        return True
    return any(_is_sequence(arg) for arg in get_args(annotation) if arg is not type(None))
