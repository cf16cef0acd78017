"""Watching SQLite: every statement of every connection of this process, as it runs, with the steps that its program took.

A step is one instruction of SQLite's virtual machine; a row that is looked at costs a handful. The plan is asked for afterwards.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from tests.plans.findings import LARGE, Cost, without_values

STEPS_EACH = 50
MOST_STEPS = 60_000
"""What any one statement may take: a scan of the filled tables takes several times as much."""
_WATCHED = ("select", "insert", "update", "delete", "with")


class SqliteWatch:
    """`recording` says whether what runs now counts."""

    def __init__(self) -> None:
        self.recording = False
        self._ran: list[tuple[str, str, list[int]]] = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Every connection that is opened meanwhile is watched."""
        connect = sqlite3.connect

        def watched(database: Any, *arguments: Any, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(database, *arguments, **options)
            self._watch(connection, str(database))
            return connection

        places: tuple[Any, ...] = (
            sqlite3,
            sqlite3.dbapi2,
        )  # aiosqlite connects by the one, SQLAlchemy's own driver by the other
        for place in places:
            place.connect = watched
        try:
            yield
        finally:
            for place in places:
                place.connect = connect

    def _watch(self, connection: sqlite3.Connection, database: str) -> None:
        counted = [[0]]

        def begin(sql: str) -> None:
            counted[0] = [0]
            if self.recording and sql.lower().startswith(_WATCHED):
                self._ran.append((database, sql, counted[0]))

        def step() -> int:
            counted[0][0] += STEPS_EACH
            return 0

        connection.set_trace_callback(begin)
        connection.set_progress_handler(step, STEPS_EACH)

    def costs(self) -> list[Cost]:
        """The costliest call of each statement, with its plan."""
        worst: dict[tuple[str, str], tuple[str, int]] = {}
        for database, sql, (steps,) in self._ran:
            key = database, without_values(sql)
            if key not in worst or steps > worst[key][1]:
                worst[key] = sql, steps
        found = []
        for (database, general), (sql, steps) in worst.items():
            with closing(sqlite3.connect(database)) as connection:
                plan = [str(row[3]) for row in connection.execute(f"explain query plan {sql}")]
            found.append(Cost(general, _scanned(plan), steps, "\n".join(f"      {line}" for line in plan)))
        return found


def _scanned(plan: list[str]) -> tuple[str, ...]:
    """Tables read from end to end. A partial index holds only what the statement is about: it may be walked."""
    words = [line.split() for line in plan if line.startswith("SCAN ")]
    return tuple(w[1] for w in words if w[1] in LARGE and not {"ix_events_unnumbered", "ix_outbox_turn"} & set(w))
