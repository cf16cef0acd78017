"""The verdict on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtest.verdict.availability import Availability
from loadtest.verdict.conclusion import Conclusion, Outcome
from loadtest.verdict.samples import BAD, Verdict
from loadtest.verdict.server_sli import Comparison
from loadtest.verdict.words import milliseconds, percent, points, quantile_name

STYLES = {
    Outcome.PASSED: "bold green",
    Outcome.FAILED: "bold red",
    Outcome.INSUFFICIENT: "bold yellow",
    Outcome.VOID: "bold yellow",
}
MOST_FINDINGS = 5
SHOWN_QUANTILES = (0.5, 0.99, 0.999)


def print_verdict(conclusion: Conclusion, console: Console) -> None:
    """Tables first: what is printed last, the verdict and why, is what stays on the screen."""
    console.print(_availability_table(conclusion))
    if any(c.server_share is not None for c in conclusion.comparisons):
        console.print(_sli_table(conclusion))
    console.print(_audit_table(conclusion))
    for check in conclusion.checks:
        for finding in check.findings[:MOST_FINDINGS]:
            console.print(f"  [red]{check.name}[/] {escape(f'{finding.hospital} {finding.subject} {finding.text}')}")
    for remark in conclusion.remarks:
        console.print(f"[yellow]Note:[/] {escape(remark)}")
    style = STYLES[conclusion.outcome]
    console.print(
        f"\n[{style}]{conclusion.outcome.name}[/] {escape(conclusion.run.facts.profile)}: "
        f"{percent(conclusion.availabilities.whole.share)} of {conclusion.availabilities.whole.valid:,} valid requests good, "
        f"objective {percent(conclusion.objective)}; generator lag p99 {conclusion.lag_p99_ms:.1f} ms"
    )
    for reason in conclusion.reasons:
        console.print(f"  [{style}]because[/] {escape(reason)}")


def _availability_table(conclusion: Conclusion) -> Table:
    table = Table(title="Availability", title_justify="left", caption=_caption(conclusion), caption_justify="left")
    table.add_column("")
    for head in ("valid", "good", "bad", "limited", "invalid", *map(quantile_name, SHOWN_QUANTILES)):
        table.add_column(head, justify="right", no_wrap=True)
    for name, availability in rows(conclusion):
        table.add_row(name, *_cells(availability, conclusion))
    return table


def rows(conclusion: Conclusion) -> Iterator[tuple[str, Availability]]:
    """What is shown of the availability, the most important last."""
    found, judged = conclusion.availabilities, conclusion.run.facts.judged
    for name, availability in found.by_class.items():
        if availability.sent:
            yield name + ("" if name in judged.classes else " (not judged)"), availability
    for hospital, availability in found.live_by_hospital.items():
        if availability.sent:
            yield f"live of {hospital}", availability
    for client, availability in found.by_client.items():
        if availability.sent and len(found.by_client) > 1:
            yield f"client {client}", availability
    for hospital, availability in found.peak_by_hospital.items():
        if availability.sent:
            yield f"peak at {hospital}", availability
    if found.peak_whole is not None:
        yield "peak window" + ("" if judged.peak else " (not judged)"), found.peak_whole
    yield "judged classes", found.whole


def _cells(a: Availability, conclusion: Conclusion) -> list[str]:
    met = a.meets(conclusion.objective)
    style = {True: "green", False: "red", None: "yellow"}[met]
    return [
        f"{a.valid:,}",
        f"[{style}]{percent(a.share)}[/]",
        " ".join(f"{a.counts[v]:,} {v.name.lower()}" for v in BAD if a.counts[v]) or "0",
        f"{a.counts[Verdict.LIMITED]:,}",
        f"{a.counts[Verdict.INVALID]:,}",
        *(milliseconds(a.latency_ms[q]) if q in a.latency_ms else "-" for q in SHOWN_QUANTILES),
    ]


def _caption(conclusion: Conclusion) -> str:
    return f"latencies in ms, from the intended start; under {conclusion.floor:,} valid samples there is no percentage"


def _sli_table(conclusion: Conclusion) -> Table:
    table = Table(title="The service's own SLI beside the client's", title_justify="left")
    for head in ("", "client", "service", "difference", ""):
        table.add_column(head, justify="left" if not head else "right")
    for c in conclusion.comparisons:
        table.add_row(c.name, percent(c.client_share), percent(c.server_share), points(c.difference), agreement(c))
    return table


def agreement(c: Comparison) -> str:
    """In a word."""
    if c.agrees is None:
        return "not compared"
    if c.agrees:
        return "agree"
    return "DISAGREE" if c.required else "differ (not judged)"


def _audit_table(conclusion: Conclusion) -> Table:
    table = Table(title="Audit", title_justify="left")
    table.add_column("promise")
    table.add_column("examined", justify="right")
    table.add_column("findings", justify="right")
    for check in conclusion.checks:
        findings = "[green]0[/]" if check.holds else f"[red]{len(check.findings):,}[/]"
        table.add_row(check.promise, f"{check.examined:,} {check.unit}", findings)
    return table
