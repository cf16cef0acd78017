"""What a judged run leaves: the table, `verdict.json`, `report.html`, pictures, and the exit code."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadtest.verdict.judge import judge
from loadtest.verdict.samples import Verdict
from tests.conftest import ROOT
from tests.loadtest.runs import CANCEL, PAID, booked, booking, rows, visit, write_run

PAGE = ROOT / "docs" / "load-test-verdict.md"
EVERY_PICTURE = {"arrivals", "latency", "errors", "refusals", "seats", "his", "cpu"}


def judged(folder: Path, *, floor: int = 10_000) -> tuple[int, str, dict[str, Any], str]:
    """The exit code, the screen, the document and the page."""
    screen = io.StringIO()
    code = judge(folder, floor=floor, console=Console(file=screen, width=120))
    document = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    return code, screen.getvalue(), document, (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[int, str, dict[str, Any], str]]:
    """A run with something of everything: 21 of 20,000 reads are slow, a payment is gone, the service's SLI is better."""
    folder = tmp_path_factory.mktemp("failed")
    gone = booking(2, paid={**PAID, "trade_no": "T2"}, slot_id="slot-2")
    gone["final"] |= {"state": "expired", "his_state": "released", "payment_state": "void"}
    write_run(
        folder,
        samples=[
            rows(19_979),
            rows(21, latency_s=0.4, at_s=40.0),
            rows(30, request_class="hold", status=409, code="slot_sold_out", at_s=50.0),
            rows(3, request_class="live", status=503, code="his_unavailable"),
            rows(5, status=429, code="rate_limited", client="scalper"),
        ],
        bookings=[booked(1), gone, booking(3, cancel=CANCEL, final={"state": "cancelled", "his_state": "none"})],
        visits=[visit(1, "registered"), visit(2, "released")],
        facts={"faults": [{"at_s": 35.0, "until_s": 45.0, "what": "HIS <east> is down", "hospital": "east"}]},
        sli={
            "source": "prometheus",
            "sli": [
                {"hospital": "", "request_class": "read", "phase": "release", "verdict": "good", "count": 20_000.0}
            ],
        },
    )
    return folder, judged(folder)


Failed = tuple[Path, tuple[int, str, dict[str, Any], str]]


def test_exit_code_and_screen_say_why_when_a_run_failed(failed: Failed) -> None:
    code, screen, _, _ = failed[1]
    assert code == 1
    assert "FAILED release-peak" in screen
    assert "Each payment is at the HIS for its visit, or goes back: not kept, 1 finding" in screen
    assert "read: 99.895 % of 20,000 valid requests were good (21 slow), below 99.9 %" in screen
    assert "money east b2 700 fen were paid and are not registered; 0 fen go back" in screen


def test_document_has_the_figures_when_a_run_failed(failed: Failed) -> None:
    document = failed[1][2]
    assert document["outcome"] == "failed"
    assert document["exit_code"] == 1
    assert document["floor"] == 10_000
    read = document["availability"]["classes"]["read"]
    assert (read["share"], read["valid"], read["slow"], read["limited"], read["sent"]) == (
        0.99895,
        20_000,
        21,
        0,
        20_000,
    )
    assert read["latency_ms"] == {"p50": 10.0, "p90": 10.0, "p99": 10.0, "p99.9": 400.0}  # 21 of 20,000 are over 0.1 %
    assert document["availability"]["clients"]["scalper"]["limited"] == 5
    assert document["availability"]["classes"]["sold_out"]["share"] is None
    assert document["availability"]["live_by_hospital"]["east"]["failed"] == 3
    (money,) = (check for check in document["audit"] if check["name"] == "money")
    assert money["count"] == 1
    assert document["money"]["east"]["open_fen"] == 700
    (sli,) = (c for c in document["server_sli"]["classes"] if c["name"] == "read")
    assert sli["difference_points"] == pytest.approx(-0.105)
    assert sli["agrees"] is False


def test_page_says_the_same_when_a_run_failed(failed: Failed) -> None:
    text = " ".join(texts(failed[1][3])).replace("\u00a0", " ")
    before_the_tables = text[: text.index("Availability")]
    assert "FAILED" in before_the_tables
    assert "read: 99.895 % of 20,000 valid requests were good (21 slow), below 99.9 %" in before_the_tables
    assert "Each payment is at the HIS for its visit, or goes back: not kept, 1 finding" in before_the_tables
    for said in (
        "One hundredth of the city's rates.",  # how it was scaled
        "A machine, 2 cores",
        "700 fen were paid and are not registered; 0 fen go back",
        "HIS <east> is down",
        "21 more were late for the client",
    ):
        assert said in text


def test_page_stands_alone_when_it_is_sent_to_somebody(failed: Failed) -> None:
    page = failed[1][3]
    names = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # of vocabularies, which nobody fetches
    found = set(
        re.findall(
            r"https?://[^\s\"'<>)]+", re.sub(r"<metadata>.*?</metadata>|<!DOCTYPE svg[^>]*>", "", page, flags=re.S)
        )
    )
    assert found <= names
    assert not re.search(r"<(script|link|img|iframe)\b", page)
    assert len(re.findall(r"<svg\b", page)) == len(EVERY_PICTURE)


def test_pictures_are_written_when_a_run_is_judged(failed: Failed) -> None:
    files = list((failed[0] / "pictures").iterdir())
    assert {f.stem for f in files} == EVERY_PICTURE
    assert all(f.read_bytes().startswith(b"\x89PNG\r\n") for f in files)


def test_a_run_gives_the_same_page_when_it_is_judged_again(failed: Failed) -> None:
    folder, (code, _, document, page) = failed
    assert judged(folder)[::2] == (code, document)
    assert (folder / "report.html").read_text(encoding="utf-8") == page


def test_a_run_without_anything_is_told_when_it_is_judged(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "latency.png").write_bytes(b"of an earlier run")
    write_run(tmp_path, series={"t_s": [], "seats_left": {}, "his_running": {}, "server_cpu_share": [],
                                "server_rss_mb": [], "generator_cpu_share": []})  # fmt: skip
    code, screen, document, page = judged(tmp_path)
    assert code == 2
    assert "INSUFFICIENT" in screen
    assert document["availability"]["whole"]["share"] is None
    assert "Too few requests to say so." in page
    assert {f.stem for f in (tmp_path / "pictures").iterdir()} == {"errors"}


def test_floor_is_stated_everywhere_when_it_was_lowered(tmp_path: Path) -> None:
    write_run(tmp_path, samples=[rows(20)])
    code, screen, document, page = judged(tmp_path, floor=20)
    assert code == 0
    assert document["floor"] == 20
    for told in (screen, page):
        assert "Judged from 20 valid samples a class on; 10,000 is what a verdict takes." in told


# --- documentation --------------------------------------------------------------------------------------------------


def test_every_field_is_documented_when_it_is_in_the_document(failed: Failed) -> None:
    page = PAGE.read_text(encoding="utf-8")
    by_name = {"classes", "clients", "live_by_hospital", "peak_classes", "peak_by_hospital", "money", "his", "rates",
               "refunds_fen", "calls", "server_counts", "latency_ms"}  # fmt: skip
    missing = sorted({key for key in fields(failed[1][2], by_name) if f"`{key}`" not in page})
    assert missing == []


def test_every_verdict_is_documented_when_it_can_be_given() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [v.name for v in Verdict if f"| `{v.name.lower()}` |" not in page] == []


def fields(value: object, by_name: set[str]) -> Iterator[str]:
    """The names of all fields; below those of `by_name` the keys are names of classes, hospitals and the like."""
    if isinstance(value, list):
        for item in value:
            yield from fields(item, by_name)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            below = inner.values() if key in by_name and isinstance(inner, dict) else [inner]
            for item in below:
                yield from fields(item, by_name)


class _Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in ("style", "svg")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "svg")

    def handle_data(self, data: str) -> None:
        if not self._hidden and data.strip():
            self.found.append(data.strip())


def texts(page: str) -> list[str]:
    """What a reader sees, but for the pictures."""
    parser = _Texts()
    parser.feed(page)
    return parser.found
