"""From a request's method and path to its endpoint: one dictionary look-up for each segment of the path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from aiohttp import web

E = TypeVar("E")

# What FHIR puts where an id could be, and no id begins with: `$find`, `_search`.
_NEVER_IDS = ("$", "_")
_FEW = {"hospital_id"}  # the parameter that has few values
_MAX_KNOWN = 1_024  # paths that are remembered; a caller can make up any number of them


class Found(Generic[E]):
    """Where a request leads. `endpoint` None: nowhere, or (with `allow`) the path exists and the method does not."""

    __slots__ = ("allow", "endpoint", "values")

    def __init__(self, endpoint: E | None, values: dict[str, str], allow: Sequence[str] = ()) -> None:
        self.endpoint = endpoint
        self.values = values
        self.allow = allow


class _Node(Generic[E]):
    """One segment of the paths: what follows it, and what ends here for each method (with its parameters' names)."""

    __slots__ = ("ends", "literals", "parameter")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[E]] = {}
        self.parameter: _Node[E] | None = None
        self.ends: dict[str, tuple[E, tuple[str, ...]]] = {}


class Router(Generic[E]):
    """Paths like `/v1/hospitals/{hospital_id}/slots`; a parameter is one whole, non-empty segment."""

    def __init__(self) -> None:
        self._root: _Node[E] = _Node()
        self._known: dict[tuple[str, str], Found[E]] = {}

    def add(self, method: str, path: str, endpoint: E) -> None:
        """Raises ValueError where a path is there already, or where a segment could be a text and a parameter."""
        node, names = self._root, []
        for segment in path.split("/")[1:]:
            if segment.startswith("{"):
                names.append(segment[1:-1])
                node.parameter = node.parameter or _Node()
                child = node.parameter
            else:
                child = node.literals.setdefault(segment, _Node())
            if node.parameter is not None and any(not text.startswith(_NEVER_IDS) for text in node.literals):
                raise ValueError(f"{path}: {segment} is a parameter in one path and a text in another")
            node = child
        if method in node.ends:
            raise ValueError(f"{method} {path} is there twice")
        node.ends[method] = (endpoint, tuple(names))

    def find(self, method: str, path: str) -> Found[E]:
        """`path` is decoded, but for `%2F` and `%25`: see `split_target`. Nobody may change what is found."""
        known = self._known.get((method, path))
        if known is not None:
            return known
        found = self._search(method, path)
        if (
            found.endpoint is not None and found.values.keys() <= _FEW
        ):  # a hospital's own paths, not those of single bookings
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[method, path] = found
        return found

    def _search(self, method: str, path: str) -> Found[E]:
        node, values = self._root, []
        for segment in path.split("/")[1:]:
            child = node.literals.get(segment)
            if child is None:
                child = node.parameter
                if child is None or not segment:
                    return Found(None, {})
                values.append(segment)
            node = child
        end = node.ends.get(method)
        if end is None:
            return Found(None, {}, sorted(node.ends))
        if "%" in path:
            values = [value.replace("%2F", "/").replace("%25", "%") for value in values]
        return Found(end[0], dict(zip(end[1], values, strict=True)))


def split_target(request: web.BaseRequest) -> tuple[str, str]:
    """The request target as (path, query): the path decoded but for `%2F` and `%25`, the query as it was sent.

    ("", "") for a target that is no text, or holds U+0000: no id has it, and PostgreSQL cannot compare with it.
    """
    plain = split_plain(request.raw_path)
    if plain is not None:
        return plain
    try:
        path, query = request.rel_url.path_safe, request.rel_url.raw_query_string
        (path + query).encode()  # an encoding other than UTF-8 leaves lone surrogates
    except ValueError:
        return "", ""
    return ("", "") if "\0" in path else (path, query)


def split_plain(target: str) -> tuple[str, str] | None:
    """The same for a target in which nothing is encoded; None for all others."""
    if target.isascii() and target.startswith("/") and "%" not in target and "#" not in target:
        path, _, query = target.partition("?")
        return path, query
    return None
