"""The page of metrics is what the code says, follows Prometheus's conventions, and names nothing that could grow without end."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from monitoring import metrics
from monitoring.reference import page

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"
_NAME = re.compile(r"^\| `(hisbridge_[a-z0-9_]+)`", re.MULTILINE)


def names(text: str) -> list[str]:
    return _NAME.findall(text)


def linted(registry: CollectorRegistry) -> tuple[int, str]:
    """The exit code of `promtool check metrics`, and what it says."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    ran = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(registry), capture_output=True, check=False
    )
    return ran.returncode, (ran.stdout + ran.stderr).decode().strip()


def test_page_is_current_when_a_metric_has_changed() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m monitoring.reference > docs/metrics.md"


def test_every_name_of_the_guides_is_on_the_page_when_an_operator_looks_it_up() -> None:
    known = names(page())
    for guide in ("operators-guide.md", "operators-guide.zh-CN.md"):
        told = set(re.findall(r"`(hisbridge_[a-z0-9_]+)", (ROOT / "docs" / guide).read_text(encoding="utf-8")))
        assert told <= set(known), guide


def test_names_and_helps_are_as_prometheus_wants_them_when_its_own_linter_reads_them() -> None:
    """`promtool check metrics` says what it dislikes and ends with 3; it ends with 1 for what it cannot read."""
    for family in metrics.REGISTRY.collect():
        assert family.documentation, family.name
    assert linted(metrics.REGISTRY) == (0, "")


def test_linter_objects_when_a_metric_breaks_a_convention() -> None:
    registry = CollectorRegistry()
    Gauge("hisbridge_wait_milliseconds", "In a unit that is none of the base units.", registry=registry).set(1)
    assert linted(registry) == (3, 'hisbridge_wait_milliseconds use base unit "seconds" instead of "milliseconds"')


def test_page_is_refused_when_a_label_has_no_bound() -> None:
    registry = CollectorRegistry()
    Gauge("hisbridge_seats_left", "Seats of a slot.", ["slot"], registry=registry)
    with pytest.raises(ValueError, match="slot"):
        page(registry)


@pytest.mark.parametrize("limit_s", [0.3, 1.0])
def test_latencies_can_be_judged_exactly_when_an_objective_has_a_limit(limit_s: float) -> None:
    """Reads and sold-out answers within 300 ms, holds within 1 s: a quantile between two edges is a guess."""
    assert limit_s in metrics.HTTP_BUCKETS_S
