r"""HL7 paths, the path language of HL7 v2 profiles.

    SCH-11.4            component; SCH-11.4.2 subcomponent; SCH-11 the field, one node for each repetition
    PID-3[5=MR].1       the repetitions whose component 5 is MR        PID-3(2).1   the second repetition
    OBX-5(*)            all repetitions as one text, a line each
    FT1[6=CG]-2         the first FT1 whose field 6 is CG              FT1(2)-2     the second FT1
    FT1[6=CG](*)-11.1   that field of every such FT1 as one text, a line each
    AIP[2=]-3.1         the first AIP whose field 2 is empty or absent
    NTE(*)-3 until OBX  only of segments before the first OBX of the group
    .1  .4.2            relative to a repetition, within `each: PID-3`
    OBR                 groups: each from one OBR up to the next, or to the end of the group around it
    OBX until SPM       as above, and none begins after the first SPM
    /PID-3[5=MR].1      from the message, wherever the current node is
    <PID-3[5=MR].1      the last PID before the current group: whom an OBR is about, where a message tells of several people
    <ORC-3 until OBR    the last ORC before the current group, if no OBR is between them: the order that an OBR belongs to

A segment is looked for in the current group; without an index or predicate the first one is meant. What is addressed less
deeply than it goes means its first part, so OBX-3 gives the code of a CE.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from connectors.hl7v2.addresses import EVERY, FieldAddress, GroupAddress, PartAddress, Segments, parse_path
from connectors.hl7v2.er7 import Group
from connectors.hl7v2.firsts import Find, first_reader
from connectors.hl7v2.segments import HEADERS, Repetition, Segment, leaf_of


class ER7Paths:
    """The PathLanguage of HL7 v2. Nodes are Message, Group, Repetition and str."""

    def compile(self, path: str) -> Find:
        """Compile one path of the forms above. Raises ValueError with a reason."""
        address = parse_path(path)
        if isinstance(address, PartAddress):
            return _relative(address)
        return _groups(address) if isinstance(address, GroupAddress) else _fields(address)

    def text(self, node: Any) -> str | None:
        """The text of a node; of a repetition its first part; a group has none. `""` (delete) counts as absent."""
        if isinstance(node, str):
            return node or None
        if isinstance(node, Repetition):
            return node.leaf() or None
        return None


def passes(segment: Segment, wanted: Segments) -> bool:
    """Whether a segment passes the test of an address: one of the field's repetitions has the wanted text, maybe none."""
    if wanted.test is None:
        return True
    field, component = wanted.test
    marks = segment.delimiters
    return any(leaf_of(raw, marks, component, 1) == wanted.wanted for raw in segment.repetitions(field) or [""])


def chosen_places(group: Group, wanted: Segments, until: tuple[str, ...] = ()) -> list[int]:
    """The places of the segments that an address means, in their order."""
    places = group.positions(wanted.name)
    if until:
        stop = _stop(group, until)
        places = [place for place in places if place < stop]
    if wanted.test is not None:
        message = group.message
        places = [place for place in places if passes(message.segment(place), wanted)]
    if wanted.place == EVERY:
        return places
    index = (wanted.place or 1) - 1
    return places[index : index + 1]


def _stop(group: Group, until: tuple[str, ...]) -> int:
    """Where the first of the segments `until` stands, else the end of the group."""
    return min([group.stop, *(place for name in until for place in group.positions(name)[:1])])


def _choose(group: Group, wanted: Segments, until: tuple[str, ...]) -> list[Segment]:
    return [group.message.segment(place) for place in chosen_places(group, wanted, until)]


def _before(group: Group, wanted: Segments, until: tuple[str, ...]) -> list[Segment]:
    """The last segment of the name that stands before the group, after all of `until`, if it passes the test."""
    places = group.message.index.get(wanted.name, [])
    count = bisect_left(places, group.start)
    if not count:
        return []
    for name in until:
        others = group.message.index.get(name, [])
        before = bisect_left(others, group.start)
        if before and others[before - 1] > places[count - 1]:
            return []
    segment = group.message.segment(places[count - 1])
    return [segment] if passes(segment, wanted) else []


def _groups(address: GroupAddress) -> Find:
    from_root, until, wanted = address.root == "/", address.until, address.segments

    def find(root: Any, node: Any) -> list[Any]:
        around = root if from_root else node
        if not isinstance(around, Group):
            return []
        message, stop = around.message, _stop(around, until)
        starts = [place for place in around.positions(wanted.name) if place < stop]
        ends = [*starts[1:], stop][: len(starts)]
        return [
            Group(message, start, end)
            for start, end in zip(starts, ends, strict=True)
            if wanted.test is None or passes(message.segment(start), wanted)
        ]

    return find


def _fields(address: FieldAddress) -> Find:
    from_root, before, wanted = address.root == "/", address.root == "<", address.segments
    field, part, value, repetition = address.field, address.part, address.value, address.repetition
    component, subcomponent, until = address.component, address.subcomponent or 1, address.until
    every = repetition == EVERY

    def read(segment: Segment) -> list[Any]:
        if field <= 2 and segment.name in HEADERS:
            return list(segment.repetitions(field))
        marks = segment.delimiters
        nodes = [Repetition(raw, marks) for raw in segment.repetitions(field)]
        if part is not None:
            nodes = [node for node in nodes if node.leaf(*part) == value]
        if repetition:
            nodes = nodes[repetition - 1 : repetition]
        if component is None and not every:
            return list(nodes)
        texts = [text for node in nodes if (text := node.leaf(component or 1, subcomponent))]
        return ["\n".join(texts)] if every and texts else list(texts)

    def find(root: Any, node: Any) -> list[Any]:
        group = root if from_root else node
        if not isinstance(group, Group):
            return []
        chosen = _before(group, wanted, until) if before else _choose(group, wanted, until)
        if wanted.place != EVERY:
            return read(chosen[0]) if chosen else []
        texts = [_text_of(node) for segment in chosen for node in read(segment)[:1]]
        return ["\n".join(text for text in texts if text)] if any(texts) else []

    first = first_reader(address, find)
    if first is not None:
        find.first = first  # type: ignore[attr-defined]
    return find


def _relative(address: PartAddress) -> Find:
    component, subcomponent = address.component, address.subcomponent

    def find(root: Any, node: Any) -> list[Any]:
        text = node.leaf(component, subcomponent) if isinstance(node, Repetition) else ""
        return [text] if text else []

    def first(_run: Any, node: Any) -> str | None:
        text = leaf_of(node.raw, node.delimiters, component, subcomponent) if isinstance(node, Repetition) else ""
        return text if text and not text.isspace() else None

    find.first = first  # type: ignore[attr-defined]
    return find


def _text_of(node: Any) -> str:
    return node.leaf() if isinstance(node, Repetition) else str(node)
