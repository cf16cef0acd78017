"""ER7: reading by path, writing with escapes, and nothing lost on the way."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.hl7v2.charset import decode_message
from connectors.hl7v2.er7 import ER7Error, Group, declared_offset, parse
from connectors.hl7v2.escapes import STANDARD
from connectors.hl7v2.paths import ER7Paths
from connectors.hl7v2.writer import write_message
from mappings.sources import Run, first_text

PATHS = ER7Paths()
REPORT = (
    "MSH|^~\\&|LAB|H|||20260105080000+0800||ORU^R01|7|P|2.5.1\r"
    'PID|1||100^^^H^MR~110105^^^CHN^NI||Zhang&San^Wei||""|M\r'
    "OBR|1|P1|F1|CBC^Blood count\rOBX|1|NM|WBC^White||11.2\rNTE|1||high\rNTE|2||again\r"
    "OBX|2|TX|TXT||line one~line two\\.br\\line three\r"
    "SPM|1\rOBX|1|ST|SPEC||about the specimen\r"
    "OBR|2|P2|F2|BIO\rOBX|1|NM|GLU||a\\T\\b \\X4142\\ \\H\\bold\\N\\ \\Zodd\\ 5\\\r"
    "FT1|1|||||CG|||||10.00&CNY\rFT1|2|||||PY|||||99&CNY\rFT1|3|||||CG|||||2.50&CNY\r"
)


def texts(path: str, node: Any = None) -> list[str | None]:
    message = parse(REPORT)
    return [PATHS.text(found) for found in PATHS.compile(path)(message, message if node is None else node)]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("MSH-1", ["|"]),
        ("MSH-2", ["^~\\&"]),
        ("MSH-9.2", ["R01"]),
        ("MSH-10", ["7"]),
        ("PID-3.1", ["100", "110105"]),
        ("PID-3(2).1", ["110105"]),
        ("PID-3[5=MR].1", ["100"]),
        ("PID-3[5=NI].1", ["110105"]),
        ("PID-3[5=SS].1", []),
        ("PID-5.1", ["Zhang"]),
        ("PID-5.1.2", ["San"]),
        ("PID-5", ["Zhang"]),
        ("PID-7", [None]),  # "" deletes: there is no value
        ("PID-8", ["M"]),
        ("PID-99", []),
        ("ZZZ-1", []),
        ("OBX-3", ["WBC"]),
        ("OBX(2)-5(*)", ["line one\nline two\nline three"]),
        ("OBX[3.1=GLU]-5", ["a&b AB bold \\Zodd\\ 5\\"]),
        ("FT1[6=CG]-11.1.1", ["10.00"]),
        ("FT1[6=CG](2)-11.1.1", ["2.50"]),
        ("FT1[6=CG](*)-11.1.1", ["10.00\n2.50"]),
        ("FT1[6=XX](*)-11.1.1", []),
        ("NTE(*)-3", ["high\nagain"]),
        ("NTE(*)-3 until SPM", ["high\nagain"]),
        ("NTE(*)-3 until OBX", []),
        ("FT1[2=](2)-1", ["2"]),
        ("OBX[4=]-3", ["WBC"]),
    ],
)
def test_path_finds_what_the_standard_puts_there(path: str, expected: list[str | None]) -> None:
    assert texts(path) == expected


def test_groups_begin_at_their_segment_and_end_with_the_group_around_them() -> None:
    message = parse(REPORT)
    first, second = PATHS.compile("OBR")(message, message)
    assert isinstance(first, Group)
    codes = [[PATHS.text(node) for node in PATHS.compile("OBX-3")(message, obx)] for obx in groups("OBX", first)]
    assert codes == [["WBC"], ["TXT"], ["SPEC"]]
    assert [texts("OBX-3", obx) for obx in groups("OBX until SPM", first)] == [["WBC"], ["TXT"]]
    assert [texts("OBX-3", obx) for obx in groups("OBX until SPM", second)] == [["GLU"]]
    assert [texts("NTE(*)-3", obx) for obx in groups("OBX", first)] == [["high\nagain"], [], []]
    # What stands before the group is reached from the root only.
    assert texts("PID-3[5=MR].1", first) == []
    assert texts("/PID-3[5=MR].1", first) == ["100"]
    assert [texts("<PID-8 until OBR", obr) for obr in (first, second)] == [["M"], []]
    assert [texts("<PID-8 until MSH", obr) for obr in (first, second)] == [["M"], ["M"]]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("OBX-3 until SPM", "WBC"), ("SPM-1 until OBX", None), ("NTE-3 until OBX", None), ("OBX-3 until NTE, SPM", "WBC"),
     ("OBX(2)-3 until SPM", "TXT"), ("OBX(3)-3 until SPM", None)],
)  # fmt: skip
def test_segments_behind_the_bound_do_not_count(path: str, expected: str | None) -> None:
    message = parse(REPORT)
    find = PATHS.compile(path)
    assert next((PATHS.text(node) for node in find(message, message)), None) == expected
    assert first_text(find, PATHS.text)(Run(message, None), message) == expected  # type: ignore[arg-type]


def groups(path: str, node: Any) -> list[Any]:
    return PATHS.compile(path)(node.message, node)


def test_repetitions_are_walked_when_each_names_a_field() -> None:
    message = parse(REPORT)
    found = PATHS.compile("PID-3")(message, message)
    assert [[texts(part, node) for part in (".1", ".5")] for node in found] == [
        [["100"], ["MR"]],
        [["110105"], ["NI"]],
    ]


@pytest.mark.parametrize(
    "path", ["", "PIDX", "pid-3", "PID-0", "PID-3.0", "PID-3[5=MR", "PID-x", "PID-3.1.2.3", "//PID-3"]
)
def test_path_is_refused_when_it_is_none(path: str) -> None:
    with pytest.raises(ValueError, match=r"not an HL7 path|count from 1"):
        PATHS.compile(path)


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_segments_are_found_when_they_end_in_any_way(end: str) -> None:
    text = REPORT.replace("\r", end)
    message = parse(text)
    assert [segment.name for segment in message.segments] == [segment.name for segment in parse(REPORT).segments]
    assert message.render() == text


@pytest.mark.parametrize(
    "ends",
    [
        ("\n", "\n", "\n", "\r"),  # LF between, and one CR at the very end
        ("\n", "\n", "\n", "\r\n"),
        ("\n", "\r\n", "\r", "\n"),
        ("\r\n", "\n", "\r", "\r\n"),
        ("\r", "\n", "\r\n", ""),
        ("\r\n\r\n", "\n\n", "\r\r", "\r\n\n"),
    ],
)
def test_segments_are_found_when_their_ends_are_mixed(ends: tuple[str, str, str, str]) -> None:
    lines = ["MSH|^~\\&|A", "PID|1||100", "OBR|1|P1", "OBX|1|NM|WBC"]
    text = "".join(line + end for line, end in zip(lines, ends, strict=True))
    message = parse(text)
    assert [segment.raw for segment in message.segments] == lines
    assert message.value("PID", 3) == "100"
    assert message.render() == text


@given(st.lists(st.sampled_from(["\r", "\n", "\r\n", "\n\r", "NTE|1||one", "OBX|1", "two lines", "ZZ1"]), max_size=12))
def test_what_was_read_is_rendered_again_whatever_its_ends(pieces: list[str]) -> None:
    text = "MSH|^~\\&|A" + "".join(pieces)
    try:
        message = parse(text)
    except ER7Error:
        return
    assert message.render() == text


def test_line_feed_is_content_when_no_segment_follows_it() -> None:
    message = parse("MSH|^~\\&|A\r\nNTE|1||one\ntwo|x\r\n")
    assert message.value("NTE", 3) == "one\ntwo"


def test_line_feed_is_content_when_segments_end_with_cr() -> None:
    message = parse("MSH|^~\\&|A\rNTE|1||one\ntwo\r")
    assert message.value("NTE", 3) == "one\ntwo"


def test_other_delimiters_are_honoured_when_msh_declares_them() -> None:
    message = parse("MSH#*~!@#A*B#\rPID#1##7*x@y~8\r")
    assert (message.value("MSH", 3, 2), message.value("PID", 3, 2)) == ("B", "x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PID|1",
        "MSH",
        "MSH|",
        "MSHA^~\\&|",
        "MSH||x",
        "MSH|^^\\&|",
        "MSH|^~\\&|A\rhello world\r",
        "MSH|^~\\&|A\rPIDX|1\r",
    ],
)
def test_text_is_refused_when_it_is_no_message(text: str) -> None:
    with pytest.raises(ER7Error):
        parse(text)


def test_every_byte_comes_back_when_a_corpus_message_is_read_and_rendered(corpus: Path) -> None:
    files = sorted((corpus / "hl7v2").glob("*.hl7"))
    assert len(files) == 12
    for file in files:
        raw = file.read_bytes()
        message = parse(decode_message(raw).text)
        for segment in message.segments:
            segment.fields()
        assert message.render().encode() == raw.removeprefix(b"\xef\xbb\xbf"), file.name


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=60))
def test_text_comes_back_when_written_and_read(text: str) -> None:
    written = write_message([{"MSH-3": "A"}, {"NTE-3": text, "NTE-4.2.2": text}])
    message = parse(written)
    assert [segment.name for segment in message.segments] == (["MSH", "NTE"] if text else ["MSH"]) or text == ""
    # CR, LF and CRLF all become a line break, the only one that v2 text has.
    expected = text.replace("\r\n", "\n").replace("\r", "\n")
    if expected not in ("", '""'):
        assert message.value("NTE", 3) == expected
        assert PATHS.compile("NTE-4.2.2")(message, message) == [expected]


def test_addresses_are_written_in_their_places() -> None:
    tree = [
        {"MSH-9.1": "ADT", "MSH-9.2": "A28", "MSH-10": "1"},
        {
            "PID-1": 1,
            "PID-3(1).1": "7",
            "PID-3(1).5": "MR",
            "PID-3(2).1": "8",
            "PID-5.1.1": "a|b",
            "PID-7": '""',
            "PID-8": None,
        },
        [{"OBX-1": True}, {}],
    ]
    assert write_message(tree) == 'MSH|^~\\&|||||||ADT^A28|1\rPID|1||7^^^^MR~8||a\\F\\b||""\rOBX|Y\r'


@pytest.mark.parametrize("item", [{"PID3": 1}, {"PID-0": 1}, {"PID-3": 1, "OBX-1": 2}, {"PID-3": [1]}, {"PID-999": 1}])
def test_tree_is_refused_when_it_is_no_segment(item: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"address|segment|position|field"):
        write_message([item])


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ("20260105080000+0800", 28800),
        ("198908181126+0215", 8100),
        ("201203141259-0215", -8100),
        ("20260105", None),
        ("x", None),
    ],
)
def test_message_zone_is_that_of_msh_7(stamp: str, seconds: int | None) -> None:
    zone = declared_offset(parse(f"MSH|^~\\&|A|B|||{stamp}\r"))
    assert (None if zone is None else zone.utcoffset(None).total_seconds()) == seconds  # type: ignore[union-attr]


def test_unknown_escapes_stay_when_text_is_unescaped() -> None:
    assert STANDARD.unescape("a\\F\\b\\Q\\c\\") == "a|b\\Q\\c\\"


def test_message_leaves_nothing_to_the_collector_when_it_has_been_read() -> None:
    """A release brings thousands of messages, and a pass of the collector stops everything."""
    parse(REPORT)
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            message = parse(REPORT)
            for path in ("PID-3(2).1", "OBX-5(*)", "MSH-9.2"):
                PATHS.compile(path)(message, message)
        del message
        assert gc.collect() < 50
    finally:
        gc.enable()
