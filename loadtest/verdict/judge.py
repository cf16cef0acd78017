"""Judge a run folder: print, write, and say it as an exit code."""

from __future__ import annotations

from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape

from loadtest.verdict.conclusion import conclude
from loadtest.verdict.document import as_document
from loadtest.verdict.folder import RunFolderError, load_run, run_folder
from loadtest.verdict.page import write_page
from loadtest.verdict.pictures import draw_pictures
from loadtest.verdict.pictures.frame import as_png
from loadtest.verdict.screen import print_verdict

UNREADABLE = 4


def judge(folder: Path, *, floor: int | None = None, console: Console | None = None) -> int:
    """Judge the run in `folder` (as `--out` was given); write `verdict.json`, `report.html` and `pictures/` beside its `run/`.

    `floor`: valid samples below which a class has no percentage, if not as many as the run says.
    Returns 0 passed, 1 failed, 2 insufficient, 3 void, 4 the folder cannot be judged.
    """
    console = console or Console()
    try:
        run = load_run(folder)
        beside = run_folder(folder)
    except RunFolderError as e:
        console.print(f"[red]cannot be judged:[/] {escape(str(e))}", soft_wrap=True)
        return UNREADABLE
    out = beside.parent if beside.name == "run" else beside
    conclusion = conclude(run, floor=floor)
    pictures = tuple(draw_pictures(conclusion))
    _write_pictures(out / "pictures", {p.name: as_png(p.figure) for p in pictures})
    (out / "verdict.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(as_document(conclusion)), indent=2) + b"\n"
    )
    write_page(out / "report.html", conclusion, pictures)
    print_verdict(conclusion, console)
    console.print(f"\n{out / 'report.html'}", soft_wrap=True, highlight=False)
    return conclusion.outcome.exit_code


def _write_pictures(folder: Path, pictures: dict[str, bytes]) -> None:
    """Those of an earlier judgement go: a picture that is no longer drawn must not be taken for one of this."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for name, png in pictures.items():
        (folder / f"{name}.png").write_bytes(png)
