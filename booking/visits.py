"""Registrations as the HIS tells them: of our own bookings, and of visits that were made elsewhere (window, phone)."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from sqlalchemy import bindparam, select

from booking.bookings import find_by_visit, hear_registration
from booking.news import tell_owners
from booking.people import mrn_digests, owner_ids
from booking.records import Person
from booking.settings import Hospital
from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.ids import derived_id
from booking.store.tables import registrations
from mappings.canonical import Registration


class RegistrationRow(msgspec.Struct, kw_only=True):
    """A registration as stored; `booking_id` is set when it is one of ours."""

    hospital_id: str
    id: str
    status: str
    record: Registration
    order_no: str | None = None
    his_id: str | None = None
    mrn_digest: str | None = None
    booking_id: str | None = None
    starts_at_ms: int | None = None
    ends_at_ms: int | None = None
    occurred_ms: int | None = None
    updated_ms: int = 0


def _row(tx: Tx, row: dict[str, Any]) -> RegistrationRow:
    row = dict(row)
    record = tx.unseal(row.pop("sealed_record"), "registrations", "record")
    row["record"] = msgspec.json.decode(record, type=Registration)
    return msgspec.convert(row, RegistrationRow)


def _ms(instant: dt.datetime | None) -> int | None:
    return None if instant is None else round(instant.timestamp() * 1000)


_KNOWN = Fixed(
    select(registrations).where(
        registrations.c.hospital_id == bindparam("of_hospital"), registrations.c.id == bindparam("of_id")
    )
)


async def hear_visit(tx: Tx, hospital: Hospital, told: Registration, *, occurred_at: dt.datetime | None) -> None:
    """Store the HIS's word on a registration and move our booking, if it is one of ours.

    Events carry the HIS's own time; an older one than the last heard is dropped, equal ones keep the order of arrival.
    """
    key = told.order_no or told.his_id
    if key is None:
        return
    row_id = derived_id("rg_", tx.hospital_id, key)
    known_row = await tx.first(_KNOWN, {"of_hospital": tx.hospital_id, "of_id": row_id})
    known = None if known_row is None else _row(tx, known_row)
    occurred_ms = _ms(occurred_at)
    if known is not None and known.occurred_ms is not None:
        if occurred_ms is None:
            occurred_ms = known.occurred_ms  # a word without a time does not make the known time unknown
        elif occurred_ms < known.occurred_ms:
            return
    booking = await find_by_visit(tx, told)
    mrn_digest = None if told.mrn is None else tx.digest("mrn", told.mrn)
    await tx.upsert(
        registrations,
        [
            {
                "hospital_id": tx.hospital_id,
                "id": row_id,
                "status": told.status.value,
                "order_no": told.order_no,
                "his_id": told.his_id,
                "mrn_digest": mrn_digest,
                "booking_id": None if booking is None else booking.id,
                "starts_at_ms": _ms(told.starts_at),
                "ends_at_ms": _ms(told.ends_at),
                "occurred_ms": occurred_ms,
                "updated_ms": tx.now_ms,
                "sealed_record": tx.seal(msgspec.json.encode(told), "registrations", "record"),
            }
        ],
    )
    if booking is not None:
        await hear_registration(tx, hospital, booking, told)
    elif mrn_digest is not None and (known is None or known.record != told):
        person_id = await owner_ids(tx, mrn_digest)
        if person_id is not None:
            await tell_owners(
                tx, person_id, "registration.changed", {"registration_id": row_id, "status": told.status.value}
            )


async def visits_of(tx: Tx, person: Person) -> list[RegistrationRow]:
    """Every registration that the HIS has told of this person, latest start first."""
    digests = await mrn_digests(tx, person)
    rows = await tx.all(
        select(registrations)
        .where(registrations.c.hospital_id == tx.hospital_id, registrations.c.mrn_digest.in_(digests))
        .order_by(registrations.c.starts_at_ms.desc(), registrations.c.id)
        .limit(200)
    )
    return [_row(tx, r) for r in rows]
