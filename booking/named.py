"""Slots and schedules by their ids, any number in one statement, each found by its primary key.

The statements are written for each engine, as in `booking.snapshots.reading`: on tables that it has not counted PostgreSQL would
join all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import text

from booking.store.engine import Tx
from booking.store.fixed import Fixed

_SLOT = """
    x.id, x.schedule_id, x.date, x.starts_at_ms, x.ends_at_ms, x.status,
    case when s.waiting > 0 then 0 else x.his_left - x.held_back end as his_left, x.unreflected,
    s.department_id, s.department_name, coalesce(x.practitioner_id, s.practitioner_id) as practitioner_id,
    coalesce(x.practitioner_name, s.practitioner_name) as practitioner_name, s.session, s.clinic_type, s.fee_fen,
    s.opens_at_ms, s.quota - s.held_back as quota, s.taken, s.status as schedule_status"""
_SCHEDULE = """
    x.id, x.date, x.session, x.department_id, x.department_name, x.practitioner_id, x.practitioner_name, x.clinic_type, x.fee_fen,
    x.status, x.location"""
_EACH = {
    "sqlite": "json_each(:ids) as d cross join {table} as x on x.hospital_id = :hospital_id and x.id = d.value",
    # `offset 0` keeps each step on its own.
    "postgresql": """json_array_elements_text(cast(:ids as json)) as d(value) cross join lateral (
        select * from {table} where hospital_id = :hospital_id and id = d.value offset 0) as x""",
}
_ITS_SCHEDULE = {
    "sqlite": "cross join schedules as s on s.hospital_id = :hospital_id and s.id = x.schedule_id",
    "postgresql": """cross join lateral (
        select * from schedules where hospital_id = :hospital_id and id = x.schedule_id offset 0) as s""",
}
_SLOTS = {
    dialect: Fixed(text(f"select {_SLOT} from {each.format(table='slots')} {_ITS_SCHEDULE[dialect]}"))  # noqa: S608 - ours
    for dialect, each in _EACH.items()
}
_SCHEDULES = {
    dialect: Fixed(text(f"select {_SCHEDULE} from {each.format(table='schedules')}"))  # noqa: S608 - ours
    for dialect, each in _EACH.items()
}


async def slots_named(tx: Tx, slot_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The rows of these slots as in `catalog.list_slots`, by id; those that do not exist are missing."""
    return await _named(tx, _SLOTS[tx.dialect], slot_ids)


async def schedules_named(tx: Tx, schedule_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The rows of these schedules, by id; those that do not exist are missing."""
    return await _named(tx, _SCHEDULES[tx.dialect], schedule_ids)


async def _named(tx: Tx, statement: Fixed, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    if not ids:
        return {}
    told = msgspec.json.encode(sorted(set(ids))).decode()
    rows = await tx.all(statement, {"hospital_id": tx.hospital_id, "ids": told})
    return {row["id"]: row for row in rows}
