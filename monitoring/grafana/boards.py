"""All boards, and the files they are committed as."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monitoring.grafana.bookings import bookings_board
from monitoring.grafana.hospitals import hospitals_board
from monitoring.grafana.release import release_board
from monitoring.grafana.server import service_board

FOLDER = Path(__file__).with_name("dashboards")


def boards() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each board with its file."""
    for made in (release_board(), hospitals_board(), bookings_board(), service_board()):
        yield FOLDER / f"{made['uid'].removeprefix('hisbridge-')}.json", made


def as_text(board: dict[str, Any]) -> str:
    """What stands in the file: the same for the same board, so that a change shows as itself."""
    return json.dumps(board, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
