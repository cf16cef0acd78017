"""`verdict.json`: what other programs read. docs/load-test-verdict.md says what each field means."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from loadtest.verdict.audit import Check
from loadtest.verdict.availability import Availability
from loadtest.verdict.conclusion import LAG_P99_MS, Conclusion
from loadtest.verdict.recovery import Recovery
from loadtest.verdict.server_sli import Comparison
from loadtest.verdict.words import quantile_name

FORMAT = 1
"""Raised when a field changes its meaning or goes; new ones may come without."""

MOST_FINDINGS = 100


def as_document(conclusion: Conclusion) -> dict[str, Any]:
    """Everything that was found, as JSON may hold it."""
    facts, found = conclusion.run.facts, conclusion.availabilities
    return {
        "format": FORMAT,
        "outcome": conclusion.outcome.value,
        "exit_code": conclusion.outcome.exit_code,
        "reasons": list(conclusion.reasons),
        "remarks": list(conclusion.remarks),
        "profile": facts.profile,
        "started_at": facts.started_at,
        "engine": facts.engine,
        "workers": facts.workers,
        "objective": facts.objective,
        "floor": conclusion.floor,
        "judged": {
            "classes": list(facts.judged.classes),
            "peak": facts.judged.peak,
            "recovery_s": facts.judged.recovery_s,
        },
        "availability": {
            "whole": _availability(found.whole),
            "classes": _each(found.by_class),
            "clients": _each(found.by_client),
            "live_by_hospital": _each(found.live_by_hospital),
            "peak": None if found.peak_whole is None else _availability(found.peak_whole),
            "peak_classes": _each(found.peak_by_class),
            "peak_by_hospital": _each(found.peak_by_hospital),
        },
        "server_sli": {
            "source": conclusion.run.server_sli.source,
            "lost_counts": conclusion.run.server_sli.lost_counts,
            "classes": [_comparison(c) for c in conclusion.comparisons],
        },
        "audit": [_check(c) for c in conclusion.checks],
        "money": {
            hospital: {
                "payments": b.payments,
                "acknowledged_fen": b.acknowledged_fen,
                "at_his_fen": b.at_his_fen,
                "refunds_fen": b.refunds_fen,
                "open_fen": b.open_fen,
            }
            for hospital, b in conclusion.money.items()
        },
        "his": {
            hospital: {
                "oversold": his.oversold,
                "most_at_once": his.most_at_once,
                "allowed_at_once": his.allowed_at_once,
                "calls": his.calls,
            }
            for hospital, his in conclusion.run.his.items()
        },
        "recoveries": [_recovery(r) for r in conclusion.recoveries],
        "generator": {
            "lag_p99_ms": round(conclusion.lag_p99_ms, 3),
            "lag_limit_ms": LAG_P99_MS,
            "cpu_s": facts.generator.cpu_s,
        },
        "server": {"cpu_s": facts.server.cpu_s, "requests": facts.server.requests},
        "rates": facts.rates,
        "stated": list(facts.stated),
        "machine": {
            "model": facts.machine.model,
            "cores": facts.machine.cores,
            "memory_gib": facts.machine.memory_gib,
            "kernel": facts.machine.kernel,
            "loop_ms": facts.machine.loop_ms,
        },
    }


def _each(availabilities: dict[str, Availability]) -> dict[str, Any]:
    return {name: _availability(a) for name, a in availabilities.items() if a.sent}


def _availability(a: Availability) -> dict[str, Any]:
    return {
        "share": _share(a.share),
        "sufficient": a.sufficient,
        "sent": a.sent,
        "valid": a.valid,
        **{verdict.name.lower(): count for verdict, count in a.counts.items()},
        "latency_ms": {quantile_name(share): round(ms, 3) for share, ms in a.latency_ms.items()},
    }


def _share(share: Fraction | None) -> float | None:
    return None if share is None else float(share)


def _comparison(c: Comparison) -> dict[str, Any]:
    return {
        "name": c.name,
        "client_share": _share(c.client_share),
        "server_share": _share(c.server_share),
        "difference_points": None if c.difference is None else float(c.difference * 100),
        "agrees": c.agrees,
        "required": c.required,
        "server_counts": c.server,
        "words": list(c.words),
    }


def _check(c: Check) -> dict[str, Any]:
    return {
        "name": c.name,
        "promise": c.promise,
        "holds": c.holds,
        "examined": c.examined,
        "unit": c.unit,
        "count": len(c.findings),
        "findings": [
            {"hospital": f.hospital, "subject": f.subject, "text": f.text} for f in c.findings[:MOST_FINDINGS]
        ],
        "notes": list(c.notes),
    }


def _recovery(r: Recovery) -> dict[str, Any]:
    return {
        "what": r.fault.what,
        "hospital": r.fault.hospital,
        "at_s": r.fault.at_s,
        "until_s": r.fault.until_s,
        "after_s": None if r.after_s is None else round(r.after_s, 3),
    }
