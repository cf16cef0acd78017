"""The figures at the top of the page: each with its colour, so that the bad one is found at once."""

from __future__ import annotations

from loadtest.verdict.audit import Check
from loadtest.verdict.availability import Availability
from loadtest.verdict.conclusion import LAG_P99_MS, Conclusion
from loadtest.verdict.page.markup import Html, tag
from loadtest.verdict.words import percent

GOOD, BAD, WARN, PLAIN = "good", "bad", "warn", ""
IN_AUDIT = {"oversold": "oversold", "lost": "acknowledged and lost", "money": "payments that do not balance",
            "agreement": "differences to the HIS"}  # fmt: skip


def show_tiles(conclusion: Conclusion) -> Html:
    """A tile for each promise."""
    found, facts = conclusion.availabilities, conclusion.run.facts
    tiles = [_share(conclusion, "judged classes", found.whole, judged=True)]
    if found.peak_whole is not None:
        tiles.append(_share(conclusion, "peak window", found.peak_whole, judged=facts.judged.peak))
    tiles += [_check(check) for check in conclusion.checks if check.name in IN_AUDIT]
    if facts.judged.recovery_s is not None:
        tiles.append(_recovery(conclusion, facts.judged.recovery_s))
    tiles.append(_sli(conclusion))
    tiles.append(_lag(conclusion))
    return tag("div", *tiles, css="tiles")


def _tile(figure: str, what: str, color: str) -> Html:
    return tag("div", tag("b", figure), tag("span", what), css=f"tile {color}".strip())


def _share(conclusion: Conclusion, name: str, availability: Availability, *, judged: bool) -> Html:
    met = availability.meets(conclusion.objective)
    color = {True: GOOD, False: BAD, None: WARN}[met] if judged else PLAIN
    return _tile(percent(availability.share), f"{name}: {availability.bad:,} bad of {availability.valid:,}", color)


def _check(check: Check) -> Html:
    return _tile(f"{len(check.findings):,}", IN_AUDIT[check.name], GOOD if check.holds else BAD)


def _recovery(conclusion: Conclusion, limit_s: float) -> Html:
    took = [r.after_s for r in conclusion.recoveries]
    longest_s = max((s for s in took if s is not None), default=0.0)
    never = None in took or not took
    figure = "never" if never else f"{longest_s:.1f} s"
    return _tile(figure, f"recovery, at most {limit_s:g} s", BAD if never or longest_s > limit_s else GOOD)


def _sli(conclusion: Conclusion) -> Html:
    """Where the two differ most."""
    whole = conclusion.comparisons[-1].difference
    required = [c for c in conclusion.comparisons if c.required]
    worst = max((c.difference for c in required if c.difference is not None), key=abs, default=whole)
    figure = "-" if worst is None else f"{float(worst * 100):+.3f}"
    what = "points, client less service's own SLI"
    if not required:
        return _tile(figure, f"{what}: not judged", WARN)
    return _tile(figure, what, GOOD if all(c.agrees for c in required) else BAD)


def _lag(conclusion: Conclusion) -> Html:
    late = conclusion.lag_p99_ms > LAG_P99_MS
    return _tile(
        f"{conclusion.lag_p99_ms:.1f} ms", f"generator lag p99, at most {LAG_P99_MS:g} ms", WARN if late else GOOD
    )
