"""Metric values, and the bound on their labels."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from prometheus_client import generate_latest

from monitoring import metrics


def value(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


def test_message_type_becomes_other_when_the_peer_invents_one() -> None:
    known = {"hospital": "m1", "connector": "c", "type": "SIU^S12", "result": "applied"}
    for n in range(100):
        metrics.inbound_messages.labels(hospital="m1", connector="c", type=f"EVIL^{n}", result="applied").inc()
    metrics.inbound_messages.labels(**known).inc()
    assert value("hisbridge_inbound_messages_total", **known) == 1.0
    assert value("hisbridge_inbound_messages_total", **{**known, "type": "other"}) == 100.0


def test_message_type_is_kept_when_a_profile_declares_it() -> None:
    metrics.register_message_types({"ZHY^ZRN"})
    metrics.count_inbound("m2", "c", "ZHY^ZRN", "applied")
    labels: Mapping[str, str] = {"hospital": "m2", "connector": "c", "type": "ZHY^ZRN", "result": "applied"}
    assert value("hisbridge_inbound_messages_total", **labels) == 1.0


def test_his_call_lands_in_its_bucket_when_observed() -> None:
    metrics.observe_his_call("m3", "lock_slot", "accepted", 3.0)
    labels = {"hospital": "m3", "verb": "lock_slot"}
    assert value("hisbridge_his_calls_total", **labels, outcome="accepted") == 1.0
    assert value("hisbridge_his_call_seconds_sum", **labels) == 3.0
    assert value("hisbridge_his_call_seconds_bucket", **labels, le="2.0") == 0.0
    assert value("hisbridge_his_call_seconds_bucket", **labels, le="4.0") == 1.0


def test_sync_age_grows_when_nothing_is_fetched() -> None:
    age_s = [5.0]
    metrics.track_sync_age("m4", "schedules", lambda: age_s[0])
    assert value("hisbridge_sync_age_seconds", hospital="m4", kind="schedules") == 5.0
    age_s[0] = 65.0
    assert value("hisbridge_sync_age_seconds", hospital="m4", kind="schedules") == 65.0


def test_every_metric_of_ours_has_prefix_and_help_when_scraped() -> None:
    foreign = ("python_", "process_")
    for family in metrics.REGISTRY.collect():
        assert family.name.startswith(("hisbridge_", *foreign)), family.name
        assert family.documentation
    assert b"_created" not in generate_latest(metrics.REGISTRY)


def test_method_is_bounded_when_a_caller_invents_one() -> None:
    assert metrics.method_label("GET") == "GET"
    assert metrics.method_label("BREW") == "OTHER"


def test_what_a_hospital_s_worker_counts_begins_at_zero_and_its_gauges_end_with_its_work() -> None:
    """Of a series that begins with its first event Prometheus cannot see that event."""
    metrics.greet_hospital("m5")
    assert metrics.REGISTRY.get_sample_value("hisbridge_hospital_worked", {"hospital": "m5"}) == 1
    for reason in metrics.HOLDS_FAILED:
        labels = {"hospital": "m5", "reason": reason}
        assert metrics.REGISTRY.get_sample_value("hisbridge_holds_failed_total", labels) == 0
    for name in ("lock", "registration", "report_delay"):
        assert metrics.REGISTRY.get_sample_value(f"hisbridge_{name}_seconds_count", {"hospital": "m5"}) == 0
    metrics.note_certificate("m5", "his/endpoint", 7.0)
    metrics.note_certificate("m6", "his/endpoint", 8.0)
    metrics.forget_hospital("m5")
    ends = "hisbridge_certificate_expiry_timestamp_seconds"
    assert metrics.REGISTRY.get_sample_value("hisbridge_hospital_worked", {"hospital": "m5"}) is None
    assert metrics.REGISTRY.get_sample_value(ends, {"where": "m5/his/endpoint"}) is None
    assert metrics.REGISTRY.get_sample_value(ends, {"where": "m6/his/endpoint"}) == 8
    metrics.forget_hospital("m6")


@pytest.mark.parametrize(("histogram", "limit_s"), [("registration_seconds", 60.0), ("report_delay_seconds", 3600.0)])
def test_delays_can_be_judged_exactly_by_their_objectives(histogram: str, limit_s: float) -> None:
    metrics.greet_hospital("m7")
    labels = {"hospital": "m7", "le": str(limit_s)}
    assert metrics.REGISTRY.get_sample_value(f"hisbridge_{histogram}_bucket", labels) == 0
    metrics.forget_hospital("m7")
