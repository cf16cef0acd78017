"""How many may be admitted a second: what the engine bears, found by trying. Pure; time is handed in.

Additive increase, multiplicative decrease (Chiu and Jain, "Analysis of the increase and decrease algorithms for congestion
avoidance in computer networks", 1989), and quick below the last rate that was borne, as TCP is (RFC 5681, section 3.1). Each API
process runs one for itself and admits its own share: like connections through one bottleneck they come to fair shares without
speaking to each other.

Whether holds are delayed is judged by the least delay in a while (RFC 8289, CoDel): a burst that is served goes through zero, a
queue that stands does not.
"""

from __future__ import annotations

LEAST_PER_S = 0.1
START_FACTOR = 1.15  # a second, below what was last borne: admitted people take seconds to come back and hold
STEP = 0.05  # a second, of a fair share
CUT = 0.7
SETTLE_S = 3.0  # after a cut: what was admitted before it is still on its way
BRAKE = 5.0  # times the target: beyond that nobody is admitted
BOUNDLESS = float("inf")


class Delay:
    """The least and the longest delay of a queue since the least was last taken."""

    def __init__(self) -> None:
        self._least_s = BOUNDLESS
        self.peak_s = 0.0

    def note(self, delay_s: float) -> None:
        """The queue's delay as it is now."""
        self._least_s = min(self._least_s, delay_s)
        self.peak_s = max(self.peak_s, delay_s)

    def take_s(self) -> float:
        """The standing delay of the time that ends here; 0 where nothing was noted."""
        least_s, self._least_s, self.peak_s = self._least_s, BOUNDLESS, 0.0
        return 0.0 if least_s == BOUNDLESS else least_s


class Rate:
    """Admissions a second of one process, between LEAST_PER_S and `most_per_s`. `per_s` is the rate now."""

    def __init__(self, first_per_s: float, most_per_s: float, target_s: float) -> None:
        """Above `target_s` of standing delay it is too much."""
        self._most_per_s = max(LEAST_PER_S, most_per_s)
        self._target_s = target_s
        self.per_s = min(max(first_per_s, LEAST_PER_S), self._most_per_s)
        self._quick_below_per_s = BOUNDLESS
        self._delay_s = 0.0
        self._settling_s = 0.0
        self._owed = 0.0

    def follow(self, delay_s: float, dt_s: float, *, is_limit: bool, fair_per_s: float) -> None:
        """So much time has passed with this standing delay. `is_limit`: more waited than could be admitted.

        Where nobody waited for the rate, that it was borne says nothing, and it does not grow. `fair_per_s` is what each process
        would admit if all did alike: their steps are alike, so that in the long run their rates are.
        """
        was_slow, was_braked, self._delay_s = self._delay_s > self._target_s, self._is_braked, delay_s
        self._settling_s = max(0.0, self._settling_s - dt_s)
        if self._settling_s > 0.0:
            return
        if delay_s > self._target_s:
            if was_braked:  # nobody was admitted: what is still slow says nothing of the rate
                return
            self.per_s = max(LEAST_PER_S, self.per_s * CUT)
            self._settling_s = SETTLE_S
            if not was_slow:  # later cuts for the same queue say nothing of what is served
                self._quick_below_per_s = self.per_s
        elif is_limit:
            quick = self.per_s < self._quick_below_per_s
            grown = (
                self.per_s * START_FACTOR**dt_s if quick else self.per_s + STEP * max(fair_per_s, LEAST_PER_S) * dt_s
            )
            self.per_s = min(self._most_per_s, grown)

    @property
    def _is_braked(self) -> bool:
        return self._delay_s > BRAKE * self._target_s

    def take(self, dt_s: float) -> int:
        """How many may be admitted for the time that has passed; nobody while holds wait far too long.

        What is left of a person is kept for the next time.
        """
        if self._is_braked:
            return 0
        self._owed = min(self._owed + self.per_s * dt_s, self.per_s * 2 + 1)
        whole = int(self._owed)
        self._owed -= whole
        return whole

    def forgo(self) -> None:
        """Nobody was there to be admitted: nothing is saved up for those who are yet to come."""
        self._owed = min(self._owed, 1.0)
