"""When each alert must fire and when it must not. Every 10 s a value: `301x60` is 301 and 60 times more, `0+2x60` grows by 2.

`since_s` is when the condition first holds: an alert with a `for` must be silent until that is over, and then fire. The figures
are worked out from the sentence of the alert: just beyond its threshold, and just on this side of it.
"""

from __future__ import annotations

from dataclasses import dataclass

STEP_S = 10
SLI, ROOM = "hisbridge_sli_requests_total", "hisbridge_waiting_room"
H1 = 'hospital="h1"'


@dataclass(frozen=True)
class Case:
    """Series by name with labels; `fires` are the labels that the alert must have beside its name and severity, None: silent."""

    alert: str
    says: str
    series: dict[str, str]
    at_s: int
    fires: dict[str, str] | None = None
    since_s: int = 0


def sli(request_class: str, verdict: str, *, phase: str = "release", hospital: str = "h1") -> str:
    return f'{SLI}{{hospital="{hospital}",request_class="{request_class}",phase="{phase}",verdict="{verdict}"}}'


HOSPITAL = {"hospital": "h1"}
OUT_OF_SERIES = f'hisbridge_inbound_oddities_total{{{H1},connector="his",kind="out_of_series"}}'


def gauge(
    alert: str, name: str, beyond: str, within: str, for_s: int, fires: dict[str, str] | None = None, more: str = ""
) -> list[Case]:
    """An alert on one gauge of a hospital: its value beyond the threshold, and the last one within."""
    series = f"hisbridge_{name}{{{H1}{',' + more if more else ''}}}"
    return [
        Case(alert, f"{name} {beyond}", {series: f"{beyond}x90"}, for_s + STEP_S, fires or HOSPITAL),
        Case(alert, f"{name} {within}", {series: f"{within}x90"}, 850),
        Case(
            alert,
            f"{name} {beyond}, and then well",
            {series: f"{beyond}x{(for_s + 60) // STEP_S} {within}x60"},
            for_s + 120,
        ),
    ]


CASES: list[Case] = [
    # --- the release
    Case(
        "HisbridgeReleaseBurn",
        "1.1 % of a minute, one hospital of two",
        {
            sli("hold", "good"): "0+989x60",
            sli("hold", "failed"): "0+11x60",
            sli("read", "good", hospital="h2"): "0+1000x60",
        },
        60,
        HOSPITAL,
    ),
    Case(
        "HisbridgeReleaseBurn",
        "0.9 % of a minute",
        {sli("hold", "good"): "0+991x60", sli("hold", "slow"): "0+9x60"},
        300,
    ),
    Case(
        "HisbridgeReleaseBurn",
        "within a minute of a good start: 4 % for 30 s",
        {sli("read", "good"): "0+1000x30 30000+960x30", sli("read", "shed"): "0x30 0+40x30"},
        340,
        HOSPITAL,
    ),
    Case(
        "HisbridgeReleaseBurn",
        "18 bad ones of 600 in a minute",
        {sli("hold", "good"): "0+97x60", sli("hold", "failed"): "0+3x60"},
        300,
    ),
    Case(
        "HisbridgeReleaseBurn",
        "24 bad ones of 600 in a minute",
        {sli("hold", "good"): "0+96x60", sli("hold", "failed"): "0+4x60"},
        300,
        HOSPITAL,
    ),
    Case("HisbridgeReleaseBurn", "one request, and it failed", {sli("hold", "failed"): "0x20 1x40"}, 250),
    Case(
        "HisbridgeReleaseBurn",
        "an ordinary hour, or the hospital's own answers",
        {
            sli("hold", "failed", phase="ordinary"): "0+50x60",
            sli("live", "failed"): "0+50x60",
            sli("read", "good"): "0+50x60",
        },
        300,
    ),
    Case(
        "HisbridgeReleaseBurn",
        "what is no fault of ours",
        {
            sli("hold", "good"): "0+50x60",
            sli("hold", "limited"): "0+50x60",
            sli("hold", "invalid"): "0+50x60",
            sli("hold", "gone"): "0+50x60",
        },
        300,
    ),
    Case(
        "HisbridgeReleaseNotReady",
        "schedules of 301 s, 1,790 s before the opening",
        {
            f'hisbridge_sync_age_seconds{{{H1},kind="schedules"}}': "301x200",
            f"hisbridge_release_opens_timestamp_seconds{{{H1}}}": "3000x200",
        },
        1280,
        HOSPITAL,
        since_s=1210,
    ),
    Case(
        "HisbridgeReleaseNotReady",
        "schedules of 299 s",
        {
            f'hisbridge_sync_age_seconds{{{H1},kind="schedules"}}': "299x200",
            f"hisbridge_release_opens_timestamp_seconds{{{H1}}}": "3000x200",
        },
        1900,
    ),
    Case(
        "HisbridgeReleaseNotReady",
        "1,810 s before the opening",
        {
            f'hisbridge_sync_age_seconds{{{H1},kind="schedules"}}': "301x200",
            f"hisbridge_release_opens_timestamp_seconds{{{H1}}}": "3000x200",
        },
        1190,
    ),
    Case(
        "HisbridgeReleaseNotReady",
        "a connection is down while the release is on",
        {
            f'hisbridge_connector_up{{{H1},connector="his"}}': "0x200",
            f'hisbridge_connector_up{{{H1},connector="lab"}}': "1x200",
            f"hisbridge_release_opens_timestamp_seconds{{{H1}}}": "10x200",
        },
        70,
        HOSPITAL,
    ),
    Case(
        "HisbridgeReleaseNotReady",
        "everything is up",
        {
            f'hisbridge_connector_up{{{H1},connector="his"}}': "1x200",
            f'hisbridge_sync_age_seconds{{{H1},kind="schedules"}}': "5x200",
            f"hisbridge_release_opens_timestamp_seconds{{{H1}}}": "10x200",
        },
        1900,
    ),
    Case(
        "HisbridgeReleaseNotReady",
        "a hospital without a rule",
        {
            f'hisbridge_connector_up{{{H1},connector="his"}}': "0x200",
            f"hisbridge_release_opens_timestamp_seconds{{{H1}}}": "0x200",
        },
        1900,
    ),
    Case(
        "HisbridgeWaitingRoomStuck",
        "900 wait, nobody goes in",
        {
            f"{ROOM}_waiting{{{H1}}}": "900x60",
            f"{ROOM}_open{{{H1}}}": "1x60",
            f"{ROOM}_admitted_total{{{H1}}}": "40x60",
        },
        50,
        HOSPITAL,
        since_s=10,
    ),
    Case(
        "HisbridgeWaitingRoomStuck",
        "one in twenty seconds goes in",
        {
            f"{ROOM}_waiting{{{H1}}}": "900x60",
            f"{ROOM}_open{{{H1}}}": "1x60",
            f"{ROOM}_admitted_total{{{H1}}}": "0+0.51x60",
        },
        590,
    ),
    Case(
        "HisbridgeWaitingRoomStuck",
        "fewer than that",
        {
            f"{ROOM}_waiting{{{H1}}}": "900x60",
            f"{ROOM}_open{{{H1}}}": "1x60",
            f"{ROOM}_admitted_total{{{H1}}}": "0+0.4x60",
        },
        50,
        HOSPITAL,
        since_s=10,
    ),
    Case(
        "HisbridgeWaitingRoomStuck",
        "nobody waits",
        {f"{ROOM}_waiting{{{H1}}}": "0x60", f"{ROOM}_open{{{H1}}}": "1x60", f"{ROOM}_admitted_total{{{H1}}}": "40x60"},
        590,
    ),
    Case(
        "HisbridgeWaitingRoomStuck",
        "it is gathered before the opening, and the room lets nobody in",
        {
            f"{ROOM}_waiting{{{H1}}}": "900x60",
            f"{ROOM}_open{{{H1}}}": "0x60",
            f"{ROOM}_admitted_total{{{H1}}}": "40x60",
        },
        590,
    ),
    Case(
        "HisbridgeStepShed",
        "one payment",
        {'hisbridge_shed_total{request_class="step",reason="loop"}': "0x40 1x50"},
        450,
        {},
    ),
    Case(
        "HisbridgeStepShed",
        "one payment, of which nothing was counted before",
        {'hisbridge_shed_total{request_class="step",reason="loop"}': "_x40 1x50"},
        450,
        {},
    ),
    Case(
        "HisbridgeStepShed",
        "only reads",
        {
            'hisbridge_shed_total{request_class="step",reason="loop"}': "0x60",
            'hisbridge_shed_total{request_class="read",reason="loop"}': "0+9x60",
        },
        590,
    ),
    Case(
        "HisbridgeShedding",
        "51 reads in 5 minutes",
        {'hisbridge_shed_total{request_class="read",reason="loop"}': "0+1.7x60"},
        300,
        {"request_class": "read", "reason": "loop"},
    ),
    Case(
        "HisbridgeShedding",
        "48 in 5 minutes",
        {'hisbridge_shed_total{request_class="read",reason="loop"}': "0+1.6x60"},
        300,
    ),
    Case(
        "HisbridgeConnectionsFull",
        "21 in 5 minutes",
        {'hisbridge_http_connections_ended_total{reason="full"}': "0+0.7x60"},
        300,
        {},
    ),
    Case(
        "HisbridgeConnectionsFull",
        "18 in 5 minutes",
        {
            'hisbridge_http_connections_ended_total{reason="full"}': "0+0.6x60",
            'hisbridge_http_connections_ended_total{reason="head_timeout"}': "0+9x60",
        },
        300,
    ),
    # --- bookings and money
    *gauge("HisbridgePaidNotRegistered", "paid_unregistered_oldest_seconds", "301", "300", 60),
    *gauge("HisbridgePaidNotSettled", "bills_unsettled_oldest_seconds", "601", "600", 60),
    *gauge("HisbridgeRefundRefused", "refunds_untold", "1", "0", 300, HOSPITAL, 'his="rejected"'),
    Case("HisbridgeRefundRefused", "those under way", {f'hisbridge_refunds_untold{{{H1},his="unknown"}}': "5x90"}, 600),
    *gauge("HisbridgeRefundOverdue", "refunds_owed_oldest_seconds", "259201", "259200", 300),
    Case("HisbridgeWebhookDisabled", "one", {"hisbridge_webhooks_disabled_total": "0x20 1x80"}, 300, {}),
    Case("HisbridgeWebhookDisabled", "one, hours ago", {"hisbridge_webhooks_disabled_total": "0x20 1x800"}, 7000),
    Case("HisbridgeWebhookDisabled", "none", {"hisbridge_webhooks_disabled_total": "0x90"}, 850),
    *gauge("HisbridgeUnknownOutcome", "his_unknown_oldest_seconds", "1201", "1200", 60),
    *gauge("HisbridgeOutboxStuck", "outbox_oldest_seconds", "901", "900", 300),
    *gauge("HisbridgeDeadLetters", "dead_letters", "1", "0", 300, {"hospital": "h1", "box": "inbox"}, 'box="inbox"'),
    Case(
        "HisbridgeHoldsFailed",
        "6 of 300 in 10 minutes",
        {
            f'hisbridge_holds_failed_total{{{H1},reason="never_locked"}}': "0+0.1x90",
            f'hisbridge_holds_total{{{H1},outcome="granted"}}': "0+5x90",
        },
        600,
        HOSPITAL,
    ),
    Case(
        "HisbridgeHoldsFailed",
        "4.8 of 300",
        {
            f'hisbridge_holds_failed_total{{{H1},reason="never_locked"}}': "0+0.08x90",
            f'hisbridge_holds_total{{{H1},outcome="granted"}}': "0+5x90",
        },
        600,
    ),
    Case(
        "HisbridgeHoldsFailed",
        "6 of 660: fewer than one in a hundred",
        {
            f'hisbridge_holds_failed_total{{{H1},reason="never_locked"}}': "0+0.1x90",
            f'hisbridge_holds_total{{{H1},outcome="granted"}}': "0+11x90",
        },
        600,
    ),
    Case(
        "HisbridgeHoldsFailed",
        "seats that others had",
        {
            f'hisbridge_holds_failed_total{{{H1},reason="seat_gone"}}': "0+9x90",
            f'hisbridge_holds_failed_total{{{H1},reason="never_locked"}}': "0x90",
            f'hisbridge_holds_total{{{H1},outcome="granted"}}': "0+5x90",
        },
        600,
    ),
    *gauge("HisbridgeSeatsDrift", "seats_drift", "1", "0", 120),
    *gauge("HisbridgeIllegalStates", "illegal_states", "1", "0", 120, {"hospital": "h1", "rule": "r"}, 'rule="r"'),
    *gauge(
        "HisbridgeReconciliationDifference",
        "reconciliation_differences",
        "1",
        "0",
        600,
        {"hospital": "h1", "kind": "long"},
        'kind="long"',
    ),
    Case(
        "HisbridgeReconciliationDifference",
        "over midnight",
        {f'hisbridge_reconciliation_differences{{{H1},kind="timing"}}': "5x90"},
        850,
    ),
    *gauge("HisbridgeReconciliationBehind", "reconciled_until_timestamp_seconds", "-259201", "-200000", 600),
    *gauge("HisbridgeLedgerImbalance", "ledger_imbalances", "1", "0", 300),
    # --- hospitals
    *gauge(
        "HisbridgeConnectorDown",
        "connector_up",
        "0",
        "1",
        300,
        {"hospital": "h1", "connector": "his"},
        'connector="his"',
    ),
    *gauge(
        "HisbridgeSyncStale", "sync_age_seconds", "601", "600", 120, {"hospital": "h1", "kind": "stops"}, 'kind="stops"'
    ),
    Case(
        "HisbridgeSyncStale",
        "departments may be old",
        {f'hisbridge_sync_age_seconds{{{H1},kind="master"}}': "9000x90"},
        850,
    ),
    Case(
        "HisbridgeHospitalNotWorked",
        "its lease ran out",
        {f'hisbridge_hospital_worked{{{H1},instance="a"}}': "1x10 _x80"},
        490,
        HOSPITAL,
        since_s=410,
    ),
    Case(
        "HisbridgeHospitalNotWorked",
        "it was never worked, and has a release",
        {f"hisbridge_release_opens_timestamp_seconds{{{H1}}}": "90000x90"},
        70,
        HOSPITAL,
    ),
    Case(
        "HisbridgeHospitalNotWorked",
        "taken over by another process",
        {
            f'hisbridge_hospital_worked{{{H1},instance="a"}}': "1x10 _x80",
            f'hisbridge_hospital_worked{{{H1},instance="b"}}': "_x12 1x80",
            f"hisbridge_release_opens_timestamp_seconds{{{H1}}}": "90000x90",
        },
        850,
    ),
    Case(
        "HisbridgeHospitalWorkedTwice",
        "two say so",
        {
            f'hisbridge_hospital_worked{{{H1},instance="a"}}': "1x90",
            f'hisbridge_hospital_worked{{{H1},instance="b"}}': "1x90",
        },
        70,
        HOSPITAL,
    ),
    Case(
        "HisbridgeHospitalWorkedTwice",
        "one says so",
        {
            f'hisbridge_hospital_worked{{{H1},instance="a"}}': "1x90",
            'hisbridge_hospital_worked{hospital="h2",instance="b"}': "1x90",
        },
        850,
    ),
    *gauge("HisbridgeInboxStuck", "inbox_oldest_seconds", "61", "60", 120),
    Case(
        "HisbridgeSeriesStuck",
        "one is refused every five minutes",
        {OUT_OF_SERIES: "0x9 1x29 2x29 3x29 4x29"},
        710,
        {"hospital": "h1", "connector": "his"},
        since_s=100,
    ),
    Case(
        "HisbridgeSeriesStuck",
        "refused every ten seconds for five minutes, until the missing one came",
        {OUT_OF_SERIES: "0x9 1+1x29 30x60"},
        750,
    ),
    Case("HisbridgeSeriesStuck", "one was refused", {OUT_OF_SERIES: "0x9 1x80"}, 750),
    Case(
        "HisbridgeSeriesStuck",
        "other oddities",
        {OUT_OF_SERIES.replace("out_of_series", "same_id"): "0+1x90"},
        850,
    ),
    Case(
        "HisbridgeDecodeFallbacks",
        "7.2 in an hour",
        {f'hisbridge_decode_fallbacks_total{{{H1},connector="his",kind="gb18030"}}': "0+0.02x400"},
        3600,
        {"hospital": "h1", "connector": "his", "kind": "gb18030"},
    ),
    Case(
        "HisbridgeDecodeFallbacks",
        "3.6 in an hour",
        {f'hisbridge_decode_fallbacks_total{{{H1},connector="his",kind="gb18030"}}': "0+0.01x400"},
        3600,
    ),
    Case(
        "HisbridgeDecodeFallbacks",
        "as many as yesterday",
        {f'hisbridge_decode_fallbacks_total{{{H1},connector="his",kind="gb18030"}}': "0+0.02x9100"},
        90000,
    ),
    Case(
        "HisbridgeDecodeFallbacks",
        "yesterday there were 3.6",
        {f'hisbridge_decode_fallbacks_total{{{H1},connector="his",kind="gb18030"}}': "0+0.01x8650 86.5+0.02x450"},
        90500,
        {"hospital": "h1", "connector": "his", "kind": "gb18030"},
    ),
    *gauge(
        "HisbridgeHisClockOff",
        "his_clock_offset_seconds",
        "-6",
        "-5",
        600,
        {"hospital": "h1", "connector": "his"},
        'connector="his"',
    )[:2],
    Case(
        "HisbridgeHisOverloaded",
        "21 in 5 minutes",
        {f'hisbridge_his_refused_total{{{H1},connector="his",reason="deadline"}}': "0+0.7x60"},
        300,
        {"hospital": "h1", "reason": "deadline"},
    ),
    Case(
        "HisbridgeHisOverloaded",
        "18 in 5 minutes, and a breaker that is open",
        {
            f'hisbridge_his_refused_total{{{H1},connector="his",reason="deadline"}}': "0+0.6x60",
            f'hisbridge_his_refused_total{{{H1},connector="his",reason="breaker_open"}}': "0+9x60",
        },
        300,
    ),
    # 21 days are 1,814,400 s. At 3,000 s it has that much left, less ten seconds.
    *gauge(
        "HisbridgeTLSFilesNotTaken",
        "tls_files_not_taken",
        "1",
        "0",
        300,
        {"hospital": "h1", "connector": "his", "side": "listener"},
        'connector="his",side="listener"',
    ),
    *gauge(
        "HisbridgeSubscriptionDown",
        "fhir_subscription_active",
        "0",
        "1",
        600,
        {"hospital": "h1", "connector": "his", "subscription": "backport"},
        'connector="his",subscription="backport"',
    ),
    Case(
        "HisbridgeCertificateEndsSoon",
        "21 days less a moment",
        {'hisbridge_certificate_expiry_timestamp_seconds{where="h1/his/endpoint"}': "1817390x400"},
        3600,
        {"where": "h1/his/endpoint"},
        since_s=3000,
    ),
    Case(
        "HisbridgeCertificateEndsSoon",
        "22 days",
        {'hisbridge_certificate_expiry_timestamp_seconds{where="h1/his/endpoint"}': "1905000x400"},
        3600,
    ),
    Case(
        "HisbridgeCertificateEnds",
        "two days less a moment",
        {'hisbridge_certificate_expiry_timestamp_seconds{where="h1/his/endpoint"}': "175790x400"},
        3600,
        {"where": "h1/his/endpoint"},
        since_s=3000,
    ),
    Case(
        "HisbridgeCertificateEnds",
        "three days",
        {'hisbridge_certificate_expiry_timestamp_seconds{where="h1/his/endpoint"}': "263000x400"},
        3600,
    ),
    Case(
        "HisbridgeCertificateEnds",
        "it has ended",
        {'hisbridge_certificate_expiry_timestamp_seconds{where="h1/his/endpoint"}': "5x400"},
        610,
        {"where": "h1/his/endpoint"},
    ),
    # --- processes
    Case("HisbridgeGone", "nothing is scraped", {'up{job="prometheus"}': "1x60"}, 70, {}),
    Case(
        "HisbridgeGone",
        "one process of two is left",
        {'hisbridge_build_info{instance="a"}': "1x60", 'hisbridge_build_info{instance="b"}': "1x10 _x50"},
        590,
    ),
    Case(
        "HisbridgeTargetDown",
        "one process of two",
        {'up{job="hisbridge",instance="a"}': "0x60", 'up{job="hisbridge",instance="b"}': "1x60"},
        70,
        {"job": "hisbridge", "instance": "a"},
    ),
    Case(
        "HisbridgeTargetDown",
        "somebody else's",
        {'up{job="node",instance="a"}': "0x60", 'up{job="hisbridge-parent",instance="b"}': "1x60"},
        590,
    ),
    Case(
        "HisbridgeChildDown",
        "it is not ready",
        {'hisbridge_child_up{instance="a",role="api",worker="2"}': "0x60"},
        70,
        {"instance": "a", "role": "api", "worker": "2"},
    ),
    Case(
        "HisbridgeChildDown",
        "a rolling restart",
        {'hisbridge_child_up{instance="a",role="api",worker="2"}': "1x10 0x4 1x40"},
        160,
    ),
    Case(
        "HisbridgeChildRestarts",
        "3 in 15 minutes",
        {'hisbridge_child_restarts_total{instance="a",role="sync",worker="0"}': "0x50 1x10 2x10 3x60"},
        900,
        {"instance": "a", "role": "sync", "worker": "0"},
    ),
    Case(
        "HisbridgeChildRestarts",
        "2 in 15 minutes",
        {'hisbridge_child_restarts_total{instance="a",role="sync",worker="0"}': "0x60 1x20 2x60"},
        900,
    ),
    Case("HisbridgeFeedStale", "2.1 s", {'hisbridge_feed_age_seconds{instance="a"}': "2.1x60"}, 40, {"instance": "a"}),
    Case("HisbridgeFeedStale", "2 s", {'hisbridge_feed_age_seconds{instance="a"}': "2x60"}, 590),
    Case(
        "HisbridgeFilesRunOut",
        "81 of 100",
        {
            'process_open_fds{job="hisbridge",instance="a"}': "81x60",
            'process_max_fds{job="hisbridge",instance="a"}': "100x60",
        },
        70,
        {"instance": "a"},
    ),
    Case(
        "HisbridgeFilesRunOut",
        "80 of 100",
        {
            'process_open_fds{job="hisbridge",instance="a"}': "80x60",
            'process_max_fds{job="hisbridge",instance="a"}': "100x60",
        },
        590,
    ),
]
