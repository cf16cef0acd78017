"""The board of the connections: each hospital's system, how it answers, and what it tells us."""

from __future__ import annotations

from typing import Any

from monitoring.grafana.frame import board
from monitoring.grafana.panels import (
    ANY_IS_BAD,
    HALF,
    QUARTER,
    Column,
    Limits,
    Line,
    graph,
    overview,
)
from monitoring.grafana.terms import RATE, H, availability, newest, quantile, rate

_BREAKER = {0: ("closed", "green"), 1: ("half-open", "orange"), 2: ("open", "red")}
_UP = {0: ("down", "red"), 1: ("up", "green")}
_WORSE = 'outcome=~"unknown|unavailable|refused|reply_invalid|error|cancelled"'


def _age(kinds: str) -> Line:
    """A kind that the HIS does not offer is never fetched, and its age is infinite."""
    return Line(f"max by (hospital, kind) (hisbridge_sync_age_seconds{{{H},{kinds}}} < Inf)", "{{hospital}} {{kind}}")


def hospitals_board() -> dict[str, Any]:
    """The board as Grafana reads it."""
    return board(
        "hisbridge-hospitals",
        "hisbridge: Hospital connections",
        "Each hospital's system: does it answer, how fast, what does it bear, what does it send. One hospital's trouble stays "
        "its own.",
        {
            "Now": [_overview()],
            "Calls": _calls(),
            "What it bears": _protection(),
            "What is fetched, and what it sends": _fetched(),
            "Who connects to our listeners": _listeners(),
            "What could not be read or applied": _set_aside(),
        },
    )


def _overview() -> Any:
    return overview(
        "Connections",
        Column("connection", f"min by (hospital, connector) (hisbridge_connector_up{{{H}}})", words=_UP),
        Column("breaker", newest("hisbridge_his_breaker", H, by="hospital, connector"), words=_BREAKER),
        Column("running", newest("hisbridge_his_in_flight", H, by="hospital, connector")),
        Column("may run", newest("hisbridge_his_limit", H, by="hospital, connector")),
        Column("waiting", newest("hisbridge_his_queued", H, by="hospital, connector"), limits=Limits(warn=50, bad=150)),
        Column(
            "clock ahead",
            newest("hisbridge_his_clock_offset_seconds", H, by="hospital, connector"),
            unit="s",
            limits=Limits(warn=5, bad=60),
        ),
        by=("hospital", "connector"),
        says="All up and closed. A connection that is down, or a breaker that is open: the HIS or the network to it is gone, "
        "and everything for it waits in the store.",
        runbook="ConnectorDown",
    )


def _calls() -> list[Any]:
    seconds = "hisbridge_his_call_seconds"
    return [
        graph(
            "Calls",
            Line(rate("hisbridge_his_calls_total", H, by="hospital, verb"), "{{hospital}} {{verb}}"),
            unit="reqps",
            stacked=True,
            says="What we ask of each HIS. Fetches come by the clock, the others with the patients.",
        ),
        graph(
            "Calls that did not end well",
            Line(rate("hisbridge_his_calls_total", H, _WORSE, by="hospital, outcome"), "{{hospital}} {{outcome}}"),
            unit="reqps",
            stacked=True,
            says="Nothing. unknown: a command without a reply, looked up before it is sent again. unavailable: a read without "
            "one. reply_invalid: not what the profile says.",
            runbook="ConnectorDown",
        ),
        graph(
            "Refusals by the HIS",
            Line(
                rate("hisbridge_his_calls_total", H, 'outcome="rejected"', by="hospital, verb"), "{{hospital}} {{verb}}"
            ),
            unit="reqps",
            stacked=True,
            says="Some at a release: the window sells as well. Many locks refused: our figures are behind the HIS's.",
            runbook="SeatsDrift",
        ),
        graph(
            "Duration of calls",
            Line(quantile(0.5, seconds, H, by="hospital"), "{{hospital}} p50"),
            Line(quantile(0.99, seconds, H, by="hospital"), "{{hospital}} p99"),
            unit="s",
            exemplars=True,
            says="Getting slower is the earliest sign of trouble at a HIS. 0.1 to 7 s is what small ones take when idle.",
            runbook="HisOverloaded",
        ),
        graph(
            "Duration by verb, p95",
            Line(quantile(0.95, seconds, H, by="hospital, verb"), "{{hospital}} {{verb}}"),
            unit="s",
            says="Which question is the slow one.",
            runbook="HisOverloaded",
        ),
        graph(
            "Live reads answered well",
            Line(availability(RATE, 'request_class="live"', H, by="hospital"), "{{hospital}}"),
            unit="percentunit",
            most=1,
            from_about=0.9,
            says="Bills and reports that portals ask for while they wait. The hospital's own figure: it does not count in ours.",
            runbook="ConnectorDown",
        ),
    ]


def _protection() -> list[Any]:
    return [
        graph(
            "Calls that run, and how many may",
            Line(newest("hisbridge_his_in_flight", H, by="hospital, connector"), "{{hospital}} {{connector}} running"),
            Line(newest("hisbridge_his_limit", H, by="hospital, connector"), "{{hospital}} {{connector}} limit"),
            unit="short",
            steps=True,
            dashed="limit$",
            width=QUARTER,
            says="The limit moves between `his_concurrency_floor` and `his_concurrency` with how the HIS answers. Staying at "
            "the floor under load: it bears no more.",
            runbook="HisOverloaded",
        ),
        graph(
            "Calls that wait",
            Line(newest("hisbridge_his_queued", H, by="hospital, connector"), "{{hospital}} {{connector}}"),
            unit="short",
            width=QUARTER,
            limits=Limits(bad=200),
            says="For a place. Short waits are what protection is; at `his_queue` (200 unless changed) calls are refused.",
            runbook="HisOverloaded",
        ),
        graph(
            "Circuit breaker",
            Line(newest("hisbridge_his_breaker", H, by="hospital, connector"), "{{hospital}} {{connector}}"),
            unit="short",
            steps=True,
            most=2,
            width=QUARTER,
            says="0 closed. 1 half-open: one call at a time may try. 2 open: nothing is sent.",
            runbook="ConnectorDown",
        ),
        graph(
            "Clock of the HIS ahead of ours",
            Line(
                newest("hisbridge_his_clock_offset_seconds", H, by="hospital, connector"), "{{hospital}} {{connector}}"
            ),
            unit="s",
            width=QUARTER,
            negative=True,
            limits=Limits(bad=5),
            says="Within 5 s (`clock_warn_s`). Behind: locks at the opening are refused as not open yet.",
            runbook="HisClockOff",
        ),
    ]


def _fetched() -> list[Any]:
    return [
        graph(
            "Age of what was fetched",
            _age('kind!="master"'),
            unit="s",
            width=QUARTER,
            limits=Limits(bad=180),
            says="A saw between 0 and `sync_every_s`; the dashed line is three times its default. Climbing: fetches fail, and "
            "what patients see grows old.",
            runbook="SyncStale",
        ),
        graph(
            "Age of departments and practitioners",
            _age('kind="master"'),
            unit="s",
            width=QUARTER,
            limits=Limits(bad=1_800),
            says="A saw of ten minutes.",
            runbook="SyncStale",
        ),
        graph(
            "Messages from the hospital, by type",
            Line(rate("hisbridge_inbound_messages_total", H, by="hospital, type"), "{{hospital}} {{type}}"),
            unit="reqps",
            width=QUARTER,
            stacked=True,
            says="As on other days at this hour. None where some should come: the HIS does not reach us.",
            runbook="ConnectorDown",
        ),
        graph(
            "Messages, by what became of them",
            Line(rate("hisbridge_inbound_messages_total", H, by="hospital, result"), "{{hospital}} {{result}}"),
            unit="reqps",
            width=QUARTER,
            stacked=True,
            says="applied and duplicate. quarantined, refused or unreadable: a profile does not fit, or the peer sends rubbish.",
            runbook="DeadLetters",
        ),
    ]


def _listeners() -> list[Any]:
    return [
        graph(
            "Connections from the hospital",
            Line(newest("hisbridge_mllp_connections", H, by="hospital, connector"), "{{hospital}} {{connector}}"),
            Line(newest("hisbridge_soap_connections", H, by="hospital, connector"), "{{hospital}} {{connector}} SOAP"),
            Line(newest("hisbridge_fhir_connections", H, by="hospital, connector"), "{{hospital}} {{connector}} FHIR"),
            unit="short",
            steps=True,
            width=QUARTER,
            says="As many as the HIS keeps. None where some should be: it does not reach us. Near `max_connections`: it leaves "
            "old ones open.",
            runbook="ConnectorDown",
        ),
        graph(
            "Connections that were refused or ended badly",
            Line(rate("hisbridge_mllp_connections_refused_total", H, by="hospital, reason"), "{{hospital}} {{reason}}"),
            Line(
                rate("hisbridge_soap_connections_refused_total", H, by="hospital, reason"),
                "{{hospital}} {{reason}} SOAP",
            ),
            Line(
                rate("hisbridge_fhir_connections_refused_total", H, by="hospital, reason"),
                "{{hospital}} {{reason}} FHIR",
            ),
            Line(
                rate("hisbridge_mllp_connections_ended_total", H, 'reason!~"peer|stopping"', by="hospital, reason"),
                "{{hospital}} {{reason}}",
            ),
            unit="short",
            width=QUARTER,
            says="Nothing, and idle now and then. not_allowed: somebody whom `allow` does not name. lost, slow_reader: the "
            "network, or a HIS that hangs.",
            runbook="ConnectorDown",
        ),
        graph(
            "TLS handshakes that failed, files not taken",
            Line(
                rate("hisbridge_mllp_handshakes_failed_total", H, by="hospital, reason"),
                "{{hospital}} {{reason}}",
            ),
            Line(
                rate("hisbridge_soap_handshakes_failed_total", H, by="hospital, reason"),
                "{{hospital}} {{reason}} SOAP",
            ),
            Line(
                rate("hisbridge_fhir_handshakes_failed_total", H, by="hospital, reason"),
                "{{hospital}} {{reason}} FHIR",
            ),
            Line(
                rate("hisbridge_tls_files_total", H, by="hospital, result"),
                "{{hospital}} files {{result}}",
            ),
            Line(
                f"max by (hospital, connector, side) (hisbridge_tls_files_not_taken{{{H}}})",
                "{{hospital}} {{connector}} {{side}} files are no good",
            ),
            unit="short",
            width=QUARTER,
            says="Nothing. certificate: the HIS shows none that `tls_client_ca_file` vouches for. Files not taken: the renewal "
            "of ours went wrong, and the old one ends.",
            runbook="TLSFilesNotTaken",
        ),
        graph(
            "Messages that waited for max_messages_per_s",
            Line(rate("hisbridge_mllp_throttled_total", H, by="hospital, connector"), "{{hospital}} {{connector}}"),
            unit="reqps",
            width=QUARTER,
            says="Nothing, or a short crowd. For long: the HIS sends more than it is allowed, and its messages grow old.",
            runbook="InboxStuck",
        ),
        graph(
            "SOAP calls of the hospital that were not taken",
            Line(rate("hisbridge_soap_calls_refused_total", H, by="hospital, reason"), "{{hospital}} {{reason}}"),
            unit="reqps",
            width=QUARTER,
            says="Nothing. unsigned, stale: a key or a clock differs, or somebody else calls. unknown_trade: the profile lacks "
            "one. not_stored: the message store is away.",
            runbook="DeadLetters",
        ),
        graph(
            "FHIR notifications",
            Line(rate("hisbridge_fhir_notifications_total", H, by="hospital, result"), "{{hospital}} {{result}}"),
            Line(
                rate("hisbridge_fhir_subscriptions_asked_total", H, by="hospital, subscription"),
                "{{hospital}} {{subscription}} asked for",
            ),
            Line(
                f"min by (hospital, connector, subscription) (hisbridge_fhir_subscription_active{{{H}}})",
                "{{hospital}} {{connector}} {{subscription}} active",
            ),
            unit="short",
            width=QUARTER,
            says="taken, handshake, heartbeat. missed: some were lost, and the changes were asked for. unauthorised: the "
            "server has another secret, or somebody else calls. not_fetched: it could not be read back. "
            "A Subscription that is not active is 0.",
            runbook="SubscriptionDown",
        ),
        graph(
            "FHIR: access tokens asked for",
            Line(rate("hisbridge_fhir_tokens_total", H, by="hospital, result"), "{{hospital}} {{result}}"),
            unit="short",
            width=QUARTER,
            says="One given in each token's life. not_given: the token server is away or refuses us (a key, a secret, a clock); "
            "when the last token ends, nothing is sent any more.",
            runbook="ConnectorDown",
        ),
    ]


def _set_aside() -> list[Any]:
    return [
        graph(
            "Stored and not applied",
            Line(newest("hisbridge_inbox_waiting", H), "{{hospital}}"),
            unit="short",
            width=QUARTER,
            says="A few, for milliseconds. Piling up: the booking store is away or one message blocks the others.",
            runbook="InboxStuck",
        ),
        graph(
            "Oldest message not applied",
            Line(newest("hisbridge_inbox_oldest_seconds", H), "{{hospital}}"),
            unit="s",
            width=QUARTER,
            limits=Limits(bad=10),
            says="0. Above 10 s messages are acknowledged and not applied.",
            runbook="InboxStuck",
        ),
        graph(
            "Waiting for a person",
            Line(newest("hisbridge_dead_letters", H, by="hospital, box"), "{{hospital}} {{box}}"),
            unit="short",
            steps=True,
            width=QUARTER,
            limits=ANY_IS_BAD,
            says="0. What no machine can settle: `hisbridge commands list`, `hisbridge messages list`.",
            runbook="DeadLetters",
        ),
        graph(
            "Not as labelled, or otherwise odd",
            Line(
                f"sum by (hospital, kind) (increase(hisbridge_decode_fallbacks_total{{{H}}}[{RATE}]))",
                "{{hospital}} {{kind}}",
            ),
            Line(
                f"sum by (hospital, kind) (increase(hisbridge_inbound_oddities_total{{{H}}}[{RATE}]))",
                "{{hospital}} {{kind}}",
            ),
            unit="short",
            width=QUARTER,
            says="Nothing. The peer labels its character set wrongly, or its messages are not as they should be; they were "
            "taken all the same, but for out_of_series: those wait at the sender.",
            runbook="DecodeFallbacks",
        ),
        graph(
            "Kept in the message store",
            Line(
                rate("hisbridge_messages_stored_total", H, by="hospital, direction, state"),
                "{{hospital}} {{direction}} {{state}}",
            ),
            unit="reqps",
            width=HALF,
            stacked=True,
            says="in received and out done. in refused or out failed and unknown: `hisbridge messages list` shows them.",
            runbook="DeadLetters",
        ),
        graph(
            "Size of the message store",
            Line(newest("hisbridge_message_store_bytes", H), "{{hospital}}"),
            unit="bytes",
            width=QUARTER,
            says="Levels off: `keep_messages_mb` and `keep_messages_days` bound it, but for documents that reports show. Indexes "
            "come on top of it.",
            runbook="DeadLetters",
        ),
        graph(
            "Records that were not kept",
            Line(
                f"sum by (hospital, reason) (increase(hisbridge_message_records_dropped_total{{{H}}}[{RATE}]))",
                "{{hospital}} {{reason}}",
            ),
            unit="short",
            width=QUARTER,
            says="0. rate: a peer sends rubbish without end, or a HIS is down. full: the message store is away or too slow.",
            runbook="DeadLetters",
        ),
        graph(
            "Processes that work the hospital",
            Line(f"sum by (hospital) (hisbridge_hospital_worked{{{H}}})", "{{hospital}}"),
            unit="short",
            steps=True,
            width=HALF,
            says="1. Another sum for longer than a take-over (15 s): no process, or two, think that it is theirs.",
            runbook="HospitalNotWorked",
        ),
        graph(
            "Certificates, time left",
            Line("min by (where) (hisbridge_certificate_expiry_timestamp_seconds) - time()", "{{where}}"),
            unit="s",
            width=HALF,
            limits=Limits(warn=30 * 86_400, bad=7 * 86_400, low=True),
            says="More than 30 days.",
            runbook="CertificateEndsSoon",
        ),
    ]
