"""The verdict on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtest.verdict.availability import Availability
from loadtest.verdict.conclusion import Conclusion, Outcome
from loadtest.verdict.samples import Verdict
from loadtest.verdict.server_sli import Comparison
from loadtest.verdict.words import milliseconds, objective, percent, points, quantile_name

STYLES = {
    Outcome.PASSED: "bold green",
    Outcome.FAILED: "bold red",
    Outcome.INSUFFICIENT: "bold yellow",
    Outcome.VOID: "bold yellow",
}
MOST_FINDINGS = 5
SHOWN_QUANTILES = (0.99, 0.999)
WIDTHS = {"valid": 9, "good": 12, "bad": 7, "limited": 7}  # a narrow terminal cuts the names, not the figures


def print_verdict(conclusion: Conclusion, console: Console) -> None:
    """Tables first: what is printed last, the verdict and why, is what stays on the screen."""
    console.print(_availability_table(conclusion))
    if any(c.server_share is not None for c in conclusion.comparisons):
        console.print(_sli_table(conclusion))
    console.print(_audit_table(conclusion))
    for check in conclusion.checks:
        for finding in check.findings[:MOST_FINDINGS]:
            told = escape(f"{finding.hospital} {finding.subject} {finding.text}".strip())
            console.print(f"  [red]{check.name}[/] {told}", soft_wrap=True)
    for remark in conclusion.remarks:
        console.print(f"[yellow]Note:[/] {escape(remark)}", soft_wrap=True)
    style = STYLES[conclusion.outcome]
    console.print(
        f"\n[{style}]{conclusion.outcome.name}[/] {escape(conclusion.run.facts.profile)}: "
        f"{percent(conclusion.availabilities.whole.share)} of {conclusion.availabilities.whole.valid:,} valid requests good, "
        f"objective {objective(conclusion.objective)}; generator lag p99 {conclusion.lag_p99_ms:.1f} ms",
        soft_wrap=True,
    )
    for reason in conclusion.reasons:
        console.print(f"  [{style}]because[/] {escape(reason)}", soft_wrap=True)


def _availability_table(conclusion: Conclusion) -> Table:
    table = Table(title="Availability", box=SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for head, width in (*WIDTHS.items(), *((quantile_name(q), 6) for q in SHOWN_QUANTILES)):
        table.add_column(head, justify="right", no_wrap=True, min_width=width)
    for name, availability in rows(conclusion, all_of_peak=False):
        table.add_row(name, *_cells(availability, conclusion))
    table.caption = f"ms from the intended start; under {conclusion.floor:,} valid samples no percentage"
    table.caption_justify = "left"
    return table


def rows(conclusion: Conclusion, *, all_of_peak: bool) -> Iterator[tuple[str, Availability]]:
    """What is shown of the availability, the most important last. `all_of_peak`: also by class and by hospital."""
    found, judged = conclusion.availabilities, conclusion.run.facts.judged
    for name, availability in _sent(found.by_class):
        yield name + ("" if name in judged.classes else " (not judged)"), availability
    for hospital, availability in _sent(found.live_by_hospital):
        yield f"live of {hospital}", availability
    clients = _sent(found.by_client)
    if len(clients) > 1:
        yield from ((f"client {client}", availability) for client, availability in clients)
    if found.peak_whole is not None:
        if all_of_peak:
            yield from ((f"{name} at the peak", a) for name, a in _sent(found.peak_by_class))
            yield from ((f"{hospital} at the peak", a) for hospital, a in _sent(found.peak_by_hospital))
        yield "peak window" + ("" if judged.peak else " (not judged)"), found.peak_whole
    yield "judged classes", found.whole


def _sent(availabilities: dict[str, Availability]) -> list[tuple[str, Availability]]:
    return [(name, availability) for name, availability in availabilities.items() if availability.sent]


def _cells(a: Availability, conclusion: Conclusion) -> list[str]:
    style = {True: "green", False: "red", None: "yellow"}[a.meets(conclusion.objective)]
    return [
        f"{a.valid:,}",
        f"[{style}]{percent(a.share)}[/]",
        f"{a.bad:,}",
        f"{a.counts[Verdict.LIMITED]:,}",
        *(milliseconds(a.latency_ms[q]) if q in a.latency_ms else "-" for q in SHOWN_QUANTILES),
    ]


def _sli_table(conclusion: Conclusion) -> Table:
    table = Table(title="The service's own SLI beside the client's", box=SIMPLE_HEAD, title_justify="left")
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
    table = Table(title="Audit", box=SIMPLE_HEAD, title_justify="left")
    table.add_column("promise")
    table.add_column("examined", justify="right")
    table.add_column("findings", justify="right")
    for check in conclusion.checks:
        findings = "[green]0[/]" if check.holds else f"[red]{len(check.findings):,}[/]"
        table.add_row(check.promise, f"{check.examined:,} {check.unit}", findings)
    return table
