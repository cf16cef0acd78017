"""Run folders made by hand: what each test wants is written into one that is in order, in the format of a real run."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.verdict.conclusion import Conclusion, conclude
from loadtest.verdict.facts import SAMPLE, Samples
from loadtest.verdict.folder import load_run

CLASSES = ("read", "sold_out", "hold", "step", "live")
CODES = (
    "", "slot_sold_out", "slot_not_released", "overloaded", "rate_limited", "waiting_room", "request_in_progress",
    "store_unavailable", "his_unavailable", "limit_reached", "list_not_released", "list_empty", "fee_unknown",
    "waiting_room_admitted", "not_payable",
)  # fmt: skip
HOSPITALS = ("east", "west")
CLIENTS = ("portal", "scalper")

FACTS: dict[str, Any] = {
    "profile": "release-peak",
    "started_at": 1_790_000_000.0,
    "opens_at_s": 30.0,
    "duration_s": 100.0,
    "engine": "sqlite",
    "workers": 1,
    "phases": [
        {"name": "quiet", "from_s": 0.0, "to_s": 20.0},
        {"name": "ramp", "from_s": 20.0, "to_s": 30.0},
        {"name": "peak", "from_s": 30.0, "to_s": 60.0},
        {"name": "decay", "from_s": 60.0, "to_s": 90.0},
        {"name": "drain", "from_s": 90.0, "to_s": 100.0},
    ],
    "peak": {"from_s": 30.0, "to_s": 60.0},
    "stated": ["One hundredth of the city's rates."],
    "rates": {"quiet": 10.0, "peak": 200.0},
    "classes": list(CLASSES),
    "codes": list(CODES),
    "hospitals": list(HOSPITALS),
    "clients": list(CLIENTS),
    "faults": [],
    "machine": {"model": "A machine", "cores": 2, "memory_gib": 8.0, "kernel": "Linux 6"},
    "generator": {"lag_ms": {"p50": 1.0, "p99": 5.0, "max": 20.0}, "cpu_s": 10.0, "void": False},
    "server": {"cpu_s": 5.0, "requests": 20_000},
    "objective": 0.999,
    "judged": {
        "classes": ["read"],
        "peak": False,
        "recovery_s": None,
        "policy": {"portal": True, "scalper": False},
    },
}
HIS: dict[str, Any] = {
    "oversold": 0,
    "most_at_once": 4,
    "allowed_at_once": 4,
    "calls": {"lock": 1},
    "segments": [{"code": "S1", "capacity": 2, "taken": 0}],
    "visits": [],
}
SERIES: dict[str, Any] = {
    "t_s": [0.0, 1.0],
    "seats_left": {"east": [2, 1], "west": [2, None]},
    "his_running": {"east": [0, 4]},
    "server_cpu_share": [0.1, None],
    "server_rss_mb": [100.0, 101.0],
    "generator_cpu_share": [0.2, 0.3],
}
# A run whose service nobody could ask: the tests of the comparison give counts of their own.
SLI: dict[str, Any] = {"source": "none", "sli": [], "lost_counts": True}


def rows(
    count: int,
    *,
    latency_s: float = 0.01,
    status: int = 200,
    request_class: str = "read",
    code: str = "",
    hospital: str = "east",
    client: str = "portal",
    at_s: float = 10.0,
    lag_s: float = 0.0,
) -> Samples:
    """So many requests, all alike, all meant to start at `at_s`."""
    made = np.zeros(count, SAMPLE)
    made["intended_s"], made["started_s"], made["ended_s"] = at_s, at_s + lag_s, at_s + latency_s
    made["status"] = status
    made["request_class"] = CLASSES.index(request_class)
    made["code"] = CODES.index(code)
    made["hospital"] = HOSPITALS.index(hospital)
    made["client"] = CLIENTS.index(client)
    made["journey"] = np.arange(count)
    return made


def booking(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A hold that was locked and left unpaid. `final` is changed, not replaced."""
    final = {"status": 200, "state": "held", "his_state": "locked", "payment_state": "due", "refunds": []}
    made = {
        "id": f"b{number}",
        "order_no": f"{number:020d}",
        "hospital": "east",
        "slot_id": "slot-1",
        "fee_fen": 700,
        "held_s": 10.0 + number / 100,
        "paid": None,
        "cancel": None,
    }
    return {**made, **changes, "final": {**final, **changes.get("final", {})}}


PAID = {"trade_no": "T1", "amount_fen": 700, "acknowledged_s": 12.0}
CANCEL = {"acknowledged_s": 13.0}


def booked(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A hold that was paid and registered."""
    final = {"state": "booked", "his_state": "registered", "payment_state": "paid", **changes.pop("final", {})}
    return booking(number, paid={**PAID, "trade_no": f"T{number}"}, final=final, **changes)


def visit(number: int = 1, state: str = "locked", **changes: Any) -> dict[str, Any]:
    """What the HIS has of `booking(number)`, or of `booked(number)` where it is registered."""
    paid = {"paid_fen": 700, "trade_no": f"T{number}"} if state == "registered" else {"paid_fen": 0, "trade_no": ""}
    made = {"no": f"V{number}", "key": f"{number:020d}", "segment": "S1", "state": state, "fee_fen": 700, **paid}
    return {**made, **changes}


def write_run(
    folder: Path,
    *,
    samples: Sequence[Samples] = (),
    facts: Mapping[str, Any] | None = None,
    judged: Mapping[str, Any] | None = None,
    bookings: Sequence[Mapping[str, Any]] = (),
    visits: Sequence[Mapping[str, Any]] = (),
    his: Mapping[str, Any] | None = None,
    sli: Mapping[str, Any] | None = None,
    series: Mapping[str, Any] | None = None,
    sold_out: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """A run folder in `folder`/run; `visits` and `his` are those of the hospital `east`. Returns `folder`."""
    run = folder / "run"
    run.mkdir(parents=True, exist_ok=True)
    told = copy.deepcopy(FACTS) | dict(facts or {})
    told["judged"] = told["judged"] | dict(judged or {})
    taken = sum(v["state"] != "released" for v in visits)
    east = copy.deepcopy(HIS) | {"visits": list(visits)}
    east["segments"][0]["taken"] = taken
    east |= dict(his or {})
    _write(run / "run.json", told)
    _write(run / "his.json", {"east": east, "west": copy.deepcopy(HIS)})
    _write(run / "series.json", SERIES | dict(series or {}))
    _write(run / "prometheus.json", SLI | dict(sli or {}))
    (run / "bookings.jsonl").write_text("".join(json.dumps(b) + "\n" for b in bookings), encoding="utf-8")
    (run / "sold_out.jsonl").write_text("".join(json.dumps(s) + "\n" for s in sold_out), encoding="utf-8")
    np.save(run / "samples.npy", np.concatenate([np.zeros(0, SAMPLE), *samples]))
    return folder


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def concluded(folder: Path, *, floor: int = 10_000, **parts: Any) -> Conclusion:
    """The conclusion on a run of these parts."""
    return conclude(load_run(write_run(folder, **parts)), floor=floor)


def findings(conclusion: Conclusion, name: str) -> list[str]:
    """The texts of one check's findings."""
    (check,) = (c for c in conclusion.checks if c.name == name)
    return [f.text for f in check.findings]


def failed_checks(conclusion: Conclusion) -> list[str]:
    """The names of the checks that found something."""
    return [c.name for c in conclusion.checks if not c.holds]
