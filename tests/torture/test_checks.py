"""The checks of a crash round find what they are there for: each kind of damage, faked, is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.torture.checks import Aftermath, Ours, Theirs, faults


def ours(number: int, **changes: Any) -> Ours:
    fields = {
        "id": f"b{number}",
        "order_no": f"o{number}",
        "person_id": f"p{number}",
        "schedule_id": "S",
        "slot_id": "s",
        "state": "booked",
        "his_state": "registered",
        "live": True,
    }
    return Ours(**{**fields, **changes})


WELL = Aftermath(
    given={"k1": "b1", "k2": "b2", "k3": "b3"},
    paid={"b1", "b3"},
    left={"b3"},
    ours=[
        ours(1),
        ours(2, state="held", his_state="locked"),
        ours(3, state="cancelled", his_state="released", live=False),
    ],
    theirs=[Theirs("o1", "registered"), Theirs("o2", "locked"), Theirs("o3", "released")],
    oversold=0,
    seats={"s": 3},
    remaining={"s": 1},
)


def test_nothing_is_found_when_all_agree() -> None:
    assert faults(WELL) == []


def test_nothing_is_found_when_a_cancelled_hold_never_reached_the_hospital() -> None:
    never_asked = [*WELL.ours[:2], ours(3, state="cancelled", his_state="none", live=False)]
    assert faults(replace(WELL, ours=never_asked, theirs=WELL.theirs[:2])) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ours": [*WELL.ours, ours(4, his_state="none", state="held")]}, "booking b4 exists and nobody was told"),
        ({"given": {**WELL.given, "k4": "b4"}}, "booking b4 was acknowledged and is gone"),
        ({"given": {**WELL.given, "k4": "b1"}}, "booking b1 was given to 2 keys"),
        (
            {"ours": [WELL.ours[0], replace(WELL.ours[1], person_id="p1"), WELL.ours[2]]},
            "person p1 has 2 live bookings on S",
        ),
        ({"ours": [WELL.ours[0], replace(WELL.ours[1], order_no="o1"), WELL.ours[2]]}, "order o1 is 2 bookings"),
        ({"paid": {"b1", "b2"}}, "booking b2 is paid, was never cancelled, and is held"),
        (
            {"ours": [*WELL.ours[:2], ours(3, state="rejected", his_state="rejected", live=False)]},
            "booking b3 was rejected by the hospital",
        ),
        ({"oversold": 1}, "the hospital has oversold 1 seats"),
        ({"theirs": WELL.theirs[1:]}, "booking b1 is booked/registered here, nothing there"),
        (
            {"theirs": [*WELL.theirs, Theirs("o1", "registered")]},
            "booking b1 is booked/registered here, ['registered', 'registered'] there",
        ),
        (
            {"theirs": [*WELL.theirs[:2], Theirs("o3", "locked")]},
            "booking b3 is cancelled/released here, ['locked'] there",
        ),
        (
            {
                "ours": [*WELL.ours[:2], ours(3, state="cancelled", his_state="locked", live=False)],
                "theirs": [*WELL.theirs[:2], Theirs("o3", "locked")],
            },
            "booking b3 is cancelled and still ['locked'] there",
        ),
        ({"theirs": [*WELL.theirs, Theirs("o9", "locked")]}, "order o9 is ['locked'] there and unknown here"),
        ({"seats": {"s": 1}}, "slot s: 2 taken of 1"),
        ({"remaining": {"s": 0}}, "slot s: 2 taken of 3, and 0 on sale"),
    ],
)
def test_damage_is_named_when_it_is_there(changes: dict[str, Any], named: str) -> None:
    assert any(fault.startswith(named) for fault in faults(replace(WELL, **changes))), faults(replace(WELL, **changes))
