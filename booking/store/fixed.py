"""Statements that are built once and executed often.

SQLAlchemy looks up, binds and wraps at each execution, which for a row by its key takes ten times what SQLite does. Where a
transaction runs on the event loop (`booking.store.here`), and on PostgreSQL (`booking.store.direct`), such a statement goes to
the driver as the text it became at its first use; everywhere else it is executed as any other.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Dialect, Executable, Select, Text, TypeDecorator, bindparam
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType, TypeEngine

_SQLITE = SQLiteDialect(paramstyle="named")
_POSTGRESQL: Dialect = PGDialect_asyncpg()  # type: ignore[no-untyped-call]


class Fixed:
    """A statement with all its values bound by name. `columns`: the names that an INSERT is given values for."""

    def __init__(self, statement: Executable, columns: Sequence[str] | None = None) -> None:
        self.statement = statement
        self._columns = columns
        self._names: list[str] = []  # of what it gives on SQLite, once it has given something

    @cached_property
    def _text(self) -> tuple[str, dict[str, Any], tuple[str, ...]]:
        """SQLite's text, the values that it holds itself, and the columns that are truth values."""
        compiled, own = self._compiled(_SQLITE)
        chosen = self.statement.selected_columns if isinstance(self.statement, Select) else ()
        return str(compiled), own, tuple(c.name for c in chosen if isinstance(c.type, Boolean))

    @cached_property
    def for_postgresql(self) -> tuple[str, dict[str, Any], tuple[str, ...]]:
        """PostgreSQL's text, the values that it holds itself, and the names of $1, $2 ..."""
        compiled, own = self._compiled(_POSTGRESQL)
        return str(compiled), own, tuple(compiled.positiontup or ())

    def _compiled(self, dialect: Dialect) -> tuple[Any, dict[str, Any]]:
        compiled = self.statement.compile(dialect=dialect, column_keys=self._columns)  # type: ignore[attr-defined]
        if "POSTCOMPILE" in str(compiled):
            raise TypeError("a list of values has another text for each length: see `is_one_of`")
        return compiled, {name: bind.value for name, bind in compiled.binds.items() if not bind.required}

    def rows(self, connection: sqlite3.Connection, values: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """Every row as a dictionary. Raises what the driver does; IntegrityError as everywhere."""
        text, own, flags = self._text
        cursor = _executed(connection, text, own, values or {})
        names = self._names = self._names or [column[0] for column in cursor.description]
        found = [dict(zip(names, row, strict=True)) for row in cursor]
        for flag in flags:
            for row in found:
                row[flag] = bool(row[flag])
        return found

    def run(
        self, connection: sqlite3.Connection, values: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
    ) -> int:
        """Execute, for each of several values in turn; returns the number of rows matched, in all of them."""
        text, own, _ = self._text
        if not isinstance(values, Sequence):
            return _executed(connection, text, own, values or {}).rowcount
        if len(values) == 1:
            return _executed(connection, text, own, values[0]).rowcount
        try:
            return connection.executemany(text, [_bound(own, one) for one in values]).rowcount
        except sqlite3.IntegrityError as e:
            raise IntegrityError(text, None, e) from e


def _executed(
    connection: sqlite3.Connection, text: str, own: dict[str, Any], given: Mapping[str, Any]
) -> sqlite3.Cursor:
    try:
        return connection.execute(text, _bound(own, given))
    except sqlite3.IntegrityError as e:
        raise IntegrityError(text, None, e) from e


def _bound(own: dict[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the driver is given: it takes no lists."""
    values = {**own, **given} if own else given
    if list in map(type, values.values()):
        return {name: json.dumps(value) if type(value) is list else value for name, value in values.items()}
    return values


# --- a list of texts as one value ----------------------------------------------------------------------------------


def is_one_of(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """Whether a column of text is among the texts of the bound list `name`, whose length the statement does not know."""
    return _OneOf(column, bindparam(name, type_=Texts()))


class Texts(TypeDecorator[list[str]]):
    """A list of texts: an array on PostgreSQL, JSON on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else ARRAY(Text()))

    def process_bind_param(self, value: list[str] | None, dialect: Dialect) -> Any:
        return json.dumps(value) if dialect.name == "sqlite" else value


class _OneOf(FunctionElement[Any]):
    name = "is_one_of"
    type = NullType()  # a truth value would be compared with 1 on SQLite, and no index helps there
    inherit_cache = True


@compiles(_OneOf, "sqlite")
def _in_json(element: _OneOf, compiler: SQLCompiler, **how: Any) -> str:
    column, texts = (compiler.process(part, **how) for part in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({texts}))"  # noqa: S608 - rendered by SQLAlchemy


@compiles(_OneOf, "postgresql")
def _in_array(element: _OneOf, compiler: SQLCompiler, **how: Any) -> str:
    column, texts = (compiler.process(part, **how) for part in element.clauses)
    return f"{column} = ANY ({texts})"
