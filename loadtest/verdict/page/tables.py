"""The tables of the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from loadtest.verdict.audit import Check
from loadtest.verdict.availability import QUANTILES, Availability
from loadtest.verdict.conclusion import Conclusion
from loadtest.verdict.page.markup import Cell, Html, Value, join, table, tag
from loadtest.verdict.samples import BAD, LIMITS_S, Verdict
from loadtest.verdict.screen import agreement, rows
from loadtest.verdict.server_sli import SERVER_VALID
from loadtest.verdict.words import milliseconds, objective, percent, points, quantile_name, yuan

MOST_FINDINGS = 20
TEXT = "text"


def availability(conclusion: Conclusion) -> Html:
    """Shares and latencies; what counts as bad, by kind, below."""
    shown = list(rows(conclusion, all_of_peak=True))
    shares = table(
        ["", "good", "bad", "valid", "limit, ms", *(quantile_name(q) + ", ms" for q in QUANTILES)],
        [
            [name, _share(conclusion, a), f"{a.bad:,}", f"{a.valid:,}", _limit(name), *_latencies(a)]
            for name, a in shown
        ],
        sums=2 if conclusion.availabilities.peak_whole is not None else 1,
    )
    kinds = [v for v in (*BAD, Verdict.LIMITED, Verdict.INVALID) if any(a.counts[v] for _, a in shown)]
    note = tag(
        "p",
        f"Good / valid requests; {objective(conclusion.objective)} is asked for. Under {conclusion.floor:,} valid requests a "
        "class has no percentage. Latency counts from the intended start. Requests that were limited by the published policy, "
        "and the caller's errors, are not valid requests and are counted apart.",
        css="soft",
    )
    if not kinds:
        return join([note, shares])
    by_kind = table(
        ["", *(v.name.lower() for v in kinds)],
        [[name, *(f"{a.counts[v]:,}" for v in kinds)] for name, a in shown if any(a.counts[v] for v in kinds)],
    )
    return join([note, shares, tag("h3", "What was not good"), by_kind, _meanings(kinds)])


MEANINGS = {
    Verdict.SLOW: "a right answer, later than its limit",
    Verdict.FAILED: "a 5xx",
    Verdict.SHED: "503 by admission",
    Verdict.UNANSWERED: "the connection failed, or the client's patience ended",
    Verdict.REFUSED: "429 to a client that kept to the published policy",
    Verdict.WRONG: "told that a released slot is not released yet",
    Verdict.BROKEN: "a hold that was acknowledged, and later rejected or never locked",
    Verdict.LIMITED: "429 by the published policy, waiting room included (not valid)",
    Verdict.INVALID: "the caller's error (not valid)",
}


def _meanings(kinds: list[Verdict]) -> Html:
    return tag("p", "; ".join(f"{v.name.lower()}: {MEANINGS[v]}" for v in kinds) + ".", css="soft")


def _share(conclusion: Conclusion, a: Availability) -> Cell:
    met = a.meets(conclusion.objective)
    return Cell(percent(a.share), {True: "good-text", False: "bad-text", None: "warn-text"}[met])


def _limit(name: str) -> str:
    limit_s = LIMITS_S.get(name.partition(" ")[0])
    return "" if limit_s is None else f"{limit_s * 1000:g}"


def _latencies(a: Availability) -> list[str]:
    return [milliseconds(a.latency_ms[q]) if q in a.latency_ms else "-" for q in QUANTILES]


def audit(conclusion: Conclusion) -> Html:
    """Each promise, and the first findings against it."""
    heads: list[Value] = [Cell("promise", TEXT), "findings", "examined"]
    summary = table(
        heads,
        [
            [
                Cell(check.promise, TEXT),
                Cell(f"{len(check.findings):,}", "good-text" if check.holds else "bad-text"),
                f"{check.examined:,} {check.unit}",
            ]
            for check in conclusion.checks
        ],
    )
    return join([summary, *_details(conclusion.checks)])


def _details(checks: tuple[Check, ...]) -> Iterator[Html]:
    for check in checks:
        if check.findings:
            more = len(check.findings) - MOST_FINDINGS
            yield tag("h3", f"Not kept: {check.promise}")
            yield table(
                ["hospital", Cell("what", TEXT), Cell("finding", TEXT)],
                [[f.hospital, Cell(f.subject, TEXT), Cell(f.text, TEXT)] for f in check.findings[:MOST_FINDINGS]],
            )
            if more > 0:
                yield tag("p", f"... and {more:,} more; verdict.json has the first 100.", css="soft")
    notes = [f"{check.promise}: {note}" for check in checks for note in check.notes]
    if notes:
        yield tag("h3", "Explained by requests without an answer")
        yield tag("ul", *(tag("li", note) for note in notes))


def server_sli(conclusion: Conclusion) -> Html:
    """Both sides' counts, and words where they part."""
    sli = conclusion.run.server_sli
    note = tag(
        "p",
        f"Source: {sli.source}. "
        + ("A process was killed and took counts with it. " if sli.lost_counts else "")
        + "They may differ by 0.05 points. A hold that broke after its answer counts as answered here.",
        css="soft",
    )
    shown = table(
        ["", "client", "service", "difference", "", "good", *SERVER_VALID[1:], "limited", "gone", "invalid"],
        [
            [
                c.name,
                percent(c.client_share),
                percent(c.server_share),
                points(c.difference),
                Cell(agreement(c), {True: "good-text", False: "bad-text", None: "warn-text"}[c.agrees]),
                *(f"{c.server.get(v, 0):,}" for v in (*SERVER_VALID, "limited", "gone", "invalid")),
            ]
            for c in conclusion.comparisons
        ],
        sums=1,
    )
    words = [f"{c.name}: {'; '.join(c.words)}." for c in conclusion.comparisons if c.words]
    return join([note, shown, *([tag("ul", *(tag("li", w) for w in words))] if words else [])])


def money(conclusion: Conclusion) -> Html:
    """Sums by hospital, and what the bookings came to."""
    states = sorted({state for b in conclusion.money.values() for state in b.refunds_fen})
    sums = table(
        ["in yuan", "payments", "acknowledged", "at the HIS", *states, "open"],
        [
            [
                hospital,
                f"{b.payments:,}",
                yuan(b.acknowledged_fen),
                yuan(b.at_his_fen),
                *(yuan(b.refunds_fen.get(state, 0)) for state in states),
                Cell(yuan(b.open_fen), "good-text" if b.open_fen == 0 else "bad-text"),
            ]
            for hospital, b in conclusion.money.items()
        ],
    )
    came_to = Counter(
        (
            b.hospital,
            b.final.state or f"status {b.final.status}",
            b.final.his_state or "-",
            b.final.payment_state or "-",
        )
        for b in conclusion.run.bookings
    )
    ends = table(
        ["hospital", Cell("state", TEXT), Cell("at the HIS", TEXT), Cell("money", TEXT), "bookings"],
        [
            [hospital, Cell(state, TEXT), Cell(his, TEXT), Cell(paid, TEXT), f"{count:,}"]
            for (hospital, state, his, paid), count in sorted(came_to.items())
        ],
    )
    return join([sums, tag("h3", "Where the acknowledged bookings are"), ends])


def his(conclusion: Conclusion) -> Html:
    """Load and seats of each hospital."""
    lines: list[list[Value]] = []
    for hospital, h in conclusion.run.his.items():
        held = Cell(
            f"{h.most_at_once} of {h.allowed_at_once}",
            "good-text" if h.most_at_once <= h.allowed_at_once else "bad-text",
        )
        lines.append(
            [
                hospital,
                held,
                f"{sum(s.capacity for s in h.segments):,}",
                f"{sum(s.taken for s in h.segments):,}",
                f"{h.oversold:,}",
                f"{len(h.visits):,}",
                Cell(", ".join(f"{op} {n:,}" for op, n in sorted(h.calls.items())), TEXT),
            ]
        )
    heads: list[Value] = ["", "most at once", "seats", "taken", "oversold", "visits", Cell("calls", TEXT)]
    return table(heads, lines)


def faults(conclusion: Conclusion) -> Html:
    """What was done, and when bookings went on as before."""
    return table(
        ["at, s", "until, s", Cell("what", TEXT), "hospital", "recovered after, s"],
        [
            [
                f"{r.fault.at_s:.1f}",
                "-" if r.fault.until_s is None else f"{r.fault.until_s:.1f}",
                Cell(r.fault.what, TEXT),
                r.fault.hospital or "-",
                "never" if r.after_s is None else f"{r.after_s:.1f}",
            ]
            for r in conclusion.recoveries
        ],
    )


def setting(conclusion: Conclusion) -> Html:
    """What was stated before the run, and what it ran on."""
    facts = conclusion.run.facts
    lag = facts.generator.lag_ms
    told = {
        "Phases": "; ".join(f"{p.name} {p.from_s:.0f} to {p.to_s:.0f} s" for p in facts.phases),
        "Rates": "; ".join(f"{name} {rate:g}" for name, rate in facts.rates.items()),
        "Judged": _judged(conclusion),
        "Generator": f"lag p50 {lag.p50:.1f} ms, p99 {lag.p99:.1f} ms, most {lag.max:.1f} ms; "
        f"{facts.generator.cpu_s:.1f} s of CPU",
        "Service": _service(conclusion),
    }
    listed = tag("dl", *(part for name, text in told.items() for part in (tag("dt", name), tag("dd", text))))
    return join([tag("ul", *(tag("li", sentence) for sentence in facts.stated)), listed])


def _judged(conclusion: Conclusion) -> str:
    judged = conclusion.run.facts.judged
    parts = [", ".join(judged.classes)]
    if judged.peak:
        parts.append("the peak window")
    if judged.recovery_s is not None:
        parts.append(f"recovery within {judged.recovery_s:g} s")
    for client, kept in judged.policy.items():
        parts.append(f"client {client} {'within' if kept else 'beyond'} the published rate limits")
    return "; ".join(parts)


def _service(conclusion: Conclusion) -> str:
    server = conclusion.run.facts.server
    each = f", {server.cpu_s / server.requests * 1e6:.0f} us each" if server.requests else ""
    return f"{server.requests:,} requests, {server.cpu_s:.1f} s of CPU{each}"
