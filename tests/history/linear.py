"""Is there an order that explains what was seen? The search of Wing and Gong with Lowe's memory of where it has been.

An action happened at one instant between its two times. An order is found by putting one action after the other: any of those
that began before every open action had to be over. Where the search has been is remembered as (what was put, state), so that a
thousand actions take a thousand steps and not a thousand factorial.

Two cuts keep it small, and lose nothing: what only reads, and reads what is true, is put at once; of actions that do the same
only the one with the least time left is tried, because any order that puts another one first stays one with both exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

MOST_PLACES = 100_000
"""Where a search ends that has found neither an order nor that there is none. A true history takes about a place per action."""

Step = Callable[[Any, Any], Any]
"""The state after an action, or None where it cannot happen. It gets the state and the action's `what`."""


@dataclass(frozen=True)
class Action:
    """`what` is done between two times. One that is not `certain` may never have happened. `reads`: it changes nothing."""

    begin_ms: float
    end_ms: float
    what: Hashable
    certain: bool = True
    reads: bool = False
    label: str = ""


@dataclass(frozen=True)
class Stuck:
    """No order explains it. `at` is the action that could not be put anywhere on the longest way found, `state` what was then.

    `gave_up`: not every way was tried. That is no proof, and no excuse either.
    """

    at: Action
    state: object
    put: int
    gave_up: bool = False

    def __str__(self) -> str:
        verdict = "found no place yet when the search gave up" if self.gave_up else "cannot have happened"
        return f"{self.at.label or self.at.what} {verdict} (after {self.put} others, at {self.state})"


def explain(actions: Sequence[Action], start: object, step: Step) -> Stuck | None:
    """None when some order of the actions explains them all, else where every order gets stuck."""
    line = sorted(actions, key=lambda action: action.begin_ms)
    seen: set[tuple[int, int, object]] = set()
    todo: list[tuple[int, int, object]] = [(0, 0, start)]
    longest: tuple[int, Action, object] | None = None
    while todo and len(seen) < MOST_PLACES:
        # All actions before `first` are put; of those from there on the ones whose bit is set in `mask`.
        first, mask, state = place = todo.pop()
        if place in seen:
            continue
        seen.add(place)
        open_ones, waiting = _open(line, first, mask)
        if waiting is None:
            return None
        put = first + mask.bit_count()
        if longest is None or put > longest[0]:
            longest = (put, waiting, state)
        for index, after in _next(line, open_ones, state, step):
            todo.append((*_put(first, mask, index), after))
    assert longest is not None
    return Stuck(longest[1], longest[2], longest[0], gave_up=bool(todo))


def _open(line: Sequence[Action], first: int, mask: int) -> tuple[list[int], Action | None]:
    """The actions that may come next, and the certain one that must be over soonest (None: all of them are put)."""
    found: list[int] = []
    soonest: Action | None = None
    for index in range(first, len(line)):
        action = line[index]
        if soonest is not None and action.begin_ms > soonest.end_ms:
            break
        if mask >> (index - first) & 1:
            continue
        found.append(index)
        if action.certain and (soonest is None or action.end_ms < soonest.end_ms):
            soonest = action
    if soonest is None:
        return found, None
    return [index for index in found if line[index].begin_ms <= soonest.end_ms], soonest


def _next(line: Sequence[Action], open_ones: Sequence[int], state: object, step: Step) -> list[tuple[int, object]]:
    best: dict[Hashable, int] = {}
    for index in open_ones:
        action = line[index]
        if action.reads:
            if step(state, action.what) is not None:
                return [(index, state)]
        elif action.what not in best or _rank(action) < _rank(line[best[action.what]]):
            best[action.what] = index
    after = [(index, step(state, line[index].what)) for index in best.values()]
    # The last one is tried first: what must be over soonest is the best guess.
    possible = [(index, state) for index, state in after if state is not None]
    return sorted(possible, key=lambda choice: _rank(line[choice[0]]), reverse=True)


def _rank(action: Action) -> tuple[float, bool]:
    return action.end_ms, not action.certain


def _put(first: int, mask: int, index: int) -> tuple[int, int]:
    mask |= 1 << (index - first)
    while mask & 1:
        mask >>= 1
        first += 1
    return first, mask
