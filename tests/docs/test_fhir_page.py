"""The page of the facade tells every resource, parameter and include that there is, and every state's word."""

from __future__ import annotations

import re
from pathlib import Path

from booking.api.fhir.codes import APPOINTMENT_STATUS, SLOT_STATUS
from booking.api.fhir.search.tables import KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "fhir-facade.md").read_text(encoding="utf-8")


def test_every_kind_is_told_with_its_scope_parameters_and_includes() -> None:
    told = {
        cells[0]: [re.findall(r"`([^`]+)`", cell) for cell in cells[1:]]
        for cells in (
            [c.strip() for c in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")
        )
        if cells[0] in KINDS
    }
    assert told == {kind.name: [[kind.scope], list(kind.parameters), list(kind.includes)] for kind in KINDS.values()}


def test_every_state_has_its_word() -> None:
    rows = [line.split("|")[1:3] for line in PAGE.splitlines() if line.startswith("| `")]
    words = {(fhir, ours) for left, right in rows for fhir in re.findall(r"`([^`]+)`", left)
             for ours in re.findall(r"`([^`]+)`", right)}  # fmt: skip
    for table in (SLOT_STATUS, APPOINTMENT_STATUS):
        for ours, fhir in table.items():
            assert (fhir, str(ours)) in words
