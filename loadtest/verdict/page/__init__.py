"""`report.html`: one file with everything in it. Whether the run passed, and why not, is at its top."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from pathlib import Path

from loadtest.verdict.conclusion import Conclusion, Outcome
from loadtest.verdict.page import tables
from loadtest.verdict.page.markup import Html, escape, join, tag
from loadtest.verdict.page.tiles import show_tiles
from loadtest.verdict.pictures import Picture
from loadtest.verdict.pictures.frame import as_svg
from loadtest.verdict.words import objective

STYLE = Path(__file__).with_name("style.css")
EXPLAINED = {
    Outcome.PASSED: "The promise was kept.",
    Outcome.FAILED: "The promise was not kept.",
    Outcome.INSUFFICIENT: "Too few requests to say so.",
    Outcome.VOID: "The generator was too slow: this run proves nothing.",
}


def write_page(path: Path, conclusion: Conclusion, pictures: Sequence[Picture]) -> None:
    """Whole, or not at all: a reader must not find half of it."""
    beside = path.with_suffix(".partial")
    beside.write_text(str(render_page(conclusion, pictures)), encoding="utf-8")
    beside.replace(path)


def render_page(conclusion: Conclusion, pictures: Sequence[Picture]) -> Html:
    """The document."""
    facts = conclusion.run.facts
    title = escape(f"{facts.profile}: {conclusion.outcome.value}")
    return Html(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
        f"{_header(conclusion)}\n<main>\n{join(_sections(conclusion, pictures))}\n</main>\n</body>\n</html>\n"
    )


def _header(conclusion: Conclusion) -> Html:
    facts = conclusion.run.facts
    started = dt.datetime.fromtimestamp(facts.started_at, dt.UTC).isoformat(sep=" ", timespec="seconds")
    machine = facts.machine
    reasons = tag("ul", *(tag("li", reason) for reason in conclusion.reasons)) if conclusion.reasons else ""
    return tag(
        "header",
        tag(
            "div",
            tag("h1", conclusion.outcome.name),
            tag(
                "p",
                f"{EXPLAINED[conclusion.outcome]} Profile {facts.profile}, objective {objective(conclusion.objective)}.",
            ),
            reasons,
            tag(
                "p",
                tag(
                    "small",
                    f"{started}, {facts.duration_s:.0f} s, {facts.engine}, {facts.workers} "
                    f"{'worker' if facts.workers == 1 else 'workers'}; {machine.model}, {machine.cores} cores, "
                    f"{machine.memory_gib:g} GiB, {machine.kernel}; a loop of Python {machine.loop_ms:.0f} ms",
                ),
            ),
        ),
        css=conclusion.outcome.value,
    )


def _sections(conclusion: Conclusion, pictures: Sequence[Picture]) -> Iterable[Html]:
    yield show_tiles(conclusion)
    if conclusion.remarks:
        yield _section("To know", tag("ul", *(tag("li", remark) for remark in conclusion.remarks)))
    yield _section("Availability", tables.availability(conclusion))
    yield _section("Audit", tables.audit(conclusion))
    for picture in pictures:
        yield _section(
            picture.title,
            tag("p", picture.caption, css="soft"),
            tag("div", Html(as_svg(picture.figure)), css="wide"),
        )
    yield _section("The service's own SLI", tables.server_sli(conclusion))
    yield _section("Money", tables.money(conclusion))
    yield _section("What the HIS saw", tables.his(conclusion))
    if conclusion.run.facts.faults:
        yield _section("Faults and recovery", tables.faults(conclusion))
    yield _section("How it was run", tables.setting(conclusion))


def _section(title: str, *content: Html) -> Html:
    return tag("section", tag("h2", title), *content)
