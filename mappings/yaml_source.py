"""YAML as profiles use it: plain values with the line of each, and bounds on everything.

Scalars follow the core schema of YAML 1.2, not 1.1: only `true` and `false` are booleans (`off`, `no` and `N` are
text), `0000` and `12:30` are text, dates are text. Keys are always text, so that a code table can say `0: female`.
Anchors, aliases and `<<` work within the bounds; tags do not exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import yaml

MAX_BYTES = 1_000_000
MAX_DEPTH = 40
MAX_NODES = 100_000  # after aliases are expanded: a "billion laughs" stops here

_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?([0-9]{1,17}\.[0-9]{1,17}|[0-9]{1,17}(\.[0-9]{1,17})?[eE][-+]?[0-9]{1,2})")
_WIDE = "\uff1a\u201c\u201d\uff5b\uff5d"  # colon, quotes, braces
_NO_SPACE = re.compile(r"[A-Za-z_]+:\S.*")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "True": True, "TRUE": True}
_WORDS |= {"false": False, "False": False, "FALSE": False}
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Where(msgspec.Struct, frozen=True):
    """A place in a file; `line` counts from 1."""

    file: str
    line: int


class ProfileError(Exception):
    """A profile cannot be used: `file`, `line`, the YAML `path`, and a `hint` that says what is wrong and what to do."""

    def __init__(self, file: str, line: int, path: str, hint: str) -> None:
        super().__init__(": ".join(part for part in (f"{file}:{line}" if file else "", path, hint) if part))
        self.file = file
        self.line = line
        self.path = path
        self.hint = hint


def below(path: str, key: str | int) -> str:
    """The YAML path of an entry: `verbs.book.request[0].MSH-9`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key


def read_yaml(data: bytes, file: str) -> tuple[Any, dict[str, Where]]:
    """Read one document: its value, and the place of every entry by YAML path.

    Raises ProfileError on anything that is not UTF-8, not YAML, a tag, a duplicate key, or beyond the bounds.
    """
    if len(data) > MAX_BYTES:
        raise ProfileError(file, 1, "", f"the file is larger than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ProfileError(file, line, "", "the file is not UTF-8: save it as UTF-8") from None
    try:
        _check_events(text, file)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise ProfileError(file, *_marked(error, text)) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ProfileError(file, 1, "", f"not valid YAML: {type(error).__name__}") from None
    if node is None:
        raise ProfileError(file, 1, "", "the file is empty")
    reader = _Reader(file)
    return reader.value(node, "", 0), reader.where


def _marked(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str, str]:
    """The line, no path, and what is wrong; who types Chinese types its colons and quotes too."""
    line = error.problem_mark.line + 1 if error.problem_mark else 1
    begins = error.context_mark.line + 1 if error.context_mark else line
    said = f"not valid YAML: {error.problem or error.context}"
    lines = text.split("\n")
    for number in dict.fromkeys((begins, line)):
        written = "".join(lines[number - 1 : number]).partition(" #")[0]
        wide = next((one for one in _WIDE if one in written), None)
        if wide is not None:
            return number, "", f"{said}: the line has a full-width {wide}"
    if "\t" in "".join(lines[line - 1 : line]):
        said += ": the line has a tab, and YAML is indented with spaces"
    elif begins != line:
        said += f" of what begins in line {begins}: is a bracket or a quote not closed?"
    return line, "", said


def _check_events(text: str, file: str) -> None:
    # The composer recurses: depth must be known to be harmless before it runs.
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if count > MAX_NODES:
            raise ProfileError(file, line, "", f"more than {MAX_NODES} entries")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ProfileError(file, line, "", f"nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if getattr(event, "tag", None) is not None:
            raise ProfileError(file, line, "", "tags (!...) are not allowed")


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.where: dict[str, Where] = {}
        self.nodes = 0
        self.open: set[yaml.Node] = set()

    def value(self, node: yaml.Node, path: str, depth: int) -> Any:
        self.count(node, path)
        if node in self.open or depth > MAX_DEPTH:
            hint = "an alias leads into itself" if node in self.open else f"nested deeper than {MAX_DEPTH} levels"
            raise ProfileError(self.file, node.start_mark.line + 1, path, hint)
        self.where.setdefault(path, Where(self.file, node.start_mark.line + 1))
        if isinstance(node, yaml.CollectionNode):
            self.open.add(node)
            try:
                return self.collection(node, path, depth)
            finally:
                self.open.remove(node)
        quoted = isinstance(node, yaml.ScalarNode) and node.style
        return node.value if quoted else _plain(node.value)

    def collection(self, node: yaml.CollectionNode, path: str, depth: int) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path, depth)
        return [self.value(item, below(path, index), depth + 1) for index, item in enumerate(node.value)]

    def count(self, node: yaml.Node, path: str) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            hint = f"more than {MAX_NODES} entries once the aliases are expanded"
            raise ProfileError(self.file, node.start_mark.line + 1, path, hint)

    def mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, entry, merged in self.entries(node, path, depth):
            place = below(path, key.value)
            line = key.start_mark.line + 1
            self.check_colon(key, entry, place)
            if key.value in values:
                if merged:
                    continue
                raise ProfileError(self.file, line, place, "this key appears twice: remove one")
            self.where[place] = Where(self.file, line)
            values[key.value] = self.value(entry, place, depth + 1)
        return values

    def check_colon(self, key: yaml.ScalarNode, entry: yaml.Node, path: str) -> None:
        """What looks like a key and its value, and is one word to YAML."""
        if key.style:
            return
        if "\uff1a" in key.value:
            raise ProfileError(
                self.file,
                key.start_mark.line + 1,
                path,
                "the colon is a full-width one: YAML wants `: `, or quotes around it all",
            )
        if isinstance(entry, yaml.ScalarNode) and not entry.value and _NO_SPACE.fullmatch(key.value):
            raise ProfileError(self.file, key.start_mark.line + 1, path, "YAML wants a space after the colon")

    def entries(
        self, node: yaml.MappingNode, path: str, depth: int
    ) -> Iterator[tuple[yaml.ScalarNode, yaml.Node, bool]]:
        """The entries of a mapping: its own first, then those that `<<` brings in and that it has not."""
        self.count(node, path)
        merges: list[yaml.Node] = []
        for key, entry in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ProfileError(self.file, line, path, "a key must be a plain word or a quoted text")
            if key.value == "<<" and not key.style:
                merges.extend(entry.value if isinstance(entry, yaml.SequenceNode) else [entry])
            else:
                yield key, entry, False
        for source in merges:
            if not isinstance(source, yaml.MappingNode) or depth > MAX_DEPTH:
                line = source.start_mark.line + 1
                raise ProfileError(
                    self.file, line, path, "`<<` takes a mapping (an alias such as *name) or a list of them"
                )
            for key, entry, _ in self.entries(source, path, depth + 1):
                yield key, entry, True


def _plain(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
