"""Bringing a database to this program's schema, and refusing one that is newer."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from booking.store.engine import SchemaMismatch

_LOCK = 7_304_152_201  # any constant: one migrator at a time (pg_advisory_lock)


def _async_url(url: str) -> URL:
    parsed = make_url(url)
    driver = "sqlite+aiosqlite" if parsed.get_backend_name() == "sqlite" else "postgresql+asyncpg"
    return parsed.set(drivername=driver)


def _config(scripts: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    return config


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


async def migrate(url: str, scripts: Path, *, version_table: str = "alembic_version") -> None:
    """Upgrade to the newest revision under `scripts`, in one locked transaction. Raises SchemaMismatch."""
    parsed = _async_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        await asyncio.to_thread(_prepare_file, Path(parsed.database))
    engine = create_async_engine(parsed, poolclass=NullPool)

    def upgrade(connection: Connection) -> None:
        config = _config(scripts)
        script = ScriptDirectory.from_config(config)
        context = MigrationContext.configure(connection, opts={"version_table": version_table})
        current = context.get_current_revision()
        if current is not None and current not in {r.revision for r in script.walk_revisions()}:
            raise SchemaMismatch(
                f"the database has schema {current}, which this program does not know: it is newer. Use the newer program."
            )
        config.attributes["connection"] = connection
        config.attributes["version_table"] = version_table
        command.upgrade(config, "head")

    try:
        async with engine.begin() as conn:
            if parsed.get_backend_name() != "sqlite":
                await conn.execute(text("select pg_advisory_xact_lock(:k)"), {"k": _LOCK})
            await conn.run_sync(upgrade)
    finally:
        await engine.dispose()


SCRIPTS = Path(__file__).parent / "migrations"
