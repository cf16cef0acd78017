"""Bringing a database to this program's schema, and refusing one that is newer."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, column, event, inspect, select, table, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from booking.store.engine import SchemaMismatch

_LOCK = 7_304_152_201  # any constant: one migrator at a time (pg_advisory_lock)


def _async_url(url: str) -> URL:
    parsed = make_url(url)
    driver = "sqlite+aiosqlite" if parsed.get_backend_name() == "sqlite" else "postgresql+asyncpg"
    return parsed.set(drivername=driver)


def _prepare_file(path: Path) -> None:
    """Make the database's file for its owner alone, and put it into WAL mode before there is anybody to race with.

    SQLite refuses at once, without its busy timeout, when two connections change the journal mode side by side.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path, timeout=10)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def _begin_at_once(engine: AsyncEngine) -> None:
    """SQLite's driver begins no transaction before DDL by itself: each statement would be a commit of its own."""

    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def newest_revision(scripts: Path) -> str:
    """The revision that the scripts lead to: the one of the last file, by name."""
    last = max((scripts / "versions").glob("[0-9]*.py"))
    (revision,) = re.findall(r'^revision = "(\w+)"$', last.read_text(encoding="utf-8"), re.MULTILINE)
    return str(revision)


def _revision(connection: Connection, version_table: str) -> str | None:
    if not inspect(connection).has_table(version_table):
        return None
    return connection.scalar(select(column("version_num")).select_from(table(version_table)))


def _upgrade(connection: Connection, scripts: Path, version_table: str) -> None:
    current = _revision(connection, version_table)
    if current == newest_revision(scripts):
        return
    # Nearly every start has returned above, and spares the time and memory that Alembic takes.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    if current is not None and current not in {
        r.revision for r in ScriptDirectory.from_config(config).walk_revisions()
    }:
        raise SchemaMismatch(
            f"the database has schema {current}, which this program does not know: it is newer. Use the newer program."
        )
    config.attributes["connection"] = connection
    config.attributes["version_table"] = version_table
    command.upgrade(config, "head")


async def migrate(url: str, scripts: Path, *, version_table: str = "alembic_version") -> None:
    """Upgrade to the newest revision under `scripts`, in one locked transaction. Raises SchemaMismatch."""
    parsed = _async_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        await asyncio.to_thread(_prepare_file, Path(parsed.database))
    engine = create_async_engine(parsed, poolclass=NullPool)
    if parsed.get_backend_name() == "sqlite":
        _begin_at_once(engine)

    try:
        async with engine.begin() as conn:
            if parsed.get_backend_name() != "sqlite":
                await conn.execute(text("select pg_advisory_xact_lock(:k)"), {"k": _LOCK})
            await conn.run_sync(_upgrade, scripts, version_table)
    finally:
        await engine.dispose()


async def has_schema(engine: AsyncEngine, scripts: Path, *, version_table: str = "alembic_version") -> bool:
    """Whether a database has the newest revision under `scripts`. Raises what the driver raises where it is away."""

    def look(connection: Connection) -> bool:
        return _revision(connection, version_table) == newest_revision(scripts)

    async with engine.connect() as conn:
        return await conn.run_sync(look)


SCRIPTS = Path(__file__).parent / "migrations"
