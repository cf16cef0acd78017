"""What can happen in a step of the search, how often each is tried, and where it makes sense.

Hypothesis chooses evenly among rules, and of some dozens it leaves most out of each example: four in five hospitals never sent a
command. So there is one rule, which draws among these by weight.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import strategies as st

Does = TypeVar("Does", bound=Callable[..., None])


@dataclass(frozen=True)
class Action:
    """One of them. `needs` says of a machine whether there is anything for it to do."""

    name: str
    does: Callable[..., None]
    weight: int
    needs: Callable[[Any], bool]
    arguments: st.SearchStrategy[dict[str, Any]]


def action(
    *, weight: int = 2, needs: Callable[[Any], bool] = lambda _: True, **arguments: st.SearchStrategy[Any]
) -> Callable[[Does], Does]:
    """The method is an action, with these arguments."""

    def mark(does: Does) -> Does:
        found = Action(does.__name__, does, weight, needs, st.fixed_dictionaries(arguments))
        does.__dict__["action"] = found
        return does

    return mark


def actions_of(machine: type) -> list[Action]:
    """All of a class, the most usual first: that is what a failure is shrunk to."""
    found = [f.action for _, f in inspect.getmembers(machine, inspect.isfunction) if hasattr(f, "action")]
    return sorted(found, key=lambda one: (-one.weight, one.name))
