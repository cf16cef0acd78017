"""Who was found and who was asked for."""

from __future__ import annotations

import pytest

from connectors.persons import without_others
from mappings.canonical import Patient

# Made-up numbers of the forms of GB 11643-1999; the 15 digits are the older form of the same one.
NUMBER, OLD, OTHER = "11010519491231002X", "110105491231002", "110105194912310038"


@pytest.mark.parametrize(
    ("wanted", "found", "same"),
    [
        (NUMBER, NUMBER, True),
        (NUMBER, " 11010519491231002x ", True),
        (NUMBER, OLD, True),
        (NUMBER, OTHER, False),
        (NUMBER, None, True),
        (NUMBER, "110105********002X", True),
        (None, OTHER, True),
        ("E1234567", "E1234568", False),
    ],
)
def test_somebody_with_another_number_is_left_out_whatever_the_name(
    wanted: str | None, found: str | None, same: bool
) -> None:
    person = Patient(name="张伟", mrn="1", id_number=found)
    assert without_others([person], Patient(name="张伟", id_number=wanted)) == ([person] if same else [])
