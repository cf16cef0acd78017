r"""HL7 paths, the path language of HL7 v2 profiles.

    SCH-11.4            component; SCH-11.4.2 subcomponent; SCH-11 the field, one node for each repetition
    PID-3[5=MR].1       the repetitions whose component 5 is MR        PID-3(2).1   the second repetition
    OBX-5(*)            all repetitions as one text, a line each
    FT1[6=CG]-2         the first FT1 whose field 6 is CG              FT1(2)-2     the second FT1
    FT1[6=CG](*)-11.1   that field of every such FT1 as one text, a line each
    .1  .4.2            relative to a repetition, within `each: PID-3`
    OBR                 groups: each from one OBR up to the next, or to the end of the group around it
    OBX until SPM       as above, and none begins after the first SPM
    /PID-3[5=MR].1      from the message, wherever the current node is
    <PID-3[5=MR].1      the last PID before the current group: whom an OBR is about, where a message tells of several people

A segment is looked for in the current group; without an index or predicate the first one is meant. What is addressed less
deeply than it goes means its first part, so OBX-3 gives the code of a CE.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import msgspec

from connectors.hl7v2.er7 import Group, Message, Repetition, Segment, leaf_of

Find = Callable[[Any, Any], list[Any]]
First = Callable[[Any, Any], str | None]

_NUMBERS = r"[0-9]{1,3}"
_SEGMENT = rf"(?P<segment>[A-Z][A-Z0-9]{{2}})(?:\[(?P<test>{_NUMBERS}(?:\.{_NUMBERS})?)=(?P<wanted>[^\]]*)\])?"
_PLACE = rf"(?:\((?P<place>{_NUMBERS}|\*)\))?"
_FIELD = (
    rf"(?P<field>{_NUMBERS})(?:\[(?P<part>{_NUMBERS}(?:\.{_NUMBERS})?)=(?P<value>[^\]]*)\])?"
    rf"(?:\((?P<repetition>{_NUMBERS}|\*)\))?"
)
_PARTS = rf"(?:\.(?P<component>{_NUMBERS})(?:\.(?P<subcomponent>{_NUMBERS}))?)?"
_FULL = re.compile(rf"(?P<root>[/<])?{_SEGMENT}{_PLACE}-{_FIELD}{_PARTS}")
_RELATIVE = re.compile(rf"\.(?P<component>{_NUMBERS})(?:\.(?P<subcomponent>{_NUMBERS}))?")
_GROUP = re.compile(
    rf"(?P<root>/)?{_SEGMENT}(?:\s+until\s+(?P<until>[A-Z][A-Z0-9]{{2}}(?:\s*,\s*[A-Z][A-Z0-9]{{2}})*))?"
)


class ER7Paths:
    """The PathLanguage of HL7 v2. Nodes are Message, Group, Repetition and str."""

    def compile(self, path: str) -> Find:
        """Compile one path of the forms above. Raises ValueError with a reason."""
        if found := _RELATIVE.fullmatch(path):
            return _relative(_number(found["component"]), _number(found["subcomponent"] or "1"))
        if found := _GROUP.fullmatch(path):
            until = tuple(name.strip() for name in (found["until"] or "").split(",") if name.strip())
            return _groups(bool(found["root"]), _Selector.of(found), until)
        if found := _FULL.fullmatch(path):
            return _fields(found)
        raise ValueError("not an HL7 path: expected for example SCH-11.4, PID-3[5=MR].1, PID-3(2).1, OBX or .1")

    def text(self, node: Any) -> str | None:
        """The text of a node; of a repetition its first part; a group has none. `""` (delete) counts as absent."""
        if isinstance(node, str):
            return node or None
        if isinstance(node, Repetition):
            return node.leaf() or None
        return None


class _Selector(msgspec.Struct, frozen=True):
    """Which segments of a name: all that pass the test, then one of them, or all."""

    name: str
    test: tuple[int, int] | None
    wanted: str
    place: int | None  # None: the first; 0: all

    @classmethod
    def of(cls, found: re.Match[str]) -> _Selector:
        groups = found.groupdict()
        place = groups.get("place")
        return cls(
            found["segment"],
            _pair(found["test"]) if found["test"] else None,
            found["wanted"] or "",
            None if place is None else 0 if place == "*" else _number(place),
        )

    def passes(self, segment: Segment) -> bool:
        if self.test is None:
            return True
        field, component = self.test
        return any(_rep(raw, segment).leaf(component) == self.wanted for raw in segment.repetitions(field))

    def choose(self, group: Group) -> list[Segment]:
        segments = group.message.segments
        places = group.positions(self.name)
        if self.place is None and self.test is None:
            return [segments[place] for place in places[:1]]
        passed = [segments[place] for place in places if self.passes(segments[place])]
        if self.place == 0:
            return passed
        index = (self.place or 1) - 1
        return passed[index : index + 1]

    def before(self, group: Group) -> list[Segment]:
        """The last segment of the name that stands before the group, if it passes the test."""
        places = group.message.index.get(self.name, [])
        last = [group.message.segments[place] for place in places[: bisect_left(places, group.start)][-1:]]
        return [segment for segment in last if self.passes(segment)]


def _groups(from_root: bool, selector: _Selector, until: tuple[str, ...]) -> Find:
    def find(root: Any, node: Any) -> list[Any]:
        around = _group_of(root if from_root else node)
        if around is None:
            return []
        message = around.message
        stop = around.stop
        for name in until:
            stop = min([stop, *around.positions(name)[:1]])
        starts = [place for place in around.positions(selector.name) if place < stop]
        ends = [*starts[1:], stop][: len(starts)]
        return [
            Group(message, start, end)
            for start, end in zip(starts, ends, strict=True)
            if selector.passes(message.segments[start])
        ]

    return find


def _fields(found: re.Match[str]) -> Find:
    from_root, before = found["root"] == "/", found["root"] == "<"
    selector = _Selector.of(found)
    field = _number(found["field"])
    part = _pair(found["part"]) if found["part"] else None
    value = found["value"] or ""
    every = found["repetition"] == "*"
    repetition = _number(found["repetition"]) if found["repetition"] and not every else None
    component = _number(found["component"]) if found["component"] else None
    subcomponent = _number(found["subcomponent"] or "1")
    joined = selector.place == 0

    def read(segment: Segment) -> list[Any]:
        if segment.name == "MSH" and field <= 2:
            return list(segment.repetitions(field))
        nodes = [_rep(raw, segment) for raw in segment.repetitions(field)]
        if part is not None:
            nodes = [node for node in nodes if node.leaf(*part) == value]
        if repetition is not None:
            nodes = nodes[repetition - 1 : repetition]
        if component is None and not every:
            return list(nodes)
        texts = [text for node in nodes if (text := node.leaf(component or 1, subcomponent))]
        return ["\n".join(texts)] if every and texts else list(texts)

    def find(root: Any, node: Any) -> list[Any]:
        group = _group_of(root if from_root else node)
        if group is None:
            return []
        chosen = selector.before(group) if before else selector.choose(group)
        if not joined:
            return read(chosen[0]) if chosen else []
        texts = [_text_of(node) for segment in chosen for node in read(segment)[:1]]
        return ["\n".join(text for text in texts if text)] if any(texts) else []

    plain = selector.test is None and selector.place is None and repetition is None
    if plain and not (from_root or before or every) and (selector.name != "MSH" or field > 2):
        find.first = _first(selector.name, field, component or 1, subcomponent, part, value)  # type: ignore[attr-defined]
    return find


def _first(name: str, field: int, component: int, subcomponent: int, part: tuple[int, int] | None, value: str) -> First:
    """The first text that is not blank at a path of the common form, by a shorter way: no nodes are made.

    The form: a field, or a part of it, of the first segment of a name, of the repetitions that pass a test if there is one.
    """
    place = field - 1 if name == "MSH" else field  # MSH-1 is the separator itself

    def first(_root: Any, node: Any) -> str | None:
        if not isinstance(node, Group):
            return None
        places = node.positions(name)
        if not places:
            return None
        segment = node.message.segments[places[0]]
        fields = segment.fields()
        raw = fields[place] if place < len(fields) else ""
        if not raw:
            return None
        marks = segment.delimiters
        for one in raw.split(marks.repetition) if marks.repetition and marks.repetition in raw else (raw,):
            if part is None or leaf_of(one, marks, *part) == value:
                text = leaf_of(one, marks, component, subcomponent)
                if text and not text.isspace():
                    return text
        return None

    return first


def _relative(component: int, subcomponent: int) -> Find:
    def find(root: Any, node: Any) -> list[Any]:
        if not isinstance(node, Repetition):
            return []
        text = node.leaf(component, subcomponent)
        return [text] if text else []

    return find


def _group_of(node: Any) -> Group | None:
    return node if isinstance(node, (Group, Message)) else None


def _rep(raw: str, segment: Segment) -> Repetition:
    return Repetition(raw, segment.delimiters)


def _text_of(node: Any) -> str:
    return node.leaf() if isinstance(node, Repetition) else str(node)


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError("positions count from 1")
    return number


def _pair(text: str) -> tuple[int, int]:
    first, _, second = text.partition(".")
    return _number(first), _number(second or "1")
