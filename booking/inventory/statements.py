"""The SQL of a batch, for both engines. Tests explain these very texts on filled tables (`tests/booking/test_query_plans.py`).

What a planner makes of them must not depend on how full the tables were when they were prepared: all joins are nested loops
over primary keys and one partial unique index. SQLite joins in the given order; PostgreSQL is made to, and plans anew each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, Integer, LargeBinary, Table

from booking.inventory.rows import VARYING, WRITTEN
from booking.store.tables import OPEN_COMMAND

_COLUMNS = """
select i.n,
       k.body_digest, k.status, k.sealed_body, k.created_ms,
       p.person_id, ps.his_state, ps.reject_code, ps.merged_into,
       s.schedule_id, s.date, sc.department_id, s.starts_at_ms, sc.opens_at_ms,
       s.status, sc.status, sc.fee_fen, s.his_left - s.held_back, s.unreflected, sc.quota - sc.held_back, sc.taken,
       b.id, b.client_id, p.user_ref, sc.clinic_type, sc.waiting
from """
# What is joined to the input `i` (n, client_id, key, slot_id, patient_id), one after the other: table, alias, condition.
# `|| ''` keeps a column out of the choice of an index: there is no limit to a client's patients or a schedule's bookings.
_JOINS = (
    ("idempotency_keys", "k", "k.client_id = i.client_id and k.key = i.key"),
    ("patients", "p", "p.id = i.patient_id and p.client_id || '' = i.client_id and p.unbound_ms is null"),
    ("persons", "ps", "ps.id = p.person_id"),
    ("slots", "s", "s.id = i.slot_id"),
    ("schedules", "sc", "sc.id = s.schedule_id"),
    ("bookings", "b", "b.person_id = p.person_id and b.schedule_id || '' = s.schedule_id and {live}"),
)

_SQLITE_INPUT = """(
    select json_extract(value, '$[0]') as n, json_extract(value, '$[1]') as client_id, json_extract(value, '$[2]') as key,
           json_extract(value, '$[3]') as slot_id, json_extract(value, '$[4]') as patient_id
    from json_each(:items)
) i"""
_POSTGRES_INPUT = (
    "unnest($2::text::int[], $3::text::text[], $4::text::text[], $5::text::text[], $6::text::text[])"
    " as i(n, client_id, key, slot_id, patient_id)"
)


def _sqlite_gather() -> str:
    joins = [
        f"left join {t} {alias} on {alias}.hospital_id = :hospital_id and {on.format(live='b.live = 1')}"
        for t, alias, on in _JOINS
    ]
    return "\n".join((_COLUMNS + _SQLITE_INPUT, *joins))


def _postgres_gather() -> str:
    """Each table is asked once per row of the input: `limit 1` keeps the planner from joining in any other order.

    The hospital's clock moves on in the same statement: each round trip under the lock is one that others wait for.
    """
    joins = [
        f"left join lateral (select * from {t} {alias} where {alias}.hospital_id = $1"  # noqa: S608
        f" and {on.format(live='b.live')} limit 1) {alias} on true"
        for t, alias, on in _JOINS
    ]
    tick = TICK.format(h="$1", now="coalesce($7::bigint, (extract(epoch from clock_timestamp()) * 1000)::bigint)")
    columns = _COLUMNS.replace("select ", "select tick.last_ms, tick.writes, tick.room_ms, ", 1)
    return "\n".join((f"with tick as ({tick})", columns + f"tick cross join {_POSTGRES_INPUT}", *joins))


# A person who was merged into another, and the live bookings of the one who is left.
PERSON = "select his_state, reject_code, merged_into from persons where hospital_id = {0} and id = {1}"
LIVE = "select id, client_id from bookings where hospital_id = {0} and person_id = {1} and schedule_id = {2} and {3}"
RECALL = "select body_digest, status, sealed_body from idempotency_keys where hospital_id = {0} and client_id = {1} and key = {2}"
HURRY = (
    "update outbox set rank = {2} where hospital_id = {0} and line = {1} and rank > {2}"  # noqa: S608 - words of ours
    f" and {OPEN_COMMAND} and status in ('queued', 'unknown')"
)
# Places in the waiting room that is open, and when each was admitted. Only asked while one is.
_PLACE = (
    "select t.person_id, t.rank, t.holds, (select s.at_ms from waiting_steps s where s.hospital_id = t.hospital_id"
    " and s.release_ms = t.release_ms and s.watermark >= t.rank order by s.watermark limit 1)"
    " from waiting_tickets t where t.hospital_id = {0} and t.release_ms = {1} and t.person_id {2}"
)
_PLACE_USED = "update waiting_tickets set holds = {0} where hospital_id = {1} and release_ms = {2} and person_id = {3}"

TICK = """
insert into store_clock (hospital_id, last_ms, writes) values ({h}, {now}, 1)
on conflict (hospital_id) do update set writes = store_clock.writes + 1,
    last_ms = case when excluded.last_ms > store_clock.last_ms then excluded.last_ms else store_clock.last_ms end
returning last_ms, writes, room_ms
"""

SQLITE_GATHER = _sqlite_gather()
POSTGRES_GATHER = _postgres_gather()

# --- SQLite ---------------------------------------------------------------------------------------------------------

SQLITE_TICK = TICK.format(h="?", now="?")
SQLITE_SLOT = "update slots set unreflected = ?, booked = 1 where hospital_id = ? and id = ?"
SQLITE_SCHEDULE = "update schedules set taken = ?, booked = 1 where hospital_id = ? and id = ?"
SQLITE_FRAGMENT = (
    "insert into fragments (hospital_id, date, department_id, changed) values (?, ?, ?, ?)"
    " on conflict (hospital_id, date, department_id) do update set changed = excluded.changed"
)
# A key that is over its 24 hours is bound anew.
SQLITE_FORGET = "delete from idempotency_keys where hospital_id = ? and client_id = ? and key = ?"
SQLITE_PLACES = _PLACE.format("?1", "?2", "in (select value from json_each(?3))")
SQLITE_PLACE_USED = _PLACE_USED.format("?", "?", "?", "?")
SQLITE_LAST_EVENT = "select coalesce(max(seq), 0) from events where seq is not null"

MOST_ROWS = 64


class Insert(NamedTuple):
    """An insert of `size` rows that are alike but for what varies: `same` and `differ` pick a row's values for it."""

    text: str
    size: int
    same: Callable[[Sequence[Any]], Sequence[Any]]
    differ: Callable[[Sequence[Any]], Sequence[Any]]

    def values(self, rows: Sequence[Sequence[Any]]) -> list[Any]:
        """What is bound, in the order of the numbers."""
        bound = [*self.same(rows[0])]
        for row in rows:
            bound += self.differ(row)
        return bound


def sqlite_insert(table: Table, most: int) -> Insert:
    """An insert of the largest power of two that is no more than `most` and MOST_ROWS: few texts, each prepared once.

    One statement for many rows takes half of what one for each takes, and what they share is bound once.
    """
    return _sqlite_insert(table, min(MOST_ROWS, 1 << (most.bit_length() - 1)))


@cache
def _sqlite_insert(table: Table, size: int) -> Insert:
    names = [column.name for column in table.columns]
    differ = [n for n, name in enumerate(names) if name in VARYING[table.name]]
    same = [n for n, name in enumerate(names) if name not in VARYING[table.name]]
    number = {n: place for place, n in enumerate(same, start=1)}
    rows: list[str] = []
    for _ in range(size):
        first = len(same) + len(rows) * len(differ) + 1
        number |= {n: place for place, n in enumerate(differ, start=first)}
        rows.append(f"({', '.join(f'?{number[n]}' for n in range(len(names)))})")
    # `or rollback`: where a violation undoes all, SQLite need not note how to undo the statement, which costs as much again.
    text = f"insert or rollback into {table.name} ({', '.join(names)}) values {', '.join(rows)}"  # noqa: S608 - names of ours
    return Insert(text, size, itemgetter(*same), itemgetter(*differ))


# --- PostgreSQL -----------------------------------------------------------------------------------------------------

# A key that is over its 24 hours is bound anew; one that is not was read under the same lock, and decided about.
_BIND_ANEW = (
    " on conflict (hospital_id, client_id, key) do update set body_digest = excluded.body_digest,"
    " status = excluded.status, sealed_body = excluded.sealed_body, created_ms = excluded.created_ms"
)
_ON_CONFLICT = {"idempotency_keys": _BIND_ANEW}

# One look for each person, as above.
POSTGRES_PLACES = (
    "select p.* from unnest($3::text::text[]) as i(person_id) cross join lateral"  # noqa: S608
    f" ({_PLACE.format('$1', '$2', '= i.person_id')} limit 1) p"
)
POSTGRES_PLACE_USED = _PLACE_USED.format("$1::int", "$2", "$3", "$4")
POSTGRES_LOCK = "select pg_advisory_xact_lock(hashtextextended($1, 0))"


def _type_of(column: Column[Any]) -> str:
    match column.type:
        case BigInteger():
            return "bigint"
        case Integer():
            return "int"
        case Boolean():
            return "boolean"
        case LargeBinary():
            return "bytea"
    return "text"


def _postgres_write() -> str:
    """All that a batch writes, in one statement.

    $1 the hospital; $2 slots and $3 their charges; $4 schedules and $5 their seats taken; $6 dates and $7 departments of
    fragments, $8 the number of this write; then the columns of `WRITTEN`: what varies as an array, the rest as one value. Arrays
    go as texts (`array_literal`): asyncpg asks every element of every array twice whether it is a list itself.
    """
    parts = [
        "slot as (update slots t set unreflected = i.unreflected, booked = true"
        " from unnest($2::text::text[], $3::text::int[]) as i(id, unreflected)"
        " where t.hospital_id = $1 and t.id = i.id)",
        "schedule as (update schedules t set taken = i.taken, booked = true"
        " from unnest($4::text::text[], $5::text::int[]) as i(id, taken)"
        " where t.hospital_id = $1 and t.id = i.id)",
        "fragment as (insert into fragments (hospital_id, date, department_id, changed)"
        " select $1, i.date, i.department_id, $8::bigint"
        " from unnest($6::text::text[], $7::text::text[]) as i(date, department_id)"
        " on conflict (hospital_id, date, department_id) do update set changed = excluded.changed)",
    ]
    number = 9
    for table in WRITTEN:
        varying = [c.name for c in table.columns if c.name in VARYING[table.name]]
        values, arrays = [], []
        for n, column in enumerate(table.columns, start=number):
            if column.name in varying:
                arrays.append(f"${n}::{'bytea' if _is_bytes(column) else f'text::{_type_of(column)}'}[]")
            values.append(f"i.{column.name}" if column.name in varying else f"${n}::{_type_of(column)}")
        number += len(table.columns)
        rows = (
            f"insert into {table.name} ({', '.join(c.name for c in table.columns)}) select {', '.join(values)}"  # noqa: S608
            f" from unnest({', '.join(arrays)}) as i({', '.join(varying)})"
        )
        parts.append(f"new_{table.name} as ({rows}{_ON_CONFLICT.get(table.name, '')})")
    return "with " + ",\n".join(parts) + "\nselect 1"


def postgres_values(batch_rows: Sequence[Sequence[Sequence[Any]]]) -> list[Any]:
    """The values of `POSTGRES_WRITE` from $9 on, of the rows of each table of `WRITTEN`."""
    values: list[Any] = []
    for rows, columns in zip(batch_rows, _VARIES, strict=True):
        first = rows[0] if rows else None
        for n, (varies, is_bytes) in enumerate(columns):
            if not varies:
                values.append(None if first is None else first[n])
            else:
                column = [row[n] for row in rows]
                values.append(column if is_bytes else array_literal(column))
    return values


def array_literal(values: Sequence[str | int | bool | None]) -> str:
    """PostgreSQL's text of an array (chapter 8.15): JSON's with other brackets, but for what JSON writes with a backslash."""
    text = _encode(values).decode()
    if "\\" in text:
        return "{" + ",".join(_quoted(value) for value in values) + "}"
    return f"{{{text[1:-1]}}}"


def _quoted(value: str | int | bool | None) -> str:
    if not isinstance(value, str):
        return _encode(value).decode()
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _is_bytes(column: Column[Any]) -> bool:
    return isinstance(column.type, LargeBinary)


_encode = msgspec.json.Encoder().encode
_VARIES = [[(column.name in VARYING[table.name], _is_bytes(column)) for column in table.columns] for table in WRITTEN]
POSTGRES_WRITE = _postgres_write()
