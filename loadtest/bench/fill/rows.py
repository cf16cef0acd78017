"""The rows of a filled store, table by table, as dictionaries by column. Streams: a million of them never stand in memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

from loadtest.bench.fill.layout import (
    DAY_MS,
    SCHEDULES_A_DAY,
    SLOTS_A_DAY,
    SLOTS_A_SCHEDULE,
    Layout,
    Visit,
    at_ms,
    uuid7,
)
from loadtest.bench.fill.sealing import Sealer

Row = dict[str, Any]

KEPT_MS = 29 * DAY_MS  # commands and events are kept for 30 days: older ones would be deleted while we measure
CROWD_SEATS = 1_000_000
VARIANTS = 64  # different sealed values of a kind: what is inside is not looked at, only that it opens


class Rows:
    """Makes the rows of one layout. `tables` gives every table that is filled, in the order of filling."""

    def __init__(self, layout: Layout, sealer: Sealer) -> None:
        self._layout = layout
        self._sealer = sealer
        self._occupying: Counter[int] = Counter()
        self._charged: Counter[int] = Counter()
        self._booked: set[int] = set()
        for visit in layout.visits():
            self._booked.add(visit.slot)
            if visit.occupies:
                self._occupying[visit.slot // SLOTS_A_SCHEDULE] += 1
            if visit.charged:
                self._charged[visit.slot] += 1

    def tables(self) -> dict[str, Callable[[], Iterator[Row]]]:
        return {
            "store_clock": self._store_clock,
            "departments": self._departments,
            "practitioners": self._practitioners,
            "schedules": self._schedules,
            "fragments": self._fragments,
            "slots": self._slots,
            "persons": self._persons,
            "person_mrns": self._person_mrns,
            "patients": self._patients,
            "bookings": self._bookings,
            "payments": self._payments,
            "outbox": self._outbox,
            "idempotency_keys": self._idempotency_keys,
            "events": self._events,
        }

    # --- what can be booked --------------------------------------------------------------------------------------

    def _store_clock(self) -> Iterator[Row]:
        yield {"hospital_id": self._layout.hospital_id, "last_ms": self._layout.now_ms, "writes": 1}

    def _departments(self) -> Iterator[Row]:
        for number in range(self._layout.departments):
            yield {
                "hospital_id": self._layout.hospital_id,
                "id": self._layout.department_id(number),
                "name": f"第{number}诊室",
            }

    def _practitioners(self) -> Iterator[Row]:
        for number in range(self._layout.departments * SCHEDULES_A_DAY):
            yield {
                "hospital_id": self._layout.hospital_id,
                "id": f"P{number:04d}",
                "name": f"医生{number}",
                "department_id": self._layout.department_id(number // SCHEDULES_A_DAY),
                "title": "主任医师",
            }

    def _schedules(self) -> Iterator[Row]:
        layout = self._layout
        for number in range(-(-layout.slots // SLOTS_A_SCHEDULE)):
            department_day, part = divmod(number, SCHEDULES_A_DAY)
            department, day = layout.department(department_day), layout.day(department_day)
            practitioner = department * SCHEDULES_A_DAY + part
            yield {
                "hospital_id": layout.hospital_id,
                "id": layout.schedule_id(number),
                "his_id": f"{department}||{number}",
                "date": day.isoformat(),
                "session": "am",
                "department_id": layout.department_id(department),
                "department_name": f"第{department}诊室",
                "practitioner_id": f"P{practitioner:04d}",
                "practitioner_name": f"医生{practitioner}",
                "clinic_type": "专家门诊",
                "fee_fen": layout.fee_fen,
                "status": "open",
                "opens_at_ms": at_ms(day, 7) - 7 * DAY_MS,
                "taken": self._occupying[number],
                "seen_ms": layout.now_ms - 60_000,
                "booked": any(
                    slot in self._booked for slot in range(number * SLOTS_A_SCHEDULE, (number + 1) * SLOTS_A_SCHEDULE)
                ),
            }

    def _fragments(self) -> Iterator[Row]:
        for number in range(self._layout.department_days):
            yield {
                "hospital_id": self._layout.hospital_id,
                "date": self._layout.day(number).isoformat(),
                "department_id": self._layout.department_id(self._layout.department(number)),
                "changed": 1,
            }

    def _slots(self) -> Iterator[Row]:
        layout = self._layout
        his_left = {layout.crowd_day: CROWD_SEATS, layout.sold_out_day: 0}
        for number in range(layout.slots):
            department_day, starts_ms = number // SLOTS_A_DAY, layout.starts_ms(number)
            yield {
                "hospital_id": layout.hospital_id,
                "id": layout.slot_id(number),
                "schedule_id": layout.schedule_id(number // SLOTS_A_SCHEDULE),
                "his_id": f"{number}",
                "date": layout.day(department_day).isoformat(),
                "starts_at_ms": starts_ms,
                "ends_at_ms": starts_ms + 15 * 60_000,
                "status": "open",
                "his_left": his_left.get(department_day, self._charged[number] + number % 4),
                "unreflected": self._charged[number],
                "fetch_started_ms": layout.now_ms - DAY_MS,
                "fetch_ended_ms": layout.now_ms - DAY_MS + 1_000,
                "booked": number in self._booked,
            }

    # --- people --------------------------------------------------------------------------------------------------

    def _persons(self) -> Iterator[Row]:
        layout, created_ms = self._layout, self._layout.now_ms - 400 * DAY_MS
        for number in range(layout.persons):
            id_number = f"1101011990{number:07d}X"
            record = {
                "name": f"患者{number}",
                "mrn": _mrn(number),
                "id_type": "passport",
                "id_number": id_number,
                "phone": f"139{number:08d}",
            }
            yield {
                "hospital_id": layout.hospital_id,
                "id": layout.person_id(number),
                "identity_digest": self._sealer.digest("identity", f"passport:{id_number}"),
                "mrn_digest": self._sealer.digest("mrn", _mrn(number)),
                "his_state": "linked",
                "sealed_record": self._sealer.seal(_json(record), "persons", "record"),
                "created_ms": created_ms,
                "updated_ms": created_ms,
            }

    def _person_mrns(self) -> Iterator[Row]:
        for number in range(self._layout.persons):
            yield {
                "hospital_id": self._layout.hospital_id,
                "mrn_digest": self._sealer.digest("mrn", _mrn(number)),
                "person_id": self._layout.person_id(number),
            }

    def _patients(self) -> Iterator[Row]:
        for number in range(self._layout.persons):
            yield {
                "hospital_id": self._layout.hospital_id,
                "id": self._layout.patient_id(number),
                "client_id": self._layout.client_id,
                "user_ref": f"user-{number}",
                "person_id": self._layout.person_id(number),
                "created_ms": self._layout.now_ms - 399 * DAY_MS,
            }

    # --- bookings and what belongs to them -------------------------------------------------------------------------

    def _bookings(self) -> Iterator[Row]:
        layout = self._layout
        registrations = self._sealed({"status": "registered", "queue_no": "7"}, "bookings", "registration")
        refs = self._sealed({"appointment": "T0000001"}, "bookings", "his_refs")
        for visit in layout.visits():
            row = {
                "hospital_id": layout.hospital_id,
                "id": visit.id,
                "order_no": _order_no(visit),
                "client_id": layout.client_id,
                "user_ref": f"user-{visit.person}",
                "patient_id": layout.patient_id(visit.person),
                "person_id": layout.person_id(visit.person),
                "slot_id": layout.slot_id(visit.slot),
                "schedule_id": layout.schedule_id(visit.slot // SLOTS_A_SCHEDULE),
                "fee_fen": layout.fee_fen,
                "live": visit.live,
                "occupies": visit.occupies,
                "charged": visit.charged,
                "needs_attention": False,
                "lock_sent_ms": visit.created_ms + 100,
                "lock_reply_ms": visit.created_ms + 300,
                "lock_by_ms": visit.created_ms + 60_000,
                "his_id": f"T{visit.number:08d}",
                "sealed_registration": registrations[visit.number % VARIANTS] if visit.paid else None,
                "sealed_his_refs": refs[visit.number % VARIANTS],
                "created_ms": visit.created_ms,
                "updated_ms": visit.created_ms + 1_000,
                "his_command": "none",
                "his_command_status": "none",
                "reason": None,
                "unlock_sent_ms": None,
                "pay_by_ms": None,
                "expires_at_ms": None,
            }
            row.update(_STATES[visit.kind])
            row.update(self._deadlines(visit))
            yield row

    def _deadlines(self, visit: Visit) -> Row:
        """A hold that is in the store stays there: nothing of it falls due while we measure."""
        if visit.kind == "held":
            return {"pay_by_ms": self._layout.now_ms + DAY_MS, "expires_at_ms": self._layout.now_ms + DAY_MS}
        if visit.kind == "expired":
            return {"unlock_sent_ms": visit.created_ms + 900_000, "reason": "not_paid_in_time"}
        return {}

    def _payments(self) -> Iterator[Row]:
        for visit in self._layout.visits():
            if visit.paid:
                yield {
                    "hospital_id": self._layout.hospital_id,
                    "channel": "wechat",
                    "trade_no": f"4200{visit.number:012d}",
                    "client_id": self._layout.client_id,
                    "booking_id": visit.id,
                    "amount_fen": self._layout.fee_fen,
                    "paid_at_ms": visit.created_ms + 500,
                    "kept": True,
                    "settlement": "settled",
                    "created_ms": visit.created_ms + 500,
                }

    def _outbox(self) -> Iterator[Row]:
        """The commands of the last weeks, all done."""
        ranks = {"lock_slot": 3, "register": 0, "unlock_slot": 1}
        for visit in self._recent():
            booking_id = visit.id
            for count, verb in enumerate(_COMMANDS[visit.kind]):
                at = visit.created_ms + count * 500
                yield {
                    "hospital_id": self._layout.hospital_id,
                    "id": uuid7(at, visit.number * 2 + count),
                    "line": f"booking:{booking_id}",
                    "verb": verb,
                    "subject_id": booking_id,
                    "rank": ranks[verb],
                    "status": "done",
                    "attempt": 1,
                    "tries": 1,
                    "due_ms": at,
                    "first_sent_ms": at + 100,
                    "last_sent_ms": at + 100,
                    "created_ms": at,
                    "updated_ms": at + 300,
                }

    def _idempotency_keys(self) -> Iterator[Row]:
        """One for each booking of the last 24 hours."""
        answer = {"id": uuid7(0, 0), "order_no": "0" * 20, "state": "held", "padding": "x" * 600}
        bodies = self._sealed(answer, "idempotency_keys", "body")
        for visit in self._layout.live_visits():
            key = f"filled-{visit.number:029d}"
            yield {
                "hospital_id": self._layout.hospital_id,
                "client_id": self._layout.client_id,
                "key": key,
                "body_digest": sha256(key.encode()).hexdigest(),
                "status": 201,
                "sealed_body": bodies[visit.number % VARIANTS],
                "created_ms": visit.created_ms,
            }

    def _events(self) -> Iterator[Row]:
        """Two for each booking of the last weeks, numbered in the order of their time."""
        told = ((visit, step) for visit in self._recent() for step in (0, 1))
        ordered = sorted(
            ((v.created_ms + step * 1_000, v, step) for v, step in told), key=lambda t: (t[0], t[1].number)
        )
        for seq, (at, visit, step) in enumerate(ordered, 1):
            state = "held" if step == 0 else visit.kind
            payload = {"booking_id": visit.id, "order_no": _order_no(visit), "version": step + 1, "state": state}
            yield {
                "id": uuid7(at, visit.number * 2 + step),
                "hospital_id": self._layout.hospital_id,
                "client_id": self._layout.client_id,
                "seq": seq,
                "type": "booking.changed",
                "payload": _json(payload).decode(),
                "created_ms": at,
            }

    def _recent(self) -> Iterator[Visit]:
        since_ms = self._layout.now_ms - KEPT_MS
        return (visit for visit in self._layout.visits() if visit.created_ms >= since_ms)

    def _sealed(self, record: dict[str, str], table: str, column: str) -> list[bytes]:
        return [self._sealer.seal(_json(record), table, column) for _ in range(VARIANTS)]


_STATES: dict[str, Row] = {
    "held": {"version": 2, "state": "held", "his_state": "locked", "payment_state": "due"},
    "booked": {"version": 4, "state": "booked", "his_state": "registered", "payment_state": "paid"},
    "fulfilled": {"version": 6, "state": "fulfilled", "his_state": "registered", "payment_state": "paid"},
    "no_show": {"version": 5, "state": "no_show", "his_state": "registered", "payment_state": "paid"},
    "expired": {"version": 4, "state": "expired", "his_state": "released", "payment_state": "void"},
}
_COMMANDS = {
    "held": ("lock_slot",),
    "booked": ("lock_slot", "register"),
    "fulfilled": ("lock_slot", "register"),
    "no_show": ("lock_slot", "register"),
    "expired": ("lock_slot", "unlock_slot"),
}


def _mrn(person: int) -> str:
    return f"M{person:08d}"


def _order_no(visit: Visit) -> str:
    """20 digits, as the product makes them: the second, and what makes it unique."""
    return f"{visit.created_ms // 1000:010d}{visit.number:010d}"


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
