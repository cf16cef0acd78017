"""The gradient limiter against a simulated HIS: so many workers, a queue before them, and a clock that only the test moves."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from statistics import mean

import pytest

from scheduler_sync.limiter import FIRST_LOOK, GradientLimiter

Service = Callable[[str], float]


class Call:
    """One call in flight."""

    def __init__(self, verb: str, began: float, era: int) -> None:
        self.verb, self.began, self.era = verb, began, era
        self.most = 0


class Hospital:
    """A HIS that serves `workers` calls side by side, each for `service(verb)` seconds, and queues the rest.

    Of its calls the share `faults` ends without a usable reply. `run` keeps as many callers waiting as there are places.
    `seen` is (time, calls in flight), at every beginning.
    """

    def __init__(
        self, limiter: GradientLimiter, *, workers: int, service: Service | float = 0.2, faults: float = 0.0
    ) -> None:
        self.limiter, self.workers, self.faults = limiter, workers, faults
        self._chance = random.Random(7)
        self.service: Service = service if callable(service) else lambda verb: service
        self.now = 0.0
        self.seen: list[tuple[float, int]] = []
        self.done = 0
        self._inside: list[Call] = []
        self._queue: deque[Call] = deque()
        self._ends: list[tuple[float, int, Call]] = []
        self._number = 0

    def run(self, seconds: float, *, verbs: tuple[str, ...] = ("lock_slot",), demand: int = 1_000) -> None:
        """Let time pass with at most `demand` callers at once."""
        until, turn = self.now + seconds, 0
        while True:
            self.limiter.tick(self.now)
            while len(self._inside) < min(demand, self.limiter.limit):
                self._begin(verbs[turn % len(verbs)])
                turn += 1
            if not self._ends or self._ends[0][0] > until:
                self.now = until
                return
            self._end()

    def lose_all(self) -> None:
        """Every call in flight goes without a reply, now."""
        lost, self._inside = self._inside, []
        self._queue.clear()
        self._ends.clear()
        for call in lost:
            self.limiter.record_loss(era=call.era)

    def most_in_flight(self, since: float = 0.0) -> int:
        return max(n for at, n in self.seen if at >= since)

    def usual(self, since: float) -> float:
        """The mean of the calls in flight, by beginnings."""
        return mean(n for at, n in self.seen if at >= since)

    def _begin(self, verb: str) -> None:
        call = Call(verb, self.now, self.limiter.era)
        self._inside.append(call)
        for one in self._inside:
            one.most = max(one.most, len(self._inside))
        self.seen.append((self.now, len(self._inside)))
        self._queue.append(call)
        self._serve()

    def _serve(self) -> None:
        while self._queue and len(self._ends) < self.workers:
            call = self._queue.popleft()
            self._number += 1
            heapq.heappush(self._ends, (self.now + self.service(call.verb), self._number, call))

    def _end(self) -> None:
        self.now, _, call = heapq.heappop(self._ends)
        self._inside.remove(call)
        self.done += 1
        self._serve()
        if self._chance.random() < self.faults:
            self.limiter.record_loss(era=call.era)
            return
        self.limiter.record(call.verb, self.now - call.began, ended=self.now, in_flight=call.most, era=call.era)


def jittered(base_s: float, seed: int, *, spread: float = 0.5) -> Service:
    """Log-normal around `base_s`; one call in fifty takes twenty times as long, as the first after a rest does."""
    chance = random.Random(seed)

    def service(verb: str) -> float:
        slow = 20 if chance.random() < 0.02 else 1
        return base_s * slow * chance.lognormvariate(0, spread)

    return service


# --- the knee ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
@pytest.mark.parametrize("service_s", [0.08, 0.3, 2.0])
def test_limit_comes_to_rest_near_the_knee_when_the_his_queues_what_is_more(workers: int, service_s: float) -> None:
    limiter = GradientLimiter(floor=1, ceiling=32)
    his = Hospital(limiter, workers=workers, service=service_s)
    his.run(3_000 * service_s)
    while limiter.looks_until is not None:
        his.run(service_s)
    # From the docstring: TOLERANCE * k + allowance; calls of one length run in step, which makes it waver by a place or two.
    assert workers <= limiter.limit <= 1.25 * workers + 3
    assert his.usual(his.now - 500 * service_s) <= 1.25 * workers + 2
    # Nothing is given away: the workers are busy but for the looks.
    assert his.done >= 0.85 * workers * 3_000


def test_ceiling_is_used_up_and_never_exceeded_when_the_his_bears_more() -> None:
    limiter = GradientLimiter(floor=1, ceiling=8)
    his = Hospital(limiter, workers=100)
    his.run(600)
    assert limiter.limit == 8
    assert his.most_in_flight() == 8


def test_limit_is_never_below_the_floor_when_the_his_bears_less() -> None:
    limiter = GradientLimiter(floor=3, ceiling=16)
    his = Hospital(limiter, workers=1)
    his.run(600)
    assert 3 <= limiter.limit <= 5
    for _ in range(20):
        his.lose_all()
        his.run(0.001)
    assert limiter.limit == 3


def test_limit_finds_the_knee_when_verbs_differ_in_cost() -> None:
    cost_s = {"fetch_slots": 3.0, "lock_slot": 0.3, "ping": 0.02}
    limiter = GradientLimiter(floor=1, ceiling=32)
    his = Hospital(limiter, workers=100, service=cost_s.__getitem__)
    his.run(600, verbs=tuple(cost_s))
    assert limiter.limit == 32  # calls of 3 s among those of 0.02 s are no sign of a queue
    his.workers = 4
    his.run(1_800, verbs=("fetch_slots", "lock_slot", "lock_slot", "lock_slot"))
    assert 4 <= limiter.limit <= 10


# --- change ------------------------------------------------------------------------------------------------------------


def test_limit_shrinks_within_seconds_and_comes_back_when_the_his_slows_down_and_recovers() -> None:
    limiter = GradientLimiter(floor=1, ceiling=16)
    his = Hospital(limiter, workers=16, service=0.2)
    his.run(300)
    assert limiter.limit == 16
    his.workers = 2
    his.run(20)
    assert limiter.limit <= 4
    his.workers = 16
    his.run(60)
    assert limiter.limit == 16


def test_limit_comes_back_when_the_his_has_become_slower_for_good() -> None:
    limiter = GradientLimiter(floor=1, ceiling=8)
    his = Hospital(limiter, workers=8, service=0.2)
    his.run(300)
    his.service = lambda verb: 0.8  # each call, loaded or not
    his.run(60)
    assert limiter.limit < 8
    his.run(3_600)
    assert limiter.limit == 8


@pytest.mark.parametrize("seed", range(10))
def test_limit_does_not_collapse_when_answers_jitter(seed: int) -> None:
    limiter = GradientLimiter(floor=1, ceiling=16)
    his = Hospital(limiter, workers=100, service=jittered(0.3, seed))
    his.run(900)
    assert his.usual(300) >= 12


@pytest.mark.parametrize("seed", range(10))
def test_knee_is_found_when_answers_jitter(seed: int) -> None:
    limiter = GradientLimiter(floor=1, ceiling=32)
    his = Hospital(limiter, workers=4, service=jittered(0.3, seed))
    his.run(1_800)
    assert 3 <= his.usual(600) <= 12


def test_limit_halves_once_when_all_calls_in_flight_go_without_a_reply() -> None:
    limiter = GradientLimiter(floor=1, ceiling=16)
    his = Hospital(limiter, workers=16)
    his.run(1)
    his.lose_all()
    assert limiter.limit == 8
    his.run(0.001)
    his.lose_all()
    assert limiter.limit == 4


@pytest.mark.parametrize("service_s", [0.2, 2.0])
@pytest.mark.parametrize("faults", [0.05, 0.1])
def test_limit_does_not_collapse_when_one_call_in_some_has_a_fault(service_s: float, faults: float) -> None:
    limiter = GradientLimiter(floor=2, ceiling=40)
    his = Hospital(limiter, workers=100, service=jittered(service_s, 1), faults=faults)
    his.run(1_000 * service_s)
    assert his.usual(200 * service_s) >= 30


def test_limit_goes_to_the_floor_when_most_calls_have_faults() -> None:
    limiter = GradientLimiter(floor=2, ceiling=40)
    his = Hospital(limiter, workers=100, faults=0.6)
    his.run(60)
    assert his.usual(10) <= 4
    his.faults = 0.0
    his.run(60)
    assert limiter.limit == 40


def test_limit_grows_by_one_a_round_when_it_may() -> None:
    limiter = GradientLimiter(floor=1, ceiling=16)
    his = Hospital(limiter, workers=16, service=1.0)
    his.run(1)
    for _ in range(4):
        his.lose_all()
        his.run(0.001)
    assert limiter.limit == 1
    limits = []
    for _ in range(12):
        his.run(1)
        limits.append(limiter.limit)
    assert all(0 <= after - before <= 1 for before, after in itertools.pairwise(limits))
    assert limits[-1] >= 5


def test_limit_stays_when_it_is_not_used() -> None:
    limiter = GradientLimiter(floor=1, ceiling=16)
    his = Hospital(limiter, workers=16)
    his.run(1)
    his.lose_all()
    assert limiter.limit == 8
    his.run(120, demand=2)
    assert limiter.limit == 8  # nothing has shown that the HIS bears more
    his.service = lambda verb: 2.0
    his.run(30, demand=2)
    assert limiter.limit == 8  # and two calls of eight places are not what slows it down


# --- looking -----------------------------------------------------------------------------------------------------------


def test_looks_take_a_small_share_of_the_time_when_calls_are_slow() -> None:
    limiter = GradientLimiter(floor=1, ceiling=4)
    his = Hospital(limiter, workers=4, service=7.0)
    his.run(7_000)
    assert his.done >= 0.93 * 4 * 1_000


def test_no_look_is_made_when_calls_are_seen_alone_anyway() -> None:
    limiter = GradientLimiter(floor=1, ceiling=4)
    his = Hospital(limiter, workers=4)
    for _ in range(100):
        his.run(1, demand=1)
        his.run(1, demand=4)
    assert limiter.looks_until is None
    assert limiter.limit == 4


def test_look_is_given_up_when_a_call_hangs() -> None:
    limiter = GradientLimiter(floor=1, ceiling=4)
    for ended in (0.1, FIRST_LOOK.every_s + 1):  # never seen alone: then it is time for a look
        limiter.record("ping", 0.01, ended=ended, in_flight=4, era=0)
    assert limiter.limit == 1
    assert limiter.looks_until is not None
    limiter.tick(limiter.looks_until)
    assert limiter.limit == 4


@pytest.mark.parametrize(("floor", "ceiling"), [(0, 4), (5, 4), (1, 0)])
def test_limits_that_cannot_be_are_refused(floor: int, ceiling: int) -> None:
    with pytest.raises(ValueError, match="floor"):
        GradientLimiter(floor=floor, ceiling=ceiling)
