"""Whether a regular expression of a profile could take exponential time."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

_parser: Any = importlib.import_module("re._parser")  # the standard library's own parser, which has no public name
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
_HARMLESS = 4


def explosive(source: str) -> bool:
    """Whether `source` (a valid expression) repeats something that repeats or branches, or refers back."""
    return _explosive(_parser.parse(source), repeated=False)


def _explosive(tree: Iterable[Any], *, repeated: bool) -> bool:
    for operation, argument in tree:
        name = str(operation)
        if name in ("GROUPREF", "GROUPREF_EXISTS"):
            return True
        varies = name in _REPEATS and argument[0] != argument[1]
        if repeated and (varies or name == "BRANCH"):
            return True
        many = varies and argument[1] > _HARMLESS
        if any(_explosive(part, repeated=repeated or many) for part in _subtrees(argument)):
            return True
    return False


def _subtrees(argument: Any) -> list[Any]:
    if isinstance(argument, _parser.SubPattern):
        return [argument]
    if isinstance(argument, list | tuple):
        return [tree for entry in argument for tree in _subtrees(entry)]
    return []
