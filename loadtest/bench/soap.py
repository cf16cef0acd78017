"""SOAP alone: one large reply read by the product and by libraries, and the loop while the WSDL of 60 operations is read."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Any

from loadtest.bench.rounds import Terms, figures, of_process
from loadtest.bench.soap_reply import OPERATION, ROWS, packed_reply, typed_reply, typed_wsdl
from loadtest.bench.stats import Sample
from loadtest.simulators.soap_dialects.neusoft_operations import OPERATIONS, wsdl

STALL_BAR_MS = 20.0


@dataclasses.dataclass(frozen=True)
class Replies:
    """The files of one reply: in a string, as typed elements, and the WSDL of those."""

    packed: Path
    typed: Path
    wsdl: Path


def write_replies(folder: Path) -> Replies:
    """Write them."""
    replies = Replies(folder / "packed-reply.xml", folder / "typed-reply.xml", folder / "typed.wsdl")
    replies.packed.write_bytes(packed_reply())
    replies.typed.write_bytes(typed_reply())
    replies.wsdl.write_text(typed_wsdl(), encoding="utf-8")
    return replies


async def read_ours(terms: Terms, replies: Replies) -> Sample:
    """The product: bytes to canonical records."""
    return await _sample(
        terms, "records",
        "-m", "connectors.soap.alone", "reply", "--profile", "dhc@1", "--verb", "fetch_schedules",
        "--file", str(replies.packed), "--seconds", f"{terms.seconds}",
    )  # fmt: skip


async def read_by_zeep(terms: Terms, replies: Replies) -> Sample:
    """zeep's own deserialisation of the same data as typed elements."""
    return await _sample(
        terms, "rows",
        "-m", "loadtest.bench.baselines.soap_reading", "zeep", str(replies.typed), f"{terms.seconds}",
        str(replies.wsdl), OPERATION,
    )  # fmt: skip


async def read_by_lxml(terms: Terms, replies: Replies) -> Sample:
    """Parsed, and nothing else."""
    return await _sample(
        terms, "rows", "-m", "loadtest.bench.baselines.soap_reading", "lxml", str(replies.packed), f"{terms.seconds}"
    )


async def _sample(terms: Terms, rows: str, *command: str) -> Sample:
    found = await figures(*command, terms=terms)
    wrong = () if found[rows] == ROWS else (f"{found[rows]:g} of {ROWS} rows were read",)
    return dataclasses.replace(of_process(found, "replies"), problems=wrong)


async def measure_stall(terms: Terms) -> tuple[str, list[dict[str, Any]]]:
    """The longest time for which the loop was held up while a WSDL was read, each time in a fresh process."""
    longest_ms, quiet_ms, problems = [], [], []
    with tempfile.TemporaryDirectory(prefix="hisbridge-bench-") as folder:
        file = Path(folder) / "his.wsdl"
        file.write_text(wsdl("http://127.0.0.1:9/"), encoding="utf-8")
        for _ in range(terms.rounds):
            found = await figures("-m", "connectors.soap.alone", "wsdl", "--file", str(file), terms=terms)
            longest_ms.append(found["longest_ms"])
            quiet_ms.append(found["quiet_ms"])
            if found["operations"] != len(OPERATIONS) or not found["turns"]:
                problems.append(f"{found['operations']:g} of {len(OPERATIONS)} operations in {found['turns']:g} turns")
    row = _row(longest_ms, list(dict.fromkeys(problems)))
    text = (
        f"{row['what']:<62} {row['median']:>8} ms (min {row['min']}, max {row['max']}, {row['rounds']} rounds)"
        f"   bar < {row['bar']:g} ms   {'met' if row['met'] else 'MISSED'}"
    )
    note = f"    while nothing was done: {statistics.median(quiet_ms):.2f} ms (max {max(quiet_ms):.2f})"
    return "\n".join([text, note, *(f"    PROBLEM: {problem}" for problem in row["problems"])]), [row]


def _row(longest_ms: list[float], problems: list[str]) -> dict[str, Any]:
    """Judged by the worst round: one stall is one too many."""
    return {
        "what": f"longest stall of the loop while a WSDL of {len(OPERATIONS)} operations loads",
        "unit": "ms",
        "median": round(statistics.median(longest_ms), 2),
        "min": round(min(longest_ms), 2),
        "max": round(max(longest_ms), 2),
        "rounds": len(longest_ms),
        "bar": STALL_BAR_MS,
        "met": max(longest_ms) < STALL_BAR_MS and not problems,
        "problems": problems,
    }
