"""What the rules look at beside the slot and the patient: earlier bookings, and who the patient is."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import msgspec

from booking.identity import ID_CARD, read_id_card
from booking.lifecycle import LIVE_STATES, State
from mappings.canonical import Patient, Sex

COUNTED = frozenset({*LIVE_STATES, State.FULFILLED, State.NO_SHOW})
"""The states of bookings that count against limits: the seat was taken, and has not been given back."""

MOST_LOOKED_AT = 1_000
"""So many bookings of one patient, user or phone are looked at. Who has more within the time has reached every limit."""


class Visit(msgspec.Struct, frozen=True):
    """One earlier booking: of which patient's handle, for which day and department, when it was made, and what became of it."""

    booking_id: str
    patient_id: str
    date: str
    department_id: str
    state: str
    created_ms: int
    cancelled_ms: int | None = None


Seat = tuple[str, str]
"""Of which slot, by which client."""


class Someone(msgspec.Struct, frozen=True):
    """What the rules may know of a person. `phone` is a digest."""

    birth_date: dt.date | None = None
    sex: str | None = None
    phone: str | None = None


UNKNOWN = Someone()


@dataclass(slots=True)
class Past:
    """The earlier bookings of a batch's persons, of its users (client, user_ref), and of its persons' phones (digests); and how
    many seats of its schedules are held, by slot and client.

    Those that the batch itself makes are added as it is decided.
    """

    people: dict[str, Someone] = field(default_factory=dict)
    persons: defaultdict[str, list[Visit]] = field(default_factory=lambda: defaultdict(list))
    users: defaultdict[tuple[str, str], list[Visit]] = field(default_factory=lambda: defaultdict(list))
    phones: defaultdict[str, list[Visit]] = field(default_factory=lambda: defaultdict(list))
    seats: defaultdict[str, Counter[Seat]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, visit: Visit, *, person_id: str, user: tuple[str, str], schedule_id: str, slot_id: str) -> None:
        """A booking that has just been granted."""
        self.seats[schedule_id][slot_id, user[0]] += 1
        self.persons[person_id].append(visit)
        self.users[user].append(visit)
        phone = self.people.get(person_id, UNKNOWN).phone
        if phone is not None:
            self.phones[phone].append(visit)

    def without(self, booking_id: str) -> Past:
        """The same, but for one booking: the one that is judged anew."""
        for by in (self.persons, self.users, self.phones):
            for visits in by.values():
                visits[:] = [visit for visit in visits if visit.booking_id != booking_id]
        return self


def phone_digits(phone: str | None) -> str | None:
    """A phone number as it is compared: its digits, without China's country code. None for one that is masked or too short."""
    if phone is None or "*" in phone:
        return None
    digits = "".join(str(int(sign)) for sign in phone if sign.isdecimal())  # of any script, full width too
    for prefix in ("0086", "86"):
        if digits.startswith(prefix) and len(digits) == len(prefix) + 11:
            digits = digits[len(prefix) :]
    return digits if len(digits) >= 5 else None


def someone(record: Patient, phone: str | None) -> Someone:
    """What the rules may know of a person with this record; a resident identity card says what the record leaves out.

    A guardian's card says nothing about the child.
    """
    birth_date, sex = record.birth_date, record.sex
    if record.id_type == ID_CARD and record.id_number and record.id_number != record.guardian_id_number:
        carried = read_id_card(record.id_number.upper())
        if carried is not None:
            birth_date, sex = birth_date or carried[0], carried[1] if sex == Sex.UNKNOWN else sex
    return Someone(birth_date, sex.value if sex in (Sex.MALE, Sex.FEMALE) else None, phone)


def age_on(birth_date: dt.date, day: dt.date) -> int:
    """Full years on a day. Who was born on 29 February is a year older on 1 March of other years."""
    return day.year - birth_date.year - ((day.month, day.day) < (birth_date.month, birth_date.day))
