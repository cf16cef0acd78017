"""The reference page of the metrics, from the metrics: `python -m monitoring.reference > docs/metrics.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.metrics import MetricWrapperBase

from monitoring.discovery import CHILD_RESTARTS, CHILD_UP, CHILDREN_LABELS
from monitoring.metrics import REGISTRY

LABELS = {
    "box": "outbox, inbox",
    "class": "ok, rejected, client_error, server_error, shed, gone",
    "connector": "connectors of the settings",
    "direction": "in, out",
    "generation": "young, middle, full",
    "his": "what a HIS knows of a refund: pending, unknown, rejected",
    "hospital": "hospitals of the settings",
    "kind": "closed sets of ours: what is fetched, how bytes were read, what was odd, what is kept ready-made, how books differ",
    "method": "HTTP's methods, and OTHER",
    "outcome": "closed sets of ours",
    "phase": "release, ordinary",
    "queue": "loop, holds",
    "reason": "closed sets of ours",
    "request_class": "read, live, hold, step, bulk, sold_out",
    "result": "closed sets of ours",
    "role": "api, sync",
    "route": "templates of the routes, and one value for whatever fits none",
    "rule": "the rules of a booking: its CHECKs, and a few over several tables",
    "scope": "client, identity",
    "side": "listener, client",
    "subscription": "the names in a connector's `subscribe`",
    "state": "the states of a booking; those of a stored message",
    "status": "HTTP's status codes; the statuses of a command",
    "type": "message types that we or a profile know, and other",
    "verb": "verbs of the port",
    "verdict": "good, slow, failed, shed, limited, invalid, gone",
    "where": "settings of connectors that name a certificate or an address of TLS",
    "window": "coming, fresh",
    "worker": "as many as there are processes",
}
"""Every label that a metric may have, and what bounds its values. Never a slot, a patient, a key or a client's own word."""

_HEAD = """\
# Metrics

Every metric of hisbridge, written from the code (`python -m monitoring.reference`). What to watch, and from which value on, is in
the [operators' guide](operators-guide.md#metrics-to-watch). A counter ends in `_total`; a histogram has `_bucket`, `_sum` and
`_count`. Beside these stand the usual `process_*` and `python_*` of the client library. With many processes each tells its own
figures on the port that `/sd` lists; gauges of a hospital's work are told by the one process that works it.
"""
_UNITS = ("seconds", "bytes")


def page(registry: CollectorRegistry = REGISTRY) -> str:
    """The page, in Markdown. Raises ValueError for a label that is not in LABELS."""
    rows = sorted([*_of_registry(registry), *_of_parent()])
    labels = sorted({label for _, _, names, _, _ in rows for label in names})
    if strange := [label for label in labels if label not in LABELS]:
        raise ValueError(f"nothing is said of what bounds these labels: {', '.join(strange)}")
    lines = [_HEAD, "| metric | type | labels | unit | meaning |", "|---|---|---|---|---|"]
    for name, kind, names, unit, meaning in rows:
        lines.append(f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in names)} | {unit} | {meaning} |")
    lines += [
        "",
        "## Labels",
        "",
        "No label holds patient data, and none can grow with what a peer or a caller sends.",
        "",
    ]
    lines += ["| label | its values |", "|---|---|", *(f"| `{label}` | {LABELS[label]} |" for label in labels), ""]
    return "\n".join(lines)


_Row = tuple[str, str, tuple[str, ...], str, str]


def _of_registry(registry: CollectorRegistry) -> Iterator[_Row]:
    # The library has no public way to what is registered and has no series yet.
    for metric in list(registry._collector_to_names):
        if isinstance(metric, MetricWrapperBase):
            yield _row(
                metric._name, metric._type or "untyped", metric._labelnames, metric._documentation, _bounds(metric)
            )


def _of_parent() -> Iterator[_Row]:
    for name, kind, meaning in (CHILD_UP, CHILD_RESTARTS):
        yield _row(name, kind, tuple(CHILDREN_LABELS), meaning, ())


def _row(name: str, kind: str, labels: tuple[str, ...], meaning: str, bounds: tuple[float, ...]) -> _Row:
    unit = next((unit for unit in _UNITS if name.endswith(f"_{unit}")), "")
    name = {"counter": f"{name}_total", "info": f"{name}_info"}.get(kind, name)
    if bounds:
        meaning += f" Bounds: {', '.join(f'{bound:g}' for bound in bounds)}."
    return name, kind, labels, unit, meaning.replace("|", "\\|")


def _bounds(metric: MetricWrapperBase) -> tuple[float, ...]:
    return tuple(metric._upper_bounds[:-1]) if isinstance(metric, Histogram) else ()


if __name__ == "__main__":
    sys.stdout.write(page())
