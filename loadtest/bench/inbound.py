"""One round of one side of the rows of inbound messages: the product, the least, parsers alone, other libraries' servers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path

from loadtest.bench.installation import Installation
from loadtest.bench.messages import Template
from loadtest.bench.processes import cpu_s, end, first_line, start
from loadtest.bench.rounds import WARM_S, Terms, figures, least_stored, of_process, us_each
from loadtest.bench.senders import Acknowledged, announce
from loadtest.bench.stats import Sample
from loadtest.simulators.mllp import END

APPLIED_WITHIN_S = 1.0  # of a backlog that has grown while messages came, no more could be worked off
SHORT_WITHIN_S = 10.0  # where nothing is judged


async def hear_messages(terms: Terms, installation: Installation, kind: str, connections: int) -> Sample:
    """The product. Every message that was acknowledged is stored, and applied APPLIED_WITHIN_S later.

    The processor's time is that of the applying, too.
    """
    try:
        async with installation.running(quiet=not terms.short) as at:
            warm = await announce(at.mllp_port, Template(kind, "W"), seconds=WARM_S, connections=connections)
            within_s = SHORT_WITHIN_S if terms.short else APPLIED_WITHIN_S
            before = await _applied(installation, warm.messages, within_s)
            used_s = cpu_s(at.pid)
            heard = await announce(at.mllp_port, Template(kind, "R"), seconds=terms.seconds, connections=connections)
            applied = await _applied(installation, before + heard.messages, within_s) - before
            used_s = cpu_s(at.pid) - used_s
    finally:
        await installation.restore()
    wrong = [] if applied == heard.messages else [f"{heard.messages} acknowledged and {applied} soon applied"]
    return _sample(heard, used_s, wrong)


async def _applied(installation: Installation, wanted: int, within_s: float) -> int:
    """How many messages were applied and are marked so, as soon as that many are wanted, at the latest after `within_s`."""
    ends_s = time.monotonic() + within_s
    while True:
        rows = await installation.messages.rows("SELECT count(*) FROM messages WHERE state = 'applied'")
        applied = int(rows[0][0])
        if applied >= wanted or time.monotonic() > ends_s:
            return applied
        await asyncio.sleep(0.05)


async def hear_least(terms: Terms, url: str) -> Sample:
    """A listener that only stores and acknowledges: one connection, SIU."""
    server = await start("-m", "loadtest.bench.baselines.least", "--url", url, cores=terms.cores.server)
    try:
        port = json.loads(await first_line(server, "the least listener"))["port"]
        warm = await announce(port, Template("siu", "W"), seconds=WARM_S)
        used_s = cpu_s(server.pid)
        heard = await announce(port, Template("siu", "R"), seconds=terms.seconds)
        used_s = cpu_s(server.pid) - used_s
    finally:
        await end(server)
    return _sample(heard, used_s, await least_stored(url, warm.messages + heard.messages))


async def hear_floor(terms: Terms, kind: str, file: Path) -> Sample:
    """A listener that does nothing but write and acknowledge, without a database: one connection."""
    server = await start("-m", "loadtest.bench.baselines.floor", str(file), cores=terms.cores.server)
    try:
        port = json.loads(await first_line(server, "the floor"))["port"]
        warm = await announce(port, Template(kind, "W"), seconds=WARM_S)
        used_s = cpu_s(server.pid)
        heard = await announce(port, Template(kind, "R"), seconds=terms.seconds)
        used_s = cpu_s(server.pid) - used_s
    finally:
        await end(server)
    written = (await asyncio.to_thread(file.read_bytes)).count(END)
    wrong = [] if written == warm.messages + heard.messages else [f"{heard.messages} acknowledged, {written} written"]
    return _sample(heard, used_s, wrong)


async def hear_echo(terms: Terms, library: str, kind: str, connections: int) -> Sample:
    """The server of another library, which only acknowledges. hl7apy's closes each connection after one message."""
    server = await start("-m", "loadtest.bench.baselines.echo", library, cores=terms.cores.server)
    reconnect = library == "hl7apy"
    try:
        port = json.loads(await first_line(server, f"{library}'s server"))["port"]
        for run, seconds in (("W", WARM_S), ("R", terms.seconds)):
            used_s = cpu_s(server.pid)
            heard = await announce(
                port, Template(kind, run), seconds=seconds, connections=connections, reconnect=reconnect
            )
            used_s = cpu_s(server.pid) - used_s
    finally:
        await end(server)
    return _sample(heard, used_s, ())


async def parse_messages(terms: Terms, library: str, message: Path) -> Sample:
    """A library's parser alone on such a message."""
    arguments = ("-m", "loadtest.bench.baselines.parsing", library, str(message), f"{terms.seconds}")
    return of_process(await figures(*arguments, terms=terms), "messages")


def _sample(heard: Acknowledged, used_s: float, wrong: Sequence[str]) -> Sample:
    return Sample(
        rate=heard.messages / heard.seconds,
        count=heard.messages,
        cpu_us=us_each(used_s, heard.messages),
        p50_ms=heard.p50_ms,
        p99_ms=heard.p99_ms,
        problems=(*heard.problems, *wrong),
    )
