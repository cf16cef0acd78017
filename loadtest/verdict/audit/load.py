"""The HIS never sees more at once than was allowed."""

from __future__ import annotations

from loadtest.verdict.audit.findings import Check, Finding, in_order
from loadtest.verdict.facts import Run


def check_his_load(run: Run) -> Check:
    """As the HIS itself counted it; the series has a value a second and may miss the worst moment."""
    findings = [
        Finding(hospital, "the HIS", f"had {his.most_at_once} calls at once, {his.allowed_at_once} are allowed")
        for hospital, his in run.his.items()
        if his.most_at_once > his.allowed_at_once
    ]
    calls = sum(n for his in run.his.values() for n in his.calls.values())
    return Check("his_load", "No HIS gets more at once than it can bear", calls, "calls", in_order(findings))
