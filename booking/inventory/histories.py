"""What the rules must know beside a batch's own facts: earlier bookings, and who the patients are.

Asked only where the hospital has such rules, once for each kind and batch: at most five statements, however many holds. All are
loops over primary keys and existing indexes; a subject has at most `MOST_LOOKED_AT` bookings that are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import bindparam, text

from booking.inventory.requests import Facts, HoldRequest
from booking.rules.facts import MOST_LOOKED_AT, Past, Someone, Visit, someone
from booking.rules.settings import Wanted
from booking.store.crypto import HospitalVault
from booking.store.fixed import Fixed, Texts
from mappings.canonical import Patient

DAY_MS = 24 * 3600 * 1000
MOST_PERSONS = 200
"""So many persons with one phone number are looked at: a made-up number may stand in thousands of records."""

Unseal = Callable[[bytes], bytes]
"""Opens `persons.sealed_record`."""
Question = tuple[Fixed, dict[str, Any]]

_SHOWN = "b.id, b.patient_id, b.state, b.created_ms, b.cancelled_ms, sc.date, sc.department_id"
_LISTS = ("subjects", "clients")
# `|| ''` keeps a column out of the choice of an index: there is no limit to a client's bookings.
_OF_PATIENT = "x.patient_id = p.id"
_OF_SQLITE_USER = "x.user_ref = i.value and x.client_id || '' = c.value"
_OF_USER = "x.user_ref = i.subject and x.client_id || '' = i.client"


def _fixed(sql: str, *lists: str) -> Fixed:
    return Fixed(text(sql).bindparams(*(bindparam(name, type_=Texts()) for name in lists)))


def _sqlite(subjects: str, whose: str, *lists: str) -> Fixed:
    """The newest bookings of each subject: SQLite joins in the order given."""
    return _fixed(
        f"select i.key as n, {_SHOWN} from json_each(:subjects) i{subjects}"  # noqa: S608 - words of ours
        " cross join bookings b on b.hospital_id = :hospital and b.created_ms >= :since and b.id in"
        f" (select x.id from bookings x where x.hospital_id = :hospital and {whose} order by x.id desc"
        f" limit {MOST_LOOKED_AT})"
        " cross join schedules sc on sc.hospital_id = :hospital and sc.id = b.schedule_id",
        *lists,
    )


def _postgres(subjects: str, whose: str, *lists: str) -> Fixed:
    """`limit` keeps the planner from joining in any other order than the one given."""
    names = "subject, client, n" if "clients" in lists else "subject, n"
    arrays = ", ".join(f"cast(:{name} as text[])" for name in lists)
    return _fixed(
        f"select cast(i.n as int) - 1 as n, {_SHOWN} from unnest({arrays}) with ordinality as i({names}){subjects}"  # noqa: S608
        f" cross join lateral (select * from bookings x where x.hospital_id = :hospital and {whose} order by x.id desc"
        f" limit {MOST_LOOKED_AT}) b"
        " cross join lateral (select s.date, s.department_id from schedules s where s.hospital_id = :hospital"
        " and s.id = b.schedule_id limit 1) sc where b.created_ms >= :since",
        *lists,
    )


_SQLITE_PATIENTS = " cross join patients p on p.hospital_id = :hospital and p.person_id = {}"
_SQLITE_OF_PHONE = (
    " cross join persons q on q.hospital_id = :hospital and q.id in (select z.id from persons z"  # noqa: S608
    f" where z.hospital_id = :hospital and z.phone_digest = i.value limit {MOST_PERSONS})"
)
_POSTGRES_PATIENTS = (
    " cross join lateral (select o.id from patients o where o.hospital_id = :hospital and o.person_id = {}"  # noqa: S608
    f" limit {MOST_LOOKED_AT}) p"
)
_POSTGRES_OF_PHONE = (
    " cross join lateral (select z.id from persons z where z.hospital_id = :hospital and z.phone_digest = i.subject"  # noqa: S608
    f" limit {MOST_PERSONS}) q"
)
_PERSONS = {
    "sqlite": _sqlite(_SQLITE_PATIENTS.format("i.value"), _OF_PATIENT, "subjects"),
    "postgresql": _postgres(_POSTGRES_PATIENTS.format("i.subject"), _OF_PATIENT, "subjects"),
}
_USERS = {
    "sqlite": _sqlite(" join json_each(:clients) c on c.key = i.key", _OF_SQLITE_USER, *_LISTS),
    "postgresql": _postgres("", _OF_USER, *_LISTS),
}
_PHONES = {
    "sqlite": _sqlite(_SQLITE_OF_PHONE + _SQLITE_PATIENTS.format("q.id"), _OF_PATIENT, "subjects"),
    "postgresql": _postgres(_POSTGRES_OF_PHONE + _POSTGRES_PATIENTS.format("q.id"), _OF_PATIENT, "subjects"),
}
_SEATS = {
    "sqlite": _fixed(
        "select i.value as schedule_id, b.slot_id, b.client_id, count(*) as seats from json_each(:subjects) i"
        " cross join bookings b on b.hospital_id = :hospital and b.schedule_id = i.value and b.occupies = 1"
        " group by i.value, b.slot_id, b.client_id",
        "subjects",
    ),
    "postgresql": _fixed(
        "select i.subject, b.slot_id, b.client_id, b.seats from unnest(cast(:subjects as text[])) as i(subject)"
        " cross join lateral (select x.slot_id, x.client_id, count(*) as seats from bookings x"
        " where x.hospital_id = :hospital and x.schedule_id = i.subject and x.occupies group by x.slot_id, x.client_id) b",
        "subjects",
    ),
}
_RECORDS = {
    "sqlite": _fixed(
        "select p.id, p.sealed_record, p.phone_digest from json_each(:subjects) i"
        " cross join persons p on p.hospital_id = :hospital and p.id = i.value",
        "subjects",
    ),
    "postgresql": _fixed(
        "select p.* from unnest(cast(:subjects as text[])) as i(subject) cross join lateral"
        " (select id, sealed_record, phone_digest from persons p where p.hospital_id = :hospital and p.id = i.subject"
        " limit 1) p",
        "subjects",
    ),
}


class Histories:
    """The questions of one batch, in the order in which they must be asked: each answer is given before the next question."""

    def __init__(
        self,
        dialect: str,
        hospital_id: str,
        wanted: Wanted,
        now_ms: int,
        persons: Iterable[str],
        users: Iterable[tuple[str, str]],
        schedules: Iterable[str],
        unseal: Unseal,
    ) -> None:
        self.past = Past()
        self._dialect = dialect
        self._of = {"hospital": hospital_id, "since": now_ms - wanted.days * DAY_MS}
        self._hospital = {"hospital": hospital_id}
        self._wanted = wanted
        self._persons = sorted(set(persons))
        self._users = sorted(set(users))
        self._schedules = sorted(set(schedules))
        self._unseal = unseal

    @classmethod
    def of_batch(
        cls,
        dialect: str,
        hospital_id: str,
        wanted: Wanted,
        requests: Sequence[HoldRequest],
        facts: Facts,
        unseal: Unseal,
    ) -> Histories:
        """Those of the persons and users of a batch, merges followed."""
        users = [
            (r.client_id, patient.user_ref if r.user_ref is None else r.user_ref)
            for r in requests
            if (patient := facts.patients.get((r.client_id, r.patient_id))) is not None
        ]
        persons = [patient.person_id for patient in facts.patients.values()]
        schedules = [slot.schedule.id for slot in facts.slots.values()]
        return cls(dialect, hospital_id, wanted, facts.now_ms, persons, users, schedules, unseal)

    def questions(self) -> Iterable[tuple[Question, Callable[[Iterable[Sequence[Any]]], None]]]:
        """Each statement with its values, and what takes its rows."""
        if self._wanted.of_records and self._persons:
            yield (_RECORDS[self._dialect], {**self._hospital, "subjects": self._persons}), self._take_records
        if self._wanted.of_persons and self._persons:
            yield self._bookings(_PERSONS, self.past.persons, self._persons)
        if self._wanted.of_users and self._users:
            clients, refs = [client for client, _ in self._users], [ref for _, ref in self._users]
            yield self._bookings(_USERS, self.past.users, self._users, refs, clients=clients)
        if self._wanted.of_channels and self._schedules:
            yield (_SEATS[self._dialect], {**self._hospital, "subjects": self._schedules}), self._take_seats
        if self._wanted.of_phones:
            phones = sorted({who.phone for who in self.past.people.values() if who.phone is not None})
            if phones:
                yield self._bookings(_PHONES, self.past.phones, phones)

    def _bookings(
        self,
        statement: dict[str, Fixed],
        into: Any,
        keys: Sequence[Any],
        subjects: Sequence[str] | None = None,
        **lists: Sequence[str],
    ) -> tuple[Question, Callable[[Iterable[Sequence[Any]]], None]]:
        def take(rows: Iterable[Sequence[Any]]) -> None:
            for n, booking_id, patient_id, state, created_ms, cancelled_ms, date, department_id in rows:
                into[keys[n]].append(
                    Visit(booking_id, patient_id, date, department_id, state, created_ms, cancelled_ms)
                )

        values = {**self._of, "subjects": list(keys if subjects is None else subjects), **lists}
        return (statement[self._dialect], values), take

    def _take_seats(self, rows: Iterable[Sequence[Any]]) -> None:
        for schedule_id, slot_id, client_id, seats in rows:
            self.past.seats[schedule_id][slot_id, client_id] += seats

    def _take_records(self, rows: Iterable[Sequence[Any]]) -> None:
        for person_id, sealed, phone in rows:
            self.past.people[person_id] = self._someone(sealed, phone)

    def _someone(self, sealed: bytes, phone: str | None) -> Someone:
        return someone(_decode(self._unseal(sealed)), phone)


def open_record(vault: HospitalVault, sealed: bytes) -> bytes:
    """The JSON of a person's record. Raises SealBroken."""
    return vault.unseal(sealed, "persons", "record")


_decode = msgspec.json.Decoder(Patient).decode
