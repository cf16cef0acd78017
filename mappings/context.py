"""What every mapping is given, and what comes out of it: context, path languages, results, problems."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import msgspec

Find = Callable[[Any, Any], list[Any]]


class PathLanguage(Protocol):
    """How one protocol addresses its data: HL7 paths, XPath, FHIR paths."""

    def compile(self, path: str) -> Find:
        """Compile `path` to a function (root, current node) -> matching nodes or texts, in document order.

        Raises ValueError, whose text says what is wrong with the path.
        """
        ...

    def text(self, node: Any) -> str | None:
        """The text of a node (a text is its own); None or "" means absent."""
        ...


class MapContext(msgspec.Struct, frozen=True, kw_only=True):
    """The facts around one message: whose it is, when it is, and what the connector knows besides.

    `now` is aware. `message_tz` is the offset that the message itself declares (HL7 v2: MSH-7), None if it has none or
    if the profile ignores it. `connection` holds the connector's settings. `extra` holds further values for request
    trees under their full dotted name: `new.uuid`, `new.control_id`, `page.cursor` ...
    """

    hospital_id: str
    zone: ZoneInfo
    currency: str
    now: dt.datetime
    message_tz: dt.tzinfo | None = None
    connection: dict[str, Any] = {}
    extra: dict[str, Any] = {}


class MappingProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Why one record could not be mapped. It names places and never holds a value: it may be logged.

    `path` is the place in the profile's YAML, `source` the path (or paths) in the message or the request.
    """

    profile: str
    file: str
    path: str
    source: str
    reason: str
    line: int = 0

    def __str__(self) -> str:
        source = f" (from {self.source})" if self.source else ""
        # Where the program is installed helps nobody; the folder is the profile.
        return f"{'/'.join(PurePath(self.file).parts[-2:])}:{self.line}: {self.path}{source}: {self.reason}"


class MappingError(Exception):
    """A record or a request could not be mapped; `problem` says where and why, without any value."""

    def __init__(self, problem: MappingProblem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class Mapped(msgspec.Struct, frozen=True, kw_only=True):
    """The records that could be read, in document order, and a problem for each one that could not."""

    records: tuple[Any, ...] = ()
    problems: tuple[MappingProblem, ...] = ()


class Failure(Exception):
    """Inside the engine: a step cannot go on. The text is a reason without a value."""


class Located(Exception):
    """Inside the engine: a failure that knows its place."""

    def __init__(self, problem: MappingProblem) -> None:
        super().__init__()
        self.problem = problem
