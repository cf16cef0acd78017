"""The board of the service itself: what it answers, what that costs, and whether its processes are well."""

from __future__ import annotations

from typing import Any

from monitoring.grafana.frame import board
from monitoring.grafana.panels import HALF, QUARTER, Limits, Line, figure, graph
from monitoring.grafana.terms import (
    HOLD,
    OBJECTIVE,
    OURS,
    RANGE,
    RATE,
    SLI,
    H,
    availability,
    quantile,
    rate,
)

_REQUESTS, _SECONDS = "hisbridge_http_requests_total", "hisbridge_http_request_seconds"
_WHO = "{{role}} {{worker}} {{instance}}"
_BY = "role, worker, instance"
# Where one process does everything there is no role.
_OURS = 'job=~"hisbridge.*"'
_BUDGET_SPENT = f"(1 - ({availability(RANGE, H, OURS)})) / {1 - OBJECTIVE:g}"


def service_board() -> dict[str, Any]:
    """The board as Grafana reads it."""
    return board(
        "hisbridge-service",
        "hisbridge: Service",
        "The program itself: requests and the error budget, what waits inside, what is kept ready-made, and its processes.",
        {
            "Now": _now(),
            "Requests": _requests(),
            "Inside": _inside(),
            "What is turned away": _turned_away(),
            "What is kept ready-made": _ready_made(),
            "Processes": _processes(),
            "Traces": _traces(),
        },
    )


def _now() -> list[Any]:
    return [
        figure(
            "Availability",
            Line(availability(RANGE, H, OURS)),
            unit="percentunit",
            decimals=3,
            limits=Limits(warn=OBJECTIVE, bad=0.995, low=True),
            says="Good among valid requests over the time shown, live reads from a HIS left out. 99.9 % is promised.",
            runbook="AvailabilityBurn",
            spark=False,
        ),
        figure(
            "Error budget spent",
            Line(_BUDGET_SPENT),
            unit="percentunit",
            decimals=1,
            limits=Limits(warn=0.5, bad=1),
            says="Of what 99.9 % allows to go wrong in the time shown. Choose 30 days for the month's. Above 100 % the promise "
            "is broken.",
            runbook="AvailabilityBurn",
            spark=False,
        ),
        figure(
            "Requests",
            Line(f"sum(rate({_REQUESTS}[{RATE}]))"),
            unit="reqps",
            says="As on other days at this hour.",
        ),
        figure(
            "In flight",
            Line("sum(hisbridge_http_requests_in_flight)"),
            unit="short",
            limits=Limits(warn=1_000, bad=1_800),
            says="Far below `max_in_flight` (2,000 in each process unless changed). Long polls count as well.",
            runbook="AvailabilityBurn",
        ),
        figure(
            "Child processes that are not up",
            Line("count(hisbridge_child_up == 0) or 0 * count(hisbridge_child_up)"),
            unit="short",
            decimals=0,
            limits=Limits(bad=1),
            says="0. Empty where one process does everything (SQLite).",
            runbook="ChildDown",
        ),
        figure(
            "Restarts",
            Line(f"sum(increase(hisbridge_child_restarts_total[{RANGE}]))"),
            unit="short",
            decimals=0,
            limits=Limits(warn=1, bad=5),
            says="Of child processes that had ended by themselves, over the time shown. 0.",
            runbook="ChildRestarts",
        ),
    ]


def _requests() -> list[Any]:
    burn = f"(1 - ({availability(RATE, H, OURS)})) / {1 - OBJECTIVE:g}"
    return [
        graph(
            "Requests by class",
            Line(rate(SLI, H, by="request_class"), "{{request_class}}"),
            unit="reqps",
            stacked=True,
            says="What is asked.",
        ),
        graph(
            "Requests by verdict",
            Line(rate(SLI, H, by="verdict"), "{{verdict}}"),
            unit="reqps",
            stacked=True,
            says="good. slow, failed and shed use up the budget; limited, invalid and gone are the callers' doing.",
            runbook="AvailabilityBurn",
        ),
        graph(
            "Budget burnt, times the pace that lasts",
            Line(burn, "burn rate"),
            unit="short",
            limits=Limits(warn=1, bad=14.4),
            says="Below 1 the budget lasts. At 14.4 two hundredths of a month's go in an hour, and the alert pages.",
            runbook="AvailabilityBurn",
        ),
        graph(
            "Answers by status class",
            Line(rate(_REQUESTS, by="class"), "{{class}}"),
            unit="reqps",
            stacked=True,
            says="ok, and rejected when seats are gone.",
        ),
        graph(
            "Time to answer",
            *(Line(quantile(q, _SECONDS), f"p{q * 100:g}") for q in (0.5, 0.9, 0.99)),
            unit="s",
            limits=Limits(warn=0.3, bad=1),
            exemplars=True,
            says="Reads and sold-out answers under 0.3 s, holds under 1 s. Long polls wait on purpose, and raise the last line.",
            runbook="HoldLatencyBurn",
        ),
        graph(
            "Time to answer by route, p99",
            Line(quantile(0.99, _SECONDS, by="method, route"), "{{method}} {{route}}"),
            unit="s",
            says="Which one is slow. Bills and reports wait for the HIS, `.../bookings/{booking_id}` for a change.",
        ),
    ]


def _inside() -> list[Any]:
    return [
        graph(
            "Requests in flight",
            Line(f"sum by ({_BY}) (hisbridge_http_requests_in_flight)", _WHO),
            unit="short",
            width=QUARTER,
            says="Level with the load, the same in each process.",
            runbook="AvailabilityBurn",
        ),
        graph(
            "Queue delay",
            Line("max by (queue) (hisbridge_queue_delay_seconds)", "{{queue}}"),
            unit="s",
            width=QUARTER,
            limits=Limits(bad=0.1),
            says="What a request waits before anybody looks at it: milliseconds. Shedding goes by this.",
            runbook="Shedding",
        ),
        graph(
            "Holds that wait for their batch",
            Line(f"sum by (hospital) (hisbridge_holds_waiting{{{H}}})", "{{hospital}}"),
            unit="short",
            width=QUARTER,
            says="A batch's worth at the release, else 0. At `hold_queue` holds are shed.",
            runbook="HoldLatencyBurn",
        ),
        graph(
            "Holds in a batch",
            Line(
                f"sum(rate(hisbridge_hold_batch_size_sum[{RATE}])) / (sum(rate(hisbridge_hold_batch_size_count[{RATE}])) > 0)",
                "mean",
            ),
            Line(quantile(0.99, "hisbridge_hold_batch_size"), "p99"),
            unit="short",
            width=QUARTER,
            says="1 on a quiet day; larger batches are how a release is carried. At 256 a batch is full.",
        ),
        graph(
            "Connections",
            Line(f"sum by ({_BY}) (hisbridge_http_connections)", _WHO),
            unit="short",
            width=QUARTER,
            says="Below `max_connections` (20,000 in each process unless changed), spread evenly.",
        ),
        graph(
            "Connections that we ended",
            Line(rate("hisbridge_http_connections_ended_total", by="reason"), "{{reason}}"),
            unit="cps",
            width=QUARTER,
            says="Nothing. full: callers were turned away. head_timeout: somebody sends heads drop by drop.",
            runbook="ConnectionsFull",
        ),
        graph(
            "Share of the time in which the collector of garbage stops a process",
            Line(rate("hisbridge_garbage_pause_seconds_sum", by="generation"), "{{generation}}"),
            unit="percentunit",
            width=HALF,
            says="Under 2 % in a crowd. `full` belongs in quiet minutes: in a crowd it means that none has come for very long.",
            runbook="Shedding",
        ),
        graph(
            "Webhooks that were disabled",
            Line(f"sum(increase(hisbridge_webhooks_disabled_total[{RATE}]))", "webhooks"),
            unit="short",
            width=QUARTER,
            says="Nothing. A portal has taken no event for 24 hours; it goes on when the portal resumes it.",
            runbook="WebhookDisabled",
        ),
    ]


def _turned_away() -> list[Any]:
    return [
        graph(
            "Hold requests and their answers",
            Line(f"sum by (status) (rate({_REQUESTS}{{{HOLD}}}[{RATE}]))", "{{status}}"),
            unit="reqps",
            width=QUARTER,
            stacked=True,
            says="201 while seats last, then 409. 429 is limited or in the waiting room, 503 is shed.",
            runbook="HoldLatencyBurn",
        ),
        graph(
            "Limited",
            Line(rate("hisbridge_rate_limited_total", by="scope, request_class"), "{{scope}} {{request_class}}"),
            unit="reqps",
            width=QUARTER,
            stacked=True,
            says="Nothing, or one portal whose program runs wild. client: a key asks too often. identity: one of its patients.",
        ),
        graph(
            "Shed",
            Line(rate("hisbridge_shed_total", by="request_class, reason"), "{{request_class}} {{reason}}"),
            unit="reqps",
            width=QUARTER,
            stacked=True,
            says="Nothing. The cheapest go first, a paid booking's step never.",
            runbook="Shedding",
        ),
        graph(
            "Classes that are turned away",
            Line("max by (queue) (hisbridge_shed_level)", "{{queue}}"),
            unit="short",
            width=QUARTER,
            steps=True,
            most=4,
            says="0. How many classes the worst process turns away because of a queue's delay: bulk first, holds last.",
            runbook="Shedding",
        ),
    ]


def _traces() -> list[Any]:
    return [
        graph(
            "Spans of traces, by what became of them",
            Line(rate("hisbridge_spans_total", by="result"), "{{result}}"),
            unit="cps",
            width=HALF,
            stacked=True,
            says="exported. dropped: the collector is away or slow. refused: it does not take them. Nothing else suffers.",
        ),
        graph(
            "Spans that wait for the collector",
            Line(f"sum by ({_BY}) (hisbridge_spans_waiting)", _WHO),
            unit="short",
            width=HALF,
            says="A batch's worth. Climbing: the collector does not keep up, and then spans are dropped. Traces off: 0.",
        ),
    ]


def _ready_made() -> list[Any]:
    return [
        graph(
            "Age of what this process knows",
            Line(f"max by ({_BY}) (hisbridge_feed_age_seconds)", _WHO),
            unit="s",
            width=QUARTER,
            limits=Limits(bad=0.2),
            says="About 0.1 s. Above 0.2 s lists are read through the store, which is slow.",
            runbook="FeedStale",
        ),
        graph(
            "Lists, by where they came from",
            Line(rate("hisbridge_snapshot_reads_total", by="result"), "{{result}}"),
            unit="reqps",
            width=QUARTER,
            stacked=True,
            says="hit, nearly all of them. store: the feed was behind.",
            runbook="FeedStale",
        ),
        graph(
            "Days read anew",
            Line(f"sum(rate(hisbridge_snapshot_rebuilds_total[{RATE}]))", "rebuilds"),
            unit="cps",
            width=QUARTER,
            says="With each change one. As many as lists without changes: `snapshot_mb` is too small.",
        ),
        graph(
            "Memory of what is ready-made",
            Line("sum by (kind) (hisbridge_snapshot_bytes)", "{{kind}}"),
            unit="bytes",
            width=QUARTER,
            stacked=True,
            says="Within `snapshot_mb` for each process.",
        ),
    ]


def _processes() -> list[Any]:
    return [
        graph(
            "Processor time",
            Line(f"sum by ({_BY}) (rate(process_cpu_seconds_total{{{_OURS}}}[{RATE}]))", _WHO),
            unit="percentunit",
            width=QUARTER,
            limits=Limits(bad=0.9),
            says="Of one processor, by process. Near 100 % a process has no more to give: add workers.",
            runbook="AvailabilityBurn",
        ),
        graph(
            "Memory",
            Line(f"sum by ({_BY}) (process_resident_memory_bytes{{{_OURS}}})", _WHO),
            unit="bytes",
            width=QUARTER,
            says="Level after the first hour.",
        ),
        graph(
            "Garbage collections",
            Line(
                f"sum by (generation) (rate(python_gc_collections_total{{{_OURS}}}[{RATE}]))",
                "generation {{generation}}",
            ),
            unit="cps",
            width=QUARTER,
            says="Generation 2 well under one a second: each is a pause.",
        ),
        graph(
            "Child processes",
            Line("sum by (role) (hisbridge_child_up)", "{{role}} up"),
            Line("sum by (role) (hisbridge_child_restarts_total)", "{{role}} restarts"),
            unit="short",
            width=QUARTER,
            steps=True,
            says="As many as are configured, and no restarts. Empty where one process does everything (SQLite).",
            runbook="ChildDown",
        ),
    ]
