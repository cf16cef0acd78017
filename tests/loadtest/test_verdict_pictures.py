"""What stands above the pictures can be read, however much happened at one time."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

from loadtest.verdict.folder import load_run
from loadtest.verdict.pictures.frame import new_figure
from tests.loadtest.runs import rows, write_run

AT_ONCE: list[dict[str, object]] = [
    {"at_s": 40.0, "until_s": 70.0, "what": f"{name} down", "hospital": name}
    for name in ("soap-release", "fhir-release", "hl7-release")
]
LATE: list[dict[str, object]] = [
    {"at_s": at_s, "what": f"number {at_s:.0f} of several is killed"} for at_s in (96.0, 97.0)
]


def test_names_of_faults_do_not_run_into_each_other(tmp_path: Path) -> None:
    write_run(
        tmp_path, samples=[rows(10)], facts={"opens_at_s": 30.0, "duration_s": 100.0, "faults": [*AT_ONCE, *LATE]}
    )
    figure, (ax,) = new_figure(load_run(tmp_path).facts)
    figure.draw_without_rendering()
    boxes = {text.get_text(): text.get_window_extent() for text in ax.texts}
    assert {"release", *(str(fault["what"]) for fault in [*AT_ONCE, *LATE])} <= boxes.keys()
    met = [(one, other) for one, other in combinations(boxes, 2) if boxes[one].overlaps(boxes[other])]
    assert met == []
    beyond = [text for text, box in boxes.items() if box.x0 < 0 or box.y1 > figure.bbox.y1 or box.x1 > figure.bbox.x1]
    assert beyond == []
