"""Whatever a message holds: it is read, typed and changed without anything but the errors that are meant for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.hl7v2 import datatypes, segments
from connectors.hl7v2.editing import Draft, EditError
from connectors.hl7v2.er7 import ER7Error, Message, parse
from connectors.hl7v2.paths import ER7Paths
from connectors.hl7v2.segments import HEADERS, DataError, DataType

PATHS = ER7Paths()
FORMS = (
    "PID-3", "PID-3.1", "PID-3(2).1.2", "PID-3(*)", "PID-3[1=a].2", "PID(2)-1", "PID(*)-3.1", "PID[1=a]-3", "/PID-3", "<PID-3",
    "MSH-1", "MSH-2", "MSH-3", "MSH-9.2", "PID", "OBX until PID", "OBX-5(*) until PID", ".1", ".2.2",
)  # fmt: skip
KINDS: tuple[type[DataType], ...] = (
    datatypes.Moment,
    datatypes.TimeOfDay,
    datatypes.Authority,
    datatypes.Identifier,
    datatypes.EntityIdentifier,
    datatypes.PersonName,
    datatypes.StaffName,
    datatypes.Coded,
    datatypes.Quantity,
    datatypes.StructuredNumber,
)
MARKS = st.sampled_from(["|^~\\&", "|^~\\&#", "|^~\\", "|^~", "|^", "#*~!@", "$%?/+_", "^|~\\&"])
line = st.text('PIDOBX|^~\\&#*!@$%?/+_ \n\t"01259.a张\x85\u2028', max_size=30)


def read(marks: str, lines: list[str], end: str) -> Message | None:
    """A message of these lines under a header with these delimiters; None where they make none."""
    names = ("PID", "OBX", "ZZZ")
    body = [f"{names[n % 3]}{marks[0]}{text}" for n, text in enumerate(lines)]
    try:
        return parse(end.join((f"MSH{marks}{marks[0]}A", *body, "")))
    except ER7Error:
        return None


@pytest.mark.parametrize("long", [0, segments.LONG], ids=["long", "short"])
@given(marks=MARKS, lines=st.lists(line, max_size=4), end=st.sampled_from(["\r", "\r\n", "\n", "\r\r"]))
def test_message_is_read_by_every_form_of_path_and_type(long: int, marks: str, lines: list[str], end: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "LONG", long)
        message = read(marks, lines, end)
        if message is None:
            return
        for path in FORMS:
            find = PATHS.compile(path)
            for node in find(message, message):
                assert PATHS.text(node) != ""
            first = getattr(find, "first", None)
            assert first is None or first(None, message) != ""
        for segment in message.segments:
            for number in (1, 2, 3):
                for kind in KINDS:
                    try:
                        segment.values(number, kind)
                    except DataError as error:
                        assert str(error).startswith(f"{segment.name}-{number}(")  # noqa: PT017
        assert message.render() == message.text


@given(marks=MARKS, lines=st.lists(line, max_size=4), end=st.sampled_from(["\r", "\r\n", "\n", "\r\r"]))
def test_every_character_stays_when_each_field_is_set_to_itself(marks: str, lines: list[str], end: str) -> None:
    message = read(marks, lines, end)
    if message is None:
        return
    draft = Draft(message)
    counts: dict[str, int] = {}
    for segment in message.segments:
        counts[segment.name] = nth = counts.get(segment.name, 0) + 1
        header = segment.name in HEADERS
        for place in range(2 if header else 1, min(len(segment.fields()), 20)):
            address = f"{segment.name}({nth})-{place + header}"
            try:
                draft.replace(address, segment.piece(place))
                for n, raw in enumerate(segment.repetitions(place + header)[:20], 1):
                    draft.replace(f"{address}({n})", raw)
            except EditError:
                assert "\n" in segment.piece(place)  # content of one line end among others
    assert draft.render() == message.text
