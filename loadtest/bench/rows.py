"""The rows of the table (DESIGN section 11): what each is, what it is compared with, and its bar."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.bench import postgres
from loadtest.bench.crowd import (
    Ask,
    ask_for_fhir_bookings,
    ask_for_fhir_slots,
    ask_for_places,
    ask_for_seats,
    ask_for_slots,
)
from loadtest.bench.fhir import measure_sync
from loadtest.bench.inbound import hear_echo, hear_floor, hear_least, hear_messages, parse_messages
from loadtest.bench.installation import HIS_CONCURRENCY, HIS_LATENCY_MS, Installation, install
from loadtest.bench.messages import RESULTS, Template
from loadtest.bench.rounds import (
    Terms,
    ask_bare,
    ask_least,
    ask_product,
    book_alone,
    book_textbook,
)
from loadtest.bench.soap import read_by_lxml, read_by_zeep, read_ours, write_replies
from loadtest.bench.soap_reply import ROWS
from loadtest.bench.stats import Row, Sample

CONNECTIONS = 64
POOLS = (1, 2, 4, 8, 16, 32)
BARE = "a bare aiohttp handler"
HIS = f"HIS: HL7 v2 simulator, {HIS_LATENCY_MS:g} ms, his_concurrency {HIS_CONCURRENCY}"


@dataclass(frozen=True)
class Sizes:
    """Slots, bookings and patients of the small and the large store; `sync`: the Slots of a FHIR server."""

    small: int = 1_000
    large: int = 1_000_000
    crowd: int = 60_000
    sync: int = 100_000


@dataclass
class Stage:
    """What rows share: the installations and the PostgreSQL, made when first asked for, gone with `folder` and `stack`."""

    terms: Terms
    sizes: Sizes
    folder: Path
    stack: AsyncExitStack
    server: postgres.Server | None = None
    installations: dict[tuple[str, int, bool], Installation] = field(default_factory=dict)
    pools: dict[str, int] = field(default_factory=dict)
    syncs: list[dict[str, float]] = field(default_factory=list)

    async def database_server(self) -> postgres.Server:
        """The database server, on the cores of the load. Raises PostgresMissing."""
        if self.server is None:
            self.server = await self.stack.enter_async_context(postgres.running(self.terms.cores.load))
        return self.server

    async def installation(self, engine: str, size: int, *, room: bool = False) -> Installation:
        """The installation of this engine and so many slots and bookings, filled; with `room` it has a waiting room."""
        made = self.installations.get((engine, size, room))
        if made is None:
            # A name of its own each time: where one attempt has failed, the next row tries with nothing left of it.
            folder = Path(tempfile.mkdtemp(prefix=f"{engine}-{size}-", dir=self.folder))
            url, messages_url = f"sqlite:///{folder}/store.db", f"sqlite:///{folder}/messages.db"
            if engine == "postgresql":
                server = await self.database_server()
                url = await server.create_database(f"{folder.name}-store")
                messages_url = await server.create_database(f"{folder.name}-messages")
            made = await install(
                folder,
                url,
                messages_url,
                self.terms.cores,
                slots=size,
                bookings=size,
                crowd=self.sizes.crowd,
                room=room,
            )
            self.installations[engine, size, room] = made
        return made

    async def database_of(self, installation: Installation) -> postgres.Server | None:
        """The server whose CPU belongs beside an installation's."""
        return await self.database_server() if installation.url.startswith("postgresql") else None


@asynccontextmanager
async def staged(terms: Terms, sizes: Sizes, folder: Path) -> AsyncIterator[Stage]:
    """A stage that is cleared at the end."""
    async with AsyncExitStack() as stack:
        yield Stage(terms, sizes, folder, stack)


Measure = Callable[..., Awaitable[None]]
"""Adds the rounds of both sides to a row: given the stage, the row, and the rows of `beside`."""


@dataclass(frozen=True)
class Beside:
    """One more baseline for the same rounds of ours: a row of its own, whose key is the plan's and `suffix`."""

    suffix: str
    baseline_is: str
    bar: float | None


@dataclass(frozen=True)
class Plan:
    """A row before it is measured, and those that share its side of ours."""

    key: str
    what: str
    unit: str
    baseline_is: str
    bar: float | None
    measure: Measure
    beside: tuple[Beside, ...] = ()

    def rows(self) -> list[Row]:
        others = [Row(f"{self.key}-{b.suffix}", self.what, self.unit, b.baseline_is, b.bar) for b in self.beside]
        return [Row(self.key, self.what, self.unit, self.baseline_is, self.bar), *others]


async def _in_turn(
    stage: Stage, row: Row, ours: Callable[[], Awaitable[Sample]], baseline: Callable[[], Awaitable[Sample]]
) -> None:
    for _ in range(stage.terms.rounds):
        row.ours.append(await ours())
        row.baseline.append(await baseline())


def _against_bare(
    engine: str, connections: int, make: Callable[[Stage, Installation], Ask], *, room: bool = False
) -> Measure:
    async def measure(stage: Stage, row: Row) -> None:
        installation = await stage.installation(engine, stage.sizes.small, room=room)
        ask, answer = make(stage, installation), installation.folder / "answer.json"
        database = await stage.database_of(installation)
        await _in_turn(
            stage,
            row,
            lambda: ask_product(
                stage.terms, installation, ask, connections=connections, keep=answer, database=database
            ),
            lambda: ask_bare(stage.terms, ask, answer, connections=connections),
        )

    return measure


def _least(engine: str, make: Callable[[Stage, Installation], Ask]) -> Measure:
    """The least that is durable against the bare handler: both give the answer that the product gave."""

    async def measure(stage: Stage, row: Row) -> None:
        installation = await stage.installation("sqlite", stage.sizes.small)
        ask, answer = make(stage, installation), installation.folder / "answer.json"
        await ask_product(stage.terms, installation, ask, connections=CONNECTIONS, keep=answer)  # for its answer
        if engine == "sqlite":
            url, server = f"sqlite:///{installation.folder}/least.db", None
        else:
            server = await stage.database_server()
            url = await server.create_database("least")
        await _in_turn(
            stage,
            row,
            lambda: ask_least(stage.terms, ask, answer, url, connections=CONNECTIONS, database=server),
            lambda: ask_bare(stage.terms, ask, answer, connections=CONNECTIONS),
        )

    return measure


def _against_small(engine: str, make: Callable[[Stage, Installation], Ask]) -> Measure:
    async def measure(stage: Stage, row: Row) -> None:
        sides = [await stage.installation(engine, size) for size in (stage.sizes.large, stage.sizes.small)]
        asks = [make(stage, side) for side in sides]
        database = await stage.database_of(sides[0])
        large, small = (
            lambda side=side, ask=ask: ask_product(stage.terms, side, ask, connections=CONNECTIONS, database=database)
            for side, ask in zip(sides, asks, strict=True)
        )
        await _in_turn(stage, row, large, small)

    return measure


def _slots(days: int) -> Callable[[Stage, Installation], Ask]:
    return lambda stage, installation: ask_for_slots(installation, installation.folder, days=days)


def _seats(*, sold_out: bool = False) -> Callable[[Stage, Installation], Ask]:
    def make(stage: Stage, installation: Installation) -> Ask:
        return ask_for_seats(installation, installation.folder, seconds=stage.terms.seconds, sold_out=sold_out)

    return make


async def _fhir_book(stage: Stage, row: Row) -> None:
    """`$book` beside our own POST, for the same seats of the same store."""
    installation = await stage.installation("sqlite", stage.sizes.small)
    # The requests of each side have files of their own: both are there for all rounds.
    folders = [Path(tempfile.mkdtemp(dir=installation.folder)) for _ in range(2)]
    book = ask_for_fhir_bookings(installation, folders[0], seconds=stage.terms.seconds)
    post = ask_for_seats(installation, folders[1], seconds=stage.terms.seconds)
    ours, baseline = (
        lambda ask=ask: ask_product(stage.terms, installation, ask, connections=CONNECTIONS) for ask in (book, post)
    )
    await _in_turn(stage, row, ours, baseline)


def _places(stage: Stage, installation: Installation) -> Ask:
    return ask_for_places(installation, installation.folder, seconds=stage.terms.seconds)


def _joins(engine: str, connections: int) -> Measure:
    """Joining a waiting room. One hospital has seen 200,000 visits in the minute of its release (docs/load-test.md)."""
    beside_bare = _against_bare(engine, connections, _places, room=True)

    async def measure(stage: Stage, row: Row) -> None:
        await beside_bare(stage, row)
        row.notes["a minute, in the slowest round"] = f"{min(one.rate for one in row.ours) * 60:,.0f}"

    return measure


async def _engine(stage: Stage, row: Row) -> None:
    """The engine against the textbook at its best pool size; the conditional UPDATE beside it."""
    installation, server = await stage.installation("postgresql", stage.sizes.small), await stage.database_server()
    url = await server.create_database("textbook")
    terms = stage.terms
    for way in ("for_update", "conditional"):
        found = {
            pool: (await book_textbook(terms, url, server, way=way, pool=pool, seconds=terms.seconds / 2.5)).rate
            for pool in (POOLS[:2] if terms.short else POOLS)
        }
        stage.pools[way] = max(found, key=lambda pool: found[pool])
        row.notes[f"{way} by pool size"] = ", ".join(f"{pool}: {rate:,.0f}/s" for pool, rate in found.items())

    def textbook(way: str) -> Awaitable[Sample]:
        return book_textbook(terms, url, server, way=way, pool=stage.pools[way], seconds=terms.seconds)

    beside: list[float] = []

    async def baseline() -> Sample:
        beside.append((await textbook("conditional")).rate)
        return await textbook("for_update")

    await _in_turn(stage, row, lambda: book_alone(terms, installation, server), baseline)
    row.baseline_is += f", pool of {stage.pools['for_update']}"
    row.notes["conditional UPDATE, its best pool"] = f"{min(beside):,.0f} to {max(beside):,.0f}/s"


def _inbound(kind: str, connections: int) -> Measure:
    """One round of ours beside one of each baseline, in turn."""

    async def measure(stage: Stage, *rows: Row) -> None:
        installation = await stage.installation("sqlite", stage.sizes.small)
        await _hear(stage, rows, kind, connections, lambda: hear_messages(stage.terms, installation, kind, connections))

    return measure


def _floor(kind: str) -> Measure:
    """The same beside what no listener can be quicker than, on one connection."""

    async def measure(stage: Stage, *rows: Row) -> None:
        file = stage.folder / "floor.bytes"
        await _hear(stage, rows, kind, 1, lambda: hear_floor(stage.terms, kind, file))

    return measure


async def _hear(
    stage: Stage, rows: Sequence[Row], kind: str, connections: int, hear: Callable[[], Awaitable[Sample]]
) -> None:
    terms = stage.terms
    message = _example(stage, kind)
    rows[0].notes["message"] = f"{kind.upper()} of {message.stat().st_size} bytes"
    for _ in range(terms.rounds):
        ours = await hear()
        baselines = (
            await parse_messages(terms, "hl7apy", message),
            await parse_messages(terms, "hl7", message),
            await hear_echo(terms, "hl7", kind, connections),
            await hear_echo(terms, "hl7apy", kind, connections),
        )
        for row, baseline in zip(rows, baselines, strict=True):
            row.ours.append(ours)
            row.baseline.append(baseline)


async def _soap_reply(stage: Stage, *rows: Row) -> None:
    """One round of ours beside one of zeep's and one of lxml's, in turn."""
    replies = write_replies(stage.folder)
    sizes = f"{replies.packed.stat().st_size:,} bytes; typed {replies.typed.stat().st_size:,} bytes"
    rows[0].notes["reply"] = f"QueryAdmSchedule of {ROWS} schedules, {sizes}"
    for _ in range(stage.terms.rounds):
        ours = await read_ours(stage.terms, replies)
        baselines = await read_by_zeep(stage.terms, replies), await read_by_lxml(stage.terms, replies)
        for row, baseline in zip(rows, baselines, strict=True):
            row.ours.append(ours)
            row.baseline.append(baseline)


async def _fhir_slots(stage: Stage, *rows: Row) -> None:
    """A whole sync of ours beside the loops that validate its pages. What else it told is for the limits."""
    stage.syncs = await measure_sync(stage.terms, stage.folder, stage.sizes.sync, rows)


def _example(stage: Stage, kind: str) -> Path:
    message = stage.folder / f"{kind}.hl7"
    message.write_bytes(Template(kind, "M").message(1))
    return message


async def _least_siu(stage: Stage, row: Row) -> None:
    message, url = _example(stage, "siu"), f"sqlite:///{stage.folder}/least-messages.db"
    await _in_turn(
        stage, row, lambda: hear_least(stage.terms, url), lambda: parse_messages(stage.terms, "hl7apy", message)
    )


def plans(sizes: Sizes) -> list[Plan]:
    """Every row, in the order of the table."""
    small, large = f"{sizes.small:,}", f"{sizes.large:,}"
    of_small = f"the same at {small} slots and {small} bookings"
    at_large = f"at {large} slots and {large} bookings"
    sqlite, pg = "SQLite, synchronous=FULL", "PostgreSQL, one worker"
    posts = [
        Plan(f"post-{key}-{count}", f"durable POST booking, {of}, {count} connections", "requests", BARE, bar,
             _against_bare(engine, count, _seats()))
        for key, engine, of, bar in (("sqlite", "sqlite", sqlite, 0.35), ("pg", "postgresql", pg, 0.30))
        for count in (64, 256)
    ]  # fmt: skip
    joins = [
        Plan(f"join-{key}", f"durable POST ticket of a waiting room, {of}, 256 connections", "requests", BARE, None,
             _joins(engine, 256))
        for key, engine, of in (("sqlite", "sqlite", sqlite), ("pg", "postgresql", pg))
    ]  # fmt: skip
    scale = [
        Plan(
            f"scale-{verb}-{key}", f"{what} {at_large}, {of}", "requests", of_small, 0.90, _against_small(engine, make)
        )
        for key, engine, of in (("sqlite", "sqlite", "SQLite"), ("pg", "postgresql", "PostgreSQL"))
        for verb, what, make in (
            ("get", "GET slots (16 department-days in turn)", _slots(16)),
            ("post", "POST booking", _seats()),
        )
    ]
    parsers = (
        Beside("hl7", "python-hl7's hl7.parse alone", 2.0),
        Beside("hl7-server", "python-hl7's MLLP server, which only acknowledges", 1.0),
        Beside("hl7apy-server", "hl7apy's MLLP server, which only acknowledges; one message for each connection", 1.0),
    )
    inbound = [
        Plan(f"in-{kind}-{count}", f"inbound {what}: frame, read, map, store, ACK; {of}", "messages",
             "hl7apy.parse_message alone", 20.0, _inbound(kind, count), parsers)
        for kind, what in (("siu", "SIU^S12"), ("adt", "ADT^A04"), ("oru", f"ORU^R01 of {RESULTS} OBX"))
        for count, of in ((1, "one connection, stop and wait"), (16, "16 connections, each stop and wait"))
    ]  # fmt: skip
    written = "written to a file and acknowledged, one connection, stop and wait"
    floor = [
        Plan(f"floor-{kind}", f"for comparison: {kind.upper()} {written}", "messages", "hl7apy.parse_message alone", None,
             _floor(kind), tuple(Beside(one.suffix, one.baseline_is, None) for one in parsers))
        for kind in ("siu", "adt", "oru")
    ]  # fmt: skip
    one_row = "one row in one table, committed in batches, nothing decided"
    least = [
        Plan(f"least-{key}", f"for comparison: {one_row}, {of}, {CONNECTIONS} connections", "requests", BARE, None,
             _least(engine, _seats()))
        for key, engine, of in (("sqlite", "sqlite", sqlite), ("pg", "postgresql", pg))
    ]  # fmt: skip
    return [
        Plan("get", "GET slots (a day, 30 slots)", "requests", BARE, 0.75,
             _against_bare("sqlite", CONNECTIONS, _slots(1))),
        *posts,
        Plan("sold-out", "POST booking, sold out (409)", "requests", BARE, 0.70,
             _against_bare("sqlite", CONNECTIONS, _seats(sold_out=True))),
        *joins,
        Plan("fhir-get", "GET /fhir/R4/Slot (a day, 30 slots)", "requests", BARE, 0.80,
             _against_bare("sqlite", CONNECTIONS, lambda _, at: ask_for_fhir_slots(at, at.folder))),
        Plan("fhir-book", f"POST /fhir/R4/Appointment/$book, {sqlite}, {CONNECTIONS} connections", "requests",
             "our own POST booking, the same seats", 0.70, _fhir_book),
        Plan("engine", "engine alone on PostgreSQL, one hot slot", "bookings",
             "SELECT ... FOR UPDATE, one transaction each", 5.0, _engine),
        *inbound,
        Plan("soap-reply", f"SOAP reply of {ROWS} schedules, bytes to canonical records", "replies",
             "zeep's deserialisation of the same data as typed elements", 2.0, _soap_reply,
             (Beside("lxml", "a bare lxml parse of the envelope and of the document in it", 0.25),)),
        Plan("fhir-slots", f"FHIR sync of {sizes.sync:,} Slots: pages, strict validation, records", "Slots",
             "fhir.resources validates the same pages as Bundles, and nothing else", None, _fhir_slots,
             (Beside("models", "fhir.resources validates the Slots in them one by one, and nothing else", None),)),
        *scale,
        *least,
        Plan("least-siu", "for comparison: each message stored as it came, nothing read but its id", "messages",
             "hl7apy.parse_message alone", None, _least_siu),
        *floor,
    ]  # fmt: skip


def chosen(all_plans: list[Plan], names: list[str]) -> list[Plan]:
    """The plans whose key is one of `names` or begins with one and a dash. Raises ValueError for a name of none."""
    fits = {name: [p for p in all_plans if p.key == name or p.key.startswith(f"{name}-")] for name in names}
    strange = [name for name, found in fits.items() if not found]
    if strange:
        raise ValueError(
            f"no such row: {', '.join(strange)}; known: idle, delay, wsdl, {', '.join(p.key for p in all_plans)}"
        )
    wanted = {p.key for found in fits.values() for p in found}
    return [p for p in all_plans if p.key in wanted]
