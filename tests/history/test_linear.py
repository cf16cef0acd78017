"""The search for an order, against trying every order there is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.history.linear import Action, explain
from tests.history.objects import slot_step


def explained_by_any_order(actions: Sequence[Action], left: int) -> bool:
    """Every choice of what never happened, every order of the rest."""
    certain = [action for action in actions if action.certain]
    doubtful = [action for action in actions if not action.certain]
    for count in range(len(doubtful) + 1):
        for happened in itertools.combinations(doubtful, count):
            if any(_holds(order, left) for order in itertools.permutations([*certain, *happened])):
                return True
    return False


def _holds(order: Sequence[Action], left: int | None) -> bool:
    for index, action in enumerate(order):
        if any(later.end_ms < action.begin_ms for later in order[index + 1 :]):
            return False
        left = slot_step(left, action.what)  # type: ignore[arg-type]
        if left is None:
            return False
    return True


@st.composite
def actions(draw: st.DrawFn) -> list[Action]:
    found = []
    for _ in range(draw(st.integers(0, 5))):
        what = draw(st.sampled_from([("hold", 0), ("sold_out", 0), ("change", 1), ("change", -1)]))
        begin = draw(st.integers(0, 8))
        certain = what[0] == "sold_out" or draw(st.integers(0, 3)) > 0
        end = begin + draw(st.integers(0, 4)) if certain else float("inf")
        found.append(Action(begin, end, what, certain, reads=what[0] == "sold_out"))
    return found


@settings(deadline=None)  # a machine that others use as well
@given(found=actions(), left=st.integers(0, 2))
def test_search_agrees_with_trying_every_order(found: list[Action], left: int) -> None:
    assert (explain(found, left, slot_step) is None) == explained_by_any_order(found, left)
