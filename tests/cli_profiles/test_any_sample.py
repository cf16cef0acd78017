"""Whatever is in a sample, `hisbridge profile try` says something about it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cli_profiles.places import context_of
from cli_profiles.samples import SoapSample
from cli_profiles.telling import lines_of
from mappings.profile import load_profile

PROFILE = load_profile("dhc")
SAMPLE = SoapSample(PROFILE, {}, {}, context_of(None, PROFILE.connection))
NAMES = ("Response", "ResultCode", "Schedules", "Schedule", "ScheduleItemCode", "ServiceDate", "Fee", "Odd")


def elements(depth: int) -> st.SearchStrategy[str]:
    """XML of the dialect's names in any order, with any text."""
    text = st.text(st.characters(blacklist_characters="<&\x00", blacklist_categories=["Cs", "Cc"]), max_size=12)
    inner = text if depth == 0 else st.one_of(text, st.lists(elements(depth - 1), max_size=3).map("".join))
    return st.builds("<{0}>{1}</{0}>".format, st.sampled_from(NAMES), inner)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace"))))
@settings(max_examples=40, deadline=None)
def test_any_bytes_are_judged(data: bytes) -> None:
    for _, tried in SAMPLE.try_all(data, None):
        told = list(lines_of(tried, masked=False))
        assert any(line.startswith("judged:") for line in told)
        assert all(line.replace("\n", "").isprintable() for line in told)


@given(st.lists(elements(3), max_size=4).map("".join))
@settings(max_examples=40, deadline=None)
def test_any_document_is_shown_or_judged(inside: str) -> None:
    document = f"<Response><ResultCode>0</ResultCode>{inside}</Response>"
    for _, tried in SAMPLE.try_all(document.encode(), "fetch_schedules"):
        assert tried.unmapped is not None
        for line in lines_of(tried, masked=False):
            assert line.replace("\n", "").isprintable()
