"""The handles by which portals have a person, also those that stayed with a record which was merged into theirs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, select

from booking.store.engine import Tx
from booking.store.fixed import Fixed, is_one_of
from booking.store.tables import patients, persons

_MERGED = Fixed(
    select(persons.c.id).where(
        persons.c.hospital_id == bindparam("of_hospital"), persons.c.merged_into == bindparam("of_person")
    )
)
_HANDLES = Fixed(
    select(patients).where(
        patients.c.hospital_id == bindparam("of_hospital"),
        is_one_of(patients.c.person_id, "persons"),
        patients.c.unbound_ms.is_(None),
    )
)


async def handles_of(tx: Tx, person_id: str) -> list[dict[str, Any]]:
    """The bound handles to a person who has not been merged into another, by id: one of each client's user.

    Where a user had two records that became one, both lead to the person; while both are bound the survivor's is the one.
    """
    rows = await tx.all(_MERGED, {"of_hospital": tx.hospital_id, "of_person": person_id})
    ids = [person_id, *(row["id"] for row in rows)]
    found = await tx.all(_HANDLES, {"of_hospital": tx.hospital_id, "persons": ids})
    of_user: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(found, key=lambda row: (row["person_id"] != person_id, row["id"])):
        of_user.setdefault((row["client_id"], row["user_ref"]), row)
    return sorted(of_user.values(), key=lambda row: str(row["id"]))
