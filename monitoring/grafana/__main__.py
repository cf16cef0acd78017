"""Write the dashboards, or draw them.

python -m monitoring.grafana                                      write monitoring/grafana/dashboards/
python -m monitoring.grafana draw --prometheus URL --out DIR      a PNG of each, from what a Prometheus knows
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from monitoring.grafana.asking import Prometheus, Span
from monitoring.grafana.boards import FOLDER, as_text, boards


def main(arguments: Sequence[str] | None = None) -> int:
    """What the command line asks for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.grafana", description=__doc__.splitlines()[0])
    drawing = parser.add_subparsers(dest="what").add_parser("draw", help="a PNG of each board")
    drawing.add_argument("--prometheus", required=True, help="for example http://127.0.0.1:9090")
    drawing.add_argument("--out", type=Path, required=True, help="the folder for the pictures")
    drawing.add_argument("--until", type=float, default=time.time(), help="the end, in epoch seconds (now)")
    drawing.add_argument("--minutes", type=float, default=15.0, help="how far back (15)")
    drawing.add_argument("--scrape-s", type=float, default=15.0, help="Prometheus's scrape interval (15)")
    given = parser.parse_args(arguments)
    if given.what == "draw":
        span = Span(given.until - given.minutes * 60, given.until, given.scrape_s)
        return _draw(Prometheus(given.prometheus), span, given.out)
    FOLDER.mkdir(exist_ok=True)
    for file, board in boards():
        file.write_text(as_text(board), encoding="utf-8")
        sys.stdout.write(f"{file}\n")
    return 0


def _draw(prometheus: Prometheus, span: Span, out: Path) -> int:
    from monitoring.grafana.picture import draw_boards  # matplotlib is slow to load, and a generator needs none

    out.mkdir(parents=True, exist_ok=True)
    for file in draw_boards(prometheus, span, out):
        sys.stdout.write(f"{file}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
