"""Breadth first over every interleaving of one slot's world: the shortest way into a fault, or how many places there are."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tests.model.rules import Rule
from tests.model.slot import Slot, What, World, lost, oversold, promised, quiet, steps


@dataclass(frozen=True)
class Verdict:
    """`fault` is None, "oversold" or "lost"; `way` what led there, `states` how many places were seen."""

    fault: str | None
    way: tuple[What, ...]
    states: int

    def __str__(self) -> str:
        return f"{self.fault or 'safe'}, {self.states} states" + "".join(f"\n  {step}" for step in self.way)


def search(rule: Rule, world: World, *, most_states: int = 50_000_000) -> Verdict:
    """Walk everywhere. Raises OverflowError beyond `most_states`: a search that was cut short has proved nothing."""
    start = world.start()
    came: dict[Slot, tuple[Slot, What] | None] = {start: None}
    todo = deque([start])
    while todo:
        slot = todo.popleft()
        if quiet(slot) and lost(rule, world, slot):
            return Verdict("lost", _way(came, slot), len(came))
        held = promised(slot)
        for what, after, _ in steps(rule, world, slot):
            if promised(after) > held and oversold(world, after):
                return Verdict("oversold", (*_way(came, slot), what), len(came))
            new = after._replace(bookings=tuple(sorted(after.bookings)))
            if new not in came:
                came[new] = (slot, what)
                todo.append(new)
        if len(came) > most_states:
            raise OverflowError(f"more than {most_states} states")
    return Verdict(None, (), len(came))


def _way(came: dict[Slot, tuple[Slot, What] | None], slot: Slot) -> tuple[What, ...]:
    way: list[What] = []
    while (step := came[slot]) is not None:
        slot, what = step
        way.append(what)
    return tuple(reversed(way))
