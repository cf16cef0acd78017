"""From the parts to the outcome."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from loadtest.verdict.conclusion import Outcome
from tests.loadtest.runs import FACTS, booking, concluded, rows, visit

GENERATOR: dict[str, Any] = FACTS["generator"]


@pytest.mark.parametrize(
    ("bad", "share", "outcome"),
    [
        (19, Fraction("0.99905"), Outcome.PASSED),
        (20, Fraction("0.999"), Outcome.PASSED),  # exactly what is asked for
        (21, Fraction("0.99895"), Outcome.FAILED),
    ],
)
def test_outcome_turns_when_more_than_one_in_a_thousand_is_bad(
    tmp_path: Path, bad: int, share: Fraction, outcome: Outcome
) -> None:
    conclusion = concluded(tmp_path, samples=[rows(20_000 - bad), rows(bad, latency_s=0.301)])
    assert conclusion.availabilities.by_class["read"].share == share
    assert conclusion.outcome is outcome
    assert conclusion.outcome.exit_code == (outcome is Outcome.FAILED)


def test_reason_names_class_share_and_kinds_when_it_failed(tmp_path: Path) -> None:
    samples = [rows(19_970), rows(20, latency_s=0.5), rows(10, status=503, code="overloaded")]
    assert concluded(tmp_path, samples=samples).reasons == (
        "read: 99.850 % of 20,000 valid requests were good (20 slow, 10 shed), below 99.9 %",
        "all judged classes: 99.850 % of 20,000 valid requests were good (20 slow, 10 shed), below 99.9 %",
    )


def test_one_class_fails_the_run_when_the_others_would_hide_it(tmp_path: Path) -> None:
    samples = [
        rows(90_000),
        rows(9_980, request_class="step", status=202),
        rows(20, request_class="step", status=500),
    ]
    conclusion = concluded(tmp_path, samples=samples, judged={"classes": ["read", "step"]})
    assert conclusion.availabilities.whole.share == Fraction(99_980, 100_000)
    assert conclusion.outcome is Outcome.FAILED
    assert [reason.partition(":")[0] for reason in conclusion.reasons] == ["step"]


def test_a_class_does_not_fail_the_run_when_it_is_not_judged(tmp_path: Path) -> None:
    samples = [rows(10_000), rows(20_000, request_class="hold", status=500)]
    assert concluded(tmp_path, samples=samples).outcome is Outcome.PASSED


@pytest.mark.parametrize(("judged", "outcome"), [(True, Outcome.FAILED), (False, Outcome.PASSED)])
def test_the_peak_fails_the_run_when_the_run_is_judged_by_it(tmp_path: Path, judged: bool, outcome: Outcome) -> None:
    # 20 bad in 10,000 at the peak (30 s to 60 s), in 100,000 in all.
    samples = [rows(90_000), rows(9_980, at_s=40.0), rows(20, at_s=40.0, status=500)]
    assert concluded(tmp_path, samples=samples, judged={"peak": judged}).outcome is outcome


# --- too few --------------------------------------------------------------------------------------------------------


def test_outcome_is_insufficient_when_no_judged_class_has_enough(tmp_path: Path) -> None:
    samples = [
        rows(9_999),
        rows(9_999, request_class="step", status=202),
        rows(20_000, request_class="hold", status=201),
    ]
    conclusion = concluded(tmp_path, samples=samples, judged={"classes": ["read", "step"]})
    assert conclusion.availabilities.whole.share == 1
    assert conclusion.outcome is Outcome.INSUFFICIENT
    assert conclusion.outcome.exit_code == 2
    assert "Insufficient, under 10,000 valid samples: read, step." in conclusion.remarks


def test_outcome_is_insufficient_when_one_judged_class_has_too_few(tmp_path: Path) -> None:
    samples = [rows(10_000), rows(9, request_class="step", status=202)]
    conclusion = concluded(tmp_path, samples=samples, judged={"classes": ["read", "step"]})
    assert conclusion.outcome is Outcome.INSUFFICIENT
    assert conclusion.reasons == ("step: 9 valid samples, and a verdict takes 10,000",)
    assert "Insufficient, under 10,000 valid samples: step." in conclusion.remarks


def test_outcome_is_failed_when_a_hospital_gave_nobody_a_seat(tmp_path: Path) -> None:
    samples = [rows(10_000, request_class="hold", status=201)]
    conclusion = concluded(
        tmp_path, samples=samples, bookings=[booking(1)], visits=[visit(1)], judged={"classes": ["hold"]}
    )
    assert conclusion.reasons == ("west: nobody got a seat",)


def test_outcome_is_failed_when_one_class_is_bad_in_the_peak_alone(tmp_path: Path) -> None:
    # 15 of 15,000 are bad, which is the most that may be; in the peak they are 15 of 10,000.
    samples = [rows(9_985, at_s=40.0), rows(15, at_s=40.0, status=500), rows(5_000, at_s=70.0)]
    samples += [rows(90_000, at_s=40.0, request_class="step", status=202)]
    conclusion = concluded(tmp_path, samples=samples, judged={"classes": ["read", "step"], "peak": True})
    assert conclusion.reasons == (
        "read in the peak window: 99.850 % of 10,000 valid requests were good (15 failed), below 99.9 %",
    )


def test_outcome_is_insufficient_when_nothing_was_sent_at_all(tmp_path: Path) -> None:
    assert concluded(tmp_path, floor=0).outcome is Outcome.INSUFFICIENT


def test_remark_states_the_floor_when_it_was_lowered(tmp_path: Path) -> None:
    conclusion = concluded(tmp_path, floor=50, samples=[rows(50)])
    assert conclusion.outcome is Outcome.PASSED
    assert "Judged from 50 valid samples a class on; 10,000 is what a verdict takes." in conclusion.remarks


# --- the generator --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("late", "outcome"), [(100, Outcome.PASSED), (101, Outcome.VOID)])
def test_outcome_is_void_when_over_one_in_a_hundred_started_over_50_ms_late(
    tmp_path: Path, late: int, outcome: Outcome
) -> None:
    samples = [rows(10_000 - late, lag_s=0.001), rows(late, lag_s=0.06, latency_s=0.07)]
    conclusion = concluded(tmp_path, samples=samples)
    assert conclusion.outcome is outcome
    assert conclusion.outcome.exit_code == (3 if outcome is Outcome.VOID else 0)


@pytest.mark.parametrize(
    ("generator", "outcome"),
    [
        ({"lag_ms": {"p50": 1.0, "p99": 50.0, "max": 90.0}}, Outcome.PASSED),
        ({"lag_ms": {"p50": 1.0, "p99": 50.1, "max": 90.0}}, Outcome.VOID),
        ({"void": True}, Outcome.VOID),
    ],
)
def test_outcome_is_void_when_the_generator_says_so_itself(
    tmp_path: Path, generator: dict[str, Any], outcome: Outcome
) -> None:
    facts = {"generator": GENERATOR | generator}
    assert concluded(tmp_path, samples=[rows(10_000)], facts=facts).outcome is outcome


def test_outcome_is_void_when_a_slow_generator_measured_a_share_below_the_objective(tmp_path: Path) -> None:
    assert concluded(tmp_path, samples=[rows(10_000, lag_s=0.4, latency_s=0.5)]).outcome is Outcome.VOID


def test_outcome_is_failed_when_the_audit_found_something_in_a_void_run(tmp_path: Path) -> None:
    facts = {"generator": GENERATOR | {"void": True}}
    conclusion = concluded(tmp_path, samples=[rows(10_000)], facts=facts, his={"oversold": 1})
    assert conclusion.outcome is Outcome.FAILED
    assert conclusion.reasons == (
        "No seat is sold twice: not kept, 1 finding",
        "the generator declared the run void",
    )


# --- recovery -------------------------------------------------------------------------------------------------------

RESTART = {"at_s": 40.0, "until_s": None, "what": "PostgreSQL restarts", "hospital": None}


def outage(from_s: int, to_s: int) -> list[Any]:
    """A hold every second, those from `from_s` to `to_s` answered 503; reads go on."""
    ends = [rows(1, request_class="hold", status=503 if from_s <= s < to_s else 201, at_s=s) for s in range(100)]
    return [*ends, rows(10_000, at_s=45.0)]


@pytest.mark.parametrize(
    ("fault", "after_s"),
    [
        (RESTART, 6.0),  # the last bad one was at 46 s, 6 s after the moment of the restart
        (RESTART | {"until_s": 43.0}, 3.0),
        (RESTART | {"until_s": 50.0}, 0.0),
    ],
)
def test_recovery_counts_from_the_faults_end_when_writes_are_good_again(
    tmp_path: Path, fault: dict[str, Any], after_s: float
) -> None:
    conclusion = concluded(tmp_path, samples=outage(40, 47), facts={"faults": [fault]})
    assert [r.after_s for r in conclusion.recoveries] == [after_s]


@pytest.mark.parametrize(("limit_s", "outcome"), [(6.0, Outcome.PASSED), (5.0, Outcome.FAILED), (None, Outcome.PASSED)])
def test_recovery_fails_the_run_when_it_took_longer_than_the_profile_allows(
    tmp_path: Path, limit_s: float | None, outcome: Outcome
) -> None:
    conclusion = concluded(
        tmp_path, samples=outage(40, 47), facts={"faults": [RESTART]}, judged={"recovery_s": limit_s}
    )
    assert conclusion.outcome is outcome


def test_recovery_fails_the_run_when_it_never_came(tmp_path: Path) -> None:
    conclusion = concluded(tmp_path, samples=outage(40, 100), facts={"faults": [RESTART]}, judged={"recovery_s": 60.0})
    assert conclusion.reasons == ("no recovery from: PostgreSQL restarts",)


def test_recovery_has_not_come_when_it_is_good_for_a_moment_only(tmp_path: Path) -> None:
    samples = [*outage(40, 43), rows(1, request_class="hold", status=503, at_s=45.5)]
    conclusion = concluded(tmp_path, samples=samples, facts={"faults": [RESTART]})
    assert [r.after_s for r in conclusion.recoveries] == [5.5]


def test_recovery_cannot_be_judged_when_no_fault_was_noted(tmp_path: Path) -> None:
    conclusion = concluded(tmp_path, samples=[rows(10_000)], judged={"recovery_s": 10.0})
    assert conclusion.outcome is Outcome.FAILED
