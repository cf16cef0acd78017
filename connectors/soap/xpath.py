"""XPath 1.0 as the path language of SOAP profiles (`mappings.engine.PathLanguage`), compiled once and kept harmless."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from lxml import etree

FUNCTIONS = frozenset({"local-name", "normalize-space", "string", "not", "contains", "starts-with", "position", "last"})
_NODE_TESTS = frozenset({"text", "node"})
_MAX_LENGTH = 500
_LITERAL = re.compile(r"\"[^\"]*\"|'[^']*'")
_STEPS = re.compile(r"[^\W\d][\w.-]*(?:/[^\W\d][\w.-]*)*")
_CALL = re.compile(r"([\w.-]+(?::[\w.-]+)?)\s*\(")


class XPathLanguage:
    """XPath 1.0 without variables, extensions, or functions other than FUNCTIONS.

    Elements are matched by local name where a document has no namespace, which is so in every text-argument dialect.
    `located`: texts and attributes know where they stand, at a cost.
    """

    def __init__(self, *, located: bool = False) -> None:
        self._located = located

    def compile(self, path: str) -> Callable[[Any, Any], list[Any]]:
        """A function (root, node) -> the matching elements or strings, in document order.

        A relative path starts at `node`, an absolute one at the document. Raises ValueError with the reason.
        """
        if not path or len(path) > _MAX_LENGTH:
            raise ValueError(f"an XPath has 1 to {_MAX_LENGTH} characters")
        bare = _LITERAL.sub("''", path)
        for name in _CALL.findall(bare):
            if name not in FUNCTIONS and name not in _NODE_TESTS and name not in ("and", "or", "div", "mod"):
                raise ValueError(
                    f"the XPath function {name}() is not allowed; allowed are {', '.join(sorted(FUNCTIONS))}"
                )
        if "$" in bare:
            raise ValueError("XPath variables are not allowed")
        if ":" in bare.replace("::", ""):
            raise ValueError("namespace prefixes are not allowed; use local-name()")
        try:
            compiled = etree.XPath(path, smart_strings=self._located)
        except etree.XPathSyntaxError as error:
            raise ValueError(f"not an XPath: {error}") from None

        def matches(root: Any, node: Any) -> list[Any]:
            if isinstance(node, str):
                return []
            found = compiled(node)
            if isinstance(found, list):
                return found
            if isinstance(found, bool):
                return ["true" if found else "false"]
            return [f"{found:g}" if isinstance(found, float) else found]

        if not self._located and _STEPS.fullmatch(path):
            matches.first = _first_below(path.split("/"))  # type: ignore[attr-defined]
        return matches

    def text(self, node: Any) -> str | None:
        """The string value of a node without the white space around it; None where nothing is left."""
        if node is None:
            return None
        value = node if isinstance(node, str) else _text_of(node)
        return value.strip() or None


def _text_of(element: Any) -> str:
    return (element.text or "") if len(element) == 0 else "".join(element.itertext())


def _first_below(steps: list[str]) -> Callable[[Any, Any], str | None]:
    """By child names alone, as most fields of a record are read: the first text that is not blank, without an XPath."""
    name, *rest = steps
    below = _first_below(rest) if rest else None

    def first(run: Any, node: Any) -> str | None:
        if isinstance(node, str):
            return None
        for child in node.iterchildren(name):
            found = _text_of(child).strip() if below is None else below(run, child)
            if found:
                return found
        return None

    if below is not None:
        return first

    def first_of_row(run: Any, node: Any) -> str | None:
        if run.row_of is not node:
            run.row, run.row_of = ({} if isinstance(node, str) else _row(node)), node
        found = run.row.get(name)
        return found if found is None or isinstance(found, str) else first(run, node)

    return first_of_row


def _row(node: Any) -> dict[Any, Any]:
    """The children of a node by their names: the first text that is not blank, or the first that has elements itself.

    All at once, because a record asks its node for most of them.
    """
    row: dict[Any, Any] = {}
    for child in node:
        tag = child.tag
        if tag not in row:
            if len(child):
                row[tag] = child
            elif (text := child.text) and (text := text.strip()):
                row[tag] = text
    return row
