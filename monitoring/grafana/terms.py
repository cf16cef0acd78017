"""The pieces of PromQL that the boards share, so that a figure is worked out in one way only."""

from __future__ import annotations

H = 'hospital=~"$hospital"'
OBJECTIVE = 0.999

RATE = "$__rate_interval"
RANGE = "$__range"

SLI = "hisbridge_sli_requests_total"
VALID = 'verdict=~"good|slow|failed|shed"'
OURS = 'request_class!="live"'  # whether a HIS answers while the caller waits is the hospital's affair
HOLD = 'method="POST",route="/v1/hospitals/{hospital_id}/bookings"'


def availability(window: str, *labels: str, by: str = "") -> str:
    """Good among valid requests. Where there was none, there is no value."""
    of = ",".join(labels)
    group = f" by ({by})" if by else ""
    good = f'sum{group} (increase({SLI}{{{of},verdict="good"}}[{window}]))'
    return f"{good} / (sum{group} (increase({SLI}{{{of},{VALID}}}[{window}])) > 0)"


def rate(metric: str, *labels: str, by: str, window: str = RATE) -> str:
    """Events a second."""
    return f"sum by ({by}) (rate({metric}{{{','.join(labels)}}}[{window}]))"


def quantile(q: float, histogram: str, *labels: str, by: str = "", window: str = RATE) -> str:
    """A quantile of a histogram."""
    group = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({group}) (rate({histogram}_bucket{{{','.join(labels)}}}[{window}])))"


def newest(metric: str, *labels: str, by: str = "hospital") -> str:
    """A gauge that one process tells: the one that works the hospital."""
    return f"max by ({by}) ({metric}{{{','.join(labels)}}})"
