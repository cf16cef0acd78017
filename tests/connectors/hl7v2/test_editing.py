"""Changing a message by path: the path reads what was set, and every other character stays where it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.hl7v2.charset import decode_message
from connectors.hl7v2.editing import Draft, EditError
from connectors.hl7v2.er7 import Message, parse
from connectors.hl7v2.paths import ER7Paths
from connectors.hl7v2.segments import HEADERS

PATHS = ER7Paths()
TEXT = (
    "MSH|^~\\&|LAB|H^1.2^ISO|||20260105||ADT^A08|7|P|2.5.1||\r\n"
    'PID|1||100^^^H&1.2&ISO^MR~110105^^^CHN^NI||Zhang&San^Wei^||""|M|\r\n\r\n'
    "OBX|1|NM|WBC^White||11.2\r\nOBX|2|NM|RBC||4\\.br\\5||\r\nZPY|1~2~3"
)


@pytest.mark.parametrize(
    ("path", "text", "before", "after"),
    [
        ("PID-5.1", "Li", "|Zhang&San^Wei^|", "|Li&San^Wei^|"),
        ("PID-5", "Li", "|Zhang&San^Wei^|", "|Li&San^Wei^|"),  # as it reads: the first part
        ("PID-5.1.2", "Si", "|Zhang&San^Wei^|", "|Zhang&Si^Wei^|"),
        ("PID-5.2.3", "x", "|Zhang&San^Wei^|", "|Zhang&San^Wei&&x^|"),
        ("PID-5.5", "x", "|Zhang&San^Wei^|", "|Zhang&San^Wei^^^x|"),
        ("PID-5(3).2", "x", "|Zhang&San^Wei^|", "|Zhang&San^Wei^~~^x|"),
        ("PID-3[5=NI].1", "9", "~110105^^^CHN^NI|", "~9^^^CHN^NI|"),
        ("PID-3[5=SS].1", "9", "^NI|", "^NI~9^^^^SS|"),
        ("PID-3(2).4.2", "9", "^CHN^NI|", "^CHN&9^NI|"),
        ("PID-3(*).1", "*", "|100^^^H&1.2&ISO^MR~110105^^^CHN^NI|", "|*^^^H&1.2&ISO^MR~*^^^CHN^NI|"),
        ("PID-3[4.2=1.2](*).1", "*", "|100^", "|*^"),
        ("PID-7", "20000101", '|""|', "|20000101|"),
        ("PID-9", "x", "|M|\r", "|M|x\r"),
        ("PID-11.3", "x", "|M|\r", "|M|||^^x\r"),
        ("PID-8", "", "|M|", "||"),
        ("OBX-5", "a|b\nc", "|11.2\r", "|a\\F\\b\\.br\\c\r"),
        ("OBX(2)-3", "x", "|RBC|", "|x|"),
        ("OBX[3=RBC]-5", "x", "|4\\.br\\5|", "|x|"),
        ("OBX(*)-2", "ST", "|NM|", "|ST|"),
        ("MSH-3", "x", "|LAB|", "|x|"),
        ("MSH-4.2", "9.9", "^1.2^", "^9.9^"),
        ("MSH-18", "GBK", "|2.5.1||\r", "|2.5.1||||||GBK\r"),
        ("ZPY-1(2)", "x", "1~2~3", "1~x~3"),
        ("ZPY-3", "x", "1~2~3", "1~2~3||x"),
        ("/ZPY-1", "x", "1~2~3", "x~2~3"),
    ],
)  # fmt: skip
def test_only_what_is_addressed_changes_when_it_is_set(path: str, text: str, before: str, after: str) -> None:
    draft = Draft(parse(TEXT))
    draft.set(path, text)
    assert draft.render() == TEXT.replace(before, after) != TEXT


def test_every_segment_changes_when_the_path_means_all() -> None:
    draft = Draft(parse(TEXT))
    draft.set("OBX(*)-3.3", "LN")
    assert draft.render() == TEXT.replace("|WBC^White|", "|WBC^White^LN|").replace("|RBC|", "|RBC^^LN|")


@pytest.mark.parametrize(
    ("path", "raw", "before", "after"),
    [
        ("PID-3", "1^2~3", "|100^^^H&1.2&ISO^MR~110105^^^CHN^NI|", "|1^2~3|"),
        ("PID-3(2)", "1^2", "~110105^^^CHN^NI|", "~1^2|"),
        ("PID-3[5=MR]", "1^2", "|100^^^H&1.2&ISO^MR~", "|1^2~"),
        ("PID-3.4", "A&B", "H&1.2&ISO", "A&B"),
        ("PID-5.1.1", "", "Zhang&San", "&San"),
        ("PID-5", "", "|Zhang&San^Wei^|", "||"),
    ],
)
def test_all_that_is_addressed_changes_when_it_is_replaced(path: str, raw: str, before: str, after: str) -> None:
    draft = Draft(parse(TEXT))
    draft.replace(path, raw)
    assert draft.render() == TEXT.replace(before, after) != TEXT


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("PID-3(1)", "100^^^H&1.2&ISO^MR~", ""),
        ("PID-3[5=NI]", "~110105^^^CHN^NI", ""),
        ("PID-3(*)", "100^^^H&1.2&ISO^MR~110105^^^CHN^NI", ""),
        ("ZPY-1(2)", "1~2~3", "1~3"),
        ("PID-5", "Zhang&San^Wei^", ""),
        ("PID-5.1", "Zhang&San^", "^"),
        ("OBX(1)", "OBX|1|NM|WBC^White||11.2\r\n", ""),
        ("OBX[3=RBC]", "OBX|2|NM|RBC||4\\.br\\5||\r\n", ""),
        ("OBX(*)", "OBX|1|NM|WBC^White||11.2\r\nOBX|2|NM|RBC||4\\.br\\5||\r\n", ""),
        ("ZPY", "ZPY|1~2~3", ""),
        ("PID-99", "", ""),
        ("PID-99.3", "", ""),
        ("PID-3(7)", "", ""),
        ("PID-3[5=SS].1", "", ""),
        ("PV1", "", ""),
        ("PV1-3", "", ""),
    ],
)
def test_rest_stays_when_something_is_removed(path: str, before: str, after: str) -> None:
    draft = Draft(parse(TEXT))
    draft.remove(path)
    assert draft.render() == (TEXT.replace(before, after) if before else TEXT)


@pytest.mark.parametrize(
    "path", ["MSH-1", "MSH-2", "PV1-3", "OBX(3)-5", "<PID-3", "PID-3[5=SS](2)"]
)  # fmt: skip
def test_change_is_refused_when_there_is_nothing_to_change(path: str) -> None:
    draft = Draft(parse(TEXT))
    with pytest.raises(EditError):
        draft.set(path, "x")
    assert draft.render() == TEXT


@pytest.mark.parametrize("path", ["PID", "PID-", "pid-3", ".1", "OBX until SPM", "PID-0", ""])
def test_change_is_refused_when_its_path_is_none(path: str) -> None:
    with pytest.raises(ValueError, match=r"address|count from 1"):
        Draft(parse(TEXT)).set(path, "x")


@pytest.mark.parametrize(
    ("path", "raw"), [("PID-5", "a|b"), ("PID-5", "a\rb"), ("PID-5(1)", "a~b"), ("PID-5.1", "a^b"), ("PID-5.1.1", "a&b"),
                      ("PID-3[5=MR]", "a~b")]
)  # fmt: skip
def test_replacement_is_refused_when_it_would_end_what_it_is_put_into(path: str, raw: str) -> None:
    with pytest.raises(EditError):
        Draft(parse(TEXT)).replace(path, raw)


def test_header_stays_when_all_segments_of_its_name_are_removed() -> None:
    with pytest.raises(EditError):
        Draft(parse(TEXT)).remove("MSH(*)")


def test_delimiters_are_the_messages_own_when_it_is_changed() -> None:
    draft = Draft(parse("MSH#*~!@#A\rPID#1##7*x@y~8\r"))
    draft.set("PID-3(2).2.2", "a#b|c")
    draft.set("PID-3(1)", "*")
    assert draft.render() == "MSH#*~!@#A\rPID#1##!S!*x@y~8*@a!F!b|c\r"
    assert draft.message().value("PID", 3) == "*"


@pytest.mark.parametrize("path", ["PID-3(2)", "PID-3.1.2", "PID-3[2=x].1"])
def test_change_is_refused_when_the_message_declares_no_delimiter_for_it(path: str) -> None:
    draft = Draft(parse("MSH|^|A\rPID|1||7\r"))
    with pytest.raises(EditError):
        draft.set(path, "y")
    with pytest.raises(EditError):
        draft.set("PID-3", "a^b")  # and none to escape with


def leaves(message: Message) -> dict[tuple[int, int, int, int, int], str]:
    """Every text of a message by where it stands: segment, piece, repetition, component, subcomponent."""
    found = {}
    marks = message.delimiters
    for place, segment in enumerate(message.segments):
        for piece, field in enumerate(segment.fields()):
            if segment.name in HEADERS and piece == 1:
                continue
            for n, one in enumerate(field.split(marks.repetition)):
                for c, component in enumerate(one.split(marks.component)):
                    for s, leaf in enumerate(component.split(marks.subcomponent)):
                        found[place, piece, n, c, s] = leaf
    return {where: leaf for where, leaf in found.items() if leaf}


field = st.text('ab1"^~&\\', max_size=10)
names = st.sampled_from(["PID", "OBX", "ZZZ"])
segment = st.tuples(names, st.lists(field, max_size=5)).map(lambda one: "|".join((one[0], *one[1])))
number = st.integers(1, 4)


@given(
    lines=st.lists(segment, min_size=1, max_size=4),
    line=number,
    position=number,
    repetition=number,
    component=number,
    subcomponent=number,
    text=st.text("ab^~\\&|\n张", max_size=6),
)
def test_path_reads_what_was_set_and_nothing_else_changes(
    lines: list[str], line: int, position: int, repetition: int, component: int, subcomponent: int, text: str
) -> None:  # fmt: skip
    message = parse("MSH|^~\\&|A||\r" + "\r".join(lines) + "\r")
    place = 1 + line % len(lines)
    name = message.segments[place].name
    path = f"{name}({message.index[name].index(place) + 1})-{position}({repetition}).{component}.{subcomponent}"
    draft = Draft(message)
    draft.set(path, text)
    changed = draft.message()
    assert PATHS.compile(path)(changed, changed) == ([text] if text else [])
    where = (place, position, repetition - 1, component - 1, subcomponent - 1)
    before, after = leaves(message), leaves(changed)
    before.pop(where, None)
    after.pop(where, None)
    assert after == before


def test_every_byte_stays_when_each_field_of_a_corpus_message_is_set_to_itself(corpus: Path) -> None:
    files = sorted((corpus / "hl7v2").glob("*.hl7"))
    assert len(files) == 12
    for file in files:
        text = decode_message(file.read_bytes()).text
        message = parse(text)
        draft = Draft(message)
        counts: dict[str, int] = {}
        for one in message.segments:
            counts[one.name] = nth = counts.get(one.name, 0) + 1
            header = one.name in HEADERS
            for place in range(2 if header else 1, len(one.fields())):
                address = f"{one.name}({nth})-{place + header}"
                draft.replace(address, one.fields()[place])
                for n, raw in enumerate(one.repetitions(place + header), 1):
                    draft.replace(f"{address}({n})", raw)
                    for c, component in enumerate(raw.split("^"), 1):
                        draft.replace(f"{address}({n}).{c}", component)
                        for s, leaf in enumerate(component.split("&"), 1):
                            draft.set(f"{address}({n}).{c}.{s}", message.delimiters.unescape(leaf))
        assert draft.render() == text, file.name
