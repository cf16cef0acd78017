"""The seat rule, exhaustively: every interleaving of holds, locks, unlocks, fetches, window sales, refusals, lapsing locks, lost
messages and a cached count at one slot (DESIGN section 4, Seats). Each fault that the rule is there for is found by the same
search in a rule, or at a HIS, that has it.

`pytest -rP tests/model` prints the numbers of states. `make torture` walks the larger worlds too.
"""

from __future__ import annotations

import os

import pytest

from tests.model.rules import (
    CountsTheLiving,
    CreditsEveryUnlock,
    CreditsWhatWasGone,
    NeverUncharges,
    QuotaRule,
    Rule,
    TiesCountAsSeen,
)
from tests.model.search import search
from tests.model.slot import What, World

TORTURE = os.environ.get("HISBRIDGE_TORTURE") == "1"

SAFE = {
    "the HIS to ourselves, two bookings": (Rule(), World(1, 2, 1)),
    "the HIS to ourselves, three bookings": (Rule(), World(1, 3, 2)),
    "the HIS to ourselves, two seats": (Rule(), World(2, 3, 1)),
    "the window sells": (Rule(), World(1, 2, 2, sales=1)),
    "the HIS refuses": (Rule(), World(1, 3, 1, refuses=True)),
    "messages are lost": (Rule(), World(1, 3, 1, loses=True)),
    "locks lapse": (Rule(), World(1, 3, 1, lapses=True)),
    "lost messages and lapsing locks": (Rule(), World(1, 2, 2, loses=True, lapses=True)),
    "the HIS counts from a cache": (Rule(cache_ms=1), World(1, 2, 2, cache_ticks=1)),
    "everything at once": (Rule(), World(1, 2, 1, sales=1, refuses=True, loses=True, lapses=True)),
    "everything at once, from a cache": (
        Rule(cache_ms=1),
        World(1, 2, 1, sales=1, refuses=True, loses=True, lapses=True, cache_ticks=1),
    ),
    "a quota": (QuotaRule(), World(1, 3, 1, refuses=True, loses=True, lapses=True)),
    "a quota of two": (QuotaRule(), World(2, 3, 1, refuses=True, loses=True)),
}
LARGE = {
    "the HIS to ourselves, four bookings": (Rule(), World(2, 4, 2)),
    "the HIS to ourselves, three fetches": (Rule(), World(1, 3, 3)),
    "the window sells one of two": (Rule(), World(2, 3, 2, sales=1)),
    "messages are lost, two fetches": (Rule(), World(1, 3, 2, loses=True)),
    "locks lapse, two fetches": (Rule(), World(1, 3, 2, lapses=True)),
    "a cache, three bookings": (Rule(cache_ms=1), World(1, 3, 1, cache_ticks=1)),
    "everything at once, two fetches": (Rule(), World(1, 2, 2, sales=1, refuses=True, loses=True, lapses=True)),
    "everything at once, three bookings": (Rule(), World(1, 3, 1, sales=1, refuses=True, loses=True, lapses=True)),
    "everything but refusals, two seats": (Rule(), World(2, 3, 1, sales=1, loses=True, lapses=True)),
    "everything at once, from a cache, two fetches": (
        Rule(cache_ms=1),
        World(1, 2, 2, sales=1, refuses=True, loses=True, lapses=True, cache_ticks=1),
    ),
    "a quota, four bookings": (QuotaRule(), World(2, 4, 1, refuses=True, loses=True, lapses=True)),
}


@pytest.mark.parametrize("name", [*SAFE, *(LARGE if TORTURE else ())])
@pytest.mark.timeout(3_600)
def test_no_seat_is_given_twice_or_lost_when_every_interleaving_is_walked(name: str) -> None:
    rule, world = (SAFE | LARGE)[name]
    verdict = search(rule, world)
    print(f"{name}: {verdict}")  # noqa: T201
    assert verdict.fault is None, verdict
    assert verdict.states > 100  # a walk that went nowhere would prove nothing


@pytest.mark.parametrize(
    ("rule", "world"),
    [
        pytest.param(CreditsEveryUnlock(), World(1, 3, 2), id="credits every unlock"),
        pytest.param(CreditsWhatWasGone(), World(1, 3, 1, lapses=True), id="credits what was free already"),
        pytest.param(CountsTheLiving(), World(1, 2, 1), id="counts only the living"),
        pytest.param(TiesCountAsSeen(), World(1, 2, 1), id="ties count as seen"),
        pytest.param(Rule(trusts_the_first_look=True), World(1, 2, 1, loses=True), id="believes the first 'not found'"),
        pytest.param(QuotaRule(counts="QSDK"), World(1, 2, 1), id="a quota that forgets what is being released"),
    ],
)
def test_search_finds_the_oversell_when_the_rule_only_looks_right(rule: Rule, world: World) -> None:
    verdict = search(rule, world)
    assert verdict.fault == "oversold"
    assert verdict.way[-1] == What.HELD


@pytest.mark.parametrize(
    "world",
    [
        pytest.param(World(1, 2, 1, cache_ticks=1), id="counts from a cache that we were not told of"),
        pytest.param(World(1, 2, 1, lapses=True, lapses_while_promised=True), id="locks are shorter than his_lock_s"),
        pytest.param(
            World(1, 3, 1, lapses=True, accepts_unlock_of_lapsed=True), id="accepts to unlock what has lapsed"
        ),
    ],
)
def test_search_finds_the_oversell_when_the_his_breaks_what_the_rule_rests_on(world: World) -> None:
    """Why his_cache_s and his_lock_s must be set, and why a lapsed lock must be told apart from an unlocked one."""
    assert search(Rule(), world).fault == "oversold"


def test_search_finds_the_lost_seat_when_nothing_is_ever_uncharged() -> None:
    assert search(NeverUncharges(), World(2, 3, 1)).fault == "lost"
