"""Reads the text of a FHIR path into steps; what it takes is described in `connectors.fhir.paths`."""

from __future__ import annotations

import re

import msgspec

MAX_PATH = 300

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INDEX = re.compile(r"\[(\d{1,4})\]")
_POINTS_TO = re.compile(r"resolve\(\)\s+is\s+([A-Z][A-Za-z]*)\Z")
_EQUALS = re.compile(r"(?P<path>[^=]+?)\s*=\s*(?P<value>'[^']*'|connection\.(?P<setting>\w+)|[A-Za-z0-9.+-]+)\Z")
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9]*\Z")
_WITHOUT_ARGUMENT = frozenset({"first", "resolve"})
_WITH_ARGUMENT = frozenset({"where", "ofType", "extension"})


class Name(msgspec.Struct, frozen=True):
    """An element by its name."""

    name: str


class Index(msgspec.Struct, frozen=True):
    """One of several, counted from 0."""

    at: int


class Call(msgspec.Struct, frozen=True):
    """A function. `path` and `argument` are the two sides of a `where`, `points_to` its `resolve() is T`.

    `setting` names the connector's setting that the right side stands for (`connection.NAME`).
    """

    name: str
    argument: str = ""
    path: str = ""
    points_to: str | None = None
    setting: str | None = None


Step = Name | Index | Call


def parse_path(path: str) -> list[Step]:
    """Parse a path; raises ValueError saying what is wrong and where."""
    if not path or len(path) > MAX_PATH:
        raise ValueError(f"a FHIR path has 1 to {MAX_PATH} characters")
    steps: list[Step] = []
    at = 0
    while True:
        name = _NAME.match(path, at)
        if name is None:
            raise ValueError(f"a name is expected at character {at + 1} of {path!r}")
        at = name.end()
        if path[at : at + 1] == "(":
            end = _closing(path, at)
            steps.append(_call(name[0], path[at + 1 : end].strip(), path))
            at = end + 1
        else:
            steps.append(Name(name[0]))
        while index := _INDEX.match(path, at):
            steps.append(Index(int(index[1])))
            at = index.end()
        if at == len(path):
            return steps
        if path[at] != ".":
            raise ValueError(f"a dot is expected at character {at + 1} of {path!r}")
        at += 1


def _closing(path: str, opening: int) -> int:
    depth, quoted = 0, False
    for at in range(opening, len(path)):
        char = path[at]
        if char == "'":
            quoted = not quoted
        elif not quoted and char == "(":
            depth += 1
        elif not quoted and char == ")":
            depth -= 1
            if depth == 0:
                return at
    raise ValueError(f"the bracket at character {opening + 1} of {path!r} is not closed")


def _call(name: str, argument: str, path: str) -> Call:
    if name in _WITHOUT_ARGUMENT:
        if argument:
            raise ValueError(f"{name}() takes nothing in its brackets, in {path!r}")
        return Call(name)
    if name not in _WITH_ARGUMENT:
        raise ValueError(f"there is no function {name}(), in {path!r}")
    if name == "where":
        return _where(argument, path)
    value = argument.strip("'")
    if not value or (name == "ofType" and not _TYPE.match(value)):
        raise ValueError(f"{name}() needs a value in its brackets, in {path!r}")
    return Call(name, argument=value)


def _where(argument: str, path: str) -> Call:
    if points_to := _POINTS_TO.match(argument):
        return Call("where", points_to=points_to[1])
    equals = _EQUALS.match(argument)
    if equals is None:
        raise ValueError(f"where() takes a path = a value, or resolve() is Type, in {path!r}")
    parse_path(equals["path"])
    if equals["setting"]:
        return Call("where", path=equals["path"], setting=equals["setting"])
    return Call("where", path=equals["path"], argument=equals["value"].strip("'"))
