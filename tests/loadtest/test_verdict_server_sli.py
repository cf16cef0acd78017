"""The service's own SLI beside the client's."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from loadtest.verdict.conclusion import Conclusion, Outcome
from loadtest.verdict.server_sli import WHOLE, Comparison
from tests.loadtest.runs import booking, concluded, rows


def counted(request_class: str = "read", hospital: str = "east", phase: str = "release", **counts: int) -> list[Any]:
    """What the service counted of one class."""
    labels = {"hospital": hospital, "request_class": request_class, "phase": phase}
    return [{**labels, "verdict": verdict, "count": float(count)} for verdict, count in counts.items()]


def told(*sli: list[Any], lost_counts: bool = False) -> dict[str, Any]:
    return {"source": "prometheus", "sli": [entry for part in sli for entry in part], "lost_counts": lost_counts}


def of(conclusion: Conclusion, name: str) -> Comparison:
    (found,) = (c for c in conclusion.comparisons if c.name == name)
    return found


@pytest.mark.parametrize(
    ("slow", "agrees", "outcome"),
    [(5, True, Outcome.PASSED), (6, False, Outcome.FAILED)],  # of 10,000: 0.05 and 0.06 points
)
def test_run_fails_when_the_two_differ_by_more_than_five_hundredths_of_a_point(
    tmp_path: Path, slow: int, agrees: bool, outcome: Outcome
) -> None:
    samples = [rows(10_000 - slow), rows(slow, latency_s=0.4)]
    conclusion = concluded(tmp_path, samples=samples, sli=told(counted(good=10_000)))
    assert of(conclusion, "read").difference == Fraction(-slow, 10_000)
    assert of(conclusion, "read").agrees is agrees
    assert conclusion.outcome is outcome


def test_difference_is_told_in_words_when_it_is_too_large(tmp_path: Path) -> None:
    samples = [rows(19_980), rows(8, latency_s=0.4), rows(12, status=0)]
    conclusion = concluded(tmp_path, samples=samples, sli=told(counted(good=19_988, gone=7)))
    words = "; ".join(of(conclusion, "read").words)
    assert "8 more were late for the client than for the service" in words
    assert "12 got no answer: the service counts those whose caller hung up as gone (7)" in words
    assert "the client sent 20,000, the service counted 19,995" in words


def test_nothing_is_told_when_the_two_agree(tmp_path: Path) -> None:
    conclusion = concluded(tmp_path, samples=[rows(10_000)], sli=told(counted(good=10_050)))
    assert of(conclusion, "read").words == ()
    assert conclusion.outcome is Outcome.PASSED


def test_server_counts_add_up_when_they_are_by_hospital_and_phase(tmp_path: Path) -> None:
    sli = told(
        counted(good=6_000),
        counted(hospital="west", good=3_000, slow=500),
        counted(phase="ordinary", failed=300, shed=200),
        counted(limited=70, invalid=20, gone=10),  # none of these is a valid request
    )
    found = of(concluded(tmp_path, samples=[rows(10_000)], sli=sli), "read")
    assert found.server_share == Fraction(9_000, 10_000)
    assert found.server["limited"] == 70


def test_a_disagreement_is_only_shown_when_a_killed_process_took_counts_with_it(tmp_path: Path) -> None:
    sli = told(counted(good=5_000, failed=5_000), lost_counts=True)
    conclusion = concluded(tmp_path, samples=[rows(10_000)], sli=sli)
    assert of(conclusion, "read").agrees is False
    assert of(conclusion, "read").words
    assert conclusion.outcome is Outcome.PASSED
    assert any("A process was killed" in remark for remark in conclusion.remarks)


def test_nothing_is_compared_when_one_side_has_too_few(tmp_path: Path) -> None:
    conclusion = concluded(tmp_path, samples=[rows(10_000)], sli=told(counted(good=9_000, failed=999)))
    assert of(conclusion, "read").agrees is None
    assert conclusion.outcome is Outcome.PASSED
    assert any("Too few were counted" in remark for remark in conclusion.remarks)


def test_run_fails_when_nothing_tells_the_sli_of_the_service(tmp_path: Path) -> None:
    conclusion = concluded(tmp_path, samples=[rows(10_000)], sli={"source": "none", "lost_counts": False})
    assert conclusion.reasons == ("nothing tells the service's own SLI: it cannot be held against the client's",)


def test_run_fails_when_the_service_counts_only_a_part_of_the_requests(tmp_path: Path) -> None:
    conclusion = concluded(tmp_path, samples=[rows(20_000)], sli=told(counted(good=19_700)))
    assert of(conclusion, "read").difference == 0
    assert conclusion.reasons == (
        "the service counted 19,700 requests, the client 20,000 answers: more than 1.000 % apart",
    )


def test_answers_are_compared_when_holds_broke_after_them(tmp_path: Path) -> None:
    # 10 of 10,000 holds broke: for the client 99.9 %, and both agree on how they were answered.
    expired = {"state": "expired", "his_state": "none", "payment_state": "void"}
    conclusion = concluded(
        tmp_path,
        samples=[rows(10_000, request_class="hold", status=201)],
        judged={"classes": ["hold"]},
        bookings=[booking(n, final=expired) for n in range(10)],
        sli=told(counted("hold", good=10_000)),
    )
    assert conclusion.availabilities.by_class["hold"].share == Fraction("0.999")
    assert of(conclusion, "hold").difference == 0
    assert conclusion.reasons == ("west: nobody got a seat",)  # and nothing about the two counts


def test_sold_out_is_compared_with_sold_out_when_the_client_stored_it_as_a_hold(tmp_path: Path) -> None:
    conclusion = concluded(
        tmp_path,
        samples=[rows(10_000, request_class="hold", status=409, code="slot_sold_out")],
        judged={"classes": ["hold", "sold_out"]},
        sli=told(counted("sold_out", good=10_000)),
    )
    assert of(conclusion, "sold_out").difference == 0


def test_the_whole_is_of_the_judged_classes_when_others_do_worse(tmp_path: Path) -> None:
    sli = told(counted(good=10_000), counted("live", failed=10_000))
    conclusion = concluded(tmp_path, samples=[rows(10_000), rows(10_000, request_class="live")], sli=sli)
    assert of(conclusion, WHOLE).server_share == 1
    assert of(conclusion, "live").agrees is False
    assert not of(conclusion, "live").required
    assert conclusion.outcome is Outcome.PASSED


def test_a_429_against_the_policy_is_explained_when_the_service_counts_it_as_limited(tmp_path: Path) -> None:
    samples = [rows(9_990), rows(10, status=429, code="rate_limited")]
    conclusion = concluded(tmp_path, samples=samples, sli=told(counted(good=10_000, limited=10)))
    assert "10 were answered 429 to a client within the policy" in "; ".join(of(conclusion, "read").words)
