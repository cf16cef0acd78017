"""What each request was worth: one verdict for each sample, by its class and that class's limit.

Latency counts from the intended start, so that a server that stands still is charged for everybody who would have come meanwhile.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec
import numpy as np
import numpy.typing as npt

from loadtest.verdict.facts import Facts, Samples

HOLD, SOLD_OUT, LIVE = "hold", "sold_out", "live"

LIMITS_S = {"read": 0.3, "status": 0.3, SOLD_OUT: 0.3, HOLD: 1.0, "join": 1.0, "step": 1.0}
"""The longest that a right answer may take. A class that is not here has no limit: the HIS decides how long it takes."""

SHED_CODES = ("overloaded", "draining")
NOT_BUSINESS = ("request_in_progress",)  # a 409 that is no answer to the question
WAITING_ROOM = "waiting_room"
NOT_RELEASED, OPENS_WITHIN_S = "slot_not_released", 1.0


class Verdict(IntEnum):
    """In the order in which they are told. The first is good, the next seven are bad, the last two are not valid requests."""

    GOOD = 0
    SLOW = 1  # a right answer, later than its limit
    FAILED = 2  # a 5xx
    SHED = 3  # 503 by admission
    UNANSWERED = 4  # the connection failed, or the client's patience ended
    REFUSED = 5  # 429 to a client that kept to the published policy
    WRONG = 6  # "not released yet" after the release
    BROKEN = 7  # a hold that was acknowledged, and then rejected or never locked through our fault
    LIMITED = 8  # 429 by the published policy: rate limits of a client beyond them, and the waiting room
    INVALID = 9  # the caller's error


BAD = (
    Verdict.SLOW,
    Verdict.FAILED,
    Verdict.SHED,
    Verdict.UNANSWERED,
    Verdict.REFUSED,
    Verdict.WRONG,
    Verdict.BROKEN,
)
VALID = (Verdict.GOOD, *BAD)


class JudgedSamples(msgspec.Struct, frozen=True):
    """Columns of the samples with what was made of them. `class_names[classes[i]]` is the class of sample i."""

    class_names: tuple[str, ...]
    classes: npt.NDArray[np.uint8]
    verdicts: npt.NDArray[np.uint8]
    latency_s: npt.NDArray[np.float64]
    intended_s: npt.NDArray[np.float64]
    hospitals: npt.NDArray[np.uint8]
    clients: npt.NDArray[np.uint8]

    def of_class(self, *names: str) -> npt.NDArray[np.bool_]:
        """Which samples are of these classes."""
        return np.isin(self.classes, [n for n, name in enumerate(self.class_names) if name in names])

    def counts(self, which: npt.NDArray[np.bool_] | None = None) -> dict[Verdict, int]:
        """How many samples got each verdict, of all or of those chosen."""
        verdicts = self.verdicts if which is None else self.verdicts[which]
        counted = np.bincount(verdicts, minlength=len(Verdict))
        return {verdict: int(counted[verdict]) for verdict in Verdict}

    def with_verdicts(self, verdicts: npt.NDArray[np.uint8]) -> JudgedSamples:
        return msgspec.structs.replace(self, verdicts=verdicts)


def judge_samples(samples: Samples, facts: Facts) -> JudgedSamples:
    """The verdict on each answer by itself; what became of the holds is judged by `promises`."""
    names = facts.classes if SOLD_OUT in facts.classes else (*facts.classes, SOLD_OUT)
    classes = samples["request_class"].copy()
    status, codes = samples["status"], samples["code"]
    business = (status == 409) & ~_coded(codes, facts, *NOT_BUSINESS)
    if HOLD in names:
        classes[(classes == names.index(HOLD)) & business] = names.index(SOLD_OUT)
    latency_s = samples["ended_s"] - samples["intended_s"]
    late = latency_s > np.array([LIMITS_S.get(name, np.inf) for name in names])[classes]

    verdicts = np.full(len(samples), Verdict.INVALID, dtype=np.uint8)
    verdicts[(status >= 200) & (status < 400) | business] = Verdict.GOOD
    verdicts[(verdicts == Verdict.GOOD) & late] = Verdict.SLOW
    verdicts[business & _too_early(samples, facts)] = Verdict.WRONG
    verdicts[status >= 500] = Verdict.FAILED
    verdicts[(status == 503) & _coded(codes, facts, *SHED_CODES)] = Verdict.SHED
    verdicts[status == 0] = Verdict.UNANSWERED
    verdicts[status == 429] = Verdict.LIMITED
    verdicts[(status == 429) & _law_abiding(samples, facts) & ~_coded(codes, facts, WAITING_ROOM)] = Verdict.REFUSED
    return JudgedSamples(
        names, classes, verdicts, latency_s, samples["intended_s"], samples["hospital"], samples["client"]
    )


def _coded(codes: npt.NDArray[np.uint8], facts: Facts, *wanted: str) -> npt.NDArray[np.bool_]:
    return np.isin(codes, [n for n, code in enumerate(facts.codes) if code in wanted])


def _law_abiding(samples: Samples, facts: Facts) -> npt.NDArray[np.bool_]:
    return np.isin(samples["client"], [n for n, name in enumerate(facts.clients) if facts.judged.policy[name]])


def _too_early(samples: Samples, facts: Facts) -> npt.NDArray[np.bool_]:
    """Told "not released yet" about what was: a release that never opens would be answered in time for ever."""
    if facts.opens_at_s is None:
        return np.zeros(len(samples), dtype=np.bool_)
    after = samples["started_s"] > facts.opens_at_s + OPENS_WITHIN_S
    return after & _coded(samples["code"], facts, NOT_RELEASED)
