"""Every Prometheus metric of hisbridge, in one registry.

Who counts what
- the API framework: `http_requests`, `http_request_seconds`, `sli_requests`, `http_connections`, `http_connections_ended`
- the HIS gateway (scheduler_sync), one place for all protocols: `his_calls`, `his_call_seconds`, through `observe_his_call`
- connectors: `inbound_messages`, `decode_fallbacks`, `inbound_oddities`, `connector_up`, those of the listeners (`mllp_...`,
  `soap_...`, `fhir_...`, `tls_files`, `tls_files_not_taken`)
- the message store: `messages_stored`, `message_records_dropped`, `message_store_bytes`
- the sync: `outbox_depth`, `outbox_oldest_seconds`, `his_unknown`, `inbox_waiting`, `inbox_oldest_seconds`, `sync_age_seconds`,
  `bookings`, `seats_left`, and by regular queries `paid_unregistered`, `bills_unsettled`, `refunds_owed`, `refunds_untold`,
  `seats_drift`, `illegal_states`,
  `reconciliation_differences`, `ledger_imbalances`, certificates
- the booking rules, when a transaction is committed: `holds_failed`, `lock_seconds`, `registration_seconds`,
  `report_delay_seconds`
- the record of reads of reports: `report_reads`, `report_reads_unrecorded`

Labels are bounded: hospital, connector, route and verb come from configuration, everything a peer can choose goes through
a closed set first (`message_type_label`, `method_label`). No label ever holds patient data.
A child lookup (`.labels(...)`) takes about a microsecond: on a hot path keep the child, do not look it up per request.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

REGISTRY = CollectorRegistry(auto_describe=True)
"""Our own registry: a library that registers itself globally does not end up on our admin port."""

# A `_created` twin of every series would double a scrape and answers no question of ours.
disable_created_metrics()  # type: ignore[no-untyped-call]
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

# Bucket bounds in seconds. The API's have an edge on each limit of its objectives (0.3 s for a read and for a sold-out answer,
# 1 s for a hold), so that what was in time is counted and not estimated; a HIS takes 0.08 to 7.2 s for a call
# on a quiet day and its time-outs end at 60 s.
HTTP_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
HIS_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)

# A HIS that locks one seat in four seconds works for minutes at a release; `lock_wait_s` is 60 s unless set, and a registration
# within it is the objective.
STEP_BUCKETS_S = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
# Reports: from a push within seconds to a laboratory that sends once a day. An hour is the objective.
REPORT_BUCKETS_S = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0)

build_info = Info("hisbridge_build", "The running program.", registry=REGISTRY)

# --- the API ------------------------------------------------------------------------------------------------------

http_requests = Counter(
    "hisbridge_http_requests_total",
    "Requests answered by the API. `class` is the SLI's: ok, rejected (a valid request with a business refusal), "
    "client_error, server_error, shed, gone (the caller hung up).",
    ["route", "method", "status", "class"],
    registry=REGISTRY,
)
http_request_seconds = Histogram(
    "hisbridge_http_request_seconds",
    "From the request's head to the end of its answer, by route template.",
    ["route", "method"],
    buckets=HTTP_BUCKETS_S,
    registry=REGISTRY,
)
sli_requests = Counter(
    "hisbridge_sli_requests_total",
    "Requests answered by the API, as the service level judges them. `verdict`: good (a right answer in time, a business refusal "
    "too), slow (a right answer, too late), failed (an error of ours, in class live one of the HIS), shed (turned away by us), "
    "limited (beyond the caller's rate), invalid (the caller's error), gone (the caller hung up). Availability is good / (good + "
    "slow + failed + shed).",
    ["hospital", "request_class", "phase", "verdict"],
    registry=REGISTRY,
)
release_opens_timestamp_seconds = Gauge(
    "hisbridge_release_opens_timestamp_seconds",
    "When the release that is on (from a minute before its opening to five minutes after it) opened or opens, or else the next "
    "one, by the hospital's release rule. 0 without a rule.",
    ["hospital"],
    registry=REGISTRY,
)
rate_limited = Counter(
    "hisbridge_rate_limited_total",
    "Requests answered 429. `scope`: client (client_rate_per_s), identity (identity_rate_per_s: a user or a patient of it).",
    ["scope", "request_class"],
    registry=REGISTRY,
)
webhooks_disabled = Counter(
    "hisbridge_webhooks_disabled_total",
    "Webhooks that were disabled because their receiver took nothing for 24 hours, or is gone (410).",
    registry=REGISTRY,
)
requests_shed = Counter(
    "hisbridge_shed_total",
    "Requests answered 503 because there was too much to do. `reason`: in_flight (the places that are left are kept for more "
    "important classes), live_in_flight, bulk_in_flight (the places of this class), waiting (the places of "
    "long polls), client_in_flight (one client had its share), "
    "hold_queue (too many holds wait), deadline (its turn did not come in time), loop_delay, hold_delay (all wait too long).",
    ["request_class", "reason"],
    registry=REGISTRY,
)
queue_delay_seconds = Gauge(
    "hisbridge_queue_delay_seconds",
    "How long this process lets things wait, as of the last look: `loop` (how late a timer fires), `holds` (how long the oldest "
    "hold has waited for its batch). Shedding goes by it.",
    ["queue"],
    registry=REGISTRY,
)
garbage_pause_seconds = Histogram(
    "hisbridge_garbage_pause_seconds",
    "How long a pass of Python's collector of garbage stopped this process. `generation`: young, middle, full (everything; in a "
    "quiet second only, or when none has come for very long).",
    ["generation"],
    buckets=(0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    registry=REGISTRY,
)
shed_level = Gauge(
    "hisbridge_shed_level",
    "How many classes of requests are turned away now because of a queue's delay, the cheapest first. `loop`: bulk, read, live, "
    "hold. `holds`: bulk, hold. 0: none.",
    ["queue"],
    registry=REGISTRY,
)
http_requests_in_flight = Gauge(
    "hisbridge_http_requests_in_flight", "Requests being answered by the API now.", registry=REGISTRY
)
http_connections = Gauge("hisbridge_http_connections", "Connections to the API that are open now.", registry=REGISTRY)
http_connections_ended = Counter(
    "hisbridge_http_connections_ended_total",
    "Connections to the API that we ended: full (beyond `max_connections`, not let in), head_timeout (no whole request "
    "head in time).",
    ["reason"],
    registry=REGISTRY,
)

# What is kept ready-made for readers, and how we know that it still holds.
snapshot_reads = Counter(
    "hisbridge_snapshot_reads_total",
    "Lists of the catalogue by where the answer came from: hit (ready-made), composed (from ready-made parts), store (read "
    "through, because the change feed was behind), stale (the last one with its age, because the store was away).",
    ["result"],
    registry=REGISTRY,
)
snapshot_rebuilds = Counter(
    "hisbridge_snapshot_rebuilds_total",
    "Days of departments that were read from the store, because they were new, had changed or had been put away.",
    registry=REGISTRY,
)
snapshot_bytes = Gauge(
    "hisbridge_snapshot_bytes",
    "Memory that ready-made parts (`days`; for FHIR `fhir_days`, `fhir_proposals`), answers (`answers`, `fhir_answers`) and "
    "published files (`fhir_bulk`) take, as estimated for their bound.",
    ["kind"],
    registry=REGISTRY,
)
feed_age_seconds = Gauge(
    "hisbridge_feed_age_seconds",
    "How old this process's knowledge of what others have written may be. Above 0.2 it answers from the store.",
    registry=REGISTRY,
)

# --- calls to a HIS -----------------------------------------------------------------------------------------------

his_calls = Counter(
    "hisbridge_his_calls_total",
    "Calls to a HIS by verb of the port. Writes: accepted, rejected, unknown. Reads: ok, unavailable, refused, "
    "reply_invalid, not_offered. Either: cancelled, error.",
    ["hospital", "verb", "outcome"],
    registry=REGISTRY,
)
his_call_seconds = Histogram(
    "hisbridge_his_call_seconds",
    "Duration of one call to a HIS, time-outs included, waiting for a place excluded.",
    ["hospital", "verb"],
    buckets=HIS_BUCKETS_S,
    registry=REGISTRY,
)

# A connector's protection of its HIS. The gauges are read at scrape time.
his_limit = Gauge(
    "hisbridge_his_limit",
    "Calls to the HIS that may run at once now; it moves between his_concurrency_floor and his_concurrency.",
    ["hospital", "connector"],
    registry=REGISTRY,
)
his_in_flight = Gauge(
    "hisbridge_his_in_flight", "Calls to the HIS that run now.", ["hospital", "connector"], registry=REGISTRY
)
his_queued = Gauge(
    "hisbridge_his_queued", "Calls to the HIS that wait for a place.", ["hospital", "connector"], registry=REGISTRY
)
his_breaker = Gauge(
    "hisbridge_his_breaker",
    "The circuit breaker: 0 closed, 1 half-open (one call at a time may try), 2 open (nothing is sent).",
    ["hospital", "connector"],
    registry=REGISTRY,
)
his_refused = Counter(
    "hisbridge_his_refused_total",
    "Calls that were not made, by reason: queue_full, displaced (the queue was full and more urgent calls came), deadline, "
    "breaker_open.",
    ["hospital", "connector", "reason"],
    registry=REGISTRY,
)
his_clock_offset_seconds = Gauge(
    "hisbridge_his_clock_offset_seconds",
    "How far the HIS's clock is ahead of ours (negative: behind), by the times in its replies; to about a second.",
    ["hospital", "connector"],
    registry=REGISTRY,
)

# --- outbox and sync ----------------------------------------------------------------------------------------------

outbox_depth = Gauge(
    "hisbridge_outbox_depth",
    "Commands for a HIS that are not done, by status.",
    ["hospital", "status"],
    registry=REGISTRY,
)
outbox_oldest_seconds = Gauge(
    "hisbridge_outbox_oldest_seconds",
    "Age of the oldest command that is not done and waits for no person; 0 when there is none.",
    ["hospital"],
    registry=REGISTRY,
)
his_unknown = Gauge(
    "hisbridge_his_unknown",
    "Commands that went out and whose outcome at the HIS is not known yet: it is being looked up.",
    ["hospital"],
    registry=REGISTRY,
)
his_unknown_oldest_seconds = Gauge(
    "hisbridge_his_unknown_oldest_seconds",
    "Time since the oldest of these commands was first sent; 0 when there is none.",
    ["hospital"],
    registry=REGISTRY,
)
sync_age_seconds = Gauge(
    "hisbridge_sync_age_seconds",
    "Time since the last complete fetch of this kind (master, schedules, stops) that the HIS offers, read at scrape time; +Inf "
    "before the first.",
    ["hospital", "kind"],
    registry=REGISTRY,
)

# --- what a HIS sends us ------------------------------------------------------------------------------------------


class _MessageCounter(Counter):
    """A counter whose `type` label goes through `message_type_label`, whoever asks: a peer chooses that string."""

    def labels(self, *labelvalues: Any, **labelkwargs: Any) -> Self:
        if "type" in labelkwargs:
            labelkwargs["type"] = message_type_label(str(labelkwargs["type"]))
        return super().labels(*labelvalues, **labelkwargs)


inbound_messages = _MessageCounter(
    "hisbridge_inbound_messages_total",
    "Messages received from a HIS. `type` is other unless known; `result` is applied or quarantined (counted when that "
    "has happened), duplicate, refused, ignored, failed or unreadable; answered where it asked; of answers that answered nothing "
    "(ACK) late, duplicate, foreign, garbage or too_large.",
    ["hospital", "connector", "type", "result"],
    registry=REGISTRY,
)
inbox_waiting = Gauge(
    "hisbridge_inbox_waiting",
    "Messages of a HIS that are stored and not yet noted as applied; in a stream a few are on the way.",
    ["hospital"],
    registry=REGISTRY,
)
inbox_oldest_seconds = Gauge(
    "hisbridge_inbox_oldest_seconds",
    "Age of the oldest message that is stored and not yet noted as applied; 0 when there is none.",
    ["hospital"],
    registry=REGISTRY,
)
messages_stored = Counter(
    "hisbridge_messages_stored_total",
    "Messages written into the message store. `direction` is in (the HIS began) or out; `state` is received or quarantined (in), "
    "done, failed or unknown (out), refused or duplicate (in, kept for whoever looks for them, and never applied).",
    ["hospital", "direction", "state"],
    registry=REGISTRY,
)
message_records_dropped = Counter(
    "hisbridge_message_records_dropped_total",
    "Exchanges that were not written into the message store, by `reason`: rate (too many refused ones or unsent ones), full (the "
    "store was away or too slow), failed. Nothing else is lost by that.",
    ["hospital", "reason"],
    registry=REGISTRY,
)
message_store_bytes = Gauge(
    "hisbridge_message_store_bytes",
    "Size of the stored messages, exchanges and documents of a hospital, without indexes.",
    ["hospital"],
    registry=REGISTRY,
)
decode_fallbacks = Counter(
    "hisbridge_decode_fallbacks_total",
    "Messages whose bytes were not what their label said, by the fallback that read them (for example gb18030 for bytes "
    "labelled UTF-8).",
    ["hospital", "connector", "kind"],
    registry=REGISTRY,
)
inbound_oddities = Counter(
    "hisbridge_inbound_oddities_total",
    "What was not as it should be with messages of a HIS: batch_count (a trailer counts other messages than came), same_id "
    "(another message had this control id), out_of_series (its number was not the next: it was not taken), series_anew (the "
    "sender numbers anew), nonconforming (not what the standard's tables say), unchecked (nobody could look at that), "
    "read_here (a large one was read in the service, as its helper was lost).",
    ["hospital", "connector", "kind"],
    registry=REGISTRY,
)
connector_up = Gauge(
    "hisbridge_connector_up",
    "1 while the connection to the HIS works (or, for connectors without one, while the last call was answered).",
    ["hospital", "connector"],
    registry=REGISTRY,
)

# --- the listeners that a HIS connects to (MLLP) ------------------------------------------------------------------

mllp_connections = Gauge(
    "hisbridge_mllp_connections",
    "Connections from a HIS to our MLLP listener that are open.",
    ["hospital", "connector"],
    registry=REGISTRY,
)
MLLP_REFUSED = ("not_allowed", "too_many", "too_many_of_peer")
mllp_connections_refused = Counter(
    "hisbridge_mllp_connections_refused_total",
    "Connections to our MLLP listener that were closed at once: not_allowed (`allow` does not name the address), too_many "
    "(`max_connections`), too_many_of_peer (`max_connections_per_peer`).",
    ["hospital", "connector", "reason"],
    registry=REGISTRY,
)
MLLP_ENDED = ("peer", "idle", "slow_message", "slow_reader", "lost", "stopping")
mllp_connections_ended = Counter(
    "hisbridge_mllp_connections_ended_total",
    "Connections from a HIS that have ended: peer (it closed), idle (`idle_timeout_s`), slow_message (a message did not end "
    "within `frame_timeout_s`), slow_reader (it did not take our answers), lost (reset, or the peer has vanished), stopping "
    "(we closed).",
    ["hospital", "connector", "reason"],
    registry=REGISTRY,
)
MLLP_HANDSHAKES_FAILED = ("certificate", "timeout", "other")
mllp_handshakes_failed = Counter(
    "hisbridge_mllp_handshakes_failed_total",
    "TLS handshakes at our MLLP listener that failed: certificate (the peer showed none that is good), timeout, other (no TLS, "
    "no version or cipher in common, the peer does not trust our certificate).",
    ["hospital", "connector", "reason"],
    registry=REGISTRY,
)
mllp_throttled = Counter(
    "hisbridge_mllp_throttled_total",
    "Messages of a HIS that waited because it sends faster than `max_messages_per_s`.",
    ["hospital", "connector"],
    registry=REGISTRY,
)

# --- the listeners that a HIS calls (SOAP) ------------------------------------------------------------------------

soap_connections = Gauge(
    "hisbridge_soap_connections",
    "Connections from a HIS to our SOAP listener that are open.",
    ["hospital", "connector"],
    registry=REGISTRY,
)
soap_connections_refused = Counter(
    "hisbridge_soap_connections_refused_total",
    "Connections to our SOAP listener that were closed at once: not_allowed (`allow` does not name the address), too_many "
    "(`max_connections_from_his`), too_many_of_peer (`max_connections_per_peer`).",
    ["hospital", "connector", "reason"],
    registry=REGISTRY,
)
soap_handshakes_failed = Counter(
    "hisbridge_soap_handshakes_failed_total",
    "TLS handshakes at our SOAP listener that failed: certificate (the peer showed none that is good), timeout, other (no TLS, "
    "no version or cipher in common, the peer does not trust our certificate).",
    ["hospital", "connector", "reason"],
    registry=REGISTRY,
)
SOAP_REFUSED = (
    "not_a_call", "too_large", "slow", "unreadable_document", "unsigned", "stale", "unknown_trade", "not_stored",
)  # fmt: skip
soap_calls_refused = Counter(
    "hisbridge_soap_calls_refused_total",
    "Calls of a HIS that were not taken: not_a_call (no SOAP, or no operation of ours), too_large (`max_message_bytes`), slow "
    "(`request_timeout_s`), unreadable_document, unsigned (no signature or credentials, or wrong ones), stale (its time is not "
    "near ours), unknown_trade (the profile's `inbound` has none such), not_stored (the store is away: the HIS is to repeat it).",
    ["hospital", "connector", "reason"],
    registry=REGISTRY,
)
fhir_connections = Gauge(
    "hisbridge_fhir_connections",
    "Connections from a FHIR server to our listener that are open.",
    ["hospital", "connector"],
    registry=REGISTRY,
)
fhir_connections_refused = Counter(
    "hisbridge_fhir_connections_refused_total",
    "Connections to our FHIR listener that were closed at once; the reasons of hisbridge_soap_connections_refused_total.",
    ["hospital", "connector", "reason"],
    registry=REGISTRY,
)
fhir_handshakes_failed = Counter(
    "hisbridge_fhir_handshakes_failed_total",
    "TLS handshakes at our FHIR listener that failed; the reasons of hisbridge_soap_handshakes_failed_total.",
    ["hospital", "connector", "reason"],
    registry=REGISTRY,
)
FHIR_NOTIFIED = (
    "taken", "handshake", "heartbeat", "missed", "not_fetched", "unauthorised", "unreadable", "too_large", "slow",
)  # fmt: skip
fhir_notifications = Counter(
    "hisbridge_fhir_notifications_total",
    "Notifications of a FHIR server's Subscriptions: taken, handshake, heartbeat; missed (numbers that never came, counted "
    "besides), not_fetched (what it spoke of could not be read or stored: the server is to repeat it), "
    "unauthorised (no secret, or another one), unreadable, too_large (`max_message_bytes`), slow (`request_timeout_s`).",
    ["hospital", "connector", "result"],
    registry=REGISTRY,
)
fhir_subscription_active = Gauge(
    "hisbridge_fhir_subscription_active",
    "1 while a Subscription that the settings ask a FHIR server for (`subscribe`) is active there, else 0: nothing is told then.",
    ["hospital", "connector", "subscription"],
    registry=REGISTRY,
)
fhir_subscriptions_asked = Counter(
    "hisbridge_fhir_subscriptions_asked_total",
    "How often a Subscription was asked for: at the start, and whenever the server had dropped it, or it was off or in error.",
    ["hospital", "connector", "subscription"],
    registry=REGISTRY,
)
fhir_tokens = Counter(
    "hisbridge_fhir_tokens_total",
    "Access tokens that a FHIR connector has asked its token server for: given, or not_given (it is away, or refuses us).",
    ["hospital", "connector", "result"],
    registry=REGISTRY,
)
TLS_FILES = ("taken", "not_taken")
tls_files = Counter(
    "hisbridge_tls_files_total",
    "Changes of a connector's certificate files: taken, or not_taken (they are no good, the certificate before stays in use).",
    ["hospital", "connector", "result"],
    registry=REGISTRY,
)
tls_files_not_taken = Gauge(
    "hisbridge_tls_files_not_taken",
    "1 where the certificate files of a connector were replaced by some that are no good, and what they held before is still in "
    "use, else 0; `side` is listener (its connections to us) or client (ours to it).",
    ["hospital", "connector", "side"],
    registry=REGISTRY,
)

# --- bookings and their truth -------------------------------------------------------------------------------------

bookings = Counter(
    "hisbridge_bookings_total", "Bookings that entered a state.", ["hospital", "state"], registry=REGISTRY
)
holds = Counter(
    "hisbridge_holds_total",
    "Requests for a seat by what became of them: granted, replayed (the first success of the same key), refused, "
    "refused_from_memory (sold out or not released, without asking the store), shed (queue full).",
    ["hospital", "outcome"],
    registry=REGISTRY,
)
hold_batch_size = Histogram(
    "hisbridge_hold_batch_size",
    "Requests decided in one transaction.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    registry=REGISTRY,
)
holds_waiting = Gauge(
    "hisbridge_holds_waiting", "Requests for a seat that wait for their batch.", ["hospital"], registry=REGISTRY
)
seats_left = Gauge(
    "hisbridge_seats_left",
    "Seats that may still be sold, by when their visits open for booking: coming (within 12 hours), fresh (within the last "
    "hour). What has been open for longer is not counted.",
    ["hospital", "window"],
    registry=REGISTRY,
)
WAITLIST = ("joined", "offered", "accepted", "lapsed", "withdrawn", "cancelled", "cleared")
waitlist = Counter(
    "hisbridge_waitlist_total",
    "What became of places on waitlists: joined, offered (a seat), accepted, lapsed (not accepted in time), withdrawn (the "
    "hospital sold the seat; the place is kept), cancelled (by the portal), cleared (the evening before, or by a stop).",
    ["hospital", "outcome"],
    registry=REGISTRY,
)
waitlist_entries = Gauge(
    "hisbridge_waitlist_entries",
    "People on waitlists: waiting, offered (a seat is set aside for them).",
    ["hospital", "state"],
    registry=REGISTRY,
)
HOLDS_FAILED = ("never_locked", "seat_gone", "refused", "not_registered")
holds_failed = Counter(
    "hisbridge_holds_failed_total",
    "Holds that ended without their patient having a say: never_locked (our fault: the lock was not asked for, or not answered, "
    "in time), seat_gone (somebody else had the seat), refused (the HIS refused the lock for another reason), not_registered "
    "(locked, and the registration refused).",
    ["hospital", "reason"],
    registry=REGISTRY,
)
lock_seconds = Histogram(
    "hisbridge_lock_seconds",
    "From the hold to the HIS's lock of its seat.",
    ["hospital"],
    buckets=STEP_BUCKETS_S,
    registry=REGISTRY,
)
registration_seconds = Histogram(
    "hisbridge_registration_seconds",
    "From the hold to its registration at the HIS, without the time that was spent waiting for the patient's money.",
    ["hospital"],
    buckets=STEP_BUCKETS_S,
    registry=REGISTRY,
)
report_delay_seconds = Histogram(
    "hisbridge_report_delay_seconds",
    "From the issue of a report that the HIS has pushed, by the HIS's own time, to the moment from which it can be read here.",
    ["hospital"],
    buckets=REPORT_BUCKETS_S,
    registry=REGISTRY,
)
READ_OUTCOMES = ("given", "unchanged", "not_released", "not_theirs", "unknown")
report_reads = Counter(
    "hisbridge_report_reads_total",
    "Reads of reports that were recorded. `outcome`: given, unchanged (304), and refused: not_released, not_theirs, unknown.",
    ["hospital", "outcome"],
    registry=REGISTRY,
)
report_reads_unrecorded = Counter(
    "hisbridge_report_reads_unrecorded_total",
    "Reads of reports that could not be recorded, and so were not answered.",
    ["hospital"],
    registry=REGISTRY,
)
paid_unregistered = Gauge(
    "hisbridge_paid_unregistered",
    "Bookings that are paid and still held: the HIS has not registered them yet.",
    ["hospital"],
    registry=REGISTRY,
)
paid_unregistered_oldest_seconds = Gauge(
    "hisbridge_paid_unregistered_oldest_seconds",
    "Time since the oldest of these payments was reported to us; 0 when there is none.",
    ["hospital"],
    registry=REGISTRY,
)
bills_unsettled = Gauge(
    "hisbridge_bills_unsettled",
    "Payments of bills that the HIS has not booked yet, and that do not go back.",
    ["hospital"],
    registry=REGISTRY,
)
bills_unsettled_oldest_seconds = Gauge(
    "hisbridge_bills_unsettled_oldest_seconds",
    "Time since the oldest of these payments of bills was reported to us; 0 when there is none.",
    ["hospital"],
    registry=REGISTRY,
)
refunds_owed = Gauge(
    "hisbridge_refunds_owed",
    "Refunds that portals have not carried out, whatever they have reported of them so far.",
    ["hospital"],
    registry=REGISTRY,
)
refunds_owed_oldest_seconds = Gauge(
    "hisbridge_refunds_owed_oldest_seconds",
    "Time since the oldest of these refunds fell due; 0 when there is none.",
    ["hospital"],
    registry=REGISTRY,
)
refunds_untold = Gauge(
    "hisbridge_refunds_untold",
    "Refunds carried out of which the HIS does not know: pending (its message waits), unknown (its answer was lost and is "
    "looked for), rejected (it refused, or cannot be told: a person has to have it booked at the window, and then say so).",
    ["hospital", "his"],
    registry=REGISTRY,
)
reconciliation_differences = Gauge(
    "hisbridge_reconciliation_differences",
    "Trade numbers whose books differ, of the newest day for which there is a merchant's bill: long, short, amount, his_missing, "
    "his_only, status (a refund that is not done on one side), moved_fee (the hospital has the fee of the session to which the "
    "booking was moved), timing (over midnight, and right with the neighbouring day).",
    ["hospital", "kind"],
    registry=REGISTRY,
)
reconciled_until_timestamp_seconds = Gauge(
    "hisbridge_reconciled_until_timestamp_seconds",
    "The end of the newest day whose books were compared, in the hospital's zone; there is none before the first comparison.",
    ["hospital"],
    registry=REGISTRY,
)
ledger_imbalances = Gauge(
    "hisbridge_ledger_imbalances",
    "Payments that stand otherwise in the double-entry ledger than their records and those of their refunds say, at the last "
    "look through all of them (hourly). Anything above 0 is a fault of ours.",
    ["hospital"],
    registry=REGISTRY,
)
waiting_room_open = Gauge(
    "hisbridge_waiting_room_open",
    "1 while the hospital's waiting room gathers or lets people in, as this process knows it.",
    ["hospital"],
    registry=REGISTRY,
)
waiting_room_waiting = Gauge(
    "hisbridge_waiting_room_waiting",
    "People in the waiting room who are not admitted yet, as this process knows it: all processes tell the same.",
    ["hospital"],
    registry=REGISTRY,
)
waiting_room_rate = Gauge(
    "hisbridge_waiting_room_rate",
    "People that this process admits a second now, by what it finds the engine to bear: sum it over the processes.",
    ["hospital"],
    registry=REGISTRY,
)
waiting_room_joined = Counter(
    "hisbridge_waiting_room_joined_total",
    "People who got a place in the waiting room; who joins again with the same place is not counted.",
    ["hospital"],
    registry=REGISTRY,
)
waiting_room_admitted = Counter(
    "hisbridge_waiting_room_admitted_total", "People who were let in by this process.", ["hospital"], registry=REGISTRY
)
waiting_room_refused = Counter(
    "hisbridge_waiting_room_refused_total",
    "Holds that were turned away because they came without an admitted ticket.",
    ["hospital"],
    registry=REGISTRY,
)
seats_drift = Gauge(
    "hisbridge_seats_drift",
    "Seats that a slot counts as taken and not yet shown by the HIS, against the bookings for which it does so: the difference, "
    "absolute, summed over the slots from today to the horizon. Above 0 seats are hidden, or sold twice.",
    ["hospital"],
    registry=REGISTRY,
)
illegal_states = Gauge(
    "hisbridge_illegal_states",
    "Live bookings in a combination of states that must not exist, by rule. Anything above 0 needs a person.",
    ["hospital", "rule"],
    registry=REGISTRY,
)
dead_letters = Gauge(
    "hisbridge_dead_letters",
    "Commands and messages that no machine can settle, waiting for a person; `box` is outbox or inbox.",
    ["hospital", "box"],
    registry=REGISTRY,
)

# --- who works what -----------------------------------------------------------------------------------------------

hospital_worked = Gauge(
    "hisbridge_hospital_worked",
    "1 in the process that works this hospital's HIS (the one that holds its lease). Summed over all it must be 1.",
    ["hospital"],
    registry=REGISTRY,
)

certificate_expiry_timestamp_seconds = Gauge(
    "hisbridge_certificate_expiry_timestamp_seconds",
    "When a certificate ends that a connection to a HIS depends on: `where` is hospital/connector/setting, for an address the "
    "certificate that its server shows.",
    ["where"],
    registry=REGISTRY,
)

# What only the process that works a hospital can tell of it.
_OF_ITS_WORKER = (
    bills_unsettled, bills_unsettled_oldest_seconds, connector_up, dead_letters, fhir_connections, fhir_subscription_active,
    his_breaker, his_clock_offset_seconds, his_in_flight, his_limit, his_queued, his_unknown,
    his_unknown_oldest_seconds, hospital_worked, illegal_states, inbox_oldest_seconds, inbox_waiting, message_store_bytes,
    mllp_connections, outbox_depth, outbox_oldest_seconds, paid_unregistered, paid_unregistered_oldest_seconds,
    ledger_imbalances, reconciliation_differences, reconciled_until_timestamp_seconds, refunds_owed,
    refunds_owed_oldest_seconds, refunds_untold, seats_drift, seats_left, soap_connections, sync_age_seconds, tls_files_not_taken,
    waitlist_entries,
)  # fmt: skip

# --- traces -------------------------------------------------------------------------------------------------------

spans_exported = Counter(
    "hisbridge_spans_total",
    "Spans of traces that have ended, by what became of them: exported (the collector has taken them), refused (it said that it "
    "never would), dropped (too many waited, or it was not there).",
    ["result"],
    registry=REGISTRY,
)
spans_waiting = Gauge("hisbridge_spans_waiting", "Spans that wait to be sent to the collector.", registry=REGISTRY)

# --- helpers ------------------------------------------------------------------------------------------------------

# The types that INTEROP knows, as `code^trigger` (HL7 v2), resource (FHIR) or trade (SOAP).
_HL7_TRIGGERS = {
    "SIU": [f"S{n}" for n in range(12, 27)],
    "SRM": [f"S{n:02}" for n in range(1, 12)],
    "SRR": [f"S{n:02}" for n in range(1, 12)],
    "SQM": ["S25", "ZQ1"],
    "SQR": ["S25"],
    "ADT": ["A01", "A04", "A08", "A28", "A31", "A40"],
    "ORU": ["R01"],
    "DFT": ["P03", "P11"],
    "MFN": ["M02", "M05"],
    "QBP": ["Q22", "ZPI", "ZDL"],
    "RSP": ["K22"],
    "QRY": ["Q27"],
    "ACK": [],
}
_FHIR_RESOURCES = (
    "Appointment", "Bundle", "ChargeItem", "DiagnosticReport", "Invoice", "Observation", "Patient", "PaymentNotice",
    "PaymentReconciliation", "Schedule", "Slot",
)  # fmt: skip
_SOAP_TRADES = ("1107", "5001", "5002", "5003", "5004", "5005", "5006", "6001", "6002", "7001")

KNOWN_MESSAGE_TYPES: frozenset[str] = frozenset(
    [f"{code}^{trigger}" for code, triggers in _HL7_TRIGGERS.items() for trigger in triggers]
    + list(_HL7_TRIGGERS)
    + list(_FHIR_RESOURCES)
    + list(_SOAP_TRADES)
)
_HTTP_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_profile_types: set[str] = set()
MESSAGE_STATES = {
    "in": ("received", "quarantined", "refused", "duplicate"),
    "out": ("done", "failed", "unknown"),
}
RECORDS_DROPPED = ("rate", "full", "failed")


def register_message_types(types: list[str] | set[str] | frozenset[str]) -> None:
    """Add the inbound types of a profile to the known set. Call it at start only: types come from files, not peers."""
    _profile_types.update(types)


def message_type_label(message_type: str) -> str:
    """The `type` label for a peer's message type: itself when known, else "other", so that a peer cannot grow the metric."""
    return message_type if message_type in KNOWN_MESSAGE_TYPES or message_type in _profile_types else "other"


def method_label(method: str) -> str:
    """The `method` label: an HTTP method we know, else "OTHER"."""
    return method if method in _HTTP_METHODS else "OTHER"


def count_inbound(hospital: str, connector: str, message_type: str, result: str, count: int = 1) -> None:
    """Count messages of a HIS. Any string may be given as the type."""
    _inbound_child(hospital, connector, message_type_label(message_type), result).inc(count)


def count_decode_fallback(hospital: str, connector: str, kind: str) -> None:
    """Count one message read by another decoder than its label names; `kind` is the decoder that worked."""
    decode_fallbacks.labels(hospital=hospital, connector=connector, kind=kind).inc()


ODDITIES = ("batch_count", "same_id", "out_of_series", "series_anew", "nonconforming", "unchecked", "read_here")
"""The values of `kind`."""


def greet_listener(hospital: str, connector: str) -> None:
    """This process hears what the HIS tells unasked. What it counts of the way it is told begins at 0."""
    for kind in ODDITIES:
        inbound_oddities.labels(hospital=hospital, connector=connector, kind=kind)


def count_oddity(hospital: str, connector: str, kind: str) -> None:
    """Count one of ODDITIES."""
    inbound_oddities.labels(hospital=hospital, connector=connector, kind=kind).inc()


def observe_his_call(
    hospital: str, verb: str, outcome: str, seconds: float, exemplar: dict[str, str] | None = None
) -> None:
    """Count one finished call to a HIS with its duration in seconds (a difference of `time.monotonic()` or the loop's clock)."""
    calls, duration = _his_children(hospital, verb, outcome)
    calls.inc()
    duration.observe(seconds, exemplar)


def track_sync_age(hospital: str, kind: str, age_s: Callable[[], float]) -> None:
    """Let every scrape ask `age_s` for the age in seconds, so that the gauge grows while nothing happens."""
    sync_age_seconds.labels(hospital=hospital, kind=kind).set_function(age_s)


def greet_hospital(hospital: str) -> None:
    """This process works the hospital from now on. What it counts begins at 0: of a series that begins with its first event
    Prometheus cannot see that event.
    """
    for direction, states in MESSAGE_STATES.items():
        for state in states:
            messages_stored.labels(hospital=hospital, direction=direction, state=state)
    for reason in RECORDS_DROPPED:
        message_records_dropped.labels(hospital=hospital, reason=reason)
    for reason in HOLDS_FAILED:
        holds_failed.labels(hospital=hospital, reason=reason)
    for outcome in WAITLIST:
        waitlist.labels(hospital=hospital, outcome=outcome)
    for histogram in (lock_seconds, registration_seconds, report_delay_seconds):
        histogram.labels(hospital=hospital)
    for outcome in READ_OUTCOMES:
        report_reads.labels(hospital=hospital, outcome=outcome)
    report_reads_unrecorded.labels(hospital=hospital)
    hospital_worked.labels(hospital=hospital).set(1)


def forget_hospital(hospital: str) -> None:
    """This process works the hospital no longer: another one tells its figures from now on, and old ones would contradict."""
    for gauge in _OF_ITS_WORKER:
        gauge.remove_by_labels({"hospital": hospital})
    for where in _certificates.pop(hospital, ()):
        certificate_expiry_timestamp_seconds.remove(where)


_certificates: dict[str, set[str]] = {}


def note_certificate(hospital: str, name: str, ends_at_s: float) -> None:
    """A certificate that `hospital` depends on ends then (seconds since the epoch); `name` is connector/setting."""
    where = f"{hospital}/{name}"
    _certificates.setdefault(hospital, set()).add(where)
    certificate_expiry_timestamp_seconds.labels(where=where).set(ends_at_s)


@lru_cache(maxsize=4096)
def _inbound_child(hospital: str, connector: str, type_label: str, result: str) -> Counter:
    return inbound_messages.labels(hospital=hospital, connector=connector, type=type_label, result=result)


@lru_cache(maxsize=4096)
def _his_children(hospital: str, verb: str, outcome: str) -> tuple[Counter, Histogram]:
    return (
        his_calls.labels(hospital=hospital, verb=verb, outcome=outcome),
        his_call_seconds.labels(hospital=hospital, verb=verb),
    )
