"""The board of bookings and money: does everybody who paid have a registration, and do the books agree?"""

from __future__ import annotations

from typing import Any

from monitoring.grafana.frame import board
from monitoring.grafana.panels import ANY_IS_BAD, GRAPH_HEIGHT, HALF, QUARTER, Limits, Line, figure, graph
from monitoring.grafana.terms import RANGE, RATE, H, newest, quantile, rate

_UNREGISTERED, _UNKNOWN = "hisbridge_paid_unregistered", "hisbridge_his_unknown"
_DIFFERENCES = "hisbridge_reconciliation_differences"


def bookings_board() -> dict[str, Any]:
    """The board as Grafana reads it."""
    return board(
        "hisbridge-bookings",
        "hisbridge: Bookings and money",
        "What became of the patients' bookings and of their money. The first row is all zeros on a good day.",
        {
            "What must be zero": _zeros(),
            "Bookings": _bookings(),
            "How long it takes": _delays(),
            "Money and truth": _truth(),
            "Waitlists, and reports that are read": _lines_and_reads(),
        },
        since="now-6h",
        refresh="30s",
    )


def _zeros() -> list[Any]:
    return [
        _zero(
            "Paid, not registered",
            f"sum({_UNREGISTERED}{{{H}}})",
            "Patients whose money we have and who are not registered at the HIS. A few for seconds; nobody for minutes.",
            "PaidNotRegistered",
        ),
        _zero(
            "Outcome unknown",
            f"sum({_UNKNOWN}{{{H}}})",
            "Commands without a reply. They are looked up at the HIS, and settle within about a minute.",
            "UnknownOutcome",
        ),
        _zero(
            "Waiting for a person",
            f"sum(hisbridge_dead_letters{{{H}}})",
            "What no machine can settle.",
            "DeadLetters",
        ),
        _zero(
            "Seats that differ",
            f"sum(hisbridge_seats_drift{{{H}}})",
            "Between our figures and the HIS's, at the last reconciliation.",
            "SeatsDrift",
        ),
        _zero(
            "Differences in the books",
            f"sum({_DIFFERENCES}{{{H}}})",
            "Between the merchant's bill, the HIS's statement and our payments.",
            "ReconciliationDifference",
        ),
        _zero(
            "Impossible states",
            f"sum(hisbridge_illegal_states{{{H}}})",
            "Bookings in a combination of states that must not exist. Each is a fault of ours.",
            "IllegalStates",
        ),
    ]


def _zero(title: str, expr: str, says: str, runbook: str) -> Any:
    return figure(title, Line(expr), unit="short", decimals=0, limits=ANY_IS_BAD, says=says, runbook=runbook)


def _bookings() -> list[Any]:
    return [
        graph(
            "Bookings a second, by the state they enter",
            Line(rate("hisbridge_bookings_total", H, by="state"), "{{state}}"),
            unit="cps",
            width=HALF,
            says="held, then booked as patients pay. rejected: the HIS had no seat. expired: nobody paid in time.",
        ),
        figure(
            "Bookings of the time shown",
            Line(f"sum by (state) (increase(hisbridge_bookings_total{{{H}}}[{RANGE}]))", "{{state}}"),
            unit="short",
            decimals=0,
            width=QUARTER,
            height=GRAPH_HEIGHT,
            says="By the state that they entered. rejected stays far below booked.",
            spark=False,
        ),
        graph(
            "Holds that never were locked, by our fault",
            Line(
                f"sum by (hospital, reason) (increase(hisbridge_holds_failed_total{{{H}}}[{RATE}]))",
                "{{hospital}} {{reason}}",
            ),
            unit="short",
            width=QUARTER,
            says="Nothing. They were promised a seat that the HIS was never asked for in time; each counts as a bad request.",
            runbook="HoldsFailed",
        ),
    ]


def _delays() -> list[Any]:
    return [
        _delay(
            "From hold to lock",
            "hisbridge_lock_seconds",
            "Until the seat is the patient's at the HIS, and can be paid.",
            "RegistrationDelayBurn",
        ),
        _delay(
            "From hold to registration",
            "hisbridge_registration_seconds",
            "Without the time that we waited for the patient's money.",
            "RegistrationDelayBurn",
        ),
        _delay(
            "From a report's issue to its reading here",
            "hisbridge_report_delay_seconds",
            "What the HIS has issued and patients can read.",
            "ReportDelayBurn",
        ),
    ]


def _delay(title: str, histogram: str, says: str, runbook: str) -> Any:
    lines = [Line(quantile(q, histogram, H, by="hospital"), f"{{{{hospital}}}} p{q * 100:g}") for q in (0.5, 0.99)]
    return graph(title, *lines, unit="s", says=says, runbook=runbook)


def _truth() -> list[Any]:
    return [
        graph(
            "Paid, not registered: the oldest",
            Line(newest(f"{_UNREGISTERED}_oldest_seconds", H), "{{hospital}}"),
            unit="s",
            width=QUARTER,
            limits=Limits(warn=60, bad=300),
            says="Seconds. Minutes: the HIS is gone, or refuses what was paid.",
            runbook="PaidNotRegistered",
        ),
        graph(
            "Bills paid, not settled",
            Line(newest("hisbridge_bills_unsettled", H), "{{hospital}}"),
            unit="short",
            width=QUARTER,
            says="A few for seconds: the patient has paid, and the HIS has not booked it.",
            runbook="PaidNotSettled",
        ),
        graph(
            "Bills paid, not settled: the oldest",
            Line(newest("hisbridge_bills_unsettled_oldest_seconds", H), "{{hospital}}"),
            unit="s",
            width=QUARTER,
            limits=Limits(warn=120, bad=600),
            says="Seconds. Minutes: the HIS is gone, or its answer was lost and cannot be looked up.",
            runbook="PaidNotSettled",
        ),
        graph(
            "Money gone back that the HIS does not know of",
            Line(newest("hisbridge_refunds_untold", H, by="hospital, his"), "{{hospital}} {{his}}"),
            unit="short",
            width=QUARTER,
            steps=True,
            says="pending and unknown for moments. rejected: somebody has to have it booked at the window.",
            runbook="RefundRefused",
        ),
        graph(
            "Refunds owed",
            Line(newest("hisbridge_refunds_owed", H), "{{hospital}}"),
            unit="short",
            width=QUARTER,
            says="More after a stop or a release, and soon fewer: portals have still to carry them out.",
            runbook="RefundOverdue",
        ),
        graph(
            "Refunds owed: the oldest",
            Line(newest("hisbridge_refunds_owed_oldest_seconds", H), "{{hospital}}"),
            unit="s",
            width=QUARTER,
            limits=Limits(warn=86400, bad=259200),
            says="Minutes, over a weekend a day or two: it is the portals that move the money.",
            runbook="RefundOverdue",
        ),
        graph(
            "Outcome unknown: the oldest",
            Line(newest(f"{_UNKNOWN}_oldest_seconds", H), "{{hospital}}"),
            unit="s",
            width=QUARTER,
            limits=Limits(warn=120, bad=600),
            says="Under a minute or two: a HIS is believed when it says twice, after `his_settle_s`, that it knows nothing.",
            runbook="UnknownOutcome",
        ),
        graph(
            "Commands that are not done",
            Line(f"sum by (hospital, status) (hisbridge_outbox_depth{{{H}}})", "{{hospital}} {{status}}"),
            unit="short",
            width=QUARTER,
            stacked=True,
            says="queued and sent for moments. unknown that stays, or dead: somebody has to look.",
            runbook="UnknownOutcome",
        ),
        graph(
            "Oldest command",
            Line(newest("hisbridge_outbox_oldest_seconds", H), "{{hospital}}"),
            unit="s",
            width=QUARTER,
            limits=Limits(warn=30, bad=60),
            says="Seconds, at a release up to `lock_wait_s`.",
            runbook="OutboxStuck",
        ),
        graph(
            "Differences in the books, by kind",
            Line(newest(_DIFFERENCES, H, by="hospital, kind"), "{{hospital}} {{kind}}"),
            unit="short",
            width=QUARTER,
            steps=True,
            limits=ANY_IS_BAD,
            says="None but timing. long: the merchant has money that we know nothing of. short: the other way round.",
            runbook="ReconciliationDifference",
        ),
        graph(
            "Payments that the ledger tells differently",
            Line(newest("hisbridge_ledger_imbalances", H), "{{hospital}}"),
            unit="short",
            width=QUARTER,
            steps=True,
            limits=ANY_IS_BAD,
            says="None. Each is a payment of which the ledger and the records say different things.",
            runbook="LedgerImbalance",
        ),
        graph(
            "Since the last day that was reconciled",
            Line(f"time() - {newest('hisbridge_reconciled_until_timestamp_seconds', H)}", "{{hospital}}"),
            unit="s",
            width=QUARTER,
            limits=Limits(warn=172800, bad=259200),
            says="A day or two: the books of a day are compared when its merchant's bill has come.",
            runbook="ReconciliationBehind",
        ),
        graph(
            "Seats that differ, by hospital",
            Line(newest("hisbridge_seats_drift", H), "{{hospital}}"),
            unit="short",
            width=QUARTER,
            steps=True,
            limits=ANY_IS_BAD,
            says="None. Our count of what may be sold is not the HIS's.",
            runbook="SeatsDrift",
        ),
        graph(
            "Impossible states, by rule",
            Line(newest("hisbridge_illegal_states", H, by="hospital, rule"), "{{hospital}} {{rule}}"),
            unit="short",
            width=QUARTER,
            steps=True,
            limits=ANY_IS_BAD,
            says="None.",
            runbook="IllegalStates",
        ),
        graph(
            "Waiting for a person, by hospital",
            Line(newest("hisbridge_dead_letters", H, by="hospital, box"), "{{hospital}} {{box}}"),
            unit="short",
            width=QUARTER,
            steps=True,
            limits=ANY_IS_BAD,
            says="None: `hisbridge commands list`, `hisbridge messages list --state quarantined`.",
            runbook="DeadLetters",
        ),
    ]


def _lines_and_reads() -> list[Any]:
    return [
        graph(
            "On waitlists",
            Line(newest("hisbridge_waitlist_entries", H, by="hospital, state"), "{{hospital}} {{state}}"),
            unit="short",
            width=QUARTER,
            says="offered for as long as an offer stands. Nobody waits past the evening before.",
        ),
        graph(
            "What became of places on waitlists, a second",
            Line(rate("hisbridge_waitlist_total", H, by="outcome"), "{{outcome}}"),
            unit="cps",
            width=QUARTER,
            says="offered, then mostly accepted. lapsed: nobody took the seat in time.",
        ),
        graph(
            "Reads of reports a second, by their outcome",
            Line(rate("hisbridge_report_reads_total", H, by="outcome"), "{{outcome}}"),
            unit="cps",
            width=QUARTER,
            says="given and unchanged. Many not_theirs or unknown: somebody tries ids.",
        ),
        graph(
            "Reads of reports that could not be recorded",
            Line(
                f"sum by (hospital) (increase(hisbridge_report_reads_unrecorded_total{{{H}}}[{RATE}]))", "{{hospital}}"
            ),
            unit="short",
            width=QUARTER,
            limits=ANY_IS_BAD,
            says="None. Each was answered 503: the store is away, or too slow.",
        ),
    ]
