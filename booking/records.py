"""Rows of the store as the booking rules see them."""

from __future__ import annotations

from typing import Any

import msgspec

from booking.lifecycle import Axes, Command, CommandStatus, HisState, State
from booking.rules.facts import phone_digits
from booking.store.crypto import Seals
from booking.store.engine import Tx
from mappings.canonical import HisRefs, Patient, Registration


class Booking(msgspec.Struct, kw_only=True):
    """One booking. Changed in place by `booking.moves` and written back with a new version.

    `moved_ms`: when the hospital last moved it (改诊, 替诊); who was moved may cancel without a cutoff.
    """

    hospital_id: str
    id: str
    order_no: str
    client_id: str
    user_ref: str
    patient_id: str
    person_id: str
    slot_id: str
    schedule_id: str
    version: int
    state: State
    his_state: HisState
    his_command: Command
    his_command_status: CommandStatus
    payment_state: str
    fee_fen: int
    live: bool
    occupies: bool
    charged: bool
    created_ms: int
    updated_ms: int
    needs_attention: bool = False
    lock_sent_ms: int | None = None
    lock_reply_ms: int | None = None
    unlock_sent_ms: int | None = None
    lock_by_ms: int | None = None
    pay_by_ms: int | None = None
    expires_at_ms: int | None = None
    cancelled_ms: int | None = None
    moved_ms: int | None = None
    reason: str | None = None
    his_id: str | None = None
    deferred_news: str | None = None
    registration: Registration | None = None
    his_refs: HisRefs = {}

    @property
    def axes(self) -> Axes:
        return Axes(self.state, self.his_state, self.his_command, self.his_command_status)

    @axes.setter
    def axes(self, axes: Axes) -> None:
        self.state, self.his_state = axes.state, axes.his_state
        self.his_command, self.his_command_status = axes.command, axes.status

    @property
    def line(self) -> str:
        """The outbox line in which this booking's commands follow each other."""
        return line_of(self.id)


def line_of(booking_id: str) -> str:
    """The outbox line of a booking."""
    return f"booking:{booking_id}"


def booking_from_row(tx: Tx, row: dict[str, Any]) -> Booking:
    """Decode a row of `bookings`, opening what is sealed."""
    row = dict(row)
    registration, refs = row.pop("sealed_registration"), row.pop("sealed_his_refs")
    booking = msgspec.convert(row, Booking)
    if registration is not None:
        booking.registration = msgspec.json.decode(
            tx.unseal(registration, "bookings", "registration"), type=Registration
        )
    if refs is not None:
        booking.his_refs = msgspec.json.decode(tx.unseal(refs, "bookings", "his_refs"), type=HisRefs)
    return booking


def booking_to_row(tx: Seals, booking: Booking) -> dict[str, Any]:
    """Encode for the table `bookings`, sealing what holds patient data."""
    row = msgspec.to_builtins(booking)
    registration, refs = row.pop("registration"), row.pop("his_refs")
    row["sealed_registration"] = (
        None if registration is None else tx.seal(msgspec.json.encode(registration), "bookings", "registration")
    )
    row["sealed_his_refs"] = tx.seal(msgspec.json.encode(refs), "bookings", "his_refs") if refs else None
    return dict(row)


class Person(msgspec.Struct, kw_only=True):
    """A person of one hospital; `record.mrn` is set once the HIS knows them (`his_state` linked)."""

    hospital_id: str
    id: str
    his_state: str
    record: Patient
    reject_code: str | None = None
    identity_digest: str | None = None
    mrn_digest: str | None = None
    merged_into: str | None = None
    created_ms: int = 0
    updated_ms: int = 0

    @property
    def line(self) -> str:
        return f"person:{self.id}"


def person_from_row(tx: Tx, row: dict[str, Any]) -> Person:
    """Decode a row of `persons`."""
    row = dict(row)
    record = msgspec.json.decode(tx.unseal(row.pop("sealed_record"), "persons", "record"), type=Patient)
    return msgspec.convert({**row, "record": record}, Person)


def person_to_row(tx: Tx, person: Person) -> dict[str, Any]:
    """Encode for the table `persons`."""
    row = {f: getattr(person, f) for f in person.__struct_fields__ if f != "record"}
    row["sealed_record"] = tx.seal(msgspec.json.encode(person.record), "persons", "record")
    phone = phone_digits(person.record.phone)
    row["phone_digest"] = None if phone is None else tx.digest("phone", phone)
    return row
