"""The page of the facade tells every resource, parameter and include that there is, and every state's word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from booking.api.fhir.codes import APPOINTMENT_STATUS, SLOT_STATUS
from booking.api.fhir.search.tables import KINDS

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [(DOCS / name).read_text(encoding="utf-8") for name in ("fhir-facade.md", "fhir-facade.zh-CN.md")]
in_both = pytest.mark.parametrize("page", PAGES, ids=["en", "zh-CN"])


@in_both
def test_every_kind_is_told_with_its_scope_parameters_and_includes(page: str) -> None:
    told = {
        cells[0]: [re.findall(r"`([^`]+)`", cell) for cell in cells[1:]]
        for cells in (
            [c.strip() for c in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")
        )
        if cells[0] in KINDS
    }
    assert told == {kind.name: [[kind.scope], list(kind.parameters), list(kind.includes)] for kind in KINDS.values()}


@in_both
def test_every_state_has_its_word(page: str) -> None:
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| `")]
    words = {(fhir, ours) for left, right in rows for fhir in re.findall(r"`([^`]+)`", left)
             for ours in re.findall(r"`([^`]+)`", right)}  # fmt: skip
    for table in (SLOT_STATUS, APPOINTMENT_STATUS):
        for ours, fhir in table.items():
            assert (fhir, str(ours)) in words
