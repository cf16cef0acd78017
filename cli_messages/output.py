"""What the commands print: plain text that no terminal acts on, and JSON."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console

if TYPE_CHECKING:
    from booking.settings import Hospital
    from scheduler_sync.messages.search import Found

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on each line.")]
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def as_record(one: Found, at: Hospital) -> dict[str, Any]:
    """A message as `--json` and NDJSON show it; `at` is the time with the hospital's offset."""
    import msgspec

    record = msgspec.structs.asdict(one)
    return {"id": record.pop("id"), "at": iso_time(record.pop("at_ms"), at), **record}


def moment(at_ms: int, at: Hospital) -> dt.datetime:
    """An instant in the hospital's zone."""
    return dt.datetime.fromtimestamp(at_ms / 1000, at.zone)


def iso_time(at_ms: int, at: Hospital) -> str:
    """An instant with the hospital's offset, to the millisecond."""
    return moment(at_ms, at).isoformat(timespec="milliseconds")


def plain_text(text: str) -> str:
    """As the terminal may have it, without markup."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def yuan(fen: int | None) -> str:
    """An amount for people; nothing for None."""
    return "" if fen is None else f"{'-' * (fen < 0)}{abs(fen) // 100}.{abs(fen) % 100:02}"


def json_line(record: dict[str, Any]) -> str:
    """As the terminal may have it: by itself JSON escapes only what is below a blank."""
    line = json.dumps(record, ensure_ascii=False)
    return line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def write_line(text: str) -> None:
    """As it is: neither wrapped nor cut."""
    sys.stdout.write(text + "\n")


def write_columns(rows: Sequence[Sequence[str]]) -> None:
    """Rows of text, the first the names of the columns, each as wide as it must be (a Chinese character takes two places).

    Nothing is cut or wrapped, however narrow the terminal: ids and trade numbers are there to be copied and searched for.
    """
    widths = [max(cell_len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        cells = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        write_line("  ".join(cells).rstrip())
