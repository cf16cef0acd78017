"""One round of one side: the product, its bare baseline, the engine alone, the textbook."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.bench.crowd import Ask, sample_answer
from loadtest.bench.fill.stores import open_database
from loadtest.bench.installation import Installation
from loadtest.bench.load import send
from loadtest.bench.postgres import Server
from loadtest.bench.processes import Cores, cpu_s, end, first_line, output_of, start, until_quiet
from loadtest.bench.stats import Sample

WARM_S = 0.5
DATABASE_QUIET_WITHIN_S = 180.0
DATABASE_QUIET_SHARE = 0.15  # a program at rest asks it what is new, several times a second
CONCURRENCY = 256  # callers of the engine and of the textbook: as many as fill a batch


@dataclass(frozen=True)
class Terms:
    """How to measure. `short`: only to see that it works."""

    rounds: int
    seconds: float
    generator: str
    cores: Cores
    short: bool = False


async def ask_product(
    terms: Terms,
    installation: Installation,
    ask: Ask,
    *,
    connections: int,
    keep: Path | None = None,
    database: Server | None = None,
) -> Sample:
    """Start the program, ask, end it, and put the store back. With `keep` one answer is kept there for the baseline.

    Every answer is checked, and against the store: as many grants as new bookings, and as many seats gone; or as
    many new tickets.
    """
    try:
        async with installation.running(quiet=not terms.short) as at:
            if database is not None and not terms.short:
                # It goes on with what the program's start asked for, and with what the round before has left to tidy.
                await until_quiet(database.pid, within_s=DATABASE_QUIET_WITHIN_S, share=DATABASE_QUIET_SHARE)
            if keep is not None:
                _keep(keep, await sample_answer(ask, at.port))
            before = await _stored(installation, ask)
            warm, warm_granted = await _ask(terms, ask, at.port, at.pid, connections, None, warm=True)
            sample, granted = await _ask(terms, ask, at.port, at.pid, connections, database)
            after = await _stored(installation, ask)
    finally:
        await installation.restore()
    granted += warm_granted
    wrong = [
        f"{granted} answers {ask.grants} and {after[what] - then} {what}"
        for what, then in before.items()
        if after[what] - then != granted
    ]
    return dataclasses.replace(sample, problems=(*warm.problems, *sample.problems, *wrong))


async def ask_bare(terms: Terms, ask: Ask, answer: Path, *, connections: int) -> Sample:
    """The same requests to a handler that gives the kept answer."""
    server = await start("-m", "loadtest.bench.baselines.bare", str(answer), cores=terms.cores.server)
    try:
        port = json.loads(await first_line(server, "the bare server"))["port"]
        if await sample_answer(ask, port) != _kept(answer):
            raise ValueError("the baseline does not give the product's answer: there is nothing to compare")
        await _ask(terms, ask, port, server.pid, connections, None, warm=True)
        return (await _ask(terms, ask, port, server.pid, connections, None))[0]
    finally:
        await end(server)


async def ask_least(
    terms: Terms, ask: Ask, answer: Path, url: str, *, connections: int, database: Server | None = None
) -> Sample:
    """The same requests to the handler that only stores them. Every answer 201 is a row, and no row is anything else."""
    server = await start(
        "-m", "loadtest.bench.baselines.least", "--answer", str(answer), "--url", url, cores=terms.cores.server
    )
    try:
        port = json.loads(await first_line(server, "the least server"))["port"]
        warm, warm_granted = await _ask(terms, ask, port, server.pid, connections, None, warm=True)
        sample, granted = await _ask(terms, ask, port, server.pid, connections, database)
    finally:
        await end(server)
    wrong = await least_stored(url, warm_granted + granted)
    return dataclasses.replace(sample, problems=(*warm.problems, *sample.problems, *wrong))


async def least_stored(url: str, acknowledged: int) -> list[str]:
    """Count what the least server has stored, and take it back; what is wrong with that."""
    database = open_database(url)
    stored = int((await database.rows("SELECT count(*) FROM least"))[0][0])
    await database.change(("DELETE FROM least", ()))
    await database.tidy("least")
    return [] if stored == acknowledged else [f"{acknowledged} were acknowledged and {stored} are stored"]


def _keep(file: Path, answer: dict[str, Any]) -> None:
    file.write_text(json.dumps(answer, ensure_ascii=False), encoding="utf-8")


def _kept(file: Path) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return kept


async def _stored(installation: Installation, ask: Ask) -> dict[str, int]:
    """What each answer that grants adds one to."""
    if ask.makes == "tickets":
        return {"new tickets": await installation.count_tickets()}
    return {"new bookings": await installation.count_bookings(), "seats gone": await installation.unreflected()}


async def _ask(
    terms: Terms, ask: Ask, port: int, pid: int, connections: int, database: Server | None, *, warm: bool = False
) -> tuple[Sample, int]:
    """A sample, and how many answers granted. The project's own generator warms up: it ends as soon as it is done."""
    before, stored_before = cpu_s(pid), 0.0 if database is None else cpu_s(database.pid)
    answers = await send(
        ask.warm if warm else ask.measured,
        port,
        connections=connections,
        seconds=WARM_S if warm else terms.seconds,
        cores=terms.cores.load,
        generator="own" if warm else terms.generator,
    )
    used_s = cpu_s(pid) - before
    sample = Sample(
        rate=answers.rate,
        count=answers.answered,
        cpu_us=us_each(used_s, answers.answered),
        database_cpu_us=None if database is None else us_each(cpu_s(database.pid) - stored_before, answers.answered),
        p50_ms=answers.p50_ms,
        p99_ms=answers.p99_ms,
        problems=answers.problems(ask.wanted),
    )
    return sample, answers.statuses.get(ask.grants, 0)


async def book_alone(terms: Terms, installation: Installation, database: Server) -> Sample:
    """The engine without HTTP, at one hot slot. Every booking it counts is in the store."""
    layout = installation.layout
    slot = layout.slot_id(layout.slots_of(layout.crowd_day)[0])
    before, used_s = await installation.count_bookings(), cpu_s(database.pid)
    try:
        found = await figures(
            "-m", "booking.inventory.alone", "--url", installation.url, "--hospital", layout.hospital_id,
            "--slot", slot, "--client", layout.client_id, "--concurrency", f"{CONCURRENCY}",
            "--seconds", f"{terms.seconds}", terms=terms,
        )  # fmt: skip
        database_s, stored = cpu_s(database.pid) - used_s, await installation.count_bookings() - before
    finally:
        await installation.restore()
    granted = round(found["bookings"])
    wrong = [] if stored == granted else [f"{granted} bookings were granted and {stored} are stored"]
    if found["refused"]:
        wrong.append(f"{found['refused']:g} bookings were refused")
    return dataclasses.replace(
        of_process(found, "bookings"), database_cpu_us=us_each(database_s, granted), problems=tuple(wrong)
    )


async def book_textbook(terms: Terms, url: str, database: Server, *, way: str, pool: int, seconds: float) -> Sample:
    """The textbook's transactions at one hot slot, at one size of its pool. It counts its rows itself."""
    before = cpu_s(database.pid)
    found = await figures(
        "-m", "loadtest.bench.baselines.textbook", "--url", url, "--way", way, "--pool", f"{pool}",
        "--concurrency", f"{CONCURRENCY}", "--seconds", f"{seconds}", terms=terms,
    )  # fmt: skip
    used_us = us_each(cpu_s(database.pid) - before, round(found["bookings"]))
    return dataclasses.replace(of_process(found, "bookings"), database_cpu_us=used_us)


async def figures(*arguments: str, terms: Terms) -> dict[str, float]:
    """The line of JSON that a process of the measured side prints at its end."""
    said = await output_of(sys.executable, *arguments, cores=terms.cores.server, within_s=terms.seconds + 120)
    found: dict[str, float] = json.loads(said.strip().splitlines()[-1])
    return found


def of_process(found: dict[str, float], what: str) -> Sample:
    """A sample of what a process has measured by itself."""
    count = round(found[what])
    return Sample(rate=count / found["seconds"], count=count, cpu_us=us_each(found["cpu_s"], count))


def us_each(seconds: float, count: int) -> float | None:
    """Microseconds for each of so many."""
    return seconds * 1e6 / count if count else None
