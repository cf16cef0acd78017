"""Each thing that the audit must find, and what it must leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.verdict.audit.money import balance
from loadtest.verdict.conclusion import Conclusion, Outcome
from loadtest.verdict.folder import load_run
from tests.loadtest.runs import (
    CANCEL,
    PAID,
    booked,
    booking,
    concluded,
    failed_checks,
    findings,
    rows,
    visit,
    write_run,
)

GIVEN_BACK = {
    "state": "cancelled",
    "his_state": "released",
    "payment_state": "refund_due",
    "refunds": [{"amount_fen": 700, "state": "refund_due"}],
}


def segment(capacity: int, taken: int, code: str = "S1") -> dict[str, Any]:
    return {"code": code, "capacity": capacity, "taken": taken}


IN_ORDER: tuple[tuple[dict[str, Any], list[dict[str, Any]]], ...] = (
    (booking(), [visit()]),  # held, its patient has not paid yet
    (booked(), [visit(1, "registered")]),
    (booking(fee_fen=0, final={"state": "booked", "his_state": "registered", "payment_state": "not_required"}),
     [visit(1, "registered", paid_fen=0, trade_no="")]),
    (booking(cancel=CANCEL, final={"state": "cancelled", "his_state": "none", "payment_state": "void"}), []),
    (booking(cancel=CANCEL, final={"state": "cancelled", "his_state": "released", "payment_state": "void"}),
     [visit(1, "released")]),
    (booking(cancel=CANCEL, paid=PAID, final=GIVEN_BACK), [visit(1, "released", paid_fen=700, trade_no="T1")]),
    (booking(final={"state": "expired", "his_state": "released", "payment_state": "void"}), [visit(1, "released")]),
    (booking(final={"state": "expired", "his_state": "none", "payment_state": "void"}), []),
    (booking(paid=PAID, final={**GIVEN_BACK, "state": "expired"}), [visit(1, "released")]),
    (booking(final={"state": "rejected", "his_state": "rejected", "payment_state": "void"}), []),
    # Money after expiry took a seat anew, under a new number.
    (booked(final={"order_no": "9" * 20}), [visit(1, "released"), visit(1, "registered", no="V9", key="9" * 20)]),
)  # fmt: skip


@pytest.mark.parametrize(("made", "at_his"), IN_ORDER)
def test_audit_finds_nothing_when_a_booking_is_where_its_history_leads(
    tmp_path: Path, made: dict[str, Any], at_his: list[dict[str, Any]]
) -> None:
    assert failed_checks(concluded(tmp_path, bookings=[made], visits=at_his)) == []


# --- oversold -------------------------------------------------------------------------------------------------------


def test_oversold_is_found_when_the_his_counted_it_itself(tmp_path: Path) -> None:
    conclusion = concluded(tmp_path, his={"oversold": 2})
    assert findings(conclusion, "oversold") == ["gave away 2 seats beyond the capacity of their segments"]
    assert conclusion.outcome is Outcome.FAILED


def test_oversold_is_found_when_a_segment_has_more_taken_than_seats(tmp_path: Path) -> None:
    conclusion = concluded(tmp_path, his={"segments": [segment(2, 3)]})
    assert findings(conclusion, "oversold") == ["3 taken of 2"]


def test_oversold_is_found_when_there_are_more_visits_than_seats(tmp_path: Path) -> None:
    three = [booking(n, slot_id=f"slot-{n}") for n in (1, 2, 3)]
    visits = [visit(n) for n in (1, 2, 3)]
    # The HIS's own figures say that all is well, and no slot of ours has two.
    conclusion = concluded(tmp_path, bookings=three, visits=visits, his={"segments": [segment(2, 2)]})
    assert findings(conclusion, "oversold") == ["3 visits for 2 seats"]


def test_oversold_is_found_when_more_bookings_hold_a_slot_than_it_has_seats(tmp_path: Path) -> None:
    # Only two are at the HIS; the third was promised all the same and still waits for its lock.
    three = [booking(1), booking(2), booking(3, final={"his_state": "none"})]
    conclusion = concluded(tmp_path, bookings=three, visits=[visit(1), visit(2)])
    assert findings(conclusion, "oversold") == ["3 bookings hold one of 2 seats"]


def test_nothing_is_oversold_when_a_seat_came_back_and_was_sold_again(tmp_path: Path) -> None:
    over = {"state": "expired", "his_state": "released", "payment_state": "void"}
    bookings = [booking(1), booking(2), booking(3, final=over)]
    visits = [visit(1), visit(2), visit(3, "released")]
    assert failed_checks(concluded(tmp_path, bookings=bookings, visits=visits)) == []


# --- acknowledged and lost ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (booking(final={"status": 404, "state": None}), "its last reading was answered by 404"),
        (booking(final={"status": 0, "state": None}), "its last reading was answered by nothing"),
        (booking(final={"state": "stopped"}), "is stopped, where nothing in this run leads"),
        (booking(cancel=CANCEL), "its cancel was acknowledged, and it is held"),
        (booked(cancel=CANCEL), "its cancel was acknowledged, and it is booked"),
        (booked(final={"his_state": "locked"}), "is said to be booked, and is locked at the HIS"),
        (booking(final={"state": "booked", "his_state": "registered"}), "is booked and not paid (money: due)"),
        (booking(final={"his_state": "perhaps"}), "has no state at the HIS that we know: perhaps"),
    ],
)
def test_a_booking_is_lost_when_it_is_not_where_its_history_leads(
    tmp_path: Path, made: dict[str, Any], text: str
) -> None:
    conclusion = concluded(tmp_path, bookings=[made])
    assert findings(conclusion, "lost") == [text]
    assert conclusion.outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (booking(paid=PAID), "is paid or free, and not registered"),
        (booking(fee_fen=0), "is paid or free, and not registered"),
        (booking(final={"his_state": "none"}), "still waits for its lock (at the HIS: none)"),
        (booking(cancel=CANCEL, final={"state": "cancelling"}), "is still being cancelled (at the HIS: locked)"),
        (booking(final={"state": "expired"}), "is expired, and its seat is still locked at the HIS"),
    ],
)
def test_a_booking_is_unsettled_when_something_is_under_way_after_the_drain(
    tmp_path: Path, made: dict[str, Any], text: str
) -> None:
    assert findings(concluded(tmp_path, bookings=[made]), "unsettled") == [text]


UNASKED = (
    (booked() | {"paid": None}, visit(1, "registered")),
    (booking(final={"state": "cancelled", "his_state": "released", "payment_state": "void"}), visit(1, "released")),
    (booking(final={**GIVEN_BACK, "state": "expired"}), visit(1, "released")),
)


@pytest.mark.parametrize(("made", "at_his"), UNASKED)
def test_a_step_that_nobody_asked_for_is_found_when_each_step_had_its_answer(
    tmp_path: Path, made: dict[str, Any], at_his: dict[str, Any]
) -> None:
    answered = rows(3, request_class="step", status=202)
    elsewhere = rows(3, request_class="step", status=0, hospital="west")
    conclusion = concluded(tmp_path, samples=[answered, elsewhere], bookings=[made], visits=[at_his])
    assert failed_checks(conclusion) == ["unasked"]


@pytest.mark.parametrize(("made", "at_his"), UNASKED)
@pytest.mark.parametrize("status", [0, 503])
def test_a_step_may_have_been_carried_out_when_it_had_no_answer(
    tmp_path: Path, made: dict[str, Any], at_his: dict[str, Any], status: int
) -> None:
    unanswered = rows(1, request_class="step", status=status)
    conclusion = concluded(tmp_path, samples=[unanswered], bookings=[made], visits=[at_his])
    assert failed_checks(conclusion) == []
    (note,) = (note for check in conclusion.checks for note in check.notes)
    assert note == "east: paid or cancelled without an acknowledgement 1, steps without an answer 1"


# --- we and the HIS -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "at_his", "text"),
    [
        (booking(), [], "is locked by our books, and unknown at the HIS"),
        (booking(), [visit(1, "released")], "is locked by our books, and released at the HIS"),
        (booking(), [visit(1, "registered")], "is locked by our books, and registered at the HIS"),
        (booking(), [visit(), visit(no="V2")], "has 2 visits at the HIS at once"),
        (booking(final={"state": "expired", "his_state": "released", "payment_state": "void"}), [visit()],
         "is released by our books, and locked at the HIS"),
        (booking(final={"state": "expired", "his_state": "released", "payment_state": "void"}), [],
         "is released by our books, and the HIS never had it"),
        (booking(final={"state": "rejected", "his_state": "rejected", "payment_state": "void"}), [visit()],
         "is rejected by our books, and locked at the HIS"),
    ],
)  # fmt: skip
def test_a_difference_is_found_when_the_his_says_something_else(
    tmp_path: Path, made: dict[str, Any], at_his: list[dict[str, Any]], text: str
) -> None:
    assert findings(concluded(tmp_path, bookings=[made], visits=at_his), "agreement") == [text]


def test_a_visit_is_found_when_nobody_was_told_of_it(tmp_path: Path) -> None:
    answered = rows(1, request_class="hold", status=201)
    conclusion = concluded(tmp_path, samples=[answered], visits=[visit(7)])
    assert findings(conclusion, "agreement") == [f"is locked for order {7:020d}, which nobody was told of"]


def test_a_visit_may_be_unknown_when_a_hold_had_no_answer(tmp_path: Path) -> None:
    unanswered = rows(1, request_class="hold", status=0)
    assert failed_checks(concluded(tmp_path / "one", samples=[unanswered], visits=[visit(7)])) == []
    two = concluded(tmp_path / "two", samples=[unanswered], visits=[visit(7), visit(8)])
    assert len(findings(two, "agreement")) == 2  # one of them, and nobody knows which


# --- money ----------------------------------------------------------------------------------------------------------


def money(folder: Path, made: dict[str, Any], *at_his: dict[str, Any]) -> list[str]:
    return findings(concluded(folder, bookings=[made], visits=at_his), "money")


def test_money_is_missing_when_it_is_neither_registered_nor_given_back(tmp_path: Path) -> None:
    gone = booking(paid=PAID, final={"state": "expired", "his_state": "released", "payment_state": "void"})
    assert money(tmp_path, gone, visit(1, "released")) == ["700 fen were paid and are not registered; 0 fen go back"]
    assert balance(load_run(tmp_path), "east").open_fen == 700


def test_money_is_missing_when_less_goes_back_than_was_paid(tmp_path: Path) -> None:
    part = {**GIVEN_BACK, "refunds": [{"amount_fen": 600, "state": "refunded"}]}
    found = money(tmp_path, booking(cancel=CANCEL, paid=PAID, final=part), visit(1, "released"))
    assert found == ["700 fen were paid and are not registered; 600 fen go back"]


def test_money_is_given_away_when_a_registered_visit_is_refunded(tmp_path: Path) -> None:
    both = booked(final={"payment_state": "refunded", "refunds": [{"amount_fen": 700, "state": "refunded"}]})
    found = money(tmp_path, both, visit(1, "registered"))
    assert found == ["is registered and paid at the HIS, and 700 fen go back"]
    assert balance(load_run(tmp_path), "east").open_fen == -700


@pytest.mark.parametrize(
    ("at_his", "text"),
    [
        ({"paid_fen": 600}, "700 fen were paid by T1; the HIS has 600 fen by T1"),
        ({"trade_no": "T2"}, "700 fen were paid by T1; the HIS has 700 fen by T2"),
        ({"paid_fen": 0, "trade_no": None}, "700 fen were paid by T1; the HIS has 0 fen by no trade number"),
    ],
)
def test_money_differs_when_the_his_has_another_payment(tmp_path: Path, at_his: dict[str, Any], text: str) -> None:
    assert money(tmp_path, booked(), visit(1, "registered", **at_his)) == [text]


def test_money_pays_twice_when_two_visits_have_one_trade_number(tmp_path: Path) -> None:
    two = [booked(1), booked(2) | {"paid": {**PAID, "trade_no": "T1"}}]
    visits = [visit(1, "registered"), visit(2, "registered", trade_no="T1")]
    conclusion = concluded(tmp_path, bookings=two, visits=visits)
    assert findings(conclusion, "money") == ["one payment pays for 2 visits at the HIS"]


@pytest.mark.parametrize(
    ("made", "at_his", "text"),
    [
        (booked(final={"payment_state": "due"}), visit(1, "registered"),
         "is registered and paid at the HIS, and shows its money as due"),
        (booking(cancel=CANCEL, paid=PAID, final={**GIVEN_BACK, "payment_state": "paid"}), visit(1, "released"),
         "its money goes back, and shows as paid"),
        (booking(cancel=CANCEL, paid=PAID, final={**GIVEN_BACK, "refunds": [{"amount_fen": 700, "state": "maybe"}]}),
         visit(1, "released"), "has a refund that is maybe"),
        (booking(cancel=CANCEL, final={**GIVEN_BACK, "refunds": [{"amount_fen": 800, "state": "refunded"}]}),
         visit(1, "released"), "800 fen go back, and at most 700 can have been paid"),
        (booked() | {"paid": None}, visit(1, "registered", paid_fen=600),
         "is registered at the HIS with 600 fen; its fee is 700"),
        (booked(final={"refunds": [{"amount_fen": 700, "state": "refunded"}]}) | {"paid": None}, visit(1, "registered"),
         "is registered and paid at the HIS, and 700 fen go back"),
    ],
)  # fmt: skip
def test_money_is_told_wrong_when_the_booking_shows_something_else(
    tmp_path: Path, made: dict[str, Any], at_his: dict[str, Any], text: str
) -> None:
    assert money(tmp_path, made, at_his) == [text]


def test_balance_adds_up_by_state_when_money_went_several_ways(tmp_path: Path) -> None:
    def back(number: int, state: str) -> dict[str, Any]:
        final = {**GIVEN_BACK, "refunds": [{"amount_fen": 700, "state": state}]}
        return booking(number, cancel=CANCEL, paid={**PAID, "trade_no": f"T{number}"}, final=final)

    bookings = [booked(1), booked(2), back(3, "refund_due"), back(4, "refunded"), back(5, "refunded"), booking(6)]
    states = ["registered", "registered", "released", "released", "released", "locked"]
    visits = [visit(n, state, segment=f"S{n}") for n, state in enumerate(states, 1)]
    write_run(tmp_path, bookings=bookings, visits=visits)
    found = balance(load_run(tmp_path), "east")
    assert (found.payments, found.acknowledged_fen, found.at_his_fen) == (5, 3500, 1400)
    assert found.refunds_fen == {"refund_due": 700, "refunded": 1400}
    assert found.open_fen == 0


# --- seats that nobody was given ---------------------------------------------------------------------------------------


def test_sold_out_is_found_when_its_seats_were_never_given_away(tmp_path: Path) -> None:
    told = {"hospital": "east", "slot_id": "slot-1", "last_s": 40.0}
    late = [booking(n, held_s=60.0) for n in (1, 2)]  # long after
    conclusion = concluded(tmp_path, bookings=late, visits=[visit(1), visit(2)], sold_out=[told])
    assert findings(conclusion, "unsold") == ["was sold out for somebody, and 2 of its seats were never held"]


def test_sold_out_is_only_noted_when_a_second_seat_is_kept_back_for_a_lock(tmp_path: Path) -> None:
    """Of two seats one: the HIS has lost the reply to its lock, and nobody knows whether the seats it tells count it."""
    told = {"hospital": "east", "slot_id": "slot-1", "last_s": 40.0}
    one, other = booking(1), booking(2, held_s=60.0)  # the second came long after
    conclusion = concluded(tmp_path, bookings=[one, other], visits=[visit(1), visit(2)], sold_out=[told])
    assert findings(conclusion, "unsold") == []
    assert [check.notes for check in conclusion.checks if check.name == "unsold"] == [
        ("east: slots with a few seats kept back when they were sold out 1",)
    ]


def test_sold_out_is_in_order_when_all_seats_were_held_by_then(tmp_path: Path) -> None:
    told = {"hospital": "east", "slot_id": "slot-1", "last_s": 40.0}
    given_back = booking(
        2, cancel=CANCEL, final={"state": "cancelled", "his_state": "released", "payment_state": "void"}
    )
    visits = [visit(1), visit(2, "released")]
    conclusion = concluded(tmp_path, bookings=[booking(1), given_back], visits=visits, sold_out=[told])
    assert findings(conclusion, "unsold") == []


def test_sold_out_is_found_when_nobody_ever_held_one_of_its_seats(tmp_path: Path) -> None:
    told = {"hospital": "west", "slot_id": "slot-9", "last_s": 40.0}
    assert len(findings(concluded(tmp_path, sold_out=[told]), "unsold")) == 1


def test_sold_out_is_only_noted_when_holds_without_an_answer_may_have_the_seats(tmp_path: Path) -> None:
    told = {"hospital": "east", "slot_id": "slot-1", "last_s": 40.0}
    late = [booking(n, held_s=60.0) for n in (1, 2)]
    at_his = [visit(1), visit(2)]
    lost = rows(2, request_class="hold", status=0)
    conclusion = concluded(tmp_path, samples=[lost], bookings=late, visits=at_his, sold_out=[told])
    assert findings(conclusion, "unsold") == []
    turned_away = rows(2, request_class="hold", status=503, code="overloaded")  # which have certainly got nothing
    conclusion = concluded(tmp_path, samples=[turned_away], bookings=late, visits=at_his, sold_out=[told])
    assert len(findings(conclusion, "unsold")) == 1


def test_seat_is_sold_twice_when_the_his_had_none_left_for_its_hold(tmp_path: Path) -> None:
    final = {"state": "rejected", "his_state": "rejected", "payment_state": "void", "rejected_code": "full"}
    conclusion = concluded(tmp_path, bookings=[booking(1, final=final)])
    assert findings(conclusion, "oversold") == ["was sold, and the HIS had no seat (full)"]


# --- load, and the caller's errors ----------------------------------------------------------------------------------


def test_load_is_found_when_a_his_had_more_at_once_than_allowed(tmp_path: Path) -> None:
    conclusion = concluded(tmp_path, his={"most_at_once": 5, "allowed_at_once": 4})
    assert findings(conclusion, "his_load") == ["had 5 calls at once, 4 are allowed"]


@pytest.mark.parametrize(
    ("errors", "found"), [(1, []), (2, ["2 of 1000 answered as the caller's error (2 x 409 request_in_progress)"])]
)
def test_errors_of_the_caller_are_found_when_they_are_more_than_may_be_bad(
    tmp_path: Path, errors: int, found: list[str]
) -> None:
    samples = [rows(1000 - errors), rows(errors, status=409, code="request_in_progress")]
    assert findings(concluded(tmp_path, samples=samples), "caller_errors") == found


# --- whatever comes -------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(IN_ORDER), max_size=8))
def test_audit_finds_nothing_when_any_bookings_in_order_come_together(
    tmp_path_factory: pytest.TempPathFactory, chosen: list[tuple[dict[str, Any], list[dict[str, Any]]]]
) -> None:
    conclusion = together(tmp_path_factory.mktemp("run"), chosen)
    assert failed_checks(conclusion) == []
    assert all(b.open_fen == 0 for b in conclusion.money.values())


@given(st.lists(st.sampled_from(IN_ORDER), max_size=5), st.data())
def test_audit_finds_the_one_that_is_lost_when_all_others_are_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    chosen: list[tuple[dict[str, Any], list[dict[str, Any]]]],
    data: st.DataObject,
) -> None:
    lost = data.draw(st.sampled_from(IN_ORDER))
    gone = (lost[0] | {"final": {"status": 404}}, lost[1])
    conclusion = together(tmp_path_factory.mktemp("run"), [*chosen, gone])
    assert findings(conclusion, "lost") == ["its last reading was answered by 404"]


def together(folder: Path, chosen: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> Conclusion:
    """Each of them under numbers and in a segment of its own."""
    bookings, visits = [], []
    for n, (made, at_his) in enumerate(chosen):
        trade_no = f"T-{n}"
        paid = made["paid"] and {**made["paid"], "trade_no": trade_no}
        number = {"1": f"{n:020d}", "9": f"9{n:019d}"}
        final = dict(made["final"])
        if "order_no" in final:
            final["order_no"] = number["9"]
        bookings.append(
            made | {"id": f"b-{n}", "order_no": number["1"], "slot_id": f"slot-{n}", "paid": paid, "final": final}
        )
        for v in at_his:
            own = {"no": f"V-{n}-{v['no']}", "key": number[v["key"][-1]], "segment": f"S-{n}"}
            visits.append(v | own | ({"trade_no": trade_no} if v["trade_no"] else {}))
    segments = [segment(1, sum(v["segment"] == f"S-{n}" and v["state"] != "released" for v in visits), f"S-{n}")
                for n in range(len(chosen))]  # fmt: skip
    return concluded(folder, bookings=bookings, visits=visits, his={"segments": segments})
