"""What reading costs: nothing is copied that nobody asks for, and twice the input is twice the work, whatever its shape.

Work is measured as a ratio between two sizes, in processor time, so that a busy machine changes both.
"""

from __future__ import annotations

import datetime as dt
import time
import tracemalloc
from collections.abc import Callable
from zoneinfo import ZoneInfo

import pytest

from connectors.hl7v2.editing import Draft
from connectors.hl7v2.er7 import MAX_SEGMENTS, Message, parse
from connectors.hl7v2.escapes import STANDARD
from connectors.hl7v2.header import Header
from connectors.hl7v2.mapping import ProfileMaps
from connectors.hl7v2.masterfile import master_file, write_mfk
from connectors.hl7v2.paths import ER7Paths
from connectors.hl7v2.segments import LONG
from mappings.context import MapContext
from mappings.profile import load_profile

PATHS = ER7Paths()
DOCUMENT_CHARS = 5_000_000
DOCUMENT = (
    "MSH|^~\\&|LAB|H|HB|X|20260105080000+0800||ORU^R01|1|P|2.5.1\rPID|1||100^^^H^MR\rOBR|1|P1|F1|PDF^Report\r"
    f"OBX|1|ED|PDF^Report||LAB^application^PDF^Base64^{'QUJD' * (DOCUMENT_CHARS // 4)}||||||F\rNTE|1||short\r"
)


def read(message: Message, path: str) -> str | None:
    """As a record map reads: the short way where the path has one."""
    find = PATHS.compile(path)
    first = getattr(find, "first", None)
    if first is not None:
        found: str | None = first(message, message)
        return found
    return next((PATHS.text(node) for node in find(message, message)), None)


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_document_is_not_copied_when_the_message_is_split() -> None:
    assert peak_bytes(lambda: parse(DOCUMENT)) < 20_000


@pytest.mark.parametrize(
    ("path", "expected"),
    [("OBX-3", "PDF"), ("OBX-3.2", "Report"), ("OBX-11", "F"), ("OBX-5.3", "PDF"), ("OBX-5.4", "Base64"), ("NTE-3", "short"),
     ("OBX-99", None), ("OBX-5.6", None), ("OBX-5.1.2", None), ("PID-3[5=MR].1", "100")],
)  # fmt: skip
def test_document_is_not_copied_when_other_parts_are_read(path: str, expected: str | None) -> None:
    message = parse(DOCUMENT)
    assert peak_bytes(lambda: read(message, path)) < 20_000
    assert read(message, path) == expected


def test_document_is_copied_once_when_it_is_read() -> None:
    message = parse(DOCUMENT)
    assert DOCUMENT_CHARS <= peak_bytes(lambda: read(message, "OBX-5.5")) < DOCUMENT_CHARS * 1.1
    assert read(message, "OBX-5.5") == "QUJD" * (DOCUMENT_CHARS // 4)


HEAD = "MSH|^~\\&|A\r"
SHAPES: dict[str, Callable[[int], str]] = {
    "blank lines": lambda n: HEAD + "\r" * n + "PID|1\r",
    "blank lines of both kinds": lambda n: HEAD + "\r\n\n" * n + "PID|1\r",
    "lines of spaces": lambda n: HEAD + "  \r" * n,
    "bare names": lambda n: HEAD + "ZZZ\r" * n,
    "empty segments": lambda n: HEAD + "ZZZ|\n" * n,
    "short segments": lambda n: HEAD + "PID|1||1\r\n" * n,
    "line feeds as content": lambda n: HEAD + "NTE|1||" + "\n" * n + "\r\r",
    "a long header": lambda n: "MSH|^~\\&|" + "A" * 20 * n,
    "a header of many fields": lambda n: "MSH|^~\\&|" + "|" * 20 * n,
    "many fields": lambda n: HEAD + "PID" + "|" * 10 * n + "\r",
    "many repetitions": lambda n: HEAD + "PID|1||" + "1^^^H^PI~" * n + "\r",
    "empty repetitions": lambda n: HEAD + "PID|1||" + "~" * n + "\r",
    "many components": lambda n: HEAD + "PID|1||" + "^" * 10 * n + "\r",
    "many subcomponents": lambda n: HEAD + "PID|1||" + "&" * 10 * n + "\r",
    "many escapes": lambda n: HEAD + "PID|1||" + "\\F\\" * n + "\r",
    "escapes without end": lambda n: HEAD + "PID|1||" + "\\" * n + "\r",
    "escapes that mean nothing": lambda n: HEAD + "PID|1||" + "\\Zz\\x" * n + "\r",
    "one long escape": lambda n: HEAD + "PID|1||" + "\\X" + "41" * 10 * n + "\\\r",
}
READ = (
    "PID-3",
    "PID-3.9",
    "PID-3.1.9",
    "PID-3[5=MR].1",
    "PID-3(*)",
    "PID-99",
    "PID(*)-3",
    "PID[3=x]-1",
    "MSH-99",
    "NTE-3",
)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_work_grows_no_faster_than_the_message(shape: Callable[[int], str]) -> None:
    def work(text: str) -> None:
        message = parse(text)
        for path in READ:
            read(message, path)
        assert message.render() == text

    small, large = shape(LONG), shape(LONG * 7)  # both long, so that both are read in the same way
    assert large.count("\r") + large.count("\n") < MAX_SEGMENTS
    assert_linear(lambda: work(small), lambda: work(large), factor=7)


@pytest.mark.parametrize(
    "text",
    ["|", "\\", "a\r\n", "\x00", "张", "\\F\\", "\\E", "\\.sp9\\", "\\X0D\\"],
)
def test_work_grows_no_faster_than_the_text_when_it_is_escaped_and_read_again(text: str) -> None:
    def work(times: int) -> None:
        STANDARD.unescape(STANDARD.escaped(text * times))
        STANDARD.unescape(text * times)

    assert_linear(lambda: work(4_000), lambda: work(32_000), factor=8)


MAPS = ProfileMaps(load_profile("hl7v2"))
CONTEXT = MapContext(hospital_id="H", zone=ZoneInfo("Asia/Shanghai"), currency="CNY", now=dt.datetime.now(dt.UTC))
TOP = "MSH|^~\\&|A|B|C|D|20260105080000+0800||X|1|P|2.5.1\rPID|1||100^^^H^MR||Zhang^Wei\r"
GROUPS: dict[str, tuple[str, Callable[[int], str]]] = {
    "reports": ("ORU^R01", lambda n: "OBR|1|P|F|CBC\rOBX|1|NM|WBC||1\r" * n),
    "reports of many patients": ("ORU^R01", lambda n: "PID|1||7^^^H^MR\rOBR|1|P|F|CBC\rOBX|1|NM|WBC||1\r" * n),
    "results of one report": ("ORU^R01", lambda n: "OBR|1|P|F|CBC\r" + "OBX|1|NM|WBC||1\rNTE|1||x\r" * n),
    "notes of one result": ("ORU^R01", lambda n: "OBR|1|P|F|CBC\rOBX|1|NM|WBC||1\r" + "NTE|1||x\r" * n),
    "rows of a bill": ("DFT^P03", lambda n: "FT1|1|T|||20260105|CG|A^b||||7.00&CNY\r" * n),
    "pairs of patients": ("ADT^A40", lambda n: "PID|1||7^^^H^MR\rMRG|8^^^H^MR\r" * n),
    "identifiers": ("ADT^A08", lambda n: "PID|1||" + "7^^^H^MR~" * n + "||Zhang\r"),
    "staff": ("MFN^M02", lambda n: "MFE|MAD\rSTF|1|1|Li\r" * n),
}


@pytest.mark.parametrize(("kind", "shape"), GROUPS.values(), ids=GROUPS.keys())
def test_work_grows_no_faster_than_the_message_when_it_is_mapped(kind: str, shape: Callable[[int], str]) -> None:
    def work(text: str) -> None:
        message = parse(text)
        for record_map in MAPS.inbound[kind]:
            record_map.read(message, CONTEXT)

    small, large = TOP + shape(200), TOP + shape(1_600)
    assert_linear(lambda: work(small), lambda: work(large), factor=8)


def test_work_grows_no_faster_than_the_master_file_when_its_records_are_answered() -> None:
    def work(text: str) -> None:
        file = master_file(parse(text))
        assert file is not None
        write_mfk(Header(), file, "AA", CONTEXT.now)

    small, large = ("MSH|^~\\&|A||||||MFN^M02\rMFI|PRA\r" + "MFE|MAD|1||D1|CE\r" * n for n in (1_000, 8_000))
    assert_linear(lambda: work(small), lambda: work(large), factor=8)


def test_work_grows_no_faster_than_the_message_when_it_is_changed() -> None:
    def work(text: str) -> None:
        draft = Draft(parse(text))
        for path in ("PID(*)-3.1", "PID(*)-5[1=x](*).2", "NTE(*)-3"):
            draft.set(path, "*")
        draft.remove("NTE(*)")
        draft.message()

    small, large = (TOP + "PID|1||7^^^H^MR||x^y\rNTE|1||a\r" * n for n in (500, 4_000))
    assert_linear(lambda: work(small), lambda: work(large), factor=8)


def assert_linear(small: Callable[[], None], large: Callable[[], None], *, factor: int) -> None:
    """`large` does `factor` times the work of `small`. Quadratic work would be `factor` squared: less than half way is passed."""
    bound = factor * 3
    for _ in range(4):  # a pass of the collector of garbage may fall into any one
        if cpu_s(large) < bound * max(cpu_s(small), 20e-6):
            return
    pytest.fail(f"{factor} times the input took more than {bound} times as long, four times")


def cpu_s(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
