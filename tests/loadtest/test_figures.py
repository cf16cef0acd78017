"""The arithmetic of the table, and what is kept of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.bench.disk import fdatasync_ms
from loadtest.bench.processes import Cores, divide_cores
from loadtest.bench.results import BEGIN, END, as_data, as_markdown, as_text, put_into_page
from loadtest.bench.rows import Plan, Sizes, chosen, plans
from loadtest.bench.stats import Row, Sample, Summary, percentile, summary

SETTINGS: dict[str, Any] = {
    "command": "python -m loadtest.bench", "rounds": 3, "seconds": 5.0, "generator": "wrk", "cores": "one core",
    "fdatasync_p50_ms": 0.11, "fdatasync_p99_ms": 0.17, "his": "HIS: none",
}  # fmt: skip


def row(*pairs: tuple[float, float], bar: float | None = 0.5) -> Row:
    made = Row("post", "POST booking", "requests", "bare", bar)
    for ours, baseline in pairs:
        made.ours.append(Sample(rate=ours, count=10, cpu_us=200.0, p50_ms=1.0, p99_ms=2.0))
        made.baseline.append(Sample(rate=baseline, count=10, cpu_us=100.0))
    return made


def test_ratio_is_the_median_of_the_pairs_when_the_machine_changes_its_speed() -> None:
    # The second pair ran on half a machine: as a pair it tells the same, its rates alone would not.
    assert row((60, 100), (30, 50), (80, 100)).ratio == Summary(median=0.6, least=0.6, most=0.8)


def test_a_bar_is_met_when_the_median_reaches_it() -> None:
    assert row((50, 100), (49, 100), (90, 100)).met
    assert not row((49, 100), (48, 100), (90, 100)).met
    assert row((1, 100), bar=None).met


def test_a_row_is_missed_when_it_was_not_measured_or_anything_was_wrong() -> None:
    assert not row().met
    wrong = row((90, 100))
    wrong.ours.append(Sample(rate=90, count=10, problems=("3 answers 503",)))
    wrong.baseline.append(Sample(rate=100, count=10))
    assert not wrong.met
    assert wrong.problems == ["3 answers 503"]
    failed = row((90, 100))
    failed.failure = "ProcessFailed: gone"
    assert not failed.met


def test_there_is_no_ratio_when_a_baseline_did_nothing() -> None:
    assert row((10, 0)).ratio is None
    assert not row((10, 0)).met


def test_summary_is_none_when_there_is_nothing() -> None:
    assert summary([]) is None
    assert summary([4.0, 1.0, 2.0, 3.0]) == Summary(2.5, 1.0, 4.0)


@pytest.mark.parametrize(("share", "found"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_percentile_is_the_nearest_rank_when_values_are_out_of_order(share: float, found: int) -> None:
    assert percentile([*range(100, 50, -1), *range(1, 51)], share) == found


def test_percentile_is_the_value_when_there_is_one() -> None:
    assert percentile([7.0], 0.5) == percentile([7.0], 0.99) == 7.0


def test_results_say_everything_when_written_as_json() -> None:
    found = as_data([row((60, 100), (70, 100))], [], SETTINGS, "15.8")
    again = json.loads(json.dumps(found))
    (one,) = again["rows"]
    assert one["ratio"] == {"median": 0.65, "min": 0.6, "max": 0.7}
    assert one["ours"]["rate"] == {"median": 65.0, "min": 60.0, "max": 70.0}
    assert one["ours"]["cpu_us"]["median"] == 200.0
    assert one["baseline"]["rounds"] == 2
    assert one["met"] is True
    assert again["versions"]["postgresql"] == "15.8"
    assert {"python", "aiohttp", "uvloop", "sqlite"} <= set(again["versions"])
    assert {"cpu", "cores", "memory_gb", "kernel"} == set(again["machine"])
    assert {"when", "settings", "idle"} <= set(again)


def test_a_terminal_shows_verdict_and_problems_when_there_are_some() -> None:
    missed, wrong = row((10, 100)), row((90, 100))
    wrong.failure = "ProcessFailed: gone"
    said = as_text(as_data([missed, wrong], [], SETTINGS, None), judged=True)
    assert "MISSED" in said
    assert "FAILED" in said
    assert "PROBLEM: ProcessFailed: gone" in said
    assert "MISSED" not in as_text(as_data([missed], [], SETTINGS, None), judged=False)


def test_only_the_figures_change_when_the_page_is_written_again() -> None:
    figures = as_markdown(as_data([row((60, 100))], [], SETTINGS, None))
    page = f"# Title\n\n{BEGIN}\nold\n{END}\n\nProse.\n"
    written = put_into_page(page, figures)
    assert written.startswith("# Title\n\n")
    assert written.endswith("\n\nProse.\n")
    assert "old" not in written
    assert "0.60 (0.60 to 0.60)" in written
    assert put_into_page(written, figures) == written
    with pytest.raises(ValueError, match="has no"):
        put_into_page("# Title\n", figures)


def test_the_page_has_a_place_for_figures_when_a_run_ends() -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert "still here" in put_into_page(page, f"{BEGIN}\nstill here\n{END}")


def test_every_bar_of_the_design_has_its_row_when_all_are_measured() -> None:
    bars = {row.key: row.bar for p in plans(Sizes()) for row in p.rows() if row.bar is not None}
    parsers = {"": 20.0, "-hl7": 2.0, "-hl7-server": 1.0, "-hl7apy-server": 1.0}
    inbound = {
        f"in-{kind}-{connections}{suffix}": bar
        for kind in ("siu", "adt", "oru")
        for connections in (1, 16)
        for suffix, bar in parsers.items()
    }
    assert bars == {
        **inbound,
        "get": 0.75,
        "post-sqlite-64": 0.35,
        "post-sqlite-256": 0.35,
        "post-pg-64": 0.30,
        "post-pg-256": 0.30,
        "sold-out": 0.70,
        "fhir-get": 0.80,
        "fhir-book": 0.70,
        "engine": 5.0,
        "soap-reply": 2.0,
        "soap-reply-lxml": 0.25,
        "scale-get-sqlite": 0.90,
        "scale-post-sqlite": 0.90,
        "scale-get-pg": 0.90,
        "scale-post-pg": 0.90,
    }


def keys(found: list[Plan]) -> list[str]:
    return [p.key for p in found]


def test_rows_are_chosen_when_named_or_begun() -> None:
    everything = plans(Sizes())
    assert keys(chosen(everything, ["post-sqlite", "get"])) == ["get", "post-sqlite-64", "post-sqlite-256"]
    assert chosen(everything, []) == []
    with pytest.raises(ValueError, match="no such row: gett; known: idle, delay, wsdl, get, "):
        chosen(everything, ["get", "gett"])


def test_the_server_has_a_core_for_itself_when_there_are_two() -> None:
    assert divide_cores({3, 5, 4}) == Cores(server=frozenset({3}), load=frozenset({4, 5}))
    assert not divide_cores({2}).pinned


def test_the_disk_is_measured_when_it_can_be_written(tmp_path: Path) -> None:
    p50, p99 = fdatasync_ms(tmp_path, writes=5)
    assert 0 < p50 <= p99
    assert list(tmp_path.iterdir()) == []
