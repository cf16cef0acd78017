"""The order of a waiting room: fair before the release, first come first served after it, and nobody overtaken."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from booking.store.tables import EARLY_PLACE
from booking.waiting_room.ranks import FIRST_LATE, NONE_YET, Ranks, draw_rank, late_rank

RANK = st.integers(min_value=0, max_value=FIRST_LATE - 1)
ARRIVALS = st.integers(0, 50)


def filled(*groups: list[int], arrivals: int = 0) -> Ranks:
    ranks = Ranks()
    for group in groups:
        ranks.add(group)
    ranks.arrivals = arrivals
    return ranks


@given(st.lists(st.lists(RANK, max_size=30), max_size=20), ARRIVALS, st.data())
def test_figures_are_those_of_counting_when_people_come_before_and_after_the_release(
    groups: list[list[int]], arrivals: int, data: st.DataObject
) -> None:
    late = [late_rank(n) for n in range(1, arrivals + 1)]
    ranks, everybody = filled(*groups, arrivals=arrivals), [*(r for group in groups for r in group), *late]
    place = RANK if not late else st.one_of(RANK, st.sampled_from(late))
    rank, watermark = data.draw(place), data.draw(st.one_of(st.just(NONE_YET), place))
    assert len(ranks) == len(everybody)
    assert ranks.waiting(watermark) == sum(r > watermark for r in everybody)
    assert ranks.before(rank, watermark) == sum(watermark < r < rank for r in everybody)


def test_figures_stay_right_when_thousands_join_in_groups() -> None:
    chance, ranks, known = random.Random(7), Ranks(), []
    for _ in range(40):
        group = [chance.getrandbits(62) for _ in range(100)]
        known += group
        ranks.add(group)
    ranks.arrivals = 500
    known += [late_rank(n) for n in range(1, 501)]
    for rank in (known[0], known[1234], known[-500], known[-1]):
        assert ranks.below(rank) == sum(r < rank for r in known)
        assert ranks.up_to(rank) == sum(r <= rank for r in known)


@given(st.binary(min_size=8, max_size=8), st.integers(min_value=1, max_value=10**9), st.integers(1, 10**6))
def test_late_ones_stand_behind_all_early_ones_and_as_they_came(drawn: bytes, arrival: int, later: int) -> None:
    early = draw_rank(lambda count: drawn[:count])
    assert 0 <= early < late_rank(arrival) < late_rank(arrival + later) < 1 << 63


@given(st.sets(RANK, min_size=1, max_size=200), st.lists(st.integers(1, 40), max_size=30))
def test_nobody_is_overtaken_when_people_are_let_in_from_the_front(people: set[int], counts: list[int]) -> None:
    """Whoever is let in had nobody waiting before them; positions only fall."""
    ranks, line, watermark = filled(list(people)), sorted(people), NONE_YET
    positions = {rank: ranks.before(rank, watermark) for rank in line}
    assert sorted(positions.values()) == list(range(len(line)))
    for count in counts:
        left = [rank for rank in line if rank > watermark]
        if not left:
            break
        watermark = left[:count][-1]
        assert all(positions[rank] < count for rank in left[:count])
        for rank in left[count:]:
            now = ranks.before(rank, watermark)
            assert now == positions[rank] - count
            positions[rank] = now


def test_order_before_the_release_is_not_that_of_joining() -> None:
    """Spearman's rank correlation of two independent orders of n has variance 1/(n-1): 5 deviations are 0.16 for 1000."""
    seeded = random.Random(2031)
    drawn = [draw_rank(seeded.randbytes) for _ in range(1_000)]
    assert abs(correlation(drawn)) < 0.16
    assert correlation([late_rank(n) for n in range(1_000)]) == 1.0


def test_index_of_the_store_has_the_same_border_as_the_ranks() -> None:
    assert f"rank < {FIRST_LATE}" == EARLY_PLACE


def correlation(ranks: list[int]) -> float:
    """Spearman's, of the order of joining and the order of ranks that are all different."""
    n = len(ranks)
    place = {rank: at for at, rank in enumerate(sorted(ranks))}
    return 1 - 6 * sum((at - place[rank]) ** 2 for at, rank in enumerate(ranks)) / (n * (n * n - 1))
