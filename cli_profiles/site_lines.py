"""What a dialect's profile says about sites: its lines marked `# site line`, as lines to fill in of a profile that extends it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mappings.profile import Where
from mappings.yaml_source import read_yaml

_MARK = re.compile(r"#.*\bsite line\b", re.IGNORECASE)
_COMMENT = re.compile(r"\s*#")
_OPEN = re.compile(r"\s*[^\s#][^#]*:\s*(#.*)?")
_OF_EVERY_PROFILE = ("name", "version", "protocol", "extends", "ref")
_SHARED = re.compile(r"(?<!\S)[*&][A-Za-z_]|<<:|\bnull\b")
"""What means something else where a profile extends another: an anchor of another file, and `null`, which removes a key."""


@dataclass
class Branch:
    """A key that site lines stand under: its own lines in the dialect (without indentation), and what is below it."""

    lines: list[str] = field(default_factory=list)
    below: dict[str, Branch] = field(default_factory=dict)


@dataclass
class SiteLines:
    """What can be changed line by line, and what cannot (`wholes`: path and place): lists are replaced as a whole."""

    root: Branch = field(default_factory=Branch)
    wholes: dict[str, Where] = field(default_factory=dict)


def site_lines(files: list[Path]) -> SiteLines:
    """Of a dialect and what it extends, the farthest first: the nearer one's lines count."""
    found = SiteLines()
    for file in files:
        _add(found, file)
    return found


def written(branch: Branch, depth: int = 0) -> Iterator[str]:
    """The lines, each behind `# `, indented as YAML wants them."""
    for key, inner in branch.below.items():
        lines = inner.lines or [f"{key}:"]
        for line in lines:
            yield f"# {'  ' * depth}{line}".rstrip()
        yield from written(inner, depth + 1)


def _add(found: SiteLines, file: Path) -> None:
    text = file.read_text("utf-8-sig")
    source = text.splitlines()
    _, where = read_yaml(text.encode(), str(file))
    begins: dict[int, str] = {}  # line -> the outermost entry that begins on it
    for entry, place in where.items():
        if entry and (place.line not in begins or len(entry) < len(begins[place.line])):
            begins[place.line] = entry
    for number, line in enumerate(source, 1):
        if not _MARK.search(line):
            continue
        at = number
        while at <= len(source) and (_COMMENT.match(source[at - 1]) or not source[at - 1].strip()):
            at += 1
        path = begins.get(at, "")
        if path and path not in _OF_EVERY_PROFILE:
            _put(found, path, at, source, where)


def _put(found: SiteLines, path: str, at: int, source: list[str], where: dict[str, Where]) -> None:
    keys, list_at = _keys(path, where)
    while len(keys) > 1 and not list_at:
        above = where[_joined(keys[:-1])].line
        if _OPEN.fullmatch(source[above - 1]):
            break
        keys, at = keys[:-1], above
    block = _block(source, at)
    if list_at or any(_SHARED.search(line) for line in block):
        whole = list_at or path
        found.wholes.setdefault(whole, where[whole])
        return
    branch = found.root
    for key in keys:
        if branch.lines:
            return  # the whole of what it stands in is there already
        branch = branch.below.setdefault(key, Branch())
    branch.lines, branch.below = block, {}


def _keys(path: str, where: dict[str, Where]) -> tuple[list[str], str]:
    """The keys from the root to an entry, and the list that it is in, if it is in one."""
    keys: list[str] = []
    at = ""
    for known in sorted((one for one in where if one and _is_above(one, path)), key=len):
        if known.endswith("]") and known.startswith(f"{at}["):
            return keys, at
        keys.append(known[len(at) :].lstrip("."))
        at = known
    return keys, ""


def _is_above(one: str, path: str) -> bool:
    return path == one or path.startswith((f"{one}.", f"{one}["))


def _joined(keys: list[str]) -> str:
    return ".".join(keys)


def _block(source: list[str], at: int) -> list[str]:
    """The line and those that belong to it, without the indentation that they share."""
    indent = len(source[at - 1]) - len(source[at - 1].lstrip())
    end = at
    while end < len(source) and (not source[end].strip() or len(source[end]) - len(source[end].lstrip()) > indent):
        end += 1
    while end > at and not source[end - 1].strip():
        end -= 1
    above = at - 1
    while above > 0 and _COMMENT.match(source[above - 1]):
        above -= 1
    if not any(_MARK.search(line) for line in source[above : at - 1]):
        above = at - 1
    return [line.strip() for line in source[above : at - 1]] + [line[indent:] for line in source[at - 1 : end]]
