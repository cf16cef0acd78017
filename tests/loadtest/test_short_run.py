"""What a short load test leaves: figures that fill the release board, and no word about a patient."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from loadtest.peak.profiles import PROFILES, short
from monitoring.grafana.asking import Choice, Prometheus, Span, replaced
from monitoring.grafana.picture import CELL_WIDTH_IN, COLUMNS, DPI, draw_board
from monitoring.grafana.release import release_board
from tests.loadtest.conftest import ShortRun
from tests.patient_texts import assert_absent, wrapped
from tests.prometheus import SCRAPE_S, find_prometheus, open_prometheus

pytestmark = pytest.mark.timeout(300)  # the first of them plays it

BOARD = release_board()
PLAYED = short(PROFILES["release-peak"])
SEGMENTS = 8  # of a doctor on the released day, morning and afternoon
PANELS = [pytest.param(panel, id=panel["title"]) for panel in BOARD["panels"] if panel["type"] != "row"]

NEED_NOT = {
    "hisbridge_waiting_room_": "no hospital of the profile has a waiting room",
    "hisbridge_rate_limited_total": "the profile sets no rates",
    "hisbridge_shed_total": "a crowd of this size is let in whole",
    "hisbridge_his_refused_total": "no call is refused while every HIS is well",
    'verdict!="good"': "on a machine that is quick enough every answer is good",
}
"""Parts of queries that need not have an answer after this run, and why. Elsewhere a busier minute answers all of them."""


@pytest.fixture(scope="session")
def seen(short_run: ShortRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, Span]]:
    """A Prometheus on what the run's own one has scraped, and the time of the run."""
    program = find_prometheus()
    if program is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    told = json.loads((short_run.folder / "run" / "run.json").read_text(encoding="utf-8"))
    span = Span(told["started_at"], told["started_at"] + told["duration_s"], SCRAPE_S)
    with open_prometheus(program, tmp_path_factory.mktemp("seen"), short_run.folder / "prometheus" / "data") as url:
        yield Prometheus(url), span


@pytest.mark.parametrize("panel", PANELS)
def test_release_board_is_filled_by_a_load_test(seen: tuple[Prometheus, Span], panel: dict[str, Any]) -> None:
    prometheus, span = seen
    for target in panel["targets"]:
        found = prometheus.range(replaced(target["expr"], {**Choice().variables(BOARD), **span.variables()}), span)
        assert found or any(part in target["expr"] for part in NEED_NOT), target["expr"]


def test_release_board_says_how_many_seats_are_left(short_run: ShortRun, seen: tuple[Prometheus, Span]) -> None:
    """Those that no visit at the HIS has. What was given back may be shown a fetch later."""
    prometheus, span = seen
    (expr,) = (t["expr"] for p in BOARD["panels"] if p["title"] == "Seats left" for t in p["targets"])
    variables = {**Choice().variables(BOARD), **span.variables()}
    left = {series.labels["hospital"]: series.newest for series in prometheus.at(replaced(expr, variables), span.to_s)}
    books = json.loads((short_run.folder / "run" / "his.json").read_text(encoding="utf-8"))
    seats = {h.id: h.doctors * SEGMENTS * h.seats for h in PLAYED.hospitals}
    for hospital_id, book in books.items():
        taken = [visit for visit in book["visits"] if visit["state"] != "released"]
        given_back = len(book["visits"]) - len(taken)
        assert taken
        assert seats[hospital_id] - len(taken) - given_back <= left[hospital_id] <= seats[hospital_id] - len(taken)


def test_release_board_of_a_load_test_can_be_looked_at(seen: tuple[Prometheus, Span], tmp_path: Path) -> None:
    picture = tmp_path / "release.png"
    draw_board(BOARD, *seen, picture, Choice())
    drawn = imread(picture)
    assert drawn.shape[1] == pytest.approx(COLUMNS * CELL_WIDTH_IN * DPI, abs=1)
    assert (drawn[..., :3].min(axis=2) < 0.9).mean() > 0.01  # not a white sheet


@pytest.mark.parametrize(
    "file", ["run/service.log", "run/metrics.txt", "run/bookings.jsonl", "run/his.json", "report.html", "verdict.json"]
)
def test_no_patient_stands_in_what_a_load_test_leaves(short_run: ShortRun, file: str) -> None:
    """The people of a load test: see loadtest.bench.fill.rows."""
    data = (short_run.folder / file).read_bytes()
    assert data
    for number in range(PLAYED.people):
        texts = (f"患者{number}", f"1101011990{number:07d}X", f"139{number:08d}")
        assert_absent(data, texts, file)
        assert_absent(data, texts, file, forms=wrapped)
