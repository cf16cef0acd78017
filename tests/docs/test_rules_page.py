"""The page of booking rules holds the table by which the code judges, and settings that load."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from booking.api.problems import PROBLEMS
from booking.rules.cancelling import CANCEL_RULES
from booking.rules.judging import RULES
from booking.rules.settings import (
    Block,
    BookingRules,
    CancelCutoff,
    ChannelQuota,
    Eligibility,
    Limit,
    PayWindow,
    ReturnedSeats,
    WaitlistRule,
    booking_rule_problems,
)
from booking.settings import settings_of_text

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "rules.md", DOCS / "rules.zh-CN.md"]


def codes(page: Path, section: int) -> list[str]:
    """The codes of the table in a section, in their order."""
    text = page.read_text(encoding="utf-8").split("\n## ")[section]
    return re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_has_every_rule_in_its_order_when_a_seat_is_held_or_cancelled(page: Path) -> None:
    assert codes(page, 1) == [code for code, _ in RULES]
    assert all(PROBLEMS[code].status == 409 for code, _ in RULES)
    assert codes(page, 2) == [code for code, _ in CANCEL_RULES]
    assert all(PROBLEMS[code].status == 409 for code, _ in CANCEL_RULES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_of_the_page_load_and_are_all_there_when_read(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 1
    whole = blocks[0] + '\n[hospital.first-hospital.connector.his]\nprotocol = "soap"\nprofile = "dhc"\n'
    rules = settings_of_text(whole, page).hospitals["first-hospital"].rules
    assert list(booking_rule_problems(rules)) == []
    shown = tomllib.loads(blocks[0])["hospital"]["first-hospital"]["rules"]
    assert set(shown) == set(BookingRules.__struct_fields__)
    lists: dict[str, type[msgspec.Struct]] = {
        "limits": Limit,
        "blocks": Block,
        "eligibility": Eligibility,
        "cancel_cutoffs": CancelCutoff,
        "pay_windows": PayWindow,
        "channel_quotas": ChannelQuota,
        "returned_seats": ReturnedSeats,
        "waitlist": WaitlistRule,
    }
    assert set(lists) == set(shown) - {"wait_after_cancel_s"}
    for name, struct in lists.items():
        assert {f.encode_name for f in msgspec.structs.fields(struct)} <= set(re.findall(r"`(\w+)`", text)), name
