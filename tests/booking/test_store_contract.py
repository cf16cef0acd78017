"""What the store promises, on both engines: schema, constraints, serialised writes, clock, errors, secrecy."""

from __future__ import annotations

import asyncio
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Column, Connection, MetaData, Table, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateTable

from booking.errors import Refusal
from booking.lifecycle import (
    LIVE_STATES,
    Axes,
    Command,
    CommandStatus,
    HisState,
    State,
    must_not_be,
    occupies,
)
from booking.settings import Hospital
from booking.store.crypto import SealBroken, Vault
from booking.store.engine import SchemaMismatch, Store, StoreUnavailable, Tx
from booking.store.migrate import SCRIPTS, migrate
from booking.store.tables import bookings, metadata, payments, refunds, schedules, slots, store_clock
from scheduler_sync.messages.store import SCRIPTS as MESSAGE_SCRIPTS
from scheduler_sync.messages.store import VERSION_TABLE
from scheduler_sync.messages.tables import metadata as message_metadata
from tests.booking.test_lifecycle import GRAPH
from tests.booking.world import (
    CLIENT,
    HOSPITAL,
    LI,
    ZHANG,
    answer,
    figures,
    get,
    hold,
    locked,
    make_payment,
    pay,
    put_patient,
    put_slot,
    send,
)
from tests.postgres import PostgresServer
from tests.stores import BEGIN_MS, UrlOf, Wall, make_vault, opened, unreachable

# --- schema -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def empty_url(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """An empty database of the engine."""
    if engine == "sqlite":
        return f"sqlite:///{tmp_path}/new/store.db"
    return str(request.getfixturevalue("postgres_url"))


async def differences(url: str, wanted: MetaData, version_table: str) -> list[Any]:
    """What alembic would change to make the database equal the tables."""
    driver = "sqlite+aiosqlite" if url.startswith("sqlite") else "postgresql+asyncpg"
    apart = create_async_engine(driver + url[url.index(":") :], poolclass=NullPool)

    def compare(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(
            connection, opts={"version_table": version_table, "compare_server_default": True}
        )
        return list(compare_metadata(context, wanted))

    try:
        async with apart.connect() as connection:
            return await connection.run_sync(compare)
    finally:
        await apart.dispose()


async def test_schema_equals_the_tables_when_migrated_twice(empty_url: str) -> None:
    await migrate(empty_url, SCRIPTS)
    await migrate(empty_url, SCRIPTS)
    assert await differences(empty_url, metadata, "alembic_version") == []


async def test_message_schema_equals_its_tables_when_migrated_twice(empty_url: str) -> None:
    for _ in range(2):
        await migrate(empty_url, MESSAGE_SCRIPTS, version_table=VERSION_TABLE)
    assert await differences(empty_url, message_metadata, VERSION_TABLE) == []


@pytest.mark.usefixtures("spoilt")
async def test_comparison_sees_a_difference_when_a_column_is_missing(store: Store) -> None:
    """The two tests above would prove nothing if the comparison were blind."""
    async with store.write(HOSPITAL) as tx:
        await tx.run(text("alter table slots drop column his_refs"))
    found = await differences(store.url.render_as_string(hide_password=False), metadata, "alembic_version")
    assert [(d[0], d[2]) for d in found] == [("add_column", "slots")]


async def test_constraints_are_in_the_database_when_it_was_migrated(store: Store) -> None:
    """Alembic compares no CHECKs: every one that the tables declare must be there by name."""
    wanted = {str(c.name) for t in metadata.tables.values() for c in t.constraints if str(c.name).startswith("ck_")}
    async with store.read() as tx:
        if store.dialect == "sqlite":
            rows = await tx.all(text("select sql from sqlite_master where sql is not null"))
            schema = "\n".join(r["sql"] for r in rows)
            found = {name for name in wanted if f"CONSTRAINT {name} " in schema}
        else:
            rows = await tx.all(text("select conname from pg_constraint where contype = 'c'"))
            found = {r["conname"] for r in rows}
    assert len(wanted) > 15
    assert wanted - found == set()


@pytest.mark.usefixtures("spoilt")
async def test_newer_schema_is_refused_when_an_older_program_starts(store: Store) -> None:
    async with store.write(HOSPITAL) as tx:
        await tx.run(text("update alembic_version set version_num = '9999_from_the_future'"))
    with pytest.raises(SchemaMismatch, match=r"9999_from_the_future.*newer program"):
        await migrate(store.url.render_as_string(hide_password=False), SCRIPTS)


async def test_one_migration_wins_when_two_start_together(engine: str, empty_url: str) -> None:
    if engine == "sqlite":  # one process owns a SQLite file; its migrator runs once, before anything else
        await migrate(empty_url, SCRIPTS)
    else:
        await asyncio.gather(migrate(empty_url, SCRIPTS), migrate(empty_url, SCRIPTS))
    assert await differences(empty_url, metadata, "alembic_version") == []


# --- constraints ------------------------------------------------------------------------------------------------------

# A row is first brought to (held, locked, register: queued, paid); then these values break one rule, which must be the named one.
_NO_COMMAND = {"his_command": "none", "his_command_status": "none"}
_OVER = {"live": False, "expires_at_ms": None, "payment_state": "void"}
_GONE = {**_OVER, **_NO_COMMAND, "occupies": False, "charged": False}
_VISIT = {**_NO_COMMAND, "expires_at_ms": None}

FORBIDDEN = [
    ("booked without registered", bookings, "booked_is_registered", {**_VISIT, "state": "booked"}),
    ("checked in without registered", bookings, "booked_is_registered", {**_VISIT, "state": "checked_in"}),
    ("fulfilled without registered", bookings, "booked_is_registered", {**_VISIT, "state": "fulfilled", "live": False}),
    ("no show without registered", bookings, "booked_is_registered", {**_VISIT, "state": "no_show", "live": False}),
    ("expired and still due", bookings, "nothing_due_when_over",
     {**_OVER, **_NO_COMMAND, "state": "expired", "payment_state": "due"}),
    ("rejected and still due", bookings, "nothing_due_when_over",
     {**_OVER, **_NO_COMMAND, "state": "rejected", "payment_state": "due"}),
    ("expired with money", bookings, "no_expiry_with_money",
     {**_OVER, **_NO_COMMAND, "state": "expired", "payment_state": "paid"}),
    ("expired, paid at the window", bookings, "no_expiry_with_money",
     {**_OVER, **_NO_COMMAND, "state": "expired", "payment_state": "paid_at_window"}),
    ("registered and still due", bookings, "registered_owes_nothing",
     {**_VISIT, "state": "booked", "his_state": "registered", "payment_state": "due"}),
    ("a fee that is not required", bookings, "fee_is_required", {"payment_state": "not_required"}),
    ("command without status", bookings, "command_status", {"his_command_status": "none"}),
    ("status without command", bookings, "command_status", {"his_command": "none"}),
    ("lock of what is locked", bookings, "command_needs", {"his_command": "lock"}),
    ("registration of what is not locked", bookings, "command_needs",
     {"state": "cancelling", "expires_at_ms": None, "his_state": "none"}),
    ("unlock of what is registered", bookings, "command_needs",
     {"state": "cancelling", "expires_at_ms": None, "his_state": "registered", "his_command": "unlock"}),
    ("cancel of what is only locked", bookings, "command_needs",
     {"state": "cancelling", "expires_at_ms": None, "his_command": "cancel"}),
    ("registration of what has expired", bookings, "command_state", {**_OVER, "state": "expired"}),
    ("lock for what is cancelled", bookings, "command_state",
     {**_OVER, "state": "cancelled", "his_state": "none", "his_command": "lock"}),
    ("unlock of what is held", bookings, "command_state", {"his_command": "unlock"}),
    ("cancel of what is booked", bookings, "command_state",
     {"state": "booked", "expires_at_ms": None, "his_state": "registered", "his_command": "cancel"}),
    ("held, and nobody locks it", bookings, "held_waits_or_locked",
     {**_NO_COMMAND, "his_state": "none", "occupies": False, "charged": False}),
    ("held, and released at the HIS", bookings, "held_waits_or_locked",
     {**_NO_COMMAND, "his_state": "released", "occupies": False, "charged": False}),
    ("cancelling, and nobody cancels it", bookings, "cancelling_waits",
     {**_NO_COMMAND, "state": "cancelling", "expires_at_ms": None}),
    ("rejected by nobody", bookings, "rejected_was_asked", {**_GONE, "state": "rejected", "his_state": "none"}),
    ("held and not live", bookings, "live", {"live": False}),
    ("over and live", bookings, "live", {**_GONE, "state": "cancelled", "his_state": "released", "live": True}),
    ("locked and no seat taken", bookings, "occupies", {"occupies": False, "charged": False}),
    ("released and a seat taken", bookings, "occupies",
     {**_GONE, "state": "cancelled", "his_state": "released", "occupies": True}),
    ("charged without a seat", bookings, "charged_occupies",
     {**_GONE, "state": "cancelled", "his_state": "released", "charged": True}),
    ("booked, and it expires", bookings, "only_holds_expire",
     {**_NO_COMMAND, "state": "booked", "his_state": "registered", "expires_at_ms": 1}),
    ("unknown state", bookings, "state", {**_OVER, **_NO_COMMAND, "state": "lost"}),
    ("unknown HIS state", bookings, "his_state", {**_GONE, "state": "cancelled", "his_state": "perhaps"}),
    ("unknown command", bookings, "his_command", {**_OVER, "state": "cancelled", "his_command": "pray"}),
    ("unknown status of a command", bookings, "his_command_status", {"his_command_status": "maybe"}),
    ("unknown state of payment", bookings, "payment_state", {"payment_state": "lent"}),
    ("negative fee", bookings, "fee", {"fee_fen": -1}),
    ("negative charge", slots, "unreflected", {"unreflected": -1}),
    ("negative figure of the HIS", slots, "his_left", {"his_left": -1}),
    ("slot that ends before it starts", slots, "span", {"ends_at_ms": 0}),
    ("slot of no status", slots, "status", {"status": "closed"}),
    ("negative schedule fee", schedules, "fee", {"fee_fen": -1}),
    ("fewer than no seats taken", schedules, "taken", {"taken": -1}),
    ("schedule of no status", schedules, "status", {"status": "closed"}),
    ("payment of nothing", payments, "amount", {"amount_fen": 0}),
    ("payment for two things", payments, "one_purpose", {"bill_id": "bl_1"}),
    ("payment for nothing", payments, "one_purpose", {"booking_id": None}),
    ("settlement of no kind", payments, "settlement", {"settlement": "maybe"}),
    ("settlement of money that was not kept", payments, "only_kept_is_settled", {"kept": False, "settlement": "settled"}),
    ("a piece of a payment that is for no bill", payments, "piece", {"piece": "bl_1"}),
    ("kept and unusable", payments, "unusable_is_not_kept", {"unusable": "wrong_amount", "kept": True}),
    ("refund of two things", refunds, "one_purpose", {"bill_id": "bl_1"}),
    ("refund of nothing", refunds, "one_purpose", {"booking_id": None}),
    ("refund of no status", refunds, "status", {"status": "promised"}),
    ("more goes back than was paid", payments, "returned", {"returned_fen": 10**9}),
    ("less than nothing goes back", payments, "returned", {"returned_fen": -1}),
    ("told in another word", refunds, "his", {"his": "maybe"}),
]  # fmt: skip


@pytest.mark.parametrize(("table", "rule", "values"), [f[1:] for f in FORBIDDEN], ids=[f[0] for f in FORBIDDEN])
async def test_row_is_refused_when_it_must_not_be(
    store: Store, hospital: Hospital, table: Any, rule: str, values: dict[str, Any]
) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    await pay(store, hospital, booking_id)
    if table is refunds:
        await pay(store, hospital, booking_id)  # a second payment goes back
    async with store.write(HOSPITAL) as tx:
        if table is bookings:
            at = Axes(State.HELD, HisState.LOCKED, Command.REGISTER, CommandStatus.QUEUED)
            assert await tx.run(table.update().values(**_place(at, "paid"))) == 1
        assert await tx.run(table.update().values(hospital_id=HOSPITAL)) == 1
    with pytest.raises(IntegrityError, match=rf"\bck_{table.name}_{rule}\b"):
        async with store.write(HOSPITAL) as tx:
            await tx.run(table.update().values(**values))


async def test_every_rule_of_the_store_has_a_row_that_breaks_it() -> None:
    ours = {
        str(c.name) for t in (bookings, slots, schedules, payments, refunds) for c in t.constraints
        if isinstance(c, CheckConstraint)
    }  # fmt: skip
    broken = {f"ck_{table.name}_{rule}" for _, table, rule, _ in FORBIDDEN}
    assert ours - broken == {"ck_refunds_amount"}  # copied from its payment, which has a row


def _place(at: Axes, payment_state: str) -> dict[str, Any]:
    """The columns of a booking that stands there."""
    return {
        "state": at.state,
        "his_state": at.his_state,
        "his_command": at.command,
        "his_command_status": at.status,
        "payment_state": payment_state,
        "live": at.state in LIVE_STATES,
        "occupies": occupies(at),
        "charged": occupies(at),
        "expires_at_ms": 1 if at.state == State.HELD else None,
    }


async def test_every_place_that_a_booking_can_come_to_is_allowed_by_the_store(store: Store, hospital: Hospital) -> None:
    await locked(store, hospital, await put_slot(store), await put_patient(store))
    assert len(GRAPH) > 50
    async with store.write(HOSPITAL) as tx:
        for at in GRAPH:
            for payment_state in ("due", "void", "paid", "paid_at_window", "refund_due"):
                if must_not_be(at, payment_state) == []:
                    await tx.run(bookings.update().values(**_place(at, payment_state)))
        for at in GRAPH:
            assert any(must_not_be(at, p) == [] for p in ("due", "void")), at


@pytest.mark.usefixtures("spoilt")
async def test_store_and_rules_forbid_the_same_when_every_combination_is_tried(
    store: Store, hospital: Hospital
) -> None:
    """4,000 combinations of axes and money: the CHECKs and `must_not_be` are two copies of one truth."""
    await locked(store, hospital, await put_slot(store), await put_patient(store))
    async with store.read(HOSPITAL) as tx:
        row = await tx.first(select(bookings))
    assert row is not None
    every = product(State, HisState, Command, CommandStatus, ("due", "paid", "paid_at_window", "void"))
    places = {f"{n}": (Axes(a, b, c, d), money) for n, (a, b, c, d, money) in enumerate(every)}
    async with store.write(HOSPITAL) as tx:
        allowed = await _allowed(tx, [row | {"id": n, **_place(*place)} for n, place in places.items()])
    assert 0 < len(allowed) < len(places)
    assert [place for n, place in places.items() if (n in allowed) != (must_not_be(*place) == [])] == []


async def _allowed(tx: Tx, rows: list[dict[str, Any]]) -> set[str]:
    """The ids of those rows that the CHECKs of the migrated table let in. One statement: one for each would take minutes."""
    names = ", ".join(c.name for c in bookings.c)
    tried = Table("tried", MetaData(), *(Column(c.name, c.type, primary_key=c.name == "id") for c in bookings.c))
    await tx.run(CreateTable(tried))
    await tx.insert(tried, *rows)
    if tx.dialect == "sqlite":
        made = await tx.first(text("select sql from sqlite_master where name = 'bookings'"))
        assert made is not None
        await tx.run(text(made["sql"].replace("bookings", "let_in", 1)))
        await tx.run(text(f"insert or ignore into let_in ({names}) select {names} from tried"))
    else:
        await tx.run(text("create table let_in (like bookings including constraints)"))
        await tx.run(
            text(
                "do $$ declare one record; begin for one in select id from tried loop begin"
                f" insert into let_in ({names}) select {names} from tried where id = one.id;"
                " exception when check_violation then null; end; end loop; end $$"
            )
        )
    return {one["id"] for one in await tx.all(text("select id from let_in"))}


async def test_second_live_booking_is_refused_by_the_store_when_the_rules_were_bypassed(
    store: Store, hospital: Hospital
) -> None:
    slot_id, patient_id = await put_slot(store), await put_patient(store)
    first = await hold(store, hospital, slot_id, patient_id)
    async with store.read(HOSPITAL) as tx:
        row = await tx.first(select(bookings).where(bookings.c.id == first.id))
    assert row is not None
    row |= {"id": "another", "order_no": "00000000000000000001"}
    over = {**_place(Axes(State.CANCELLED, HisState.NONE, Command.NONE), "void")}
    with pytest.raises(IntegrityError):
        async with store.write(HOSPITAL) as tx:
            await tx.insert(bookings, row)
    async with store.write(HOSPITAL) as tx:  # one that is over may stand beside it
        await tx.insert(bookings, row | over)


async def test_payment_stays_unique_when_its_booking_is_long_over(store: Store, hospital: Hospital, wall: Wall) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    payment = make_payment()
    await pay(store, hospital, booking_id, payment)
    wall.turn(400 * 24 * 3600)
    async with store.read(HOSPITAL) as tx:
        row = await tx.first(select(payments))
    assert row is not None
    with pytest.raises(IntegrityError):
        async with store.write(HOSPITAL) as tx:
            await tx.insert(payments, row | {"kept": False, "booking_id": "another"})


async def test_two_kept_payments_are_refused_when_the_rules_were_bypassed(store: Store, hospital: Hospital) -> None:
    booking_id = await locked(store, hospital, await put_slot(store), await put_patient(store))
    await pay(store, hospital, booking_id)
    async with store.read(HOSPITAL) as tx:
        row = await tx.first(select(payments))
    assert row is not None
    with pytest.raises(IntegrityError):
        async with store.write(HOSPITAL) as tx:
            await tx.insert(payments, row | {"trade_no": "another"})


# --- transactions -----------------------------------------------------------------------------------------------------


async def test_one_hold_wins_when_many_want_the_last_seat(store: Store, hospital: Hospital) -> None:
    slot_id = await put_slot(store, 1)
    patients = [await put_patient(store, ZHANG), await put_patient(store, LI)]
    results = await asyncio.gather(*(hold(store, hospital, slot_id, p) for p in patients * 4), return_exceptions=True)
    refused = [r.code for r in results if isinstance(r, Refusal)]
    assert len(refused) == 7
    assert set(refused) <= {"slot_sold_out", "duplicate_booking"}
    assert await figures(store, slot_id) == (1, 1)


@pytest.mark.usefixtures("spoilt")
async def test_writes_of_one_hospital_never_interleave_when_they_come_together(store: Store) -> None:
    """Read, wait, write back: without the lock, increments are lost."""
    async with store.write("counter") as tx:
        await tx.run(text("create table tally (n integer)"))
        await tx.run(text("insert into tally values (0)"))

    async def add_one() -> None:
        async with store.write(HOSPITAL) as tx:
            row = await tx.first(text("select n from tally"))
            assert row is not None
            await asyncio.sleep(0.002)
            await tx.run(text("update tally set n = :n"), {"n": row["n"] + 1})

    await asyncio.gather(*(add_one() for _ in range(12)))
    async with store.read() as tx:
        assert await tx.first(text("select n from tally")) == {"n": 12}


async def test_writers_of_two_stores_wait_for_each_other_when_they_are_two_processes(
    database: UrlOf, hospital: Hospital, wall: Wall
) -> None:
    url = database("store")
    async with opened(url, wall=wall) as one, opened(url, wall=wall) as two:
        slot_id = await put_slot(one, 1)
        patients = [await put_patient(one, ZHANG), await put_patient(one, LI)]
        results = await asyncio.gather(
            hold(one, hospital, slot_id, patients[0]),
            hold(two, hospital, slot_id, patients[1]),
            return_exceptions=True,
        )
        assert [r.code for r in results if isinstance(r, Refusal)] == ["slot_sold_out"]
        assert await figures(two, slot_id) == (1, 1)


async def test_nothing_is_kept_and_nobody_woken_when_a_write_fails(store: Store) -> None:
    heard = store.bell.listen("topic")

    async def fail() -> None:
        async with store.write(HOSPITAL) as tx:
            tx.ring("topic")
            await tx.insert(store_clock, {"hospital_id": "h2", "last_ms": 1})
            raise Refusal("slot_sold_out")

    with pytest.raises(Refusal):
        await fail()
    async with store.read() as tx:
        assert await tx.all(select(store_clock)) == []
    assert not heard.done()
    async with store.write(HOSPITAL) as tx:
        tx.ring("topic")
        assert not heard.done()
    assert heard.done()


async def test_reader_sees_only_what_is_committed_when_a_write_is_open(store: Store) -> None:
    async with store.write(HOSPITAL) as tx:
        await tx.insert(store_clock, {"hospital_id": "h2", "last_ms": 1})
        async with store.read("h2") as reader:
            assert await reader.all(select(store_clock)) == []


async def test_place_is_given_back_when_a_caller_gives_up(store: Store) -> None:
    """More calls are cancelled than there are connections; the store still works, and the lock is free."""
    for n in range(20):
        task = asyncio.create_task(_hold_open(store))
        await asyncio.sleep(n / 2_000)  # wherever it is then; in the middle of a statement: test_given_up
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with store.write(HOSPITAL) as tx:  # which waits 5 s for a place, a turn or a lock
        assert tx.now_ms == BEGIN_MS


async def _hold_open(store: Store) -> None:
    async with store.write(HOSPITAL):
        await asyncio.sleep(60)


# --- clock ------------------------------------------------------------------------------------------------------------


async def test_clock_never_runs_backwards_when_the_wall_clock_is_turned_back(store: Store, wall: Wall) -> None:
    seen = []
    for seconds in (0, 10, -3600, 3599, 2):
        wall.turn(seconds)
        async with store.write(HOSPITAL) as tx:
            seen.append((tx.now_ms - BEGIN_MS) // 1000)
    assert seen == [0, 10, 10, 10, 11]


async def test_clock_stands_on_the_committed_time_when_another_store_follows(database: UrlOf, wall: Wall) -> None:
    url = database("store")
    async with opened(url, wall=wall) as ahead, ahead.write(HOSPITAL):
        pass
    async with opened(url, wall=lambda: BEGIN_MS - 60_000) as behind:
        async with behind.write(HOSPITAL) as tx:
            assert tx.now_ms == BEGIN_MS
        async with behind.write("h2") as tx:  # hospitals do not share their clocks
            assert tx.now_ms == BEGIN_MS - 60_000


async def test_clock_is_the_databases_when_none_is_given(database: UrlOf) -> None:
    async with opened(database("store")) as real:
        async with real.write(HOSPITAL) as tx:
            first = tx.now_ms
        async with real.write(HOSPITAL) as tx:
            assert tx.now_ms >= first
    assert 1_600_000_000_000 < first < 4_000_000_000_000


# --- a store that is away ---------------------------------------------------------------------------------------------


async def _read_and_write(store: Store) -> None:
    with pytest.raises(StoreUnavailable):
        async with store.read() as tx:
            await tx.all(select(store_clock))
    with pytest.raises(StoreUnavailable):
        async with store.write(HOSPITAL):
            pass


async def test_store_is_unavailable_when_it_cannot_be_reached(engine: str, tmp_path: Path) -> None:
    async with unreachable(engine, tmp_path) as gone:
        await _read_and_write(gone)


@pytest.mark.usefixtures("spoilt")
async def test_store_is_unavailable_when_the_database_is_read_only(
    database: UrlOf, request: pytest.FixtureRequest
) -> None:
    url = database("store")
    async with opened(url) as usual, usual.read() as open_elsewhere:
        if usual.dialect == "sqlite":
            frozen_url = url.replace("sqlite:///", "sqlite:///file:") + "?mode=ro&uri=true"
        else:
            server: PostgresServer = request.getfixturevalue("postgres_server")
            server.run_sql(f"alter database {url.rpartition('/')[2]} set default_transaction_read_only = on")
            frozen_url = url
        async with opened(frozen_url) as frozen:
            with pytest.raises(StoreUnavailable):
                async with frozen.write(HOSPITAL):
                    pass
            async with frozen.read() as tx:
                assert await tx.all(select(store_clock)) == []
        assert await open_elsewhere.all(select(store_clock)) == []


async def test_store_is_unavailable_when_the_server_takes_nobody(
    postgres_server: PostgresServer, postgres_originals: dict[str, str]
) -> None:
    """As while PostgreSQL starts up again: the connection is refused by the server itself, not by the network."""
    name = postgres_server.create_database(template=postgres_originals["store"])
    postgres_server.run_sql(f"alter database {name} allow_connections false")
    try:
        async with opened(postgres_server.url(name)) as closed:
            await _read_and_write(closed)
    finally:
        postgres_server.drop_database(name)


async def test_store_comes_back_when_its_connections_were_cut(
    postgres_server: PostgresServer, postgres_originals: dict[str, str]
) -> None:
    name = postgres_server.create_database(template=postgres_originals["store"])
    cut = f"select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = '{name}'"

    async def write_while_cut(store: Store) -> None:
        async with store.write(HOSPITAL) as tx:
            assert int(await asyncio.to_thread(postgres_server.run_sql, cut)) >= 1
            await tx.all(select(store_clock))

    try:
        async with opened(postgres_server.url(name)) as store:
            with pytest.raises(StoreUnavailable):
                await write_while_cut(store)
            async with store.write(HOSPITAL) as tx:
                assert len(await tx.all(select(store_clock))) == 1
    finally:
        postgres_server.drop_database(name)


async def test_reason_holds_no_values_when_the_store_fails(store: Store) -> None:
    statement = {
        "sqlite": "insert into no_such_table values (:name)",
        "postgresql": "select pg_terminate_backend(pg_backend_pid()), :name",
    }[store.dialect]
    with pytest.raises(StoreUnavailable) as raised:
        async with store.write(HOSPITAL) as tx:
            await tx.run(text(statement), {"name": "张伟"})
    assert "张伟" not in str(raised.value)


# --- secrecy ----------------------------------------------------------------------------------------------------------


async def test_patient_data_is_nowhere_in_the_clear_when_a_patient_has_booked(
    store: Store, hospital: Hospital, request: pytest.FixtureRequest
) -> None:
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    await send(store, booking.id)
    await answer(store, hospital, booking.id, his_refs={"mark": "张伟的预约"})
    raw = dump(store, request)
    assert booking.order_no.encode() in raw  # the dump does show what is not sealed
    for secret in (ZHANG.name, ZHANG.phone, ZHANG.id_number, ZHANG.address, "张伟的预约"):
        assert secret is not None
        for encoded in (secret.encode(), secret.encode("gb18030"), secret.encode("unicode_escape")):
            assert encoded not in raw
            assert encoded.hex().encode() not in raw
    assert (await get(store, booking.id)).his_refs == {"mark": "张伟的预约"}


def dump(store: Store, request: pytest.FixtureRequest) -> bytes:
    """Every byte of the database: its files, or all rows of all tables as the server writes them."""
    if store.dialect == "sqlite":
        files = Path(str(store.url.database)).parent.glob("*.db*")
        return b"".join(f.read_bytes() for f in files)
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = str(store.url.database)
    return "\n".join(server.run_sql(f"copy {table} to stdout", database=name) for table in metadata.tables).encode()


async def test_values_open_under_the_new_program_when_the_data_key_was_rotated(database: UrlOf, wall: Wall) -> None:
    url = database("store")
    old = make_vault("k1", 1)
    both = Vault({"k2": b"\2" * 32, "k1": b"\1" * 32}, b"d" * 32)
    async with opened(url, wall=wall, vault=old) as store:
        patient_id = await put_patient(store)
    async with opened(url, wall=wall, vault=both) as store:
        assert await put_patient(store, ZHANG) == patient_id
    async with opened(url, wall=wall, vault=make_vault("k2", 2)) as store:
        with pytest.raises(SealBroken):
            await put_patient(store, ZHANG, client=CLIENT)
