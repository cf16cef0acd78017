"""Statements that are built once and executed often.

SQLAlchemy looks up, binds and wraps at each execution, which for a row by its key takes ten times what SQLite does. Where a
transaction runs on the event loop (`booking.store.here`) such a statement goes to the driver as the text it became at its
first use; everywhere else it is executed as any other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import Boolean, Executable, Select
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.exc import IntegrityError

_DIALECT = SQLiteDialect(paramstyle="named")


class Fixed:
    """A statement with all its values bound by name. `columns`: the names that an INSERT is given values for."""

    def __init__(self, statement: Executable, columns: Sequence[str] | None = None) -> None:
        self.statement = statement
        self._columns = columns

    @cached_property
    def _text(self) -> tuple[str, dict[str, Any], tuple[str, ...]]:
        """SQLite's text, the values that it holds itself, and the columns that are truth values."""
        compiled = self.statement.compile(dialect=_DIALECT, column_keys=self._columns)  # type: ignore[attr-defined]
        text = str(compiled)
        if "POSTCOMPILE" in text:
            raise TypeError("a list of values has another text for each length: it cannot be a fixed statement")
        own = {name: value for name, value in compiled.params.items() if value is not None}
        chosen = self.statement.selected_columns if isinstance(self.statement, Select) else ()
        return text, own, tuple(c.name for c in chosen if isinstance(c.type, Boolean))

    def rows(self, connection: sqlite3.Connection, values: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """Every row as a dictionary. Raises what the driver does; IntegrityError as everywhere."""
        text, own, flags = self._text
        cursor = _executed(connection, text, {**own, **(values or {})})
        names = [column[0] for column in cursor.description]
        found = [dict(zip(names, row, strict=True)) for row in cursor]
        for flag in flags:
            for row in found:
                row[flag] = bool(row[flag])
        return found

    def run(
        self, connection: sqlite3.Connection, values: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None
    ) -> int:
        """Execute, for each of several values in turn; returns the number of rows matched."""
        text, own, _ = self._text
        if isinstance(values, Sequence):
            for one in values[:-1]:
                _executed(connection, text, {**own, **one})
            values = values[-1]
        return _executed(connection, text, {**own, **(values or {})}).rowcount


def _executed(connection: sqlite3.Connection, text: str, values: dict[str, Any]) -> sqlite3.Cursor:
    try:
        return connection.execute(text, values)
    except sqlite3.IntegrityError as e:
        raise IntegrityError(text, None, e) from e
