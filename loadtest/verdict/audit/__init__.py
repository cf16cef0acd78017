"""What must hold after the drain, however fast it was: nothing oversold or lost, both sides agree, money balances."""

from __future__ import annotations

from loadtest.verdict.audit.agreement import check_agreement
from loadtest.verdict.audit.callers import check_callers
from loadtest.verdict.audit.findings import Check, Finding
from loadtest.verdict.audit.histories import check_kept, check_settled, check_unasked
from loadtest.verdict.audit.load import check_his_load
from loadtest.verdict.audit.money import check_money
from loadtest.verdict.audit.seats import check_seats, check_unsold
from loadtest.verdict.facts import Run
from loadtest.verdict.samples import JudgedSamples

__all__ = ["Check", "Finding", "audit"]


def audit(run: Run, judged: JudgedSamples) -> tuple[Check, ...]:
    """Every check, in the order of how bad it is to fail it."""
    return (
        check_seats(run),
        check_unsold(run),
        check_kept(run),
        check_money(run),
        check_agreement(run),
        check_settled(run),
        check_unasked(run),
        check_his_load(run),
        check_callers(run, judged),
    )
