"""Two persons become one: what belonged to the retired one is handed over."""

from __future__ import annotations

import msgspec
from sqlalchemy import Table, bindparam, select, update

from booking.people.identities import claim_document
from booking.people.persons import save_person
from booking.records import Person
from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.tables import bookings, patients, person_mrns, persons, waitlist


async def merge(tx: Tx, *, survivor: Person, retired: Person) -> None:
    """Retired's patients, live bookings, places in line and numbers now belong to the survivor.

    Where both have the same (a handle of one user, a live booking at one schedule), retired keeps its own: a handle leads on to
    the survivor, and of two bookings none is cancelled by us, because the HIS has them both. Of two places in one line the sweep
    ends the later one.
    """
    retired.merged_into = survivor.id
    retired.his_state = "linked"
    await save_person(tx, retired)
    if survivor.identity_digest is None and retired.identity_digest is not None:
        # The document is how portals find them again.
        known, old = survivor.record, retired.record
        survivor.identity_digest = retired.identity_digest
        survivor.record = msgspec.structs.replace(
            known,
            name=known.name or old.name,
            id_type=old.id_type,
            id_number=old.id_number,
            card_type=known.card_type or old.card_type,
            card_number=known.card_number or old.card_number,
            birth_date=known.birth_date or old.birth_date,
            guardian_name=known.guardian_name or old.guardian_name,
            guardian_id_type=known.guardian_id_type or old.guardian_id_type,
            guardian_id_number=known.guardian_id_number or old.guardian_id_number,
        )
        await save_person(tx, survivor)
    await claim_document(tx, survivor)
    whose = {"of_hospital": tx.hospital_id, "of_retired": retired.id, "to_survivor": survivor.id}
    for statement in (_EARLIER, _HANDLES, _LIVE_BOOKINGS, _PLACES, _NUMBERS):
        await tx.run(statement, whose)
    tx.ring(f"person:{retired.id}")


def _handing_over(table: Table, *same: str) -> Fixed:
    """Give retired's rows to the survivor, except where the survivor has one with the `same` values already.

    Of bookings only the live ones: only they are looked for by person, and a long history would hold the lock for long.
    """
    mine = (table.c.hospital_id == bindparam("of_hospital")) & (table.c.person_id == bindparam("of_retired"))
    if "live" in table.c:
        mine &= table.c.live
    if same:
        own = table.alias("own")
        mine &= ~(
            select(own.c.hospital_id)
            .where(
                own.c.hospital_id == bindparam("of_hospital"),
                own.c.person_id == bindparam("to_survivor"),
                *(own.c[name] == table.c[name] for name in same),
            )
            .exists()
        )
    return Fixed(update(table).where(mine).values(person_id=bindparam("to_survivor")))


# Whoever was merged into the retired one before: handles that stayed with them are found from the survivor at once.
_EARLIER = Fixed(
    update(persons)
    .where(persons.c.hospital_id == bindparam("of_hospital"), persons.c.merged_into == bindparam("of_retired"))
    .values(merged_into=bindparam("to_survivor"))
)


_HANDLES = _handing_over(patients, "client_id", "user_ref")


_LIVE_BOOKINGS = _handing_over(bookings, "schedule_id", "live")


_PLACES = _handing_over(waitlist, "schedule_id", "live")


_NUMBERS = _handing_over(person_mrns)
