"""What each request is worth, and when that makes a percentage."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.verdict.availability import Availability, measure
from loadtest.verdict.facts import SAMPLE, Booking, Facts, Samples
from loadtest.verdict.promises import is_broken
from loadtest.verdict.samples import BAD, VALID, Verdict, judge_samples
from loadtest.verdict.words import percent
from tests.loadtest.runs import CANCEL, CLASSES, CLIENTS, CODES, FACTS, PAID, booking, concluded, rows

KNOWN = msgspec.convert(FACTS, Facts)


def verdict_of(**sample: Any) -> Verdict:
    return Verdict(judge_samples(rows(1, **sample), KNOWN).verdicts[0])


@pytest.mark.parametrize(
    ("request_class", "status", "code", "limit_s"),
    [
        ("read", 200, "", 0.3),
        ("read", 304, "", 0.3),
        ("hold", 201, "", 1.0),
        ("hold", 409, "slot_sold_out", 0.3),
        ("step", 202, "", 1.0),
    ],
)
def test_a_right_answer_is_slow_when_it_takes_longer_than_its_limit(
    request_class: str, status: int, code: str, limit_s: float
) -> None:
    # From 0 s on, so that no rounding comes in: exactly the limit is in time.
    asked: dict[str, Any] = {"request_class": request_class, "status": status, "code": code, "at_s": 0.0}
    assert verdict_of(latency_s=limit_s, **asked) is Verdict.GOOD
    assert verdict_of(latency_s=limit_s + 0.001, **asked) is Verdict.SLOW


def test_latency_counts_from_the_intended_start_when_the_request_was_started_late() -> None:
    assert verdict_of(lag_s=0.25, latency_s=0.31) is Verdict.SLOW  # the answer itself took 0.06 s


def test_a_live_read_has_no_limit_when_the_hospital_takes_its_time() -> None:
    assert verdict_of(request_class="live", latency_s=20.0) is Verdict.GOOD


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ({"status": 0}, Verdict.UNANSWERED),
        ({"status": 500}, Verdict.FAILED),
        ({"status": 503, "code": "store_unavailable"}, Verdict.FAILED),
        ({"status": 503, "code": "overloaded"}, Verdict.SHED),
        ({"status": 503, "request_class": "live", "code": "his_unavailable"}, Verdict.FAILED),
        ({"status": 404}, Verdict.WRONG),  # the generator asks for nothing that is not there
        ({"status": 404, "client": "scalper"}, Verdict.INVALID),
        ({"status": 409, "request_class": "hold", "code": "limit_reached"}, Verdict.GOOD),
        ({"status": 409, "request_class": "hold", "code": "fee_unknown"}, Verdict.WRONG),  # no fee is unknown in a run
        ({"status": 409, "request_class": "step", "code": "not_payable"}, Verdict.WRONG),  # it was shown as payable
        ({"status": 200, "code": "list_empty"}, Verdict.WRONG),
        ({"status": 429, "code": "waiting_room_admitted", "request_class": "hold"}, Verdict.REFUSED),
        ({"status": 409, "request_class": "hold", "code": "request_in_progress"}, Verdict.INVALID),
        ({"status": 429, "code": "rate_limited"}, Verdict.REFUSED),
        ({"status": 429, "code": "rate_limited", "client": "scalper"}, Verdict.LIMITED),
        ({"status": 429, "code": "waiting_room", "request_class": "hold"}, Verdict.LIMITED),
        ({"status": 503, "code": "overloaded", "client": "scalper"}, Verdict.SHED),
    ],
)
def test_verdict_follows_the_status_when_the_answer_is_not_the_one_asked_for(
    sample: dict[str, Any], expected: Verdict
) -> None:
    assert verdict_of(**sample) is expected


def test_a_business_refusal_of_a_hold_is_sold_out_when_it_is_judged() -> None:
    judged = judge_samples(
        np.concatenate(
            [
                rows(1, request_class="hold", status=409, code="limit_reached"),
                rows(1, request_class="hold", status=409, code="request_in_progress"),
                rows(1, request_class="hold", status=201),
                rows(1, request_class="step", status=409),
            ]
        ),
        KNOWN,
    )
    assert [judged.class_names[n] for n in judged.classes] == ["sold_out", "hold", "hold", "step"]


@pytest.mark.parametrize(("at_s", "expected"), [(29.9, "GOOD"), (30.9, "GOOD"), (31.1, "WRONG")])  # opens at 30 s
def test_not_released_is_wrong_when_the_release_was_over_a_second_ago(at_s: float, expected: str) -> None:
    answer = verdict_of(request_class="hold", status=409, code="slot_not_released", at_s=at_s)
    assert answer is Verdict[expected]


@pytest.mark.parametrize(("at_s", "expected"), [(29.9, "GOOD"), (30.9, "GOOD"), (31.1, "WRONG")])
def test_list_that_is_not_released_is_wrong_when_the_release_was_over_a_second_ago(at_s: float, expected: str) -> None:
    assert verdict_of(status=200, code="list_not_released", at_s=at_s) is Verdict[expected]


def test_not_released_is_never_wrong_when_the_profile_has_no_release() -> None:
    facts = msgspec.structs.replace(KNOWN, opens_at_s=None)
    sample = rows(1, request_class="hold", status=409, code="slot_not_released", at_s=90.0)
    assert judge_samples(sample, facts).verdicts[0] == Verdict.GOOD


# --- holds that came to nothing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("final", "broken"),
    [
        ({"state": "rejected", "his_state": "rejected"}, True),  # refused by the HIS, where nobody else sells
        ({"state": "rejected", "his_state": "released"}, True),  # locked, and the registration refused
        ({"state": "expired", "his_state": "none"}, True),  # never sent
        ({"state": "expired", "his_state": "rejected"}, True),  # refused after its time
        ({"state": "expired", "his_state": "released"}, False),  # locked, and nobody paid
        ({"state": "expired", "his_state": "released", "paid": PAID}, True),  # locked, paid, and the seat is gone
        ({"state": "cancelled", "his_state": "none"}, False),  # the patient gave up first
        ({"state": "held", "his_state": "locked"}, False),
        ({"state": "booked", "his_state": "registered"}, False),
    ],
)
def test_a_hold_is_broken_when_it_came_to_nothing_through_our_fault(final: dict[str, Any], broken: bool) -> None:
    paid = final.pop("paid", None)
    assert is_broken(msgspec.convert(booking(final=final, paid=paid, cancel=CANCEL), Booking)) is broken


def test_a_broken_hold_makes_its_acknowledgement_bad_when_others_were_near(tmp_path: Path) -> None:
    rejected = {"state": "rejected", "his_state": "rejected", "payment_state": "void"}
    conclusion = concluded(
        tmp_path,
        floor=1,
        samples=[
            rows(1, request_class="hold", status=201, at_s=10.0, latency_s=0.5),
            rows(1, request_class="hold", status=201, at_s=20.0, latency_s=0.6),
            rows(
                1, request_class="hold", status=201, at_s=20.0, latency_s=0.5, hospital="west"
            ),  # nearer, and not its own
        ],
        bookings=[booking(1, held_s=20.5, final=rejected)],
    )
    assert list(conclusion.judged.verdicts) == [Verdict.GOOD, Verdict.BROKEN, Verdict.GOOD]
    assert conclusion.availabilities.by_class["hold"].share == Fraction(2, 3)


def test_each_broken_hold_takes_a_sample_of_its_own_when_they_ended_at_once(tmp_path: Path) -> None:
    expired = {"state": "expired", "his_state": "none", "payment_state": "void"}
    conclusion = concluded(
        tmp_path,
        samples=[rows(5, request_class="hold", status=201, at_s=10.0)],
        bookings=[booking(n, held_s=10.01, final=expired) for n in range(3)],
    )
    assert conclusion.availabilities.by_class["hold"].counts[Verdict.BROKEN] == 3


def test_a_late_acknowledgement_counts_once_when_its_hold_broke_as_well(tmp_path: Path) -> None:
    conclusion = concluded(
        tmp_path,
        samples=[rows(1, request_class="hold", status=201, latency_s=3.0)],
        bookings=[booking(held_s=13.0, final={"state": "rejected", "his_state": "rejected", "payment_state": "void"})],
    )
    hold = conclusion.availabilities.by_class["hold"]
    assert (hold.counts[Verdict.SLOW], hold.counts[Verdict.BROKEN], hold.bad) == (1, 0, 1)


# --- percentages ----------------------------------------------------------------------------------------------------


def test_no_percentage_is_given_when_a_class_has_one_valid_sample_too_few(tmp_path: Path) -> None:
    samples = [
        rows(9_999),
        rows(
            1, status=409, code="request_in_progress"
        ),  # none of these is a valid request of somebody who is promised anything
        rows(1, status=429, client="scalper"),
        rows(1, client="scalper"),
        rows(10_000, request_class="step", status=202),
    ]
    found = concluded(tmp_path, samples=samples, judged={"classes": ["read", "step"]}).availabilities
    assert found.by_class["read"].share is None
    assert found.by_class["step"].share == 1
    assert found.whole.share == 1  # 19,999 of both together


def test_the_peak_has_its_own_availability_when_bad_answers_fall_into_it(tmp_path: Path) -> None:
    # The peak is from 30 s to 60 s, its end excluded.
    samples = [
        rows(10, at_s=29.999),
        rows(10, at_s=30.0),
        rows(5, at_s=59.999, status=500),
        rows(10, at_s=60.0),
        rows(5, at_s=40.0, hospital="west"),
    ]
    found = concluded(tmp_path, floor=1, samples=samples).availabilities
    assert found.whole.share == Fraction(35, 40)
    assert found.peak_whole is not None
    assert found.peak_whole.share == Fraction(15, 20)
    assert {h: a.share for h, a in found.peak_by_hospital.items()} == {"east": Fraction(10, 15), "west": 1}


def test_live_reads_stay_out_of_ours_when_their_hospital_is_down(tmp_path: Path) -> None:
    samples = [
        rows(20),
        rows(6, request_class="live", status=503, code="his_unavailable"),
        rows(2, request_class="live"),
        rows(4, request_class="live", hospital="west"),
    ]
    found = concluded(tmp_path, floor=1, samples=samples, judged={"classes": ["read", "live"]}).availabilities
    assert found.whole.share == 1
    assert {h: a.share for h, a in found.live_by_hospital.items()} == {"east": Fraction(2, 8), "west": 1}


def test_latency_quantiles_are_of_what_was_answered_when_some_was_not(tmp_path: Path) -> None:
    # 1 ms to 100 ms, one each: by nearest rank the 50th, 90th, 99th and 100th (99.9 of 100, rounded up).
    samples = [rows(1, at_s=0.0, latency_s=n / 1000) for n in range(1, 101)]
    unanswered = rows(50, status=0, latency_s=30.0)
    found = concluded(tmp_path, samples=[*samples, unanswered]).availabilities.by_class["read"]
    assert {q: round(ms, 6) for q, ms in found.latency_ms.items()} == {0.5: 50, 0.9: 90, 0.99: 99, 0.999: 100}


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (Fraction(99_899_999, 100_000_000), "99.899 %"),  # never rounded up to what was asked for
        (Fraction(999, 1000), "99.900 %"),
        (Fraction(1), "100.000 %"),
        (Fraction(1, 3), "33.333 %"),
        (None, "insufficient"),
    ],
)
def test_a_percentage_is_cut_when_it_has_more_digits(share: Fraction | None, told: str) -> None:
    assert percent(share) == told


# --- whatever comes -------------------------------------------------------------------------------------------------


@st.composite
def any_samples(draw: st.DrawFn) -> Samples:
    """Up to 40 requests of any kind."""
    made = np.zeros(draw(st.integers(0, 40)), SAMPLE)
    for row in made:
        row["intended_s"] = draw(st.floats(0, 100))
        row["started_s"] = row["intended_s"] + draw(st.floats(0, 1))
        row["ended_s"] = row["started_s"] + draw(st.floats(0, 3))
        row["status"] = draw(st.sampled_from([0, 200, 201, 202, 304, 400, 404, 409, 429, 500, 503]))
        row["request_class"] = draw(st.integers(0, len(CLASSES) - 1))
        row["code"] = draw(st.integers(0, len(CODES) - 1))
        row["hospital"], row["client"] = draw(st.integers(0, 1)), draw(st.integers(0, 1))
    return made


@given(any_samples())
def test_verdicts_add_up_to_the_samples_when_they_are_of_any_kind(samples: Samples) -> None:
    judged = judge_samples(samples, KNOWN)
    assert sum(judged.counts().values()) == len(samples)
    found = measure(judged, KNOWN, floor=1)
    promised = int((samples["client"] == CLIENTS.index("portal")).sum())
    assert sum(a.sent for a in found.by_class.values()) == promised
    for availability in (found.whole, *found.by_class.values()):
        assert availability.good + availability.bad == availability.valid <= availability.sent


@given(any_samples(), st.sampled_from(BAD), st.data())
def test_availability_never_rises_when_one_more_sample_is_bad(
    samples: Samples, bad: Verdict, data: st.DataObject
) -> None:
    judged = judge_samples(samples, KNOWN)
    valid = np.flatnonzero(np.isin(judged.verdicts, VALID))
    if not len(valid):
        return
    verdicts = judged.verdicts.copy()
    verdicts[data.draw(st.sampled_from(valid.tolist()))] = bad
    before, after = (measure(j, KNOWN, floor=1) for j in (judged, judged.with_verdicts(verdicts)))
    for name, availability in before.by_class.items():
        assert (after.by_class[name].share or 0) <= (availability.share or 0)
    assert (after.whole.share or 0) <= (before.whole.share or 0)


@given(any_samples(), st.floats(0.001, 5))
def test_no_sample_becomes_good_when_all_answers_come_later(samples: Samples, later_s: float) -> None:
    delayed = samples.copy()
    delayed["ended_s"] += later_s
    before, after = judge_samples(samples, KNOWN), judge_samples(delayed, KNOWN)
    assert not ((after.verdicts == Verdict.GOOD) & (before.verdicts != Verdict.GOOD)).any()


@given(good=st.integers(0, 50_000), bad=st.integers(0, 50))
def test_the_objective_is_met_exactly_when_at_most_one_in_a_thousand_is_bad(good: int, bad: int) -> None:
    counts = {**dict.fromkeys(Verdict, 0), Verdict.GOOD: good, Verdict.SLOW: bad}
    met = Availability(counts, floor=1).meets(Fraction("0.999"))
    assert met is (None if good + bad == 0 else 1000 * bad <= good + bad)
