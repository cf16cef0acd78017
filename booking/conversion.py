"""Turning a table of a settings file into a Struct, with errors that a hospital's IT can act on.

An error names the file, the line where it can be found, the key's path, what was expected, and the nearest known key. It
never shows a value: settings files hold addresses and user names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

T = TypeVar("T")


class Where(msgspec.Struct, frozen=True):
    """A place in a settings file: the file, its text (for line numbers) and the path of the table."""

    file: Path
    text: str = ""
    path: tuple[str, ...] = ()

    def at(self, *keys: str) -> Where:
        """The place below this one."""
        return Where(self.file, self.text, self.path + keys)

    def __str__(self) -> str:
        line = _line_of(self.text, self.path)
        return f"{self.file}{f':{line}' if line else ''}: {'.'.join(self.path) or 'the file'}"


class SettingsError(Exception):
    """The settings cannot be used. `problems` has one sentence for each thing to correct; start again afterwards."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def convert_options(raw: Mapping[str, Any], options_type: type[T], where: Where) -> T:
    """`raw` as an `options_type` (a Struct). Raises SettingsError naming every unknown key, or the first wrong value."""
    unknown = list(_unknown_keys(raw, options_type, where))
    if unknown:
        raise SettingsError(*unknown)
    try:
        return msgspec.convert(raw, options_type, strict=True)
    except msgspec.ValidationError as error:
        raise SettingsError(_explain(str(error), where, options_type)) from None


def _unknown_keys(raw: Mapping[str, Any], struct: Any, where: Where) -> Iterator[str]:
    """Every key of `raw`, at any depth, that the Struct does not know."""
    known = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in raw.items():
        if key not in known:
            yield f"{where.at(key)}: there is no such setting; {_suggest(key, known)}"
            continue
        inner = _struct_in(known[key])
        if inner is not None and isinstance(value, Mapping):
            yield from _unknown_keys(value, inner, where.at(key))
        elif inner is not None and isinstance(value, list):
            for n, one in enumerate(value):
                if isinstance(one, Mapping):
                    yield from _unknown_keys(one, inner, where.at(key, str(n)))


def _struct_in(annotation: Any) -> Any:
    """The Struct inside `X`, `X | None` or `Annotated[X, ...]`, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation
    candidates = [_struct_in(arg) for arg in get_args(annotation)] if not _is_mapping(annotation) else []
    return next((found for found in candidates if found is not None), None)


def _is_mapping(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is dict


def _suggest(key: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return "known here: " + ", ".join(sorted(known)) if known else "nothing can be set here"


_AT = re.compile(r"^(?P<text>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_MISSING = re.compile(r"missing required field `(?P<key>[^`]+)`")
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text in quotes",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}
# Expressions of settings, for which a person wants an example.
_CHOICE = re.compile(r"`str(?: \| null)?` matching regex '\^\(([\w|]+)\)\$'")
_SAID = (
    (r"^([1-9][0-9]{0,2}) (days?|months?)$", 'as "30 days" or "3 months"'),
    (r"^(?:(?:[01][0-9]|2[0-3]):[0-5][0-9]|24:00)$", 'with a time of day, as "07:00"'),
    (r"^([01][0-9]|2[0-3]):[0-5][0-9]$", 'with a time of day, as "07:00"'),
    ("^[A-Z]{3}$", 'with three capital letters, as "CNY"'),
)


def _explain(message: str, where: Where, options_type: Any) -> str:
    """msgspec's message in words, with our path."""
    match = _AT.match(message)
    text, path = (match["text"], match["path"] or "") if match else (message, "")
    steps = [name or number for name, number in _STEP.findall(path)]
    place = where.at(*(step for step in steps if step != "..."))
    missing = _MISSING.search(text)
    if missing:
        return f"{place.at(missing['key'])}: this setting is required"
    if text.startswith("Invalid enum value"):
        text = f"expected one of {', '.join(_allowed(options_type, steps))}"
    text = _CHOICE.sub(lambda found: "one of " + found[1].replace("|", ", "), text)
    for expression, said in _SAID:
        text = text.replace(f"matching regex {expression!r}", said)
    words = re.sub(r"`(\w+)`", lambda found: _TYPES.get(found[1], found[1]), text)
    words = re.sub(r"`([^`]*\|[^`]*)`", lambda found: _alternatives(found[1]), words)
    return f"{place}: {words[0].lower()}{words[1:]}"


def _allowed(annotation: Any, steps: list[str]) -> list[str]:
    """The values that the enum or Literal at the end of `steps` knows."""
    for step in steps:
        struct = _struct_in(annotation)
        if struct is not None:
            types = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
            annotation = types.get(step, annotation)
    return list(_values_of(annotation))


def _values_of(annotation: Any) -> Iterator[str]:
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        yield from (str(member.value) for member in annotation)
    elif isinstance(annotation, str):  # a value of a Literal
        yield annotation
    for inner in get_args(annotation):
        yield from _values_of(inner)


def _alternatives(types: str) -> str:
    return " or ".join(_TYPES.get(name.strip(), name.strip()) for name in types.split("|"))


def _line_of(text: str, path: tuple[str, ...]) -> int | None:
    """The line of a key, or of the nearest table above it. Good for files as people write them, not a TOML parser."""
    if not path or not text:
        return None
    lines = text.splitlines()
    for depth in range(len(path), -1, -1):
        start = _table_line(lines, path[:depth]) if depth else 0
        if start is None:
            continue
        rest = path[depth:]
        if not rest:
            return start
        key = re.compile(rf"\s*[\"']?{re.escape(rest[0])}[\"']?\s*[=.]")
        for number in range(start, len(lines)):
            if lines[number].lstrip().startswith("["):
                break
            if key.match(lines[number]):
                return number + 1
        if depth:
            return start
    return None


def _table_line(lines: list[str], path: tuple[str, ...]) -> int | None:
    """The line of a table's header; of `[[...]]` the last of `path` is its number."""
    header, left = "[" + ".".join(path) + "]", 0
    if path[-1].isdigit():
        header, left = "[[" + ".".join(path[:-1]) + "]]", int(path[-1])
    for number, line in enumerate(lines, start=1):
        if line.split("#")[0].replace(" ", "").replace('"', "").strip() == header:
            if not left:
                return number
            left -= 1
    return None
