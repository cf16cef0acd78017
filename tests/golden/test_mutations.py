"""Messages that nearly are what a hospital meant: each is read or set aside, never raised, and no reason tells a value."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.hl7v2 import er7
from connectors.hl7v2.mapping import ProfileMaps, map_context
from connectors.hl7v2.options import Settings
from mappings.context import MapContext
from mappings.profile import load_profile

from .peer import HOSPITAL

HERE = Path(__file__).parent
MAPS = {name: ProfileMaps(load_profile(name)) for name in ("hl7v2", "hl7v2_cn")}
TEXTS = [
    (path.parent.parent.name, "\r".join(path.read_text("utf-8").splitlines()) + "\r")
    for path in sorted(HERE.glob("*/inbound/*.hl7"))
]
SECRET = "张伟秘密"
ODD = [
    "", '""', SECRET, f"{SECRET}^{SECRET}&{SECRET}~{SECRET}", "^^^", "~~", "&", "\\", "\\X4\\", "\\.sp999999999\\",
    "0", "-1", "1e9", "NaN",
    "9" * 400, "20261301", "20260230", "99991231235959.9999+1400", "00010101", "2026", "20260105240000", "2026010508-9999",
    "1.005", "1" * 20, "12.50&CNY", "12.50&XXX&Y", "Base64", "A", "\x00", "٣", "é" * 50,
]  # fmt: skip

Edit = tuple[int, int, str]
EDITS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30), st.sampled_from(ODD)), min_size=1, max_size=5)


def changed(text: str, edits: list[Edit]) -> str:
    """The message with some fields written over, segments doubled or lost; MSH stays readable."""
    lines = text.rstrip("\r").split("\r")
    for segment, field, value in edits:
        place = 1 + segment % max(1, len(lines) - 1)
        if place >= len(lines):
            continue
        if field == 0:
            lines.insert(place, lines[place])
        elif field == 30 and len(lines) > 2:
            del lines[place]
        else:
            fields = lines[place].split("|")
            fields += [""] * (field + 1 - len(fields))
            fields[field] = value
            lines[place] = "|".join(fields)
    return "\r".join(lines) + "\r"


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(TEXTS), EDITS)
def test_message_is_read_or_set_aside_when_it_is_damaged(source: tuple[str, str], edits: list[Edit]) -> None:
    profile, text = source
    try:
        message = er7.parse(changed(text, edits))
    except er7.ER7Error:
        return
    ctx: MapContext = map_context(HOSPITAL, Settings(), {}, message=message)
    kind = "^".join((message.value("MSH", 9), message.value("MSH", 9, 2)))
    for record_map in MAPS[profile].inbound[kind]:
        mapped = record_map.read(message, ctx)
        for problem in mapped.problems:
            assert SECRET not in str(problem)
        for record in mapped.records:
            assert record.occurred_at is None or isinstance(record.occurred_at, dt.datetime)


@pytest.mark.parametrize("profile", sorted(MAPS))
def test_no_reason_tells_a_value_when_every_field_is_somebody_s(profile: str) -> None:
    for name, text in TEXTS:
        if name != profile:
            continue
        lines = text.rstrip("\r").split("\r")
        for place in range(1, len(lines)):
            for field in range(1, lines[place].count("|") + 1):
                message = er7.parse(changed(text, [(place - 1, min(field, 29), SECRET)]))
                ctx = map_context(HOSPITAL, Settings(), {}, message=message)
                kind = "^".join((message.value("MSH", 9), message.value("MSH", 9, 2)))
                for record_map in MAPS[profile].inbound[kind]:
                    assert all(SECRET not in str(problem) for problem in record_map.read(message, ctx).problems)
