"""The board to watch at 07:00: does the release go well, and if not, is it we, the HIS or the crowd?"""

from __future__ import annotations

from typing import Any

from monitoring.grafana.frame import OPENS, board
from monitoring.grafana.panels import QUARTER, Limits, Line, figure, graph
from monitoring.grafana.terms import (
    HOLD,
    OBJECTIVE,
    OURS,
    RANGE,
    SLI,
    H,
    availability,
    newest,
    quantile,
    rate,
)

_SEATS = "hisbridge_seats_left"
_AT_RELEASE = 'phase="release"'
_AVAILABLE = Limits(warn=OBJECTIVE, bad=0.995, low=True)


def release_board() -> dict[str, Any]:
    """The board as Grafana reads it."""
    return board(
        "hisbridge-release",
        "hisbridge: Release",
        "The one to watch while visits open for booking. From left to right and from top to bottom: how is it, what is "
        "asked of us, what do we answer, what does the HIS bear.",
        {
            "Now": _now(),
            "What is asked, and what is answered": _asked(),
            "Seats and holds": _holds(),
            "Towards the HIS": _his(),
            "At the door": _door(),
        },
        since="now-15m",
        refresh="5s",
    )


def _now() -> list[Any]:
    return [
        _figure(
            "Opens in",
            Line(f"max by (hospital) ({OPENS}{{{H}}} > 0) - time()", "{{hospital}}"),
            unit="dthms",
            says="Until the release that is next, or since the one that is on. Empty for hospitals without a release rule.",
            spark=False,
        ),
        _figure(
            "Seats left",
            Line(f'sum by (hospital) ({_SEATS}{{{H},window=~"coming|fresh"}})', "{{hospital}}"),
            unit="short",
            decimals=0,
            says="Of the visits that open within 24 hours or opened within the last hour. 0 before the opening: the "
            "schedules were not fetched, or the HIS has none.",
            runbook="ReleaseNotReady",
        ),
        _figure(
            "Availability, release",
            Line(availability(RANGE, H, _AT_RELEASE, OURS)),
            unit="percentunit",
            decimals=3,
            limits=_AVAILABLE,
            says="Good among valid requests in the window of the release, over the time shown. 99.9 % is promised; live "
            "reads are the hospital's. Empty outside a release.",
            runbook="PeakAvailabilityBurn",
            spark=False,
        ),
        _figure(
            "Holds slower than 1 s",
            Line(
                f'1 - sum(increase(hisbridge_http_request_seconds_bucket{{{HOLD},le="1.0"}}[{RANGE}])) / '
                f"(sum(increase(hisbridge_http_request_seconds_count{{{HOLD}}}[{RANGE}])) > 0)"
            ),
            unit="percentunit",
            decimals=3,
            limits=Limits(bad=0.001),
            says="Share of the requests for a seat that took longer than their limit. All hospitals together.",
            runbook="HoldLatencyBurn",
            spark=False,
        ),
        _figure(
            "Oldest command to a HIS",
            Line(newest("hisbridge_outbox_oldest_seconds", H), "{{hospital}}"),
            unit="s",
            decimals=0,
            limits=Limits(warn=30, bad=60),
            says="Locks wait in line here. Above `lock_wait_s` (60 s) holds end without having been locked.",
            runbook="OutboxStuck",
        ),
        _figure(
            "Circuit breaker",
            Line(newest("hisbridge_his_breaker", H), "{{hospital}}"),
            unit="none",
            words={0: ("closed", "green"), 1: ("half-open", "orange"), 2: ("open", "red")},
            says="Open: nothing is sent to the HIS, holds are taken and wait. It is tried again within half a minute.",
            runbook="ConnectorDown",
            spark=False,
        ),
        _figure(
            "Waiting room",
            Line(newest("hisbridge_waiting_room_open", H), "{{hospital}}"),
            unit="none",
            words={0: ("closed", "green"), 1: ("open", "orange")},
            says="It opens itself by load or by schedule. Open: holds without an admitted ticket are sent there.",
            runbook="WaitingRoomStuck",
            spark=False,
        ),
        _figure(
            "Paid, not registered",
            Line(newest("hisbridge_paid_unregistered", H), "{{hospital}}"),
            unit="short",
            decimals=0,
            limits=Limits(warn=1, bad=20),
            says="Patients whose money we have and who are not registered at the HIS. Some at a release, for seconds.",
            runbook="PaidNotRegistered",
        ),
    ]


def _figure(title: str, line: Line, **looks: Any) -> Any:
    """Eight in a row."""
    return figure(title, line, width=3, **looks)


def _asked() -> list[Any]:
    return [
        graph(
            "Arrivals by class",
            Line(rate(SLI, H, by="request_class"), "{{request_class}}"),
            unit="reqps",
            stacked=True,
            says="What is asked of us. `sold_out` are requests for a seat that was gone: after a minute nearly all holds.",
        ),
        graph(
            "Availability by class",
            Line(availability("$__rate_interval", H, OURS, by="request_class"), "{{request_class}}"),
            unit="percentunit",
            limits=Limits(bad=OBJECTIVE, low=True),
            most=1,
            from_about=0.99,
            says="Good among valid requests by class. All lines at 100 %; the dashed one is the promise.",
            runbook="AvailabilityBurn",
        ),
        graph(
            "Not good, by verdict",
            Line(rate(SLI, H, OURS, 'verdict!="good"', by="verdict"), "{{verdict}}"),
            unit="reqps",
            stacked=True,
            says="slow, failed and shed use up the budget. limited, invalid and gone are the callers' own doing.",
            runbook="AvailabilityBurn",
        ),
    ]


def _holds() -> list[Any]:
    holds = "hisbridge_http_request_seconds"
    return [
        graph(
            "Seats left, over time",
            Line(f"{newest(_SEATS, H, by='hospital, window')}", "{{hospital}} {{window}}"),
            unit="short",
            steps=True,
            says="coming: opens within 24 hours. fresh: opened within the last hour. At the opening the first becomes the "
            "second, and then falls. It rises where locks were refused or holds ran out.",
        ),
        graph(
            "Time to answer a hold",
            *(Line(quantile(q, holds, HOLD), f"p{q * 100:g}") for q in (0.5, 0.9, 0.99)),
            unit="s",
            limits=Limits(bad=1),
            exemplars=True,
            says="All hospitals together, refusals included. The slowest in a hundred stay under 1 s.",
            runbook="HoldLatencyBurn",
        ),
        graph(
            "Holds by what became of them",
            Line(rate("hisbridge_holds_total", H, by="outcome"), "{{outcome}}"),
            unit="reqps",
            stacked=True,
            says="granted while seats last; then refused_from_memory, which costs next to nothing. shed: the queue was full.",
            runbook="HoldLatencyBurn",
        ),
    ]


def _his() -> list[Any]:
    return [
        graph(
            "Calls that run, and how many may",
            Line(newest("hisbridge_his_in_flight", H, by="hospital, connector"), "{{hospital}} {{connector}} running"),
            Line(newest("hisbridge_his_limit", H, by="hospital, connector"), "{{hospital}} {{connector}} limit"),
            unit="short",
            steps=True,
            dashed="limit$",
            width=QUARTER,
            says="At the release they run at the limit. A limit that has fallen to `his_concurrency_floor`: the HIS bears no "
            "more. Never above what the settings allow.",
            runbook="HisOverloaded",
        ),
        graph(
            "Waiting for the HIS",
            Line(newest("hisbridge_his_queued", H), "{{hospital}} calls"),
            Line(f'sum by (hospital) (hisbridge_outbox_depth{{{H},status="queued"}})', "{{hospital}} commands"),
            unit="short",
            width=QUARTER,
            says="Commands pile up at the release and are worked off, paid registrations first. Bad is what does not fall.",
            runbook="OutboxStuck",
        ),
        graph(
            "Age of the oldest",
            Line(newest("hisbridge_outbox_oldest_seconds", H), "{{hospital}} command"),
            Line(newest("hisbridge_inbox_oldest_seconds", H), "{{hospital}} message"),
            unit="s",
            width=QUARTER,
            limits=Limits(bad=60),
            says="Of the commands to a HIS and of the messages from it. Above `lock_wait_s` (dashed at its default) holds end "
            "unlocked.",
            runbook="OutboxStuck",
        ),
        graph(
            "Time from hold to lock",
            Line(quantile(0.5, "hisbridge_lock_seconds", H, by="hospital"), "{{hospital}} p50"),
            Line(quantile(0.99, "hisbridge_lock_seconds", H, by="hospital"), "{{hospital}} p99"),
            unit="s",
            width=QUARTER,
            says="How long a patient waits until the seat is his at the HIS and can be paid.",
            runbook="RegistrationDelayBurn",
        ),
    ]


def _door() -> list[Any]:
    room = "hisbridge_waiting_room"
    return [
        graph(
            "In the waiting room",
            Line(newest(f"{room}_waiting", H), "{{hospital}} waiting"),
            unit="short",
            width=QUARTER,
            says="Who has a ticket and is not admitted yet. 0 while the room is not open, which is most of the time.",
            runbook="WaitingRoomStuck",
        ),
        graph(
            "Through the waiting room",
            Line(rate(f"{room}_joined_total", H, by="hospital"), "{{hospital}} joined"),
            Line(rate(f"{room}_admitted_total", H, by="hospital"), "{{hospital}} admitted"),
            Line(rate(f"{room}_refused_total", H, by="hospital"), "{{hospital}} refused"),
            Line(newest(f"{room}_rate", H), "{{hospital}} may be admitted"),
            unit="reqps",
            width=QUARTER,
            says="Admitted is as many as may be while somebody waits. refused: holds without an admitted ticket.",
            runbook="WaitingRoomStuck",
        ),
        graph(
            "Limited and shed",
            Line(
                rate("hisbridge_rate_limited_total", by="scope, request_class"),
                "limited {{scope}} {{request_class}}",
            ),
            Line(rate("hisbridge_shed_total", by="request_class, reason"), "shed {{request_class}} {{reason}}"),
            unit="reqps",
            width=QUARTER,
            stacked=True,
            says="limited: one client or patient asks more often than the published policy allows; look for a scalper. shed: "
            "we are overloaded, and that counts against us.",
            runbook="Shedding",
        ),
        graph(
            "Calls to the HIS that were not made",
            Line(rate("hisbridge_his_refused_total", H, by="hospital, reason"), "{{hospital}} {{reason}}"),
            unit="reqps",
            width=QUARTER,
            stacked=True,
            says="Nothing. queue_full, displaced, deadline: the HIS is too slow for what is asked. breaker_open: it is gone.",
            runbook="HisOverloaded",
        ),
    ]
