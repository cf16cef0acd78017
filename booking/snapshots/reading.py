"""Departments' days from the store: any number of them in one statement, each found through two indexes.

The statements are written for each engine, because the order of the steps must not be the planner's: on empty tables it
chooses another one, and keeps to it when they have filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import text

from booking.store.engine import Store
from booking.store.fixed import Fixed

Rows = list[dict[str, Any]]

_COLUMNS = """
    x.id, x.schedule_id, s.date, x.starts_at_ms, x.ends_at_ms, x.status,
    case when s.waiting > 0 then 0 else x.his_left - x.held_back end as his_left, x.unreflected,
    s.department_id, s.department_name, coalesce(x.practitioner_id, s.practitioner_id) as practitioner_id,
    coalesce(x.practitioner_name, s.practitioner_name) as practitioner_name, s.session, s.clinic_type, s.fee_fen,
    s.opens_at_ms, s.quota - s.held_back as quota, s.taken, s.status as schedule_status"""

STATEMENTS = {
    "sqlite": f"""
        select {_COLUMNS} from json_each(:days) as d
        cross join schedules as s on s.hospital_id = :hospital_id
            and s.date = json_extract(d.value, '$[0]') and s.department_id = json_extract(d.value, '$[1]')
        cross join slots as x on x.hospital_id = :hospital_id and x.schedule_id = s.id
        order by x.starts_at_ms, x.id""",  # noqa: S608 - names of columns of ours
    # `offset 0` keeps each step on its own: without it the planner may join in another order.
    "postgresql": f"""
        select {_COLUMNS}
        from json_array_elements(cast(:days as json)) as d(value)
        cross join lateral (
            select * from schedules where hospital_id = :hospital_id
                and date = d.value ->> 0 and department_id = d.value ->> 1 offset 0) as s
        cross join lateral (
            select * from slots where hospital_id = :hospital_id and schedule_id = s.id offset 0) as x
        order by x.starts_at_ms, x.id""",  # noqa: S608 - names of columns of ours
}
FIXED = {dialect: Fixed(text(statement)) for dialect, statement in STATEMENTS.items()}
DAYS_ON_LOOP = 2
"""So few are read and given back in less time than it takes to hand them to a thread."""


class DayKey(NamedTuple):
    """A department's day. Date and department "" stand for the hospital's lists of departments and practitioners."""

    hospital_id: str
    date: str
    department_id: str


async def read_days(store: Store, hospital_id: str, keys: Sequence[DayKey]) -> dict[DayKey, Rows]:
    """The slots of each day by start and id, as one committed state; days without slots are there and empty.

    The rows are those of `catalog.list_slots`, without what a reader is not shown. Raises StoreUnavailable.
    """
    days = msgspec.json.encode([(key.date, key.department_id) for key in keys]).decode()
    async with store.read(hospital_id, here=len(keys) <= DAYS_ON_LOOP) as tx:
        rows = await tx.all(FIXED[store.dialect], {"hospital_id": hospital_id, "days": days})
    found: dict[DayKey, Rows] = {key: [] for key in keys}
    for row in rows:
        found[DayKey(hospital_id, row["date"], row["department_id"])].append(row)
    return found
