"""Transactions of a PostgreSQL store in few round trips: under a hospital's lock each is one that its holds wait for.

SQLAlchemy asks every connection of its pool whether it lives (three round trips), begins by itself, and looks up, binds and
wraps at each execution. Here it stays in its autocommit mode: `begin` and the lock travel in one message, a read begins nothing,
since its statements would see no more of each other inside a transaction (READ COMMITTED), and a `Fixed` statement goes to the
driver as the text that it became at its first use. What is written and not counted waits, and leaves in one message before the
next statement, or in that of the commit. That a connection has died is found out by using it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from booking.store.fixed import Fixed

UNDO_TIMEOUT_S = 5.0

LOST = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""How the driver says that a connection has gone. It calls it internal when the server cuts one while it sends."""

_USED = "used"


class DirectConnection:
    """As much of SQLAlchemy's AsyncConnection as a `Tx` uses, and the driver's own connection behind it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        inner: Any = connection.sync_connection
        self._info: dict[str, Any] = inner.info
        self.raw: Any = inner.connection.driver_connection
        self.is_fresh = _USED not in self._info  # connected just now
        self._info[_USED] = True
        self._is_unsure = False
        self._later: list[str] = []

    async def execute(self, statement: Any, params: Any = None) -> Any:
        await self._catch_up()
        return await self._connection.execute(statement, params)

    @asynccontextmanager
    async def begin_nested(self) -> AsyncIterator[None]:
        await self._catch_up()
        async with self._connection.begin_nested():
            yield
            await self._catch_up()

    def later(self, statement: Fixed, values: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Execute before whatever comes next, which then raises what this does."""
        for one in values if isinstance(values, Sequence) else [values]:
            text, own, names = statement.for_postgresql
            given = _arguments(own, names, one)
            self._later.append(_MARK.sub(lambda found: _literal(given[int(found[1]) - 1]), text))  # noqa: B023

    async def _catch_up(self, *last: str) -> str:
        """Execute what is for later, and then this; returns the last command's tag."""
        waiting, self._later = [*self._later, *last], []
        if not waiting:
            return ""
        try:
            return str(await self.raw.execute(";\n".join(waiting)))
        except asyncpg.IntegrityConstraintViolationError as e:
            raise IntegrityError("one of several statements", None, e) from e

    async def rows(self, statement: Fixed, values: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """Every row as a dictionary. Raises what the driver does; IntegrityError as everywhere."""
        await self._catch_up()
        text, own, names = statement.for_postgresql
        try:
            found = await self.raw.fetch(text, *_arguments(own, names, values or {}))
        except asyncpg.IntegrityConstraintViolationError as e:
            raise IntegrityError(text, None, e) from e
        return [dict(row) for row in found]

    async def run(self, statement: Fixed, values: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> int:
        """Execute; of several values in one message, and then the number of rows is that of values."""
        await self._catch_up()
        text, own, names = statement.for_postgresql
        try:
            if isinstance(values, Sequence) and len(values) > 1:
                await self.raw.executemany(text, [_arguments(own, names, one) for one in values])
                return len(values)
            one = values[0] if isinstance(values, Sequence) else values
            status = await self.raw.execute(text, *_arguments(own, names, one or {}))
        except asyncpg.IntegrityConstraintViolationError as e:
            raise IntegrityError(text, None, e) from e
        return _count(status)

    async def commit(self) -> None:
        """Commit, with what is for later."""
        if await self._catch_up("commit") != "COMMIT":  # the server's word for a rollback: a statement had failed
            raise asyncpg.InFailedSQLTransactionError("a statement failed, so that nothing could be committed")

    async def undo(self) -> None:
        """Roll back, whatever has begun: a statement that was cut off may still begin something."""
        if self.raw.is_closed():
            return
        self._is_unsure = True
        with suppress(*LOST, asyncpg.PostgresError):
            await self.raw.execute("rollback", timeout=UNDO_TIMEOUT_S)
            self._is_unsure = False

    async def give_back(self) -> None:
        """To the pool; one that was left in a transaction, or in doubt, is ended. Cancelling does not cut it off."""
        await asyncio.shield(asyncio.ensure_future(self._give_back()))

    async def _give_back(self) -> None:
        if self._is_unsure or self.raw.is_closed() or self.raw.is_in_transaction():
            self.raw.terminate()
            await self._connection.invalidate()
        await self._connection.close()


def direct_of(connection: object) -> DirectConnection | None:
    """The connection of a transaction that runs here; None for any other."""
    return connection if isinstance(connection, DirectConnection) else None


Begin = Callable[[DirectConnection], Awaitable[Any]]
"""The first thing that is done on a connection; done again on another one where the connection proves dead."""


@asynccontextmanager
async def transaction(engine: AsyncEngine, begin: str) -> AsyncIterator[DirectConnection]:
    """A transaction that `begin`, SQL without parameters, begins. Committed at the end, rolled back by any exception."""
    direct = await _opened(engine, lambda one: one.raw.execute(begin))
    try:
        yield direct
        await direct.commit()
    except BaseException:
        await direct.undo()
        raise
    finally:
        await direct.give_back()


@asynccontextmanager
async def reading(engine: AsyncEngine, begin: Begin) -> AsyncIterator[DirectConnection]:
    """A connection to read from, statement by statement."""
    direct = await _opened(engine, begin)
    try:
        yield direct
    finally:
        await direct.give_back()


async def _opened(engine: AsyncEngine, begin: Begin) -> DirectConnection:
    """A connection on which `begin` was done. Those of the pool that have died since their last use are passed over."""
    while True:
        direct = DirectConnection(await engine.connect())
        try:
            if not direct.raw.is_closed():
                await begin(direct)
                return direct
            if direct.is_fresh:
                raise asyncpg.ConnectionDoesNotExistError("the server closed the connection at once")
        except BaseException as e:
            await direct.undo()
            await direct.give_back()
            if direct.is_fresh or not is_lost(e):
                raise
        else:
            await direct.give_back()


def is_lost(error: BaseException) -> bool:
    """Whether it was the connection that failed, and not what was asked of it. A time-out may be either."""
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate or "")[:2] in ("08", "57")
    return isinstance(error, LOST) and not isinstance(error, TimeoutError | ValueError)


def _arguments(own: Mapping[str, Any], names: Sequence[str], values: Mapping[str, Any]) -> list[Any]:
    return [values[name] if name in values else own[name] for name in names]


_MARK = re.compile(r"\$(\d+)")


def _literal(value: Any) -> str:
    """A value in the text of a statement (PostgreSQL manual, 4.1.2; `standard_conforming_strings` is on)."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"'{int(value)}'"  # quoted, or the sign of a negative one would bind less than the cast behind it
    if isinstance(value, str):
        if "\0" in value:  # it would end the whole message; bound to a statement it is refused as well
            raise ValueError("PostgreSQL has no text with U+0000")
        return "'" + str.__str__(value).replace("'", "''") + "'"
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'"
    if isinstance(value, list):
        return f"ARRAY[{', '.join(map(_literal, value))}]"
    raise TypeError(f"a {type(value).__name__} has no text here")


def _count(status: str) -> int:
    """The last word of a command's tag, as in `UPDATE 3`."""
    word = status.rpartition(" ")[2]
    return int(word) if word.isdigit() else 0
