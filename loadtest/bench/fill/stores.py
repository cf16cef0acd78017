"""The databases of an installation, reached with SQL of our own: to fill them, to count, and to take back what a run left.

Column lists come from the database itself: a column that we do not name keeps its default, one that must have a value stops the
filling with its name. Both engines fill in one transaction, with the secondary indexes away.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import asyncpg

Row = dict[str, Any]
Tables = Mapping[str, Callable[[], Iterator[Row]]]


class CannotFill(Exception):
    """The store is not what can be filled; the text says why."""


@dataclass(frozen=True)
class ColumnFacts:
    """A column as the database describes it. `required`: it must be given a value."""

    name: str
    required: bool


class Database(Protocol):
    """One database. `?` marks parameters in both engines."""

    async def fill(self, tables: Tables, *, hospital_id: str) -> dict[str, int]:
        """Insert all rows, table by table; returns how many there are of each. Raises CannotFill, nothing is changed then."""
        ...

    async def rows(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]: ...

    async def change(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        """Execute statements in one transaction."""
        ...

    async def tidy(self, *tables: str) -> None:
        """Leave nothing of past changes in these tables that a later measurement would clear away."""
        ...


def open_database(url: str) -> Database:
    """The database behind a store URL: `sqlite:///file` or `postgresql://user@host:port/name`."""
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0] == "sqlite":
        return SqliteDatabase(Path(rest.removeprefix("/")))
    return PostgresDatabase(f"postgresql://{rest}")


def choose_columns(table: str, known: list[ColumnFacts], row: Row) -> list[str]:
    """Which columns to insert: those that the row names and the table has. Raises CannotFill.

    A schema may gain columns with defaults and lose optional ones; what it requires and nobody gives is an error here.
    """
    missing = [c.name for c in known if c.required and c.name not in row]
    if missing:
        raise CannotFill(f"{table} requires {', '.join(missing)}, which the filler does not know: extend fill/rows.py")
    return [c.name for c in known if c.name in row]


def checked(rows: Iterator[Row], columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """Rows as tuples in the order of `columns`."""
    for row in rows:
        yield tuple(row[c] for c in columns)


class SqliteDatabase:
    """A SQLite file. Nobody else may write to it meanwhile."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def fill(self, tables: Tables, *, hospital_id: str) -> dict[str, int]:
        connection = self._open()
        try:
            for pragma in ("synchronous=OFF", "cache_size=-500000", "temp_store=MEMORY"):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                filled = self._fill(connection, tables, hospital_id)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return filled
        finally:
            connection.close()

    def _fill(self, connection: sqlite3.Connection, tables: Tables, hospital_id: str) -> dict[str, int]:
        indexes = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
        away = [(name, sql) for name, sql in indexes.fetchall()]
        for name, _ in away:
            connection.execute(f'DROP INDEX "{name}"')
        filled: dict[str, int] = {}
        for table, make in tables.items():
            facts = [
                ColumnFacts(name, bool(required) and default is None)
                for _, name, _, required, default, _ in connection.execute(f'PRAGMA table_info("{table}")')
            ]
            if not facts:
                continue
            _must_be_empty(table, connection.execute(f"SELECT count(*) FROM {table} {_OF}", (hospital_id,)).fetchone())
            first = next(make(), None)
            columns = [] if first is None else choose_columns(table, facts, first)
            if columns:
                marks, names = ", ".join("?" * len(columns)), ", ".join(f'"{c}"' for c in columns)
                connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", checked(make(), columns))
            filled[table] = int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        for _, sql in away:
            connection.execute(sql)
        return filled

    async def rows(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        connection = self._open()
        try:
            return connection.execute(sql, arguments).fetchall()
        finally:
            connection.close()

    async def change(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        connection = self._open()
        try:
            connection.execute("BEGIN IMMEDIATE")
            for sql, arguments in statements:
                connection.execute(sql, arguments)
            connection.execute("COMMIT")
        finally:
            connection.close()

    async def tidy(self, *tables: str) -> None:
        connection = self._open()
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        if not self._file.is_file():
            raise CannotFill(f"{self._file}: there is no such store; `hisbridge migrate` makes one")
        connection = sqlite3.connect(self._file, timeout=30, isolation_level=None)
        connection.execute("PRAGMA foreign_keys=ON")
        return connection


class PostgresDatabase:
    """A PostgreSQL database. The password, where one is needed, comes from HISBRIDGE_STORE_PASSWORD."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def fill(self, tables: Tables, *, hospital_id: str) -> dict[str, int]:
        connection = await self._open()
        try:
            async with connection.transaction():
                filled = await self._fill(connection, tables, hospital_id)
            await connection.execute("VACUUM ANALYZE")  # now, or autovacuum does it while we measure
            await connection.execute("CHECKPOINT")
            return filled
        finally:
            await connection.close()

    async def _fill(self, connection: Any, tables: Tables, hospital_id: str) -> dict[str, int]:
        away = await connection.fetch(
            "SELECT i.indexname AS name, i.indexdef AS sql FROM pg_indexes i WHERE i.schemaname = current_schema()"
            " AND NOT EXISTS (SELECT 1 FROM pg_constraint c WHERE c.conname = i.indexname)"
        )
        for index in away:
            await connection.execute(f'DROP INDEX "{index["name"]}"')
        filled: dict[str, int] = {}
        for table, make in tables.items():
            found = await connection.fetch(
                "SELECT column_name, is_nullable, column_default FROM information_schema.columns"
                " WHERE table_name = $1 AND table_schema = current_schema() ORDER BY ordinal_position",
                table,
            )
            if not found:
                continue
            facts = [ColumnFacts(n, nullable == "NO" and default is None) for n, nullable, default in found]
            count = _numbered(f"SELECT count(*) FROM {table} {_OF}")
            _must_be_empty(table, await connection.fetchrow(count, hospital_id))
            first = next(make(), None)
            columns = [] if first is None else choose_columns(table, facts, first)
            if columns:
                await connection.copy_records_to_table(table, records=checked(make(), columns), columns=columns)
            filled[table] = await connection.fetchval(f"SELECT count(*) FROM {table}")
        for index in away:
            await connection.execute(index["sql"])
        return filled

    async def rows(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        connection = await self._open()
        try:
            return [tuple(row) for row in await connection.fetch(_numbered(sql), *arguments)]
        finally:
            await connection.close()

    async def change(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        connection = await self._open()
        try:
            async with connection.transaction():
                for sql, arguments in statements:
                    await connection.execute(_numbered(sql), *arguments)
        finally:
            await connection.close()

    async def tidy(self, *tables: str) -> None:
        connection = await self._open()
        try:
            # With ANALYZE, as autovacuum counts what was taken back as well, and would read these tables while we measure.
            await connection.execute(f"VACUUM (ANALYZE) {', '.join(tables)}")
        finally:
            await connection.close()

    async def _open(self) -> Any:
        return await asyncpg.connect(self._url, password=os.environ.get("HISBRIDGE_STORE_PASSWORD"))


_OF = "WHERE hospital_id = ?"


def _must_be_empty(table: str, count: Any) -> None:
    if count[0]:
        raise CannotFill(f"{table} has rows of this hospital already: fill a fresh store")


def _numbered(sql: str) -> str:
    """asyncpg's parameters are $1, $2 ..."""
    parts = sql.split("?")
    return parts[0] + "".join(f"${n}{part}" for n, part in enumerate(parts[1:], 1))
