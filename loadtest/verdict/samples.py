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
NO_SEAT = ("slot_sold_out", "duplicate_booking", "limit_reached")
"""What may stand in the way of a hold here: no hospital in a run is closed, paused or stopped, and no fee changes."""
WAITING_ROOM = "waiting_room"
NOT_RELEASED, OPENS_WITHIN_S = ("slot_not_released", "list_not_released"), 1.0
LIST_EMPTY = "list_empty"


class Verdict(IntEnum):
    """In the order in which they are told. The first is good, the next seven are bad, the last two are not valid requests."""

    GOOD = 0
    SLOW = 1  # a right answer, later than its limit
    FAILED = 2  # a 5xx
    SHED = 3  # 503 by admission
    UNANSWERED = 4  # the connection failed, or the client's patience ended
    REFUSED = 5  # 429 to a client that kept to the published policy
    WRONG = 6  # "not released yet" after the release, a list without slots, a refusal for which there is no reason
    BROKEN = 7  # a hold that was acknowledged, and then rejected or never locked through our fault
    LIMITED = 8  # 429 by the published policy: rate limits of a client beyond them, and the waiting room
    INVALID = 9  # the error of a caller who does not keep to the policy, or a repeat while the first request still runs


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
    business = (status == 409) & ~coded(codes, facts, *NOT_BUSINESS)
    abiding = _law_abiding(samples, facts)
    if HOLD in names:
        classes[(classes == names.index(HOLD)) & business] = names.index(SOLD_OUT)
    latency_s = samples["ended_s"] - samples["intended_s"]
    late = latency_s > np.array([LIMITS_S.get(name, np.inf) for name in names])[classes]

    verdicts = np.full(len(samples), Verdict.INVALID, dtype=np.uint8)
    verdicts[(status >= 200) & (status < 400) | business] = Verdict.GOOD
    verdicts[(verdicts == Verdict.GOOD) & late] = Verdict.SLOW
    verdicts[(status == 200) & coded(codes, facts, LIST_EMPTY)] = Verdict.WRONG
    verdicts[((status == 200) | business) & _too_early(samples, facts)] = Verdict.WRONG
    verdicts[business & abiding & ~_expected(samples, facts)] = Verdict.WRONG
    # The generator sends nothing that is wrong.
    verdicts[(status >= 400) & (status < 500) & (status != 409) & abiding] = Verdict.WRONG
    verdicts[status >= 500] = Verdict.FAILED
    verdicts[(status == 503) & coded(codes, facts, *SHED_CODES)] = Verdict.SHED
    verdicts[status == 0] = Verdict.UNANSWERED
    verdicts[status == 429] = Verdict.LIMITED
    verdicts[(status == 429) & abiding & ~coded(codes, facts, WAITING_ROOM)] = Verdict.REFUSED
    return JudgedSamples(
        names, classes, verdicts, latency_s, samples["intended_s"], samples["hospital"], samples["client"]
    )


def coded(codes: npt.NDArray[np.uint8], facts: Facts, *wanted: str) -> npt.NDArray[np.bool_]:
    """Which samples have one of these codes."""
    return np.isin(codes, [n for n, code in enumerate(facts.codes) if code in wanted])


def _law_abiding(samples: Samples, facts: Facts) -> npt.NDArray[np.bool_]:
    return np.isin(samples["client"], [n for n, name in enumerate(facts.clients) if facts.judged.policy[name]])


def _expected(samples: Samples, facts: Facts) -> npt.NDArray[np.bool_]:
    """Refusals that can be right: of a hold, that there is no seat; of a place in the waiting room, that it has closed.

    A booking is paid when it is shown as payable, and cancelled once: a step is never refused.
    """

    def of(*names: str) -> npt.NDArray[np.bool_]:
        return np.isin(samples["request_class"], [n for n, name in enumerate(facts.classes) if name in names])

    codes = samples["code"]
    no_seat = coded(codes, facts, *NO_SEAT, *NOT_RELEASED)
    return (of(HOLD, SOLD_OUT) & no_seat) | (of("join") & coded(codes, facts, "waiting_room_closed")) | of(LIVE)


def _too_early(samples: Samples, facts: Facts) -> npt.NDArray[np.bool_]:
    """Told "not released yet" about what was: a release that never opens would be answered in time for ever."""
    if facts.opens_at_s is None:
        return np.zeros(len(samples), dtype=np.bool_)
    after = samples["started_s"] > facts.opens_at_s + OPENS_WITHIN_S
    return after & coded(samples["code"], facts, *NOT_RELEASED)
