"""Our reader and hl7apy find the same text in every place that hl7apy's tables define: corpus, and messages made from the tables.

Where they differ, a rule below says which of the two is right and why. A rule that nothing needs any more is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from connectors.hl7v2.charset import decode_message
from connectors.hl7v2.er7 import Message, parse
from connectors.hl7v2.segments import HEADERS, Segment

from . import hl7apy_reading as hl7apy
from .hl7apy_reading import Leaves


class Field(msgspec.Struct, frozen=True):
    """One field of one segment, as both read it; `stray` is what hl7apy found there without a place."""

    version: str
    segment: str
    number: int
    ours: Leaves
    theirs: Leaves
    stray: tuple[str, ...]


def _withdrawn(field: Field) -> bool:
    return hl7apy.field_type(field.version, field.segment, field.number) is None


def _beyond(field: Field) -> bool:
    entry = hl7apy.field_type(field.version, field.segment, field.number)
    return any(
        hl7apy.part_type(hl7apy.part_type(entry, component), part) is None for _, _, component, part in field.ours
    )


def _number(field: Field) -> bool:
    """Every difference is in a part that is a number, and the number is the same."""
    entry = hl7apy.field_type(field.version, field.segment, field.number)
    differing = [place for place, text in field.ours.items() if field.theirs.get(place) != text]
    return field.ours.keys() == field.theirs.keys() and all(
        hl7apy.part_type(hl7apy.part_type(entry, place[2]), place[3])[2] in ("NM", "SI")
        and float(field.ours[place]) == float(field.theirs[place])
        for place in differing
    )


RULES: dict[str, Callable[[Field], bool]] = {
    # MSH-1 and MSH-2 are the delimiters themselves (v2.5.1 ch. 2.15.9.1). hl7apy writes them back escaped, \F\ for |.
    "delimiters": lambda field: field.segment == "MSH" and field.number <= 2,
    # The sender wrote a field that its version has withdrawn or never had, such as SCH-9, SCH-11, EVN-1 and PID-2 in 2.8. hl7apy
    # keeps the text and forgets the place. Positions are the message's own, and senders of 2.8 still write SCH-11: we read it.
    "withdrawn": _withdrawn,
    # The sender wrote more components or subcomponents than its version's type has: PV1-16 as a CWE where 2.5.1 has an IS, a
    # seventh component of a CE, XAD.12, which 2.8 has withdrawn. hl7apy puts all of them in one place, or nowhere.
    "beyond the type": _beyond,
    # `001` becomes `1` in hl7apy, in NM and SI. It is the same number, and no longer what the sender wrote (RGS-1, AIS-1).
    "number": _number,
    # From 2.7 on hl7apy escapes # as the truncation character, also in a message that does not declare one.
    "truncation": lambda field: (
        field.version >= "2.7"
        and field.ours == {place: text.replace("\\L\\", "#") for place, text in field.theirs.items()}
    ),
    # hl7apy drops a field of nothing but spaces. So do our paths when they read a text; the reader keeps it.
    "blank": lambda field: not field.theirs and all(text.isspace() for text in field.ours.values()),
}


def our_leaves(segment: Segment) -> Leaves:
    """What is not empty in one segment of ours, still escaped, as hl7apy gives it."""
    marks = segment.delimiters
    leaves: Leaves = {}
    for number in range(1, len(segment.fields()) + 1):
        for n, raw in enumerate(segment.repetitions(number), 1):
            whole = segment.name in HEADERS and number <= 2
            for c, component in enumerate([raw] if whole else raw.split(marks.component), 1):
                for s, part in enumerate([component] if whole else component.split(marks.subcomponent), 1):
                    if part:
                        leaves[number, n, c, s] = part
    return leaves


def by_field(leaves: Leaves) -> dict[int, Leaves]:
    found: dict[int, Leaves] = {}
    for place, text in leaves.items():
        found.setdefault(place[0], {})[place] = text
    return found


def differences(version: str, segment: Segment, theirs: Leaves) -> Counter[str]:
    """Which rules explain the differences of a segment, how often. Fails for one that none explains."""
    ours, other = by_field(our_leaves(segment)), by_field(theirs)
    stray = tuple(text for place, text in theirs.items() if not all(place))
    used: Counter[str] = Counter()
    for number in sorted((ours.keys() | other.keys()) - {0}):
        mine, its = ours.get(number, {}), other.get(number, {})
        if mine == its:
            continue
        field = Field(version, segment.name, number, mine, its, stray)
        rule = next((name for name, explains in RULES.items() if explains(field)), None)
        assert rule is not None, f"{version} {segment.name}-{number}: ours {mine}, theirs {its}"
        used[rule] += 1
    # What hl7apy could not place is all ours, in a field that it has no place for.
    texts = {text for leaves in ours.values() for text in leaves.values()}
    assert set(stray) <= texts
    assert not stray or used["withdrawn"] or used["beyond the type"]
    return used


def compare_segments(message: Message) -> Counter[str]:
    version = message.value("MSH", 12)
    used: Counter[str] = Counter()
    for segment in message.segments:
        if hl7apy.knows(version, segment.name):
            used += differences(version, segment, hl7apy.read_segment(segment.raw, version))
    return used


@pytest.fixture
def corpus_messages(corpus: Path) -> dict[str, Message]:
    files = sorted((corpus / "hl7v2").glob("*.hl7"))
    assert len(files) == 12
    return {file.name: parse(decode_message(file.read_bytes()).text) for file in files}


def test_both_read_the_same_in_every_defined_place_of_the_corpus(corpus_messages: dict[str, Message]) -> None:
    used: Counter[str] = Counter()
    for message in corpus_messages.values():
        used += compare_segments(message)
    used += compare_segments(parse("MSH|^~\\&|A||||||ACK|1|P|2.8\rMSA|AA|#1\r"))  # the corpus has no #
    assert set(used) == set(RULES), "a rule that nothing needs any more"


# Segments that the tables of the message's version do not have, and those that hl7apy leaves out with them because it has no
# group to put them in. We read what is there.
LOST = {"ORU-R01-01.hl7": 9}


def test_both_find_the_same_segments_in_the_corpus(corpus_messages: dict[str, Message]) -> None:
    lost = {}
    for name, message in corpus_messages.items():
        found = [segment for segment, _ in hl7apy.read_message("".join(s.raw + "\r" for s in message.segments))]
        names = [segment.name for segment in message.segments]
        rest = iter(names)
        assert all(segment in rest for segment in found), name  # in our order, with gaps
        if len(found) < len(names):
            lost[name] = len(names) - len(found)
    assert lost == LOST


# Structures of hl7apy's tables, with a message that has them (ADT_A39 is the structure of A40).
STRUCTURES = {
    "ACK": ("ACK", "A01"),
    "ADT_A01": ("ADT", "A08"),
    "ADT_A05": ("ADT", "A28"),
    "ADT_A39": ("ADT", "A40"),
    "ORU_R01": ("ORU", "R01"),
    "SIU_S12": ("SIU", "S12"),
    "SRM_S01": ("SRM", "S01"),
    "SRR_S01": ("SRR", "S01"),
    "SQM_S25": ("SQM", "S25"),
    "SQR_S25": ("SQR", "S25"),
    "DFT_P03": ("DFT", "P03"),
    "MFN_M02": ("MFN", "M02"),
    "MFK_M01": ("MFK", "M02"),
    "QBP_Q21": ("QBP", "Q22"),
    "RSP_K22": ("RSP", "K22"),
}
VERSIONS = ("2.3", "2.3.1", "2.4", "2.5", "2.5.1", "2.6", "2.7", "2.8")
ABSENT = {
    ("2.3", "ADT_A05"),
    ("2.3", "QBP_Q21"),
    ("2.3", "RSP_K22"),
    ("2.3.1", "ADT_A05"),
    ("2.3.1", "QBP_Q21"),
    ("2.3.1", "RSP_K22"),
    ("2.5", "RSP_K22"),
    ("2.5.1", "RSP_K22"),
    ("2.6", "RSP_K22"),
    ("2.7", "SQM_S25"),  # withdrawn
    ("2.7", "SQR_S25"),
    ("2.8", "SQM_S25"),
    ("2.8", "SQR_S25"),
}
MADE = [(version, name) for version in VERSIONS for name in STRUCTURES if (version, name) not in ABSENT]


def compare_made(version: str, structure: str, random: Random) -> None:
    text = hl7apy.make_message(random, version, structure, STRUCTURES[structure])
    message = parse(text)
    assert message.render() == text
    assert compare_segments(message).keys() <= {"delimiters", "truncation"}


@pytest.mark.parametrize(("version", "structure"), MADE)
def test_both_read_the_same_in_every_place_of_each_structure(version: str, structure: str) -> None:
    compare_made(version, structure, Random(f"{version} {structure}"))


@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(made=st.sampled_from(MADE), random=st.randoms(use_true_random=False))
def test_both_read_the_same_in_every_place_of_any_message(made: tuple[str, str], random: Random) -> None:
    compare_made(*made, random)


def test_structures_that_are_left_out_are_absent_from_the_tables() -> None:
    for version in VERSIONS:
        absent = {name for name in STRUCTURES if not hl7apy.has_structure(version, name)}
        assert absent == {name for other, name in ABSENT if other == version}


def test_field_that_hl7apy_cannot_read_is_left_out_while_it_cannot() -> None:
    with pytest.raises(TypeError):
        hl7apy.read_segment("TQ1|1", "2.7")
    assert hl7apy.read_segment("TQ1|1", "2.8") == {(1, 1, 1, 1): "1"}
