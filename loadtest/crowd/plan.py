"""What the crowd is told: where to go, whom to be, when to come and how to behave. A JSON file from the stage to the crowd."""

from __future__ import annotations

from pathlib import Path

import msgspec

from loadtest.crowd.shape import Shape

PORTAL, SCALPER = 0, 1
CLIENTS = ("portal", "scalper")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One hospital: what is released there, and the patients of the portal. `share` of all visits go there."""

    id: str
    share: float
    day: str
    departments: tuple[str, ...]
    patients: tuple[str, ...]


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """What a patient does; chances are 0 to 1, times are means or ranges in seconds."""

    think_s: tuple[float, float] = (0.5, 2.0)
    refresh_s: tuple[float, float] = (3.0, 6.0)
    reaction_s: float = 0.7
    """After the opening a patient who waits for it presses the button this much later, on average (exponential)."""
    attempts: int = 3
    stale_try: float = 0.5
    """Chance of trying a seat although the list shows none: what many do."""
    comes_back: float = 0.15
    asks_his: float = 0.01
    """Chance of looking at one's bills first, which only the HIS knows."""
    back_after_s: tuple[float, float] = (15.0, 40.0)
    vanishes: float = 0.03
    gives_up: float = 0.07
    cancels_paid: float = 0.04
    poll_s: tuple[float, float] = (4.0, 6.0)
    patience_s: float = 240.0
    """How long a patient polls for the lock, and for the registration after paying."""


class Flood(msgspec.Struct, frozen=True, kw_only=True):
    """One client that asks without measure: `per_s` requests, a fifth of them holds, under a key of its own."""

    key: str
    hospital: str
    per_s: float
    from_s: float
    to_s: float
    patients: tuple[str, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Times `_at` are seconds since the epoch, `_s` seconds relative to `opens_at`."""

    port: int
    key: str
    targets: tuple[Target, ...]
    opens_at: float
    starts_s: float
    ends_s: float
    give_up_s: float
    """Nobody does anything after this."""
    shape: Shape
    behaviour: Behaviour = Behaviour()
    flood: Flood | None = None
    most_connections: int = 4_000
    time_out_s: float = 10.0
    seed: int = 1


def read_plan(file: Path) -> Plan:
    """The plan in a file."""
    return msgspec.json.decode(file.read_bytes(), type=Plan)


def write_plan(plan: Plan, file: Path) -> None:
    """Write it for the crowd's own process."""
    file.write_bytes(msgspec.json.encode(plan))
