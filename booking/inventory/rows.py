"""From what was decided to what is stored: the rows of one batch, table by table, and the answers of its items."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import msgspec
from sqlalchemy import Table

from booking.commands import RANKS, new_command
from booking.inventory.moulds import hole, json_mould, row_mould
from booking.inventory.requests import Answer, Decision, Facts, Granted, HoldRequest, Refused, SlotFacts
from booking.news import BOOKING_CHANGED, booking_payload, event_row
from booking.openings import Standing, first_standing
from booking.records import Booking, booking_to_row, line_of
from booking.rules.paying import pay_window_ms
from booking.settings import Hospital
from booking.store.crypto import HospitalVault
from booking.store.ids import new_ids, new_ids_at, new_order_nos
from booking.store.tables import bookings, events, idempotency_keys, outbox
from booking.waitlist.accepting import Taken

Render = Callable[[Booking, int], bytes]
"""The body of the answer to a new booking, as of an instant in milliseconds."""

CREATED = 201
WRITTEN: tuple[Table, ...] = (bookings, outbox, events, idempotency_keys)
"""The tables that a batch inserts into, in the order of `Batch.rows`."""
VARYING: dict[str, frozenset[str]] = {
    "bookings": frozenset((
        "id", "order_no", "client_id", "user_ref", "patient_id", "person_id", "slot_id", "schedule_id", "state", "his_state",
        "his_command", "his_command_status", "payment_state", "fee_fen", "lock_by_ms", "pay_by_ms", "expires_at_ms",
    )),
    "outbox": frozenset(("id", "line", "waits_for", "subject_id", "trace")),
    "events": frozenset(("id", "client_id", "seq", "payload")),
    "idempotency_keys": frozenset(("client_id", "key", "body_digest", "sealed_body")),
}  # fmt: skip
"""The columns in which the fresh rows of one batch may differ; in all others they are alike."""


class Batch(msgspec.Struct):
    """One decided batch. `rows` are tuples in the order of the tables' columns, for each table of `WRITTEN`.

    `answers` has an Answer for every success and a Refused for every refusal, in the order of the requests.
    """

    facts: Facts
    answers: list[Answer | Refused]
    rows: tuple[list[tuple[Any, ...]], ...]
    slots: list[SlotFacts]
    hurried: list[tuple[str, int]]
    offers: list[Taken] = []

    @property
    def granted(self) -> int:
        return len(self.rows[0])

    def places_used(self, hospital_id: str) -> list[tuple[int, str, int, str]]:
        """Of every place in the waiting room with which a seat was held: seats held with it, hospital, release, person."""
        room_ms, passes = self.facts.room_ms, self.facts.passes.items()
        return [(place.holds, hospital_id, room_ms, person_id) for person_id, place in passes if place.taken]

    @property
    def schedules(self) -> dict[str, int]:
        """`taken` of every schedule that has lost seats."""
        return {slot.schedule.id: slot.schedule.taken for slot in self.slots}

    @property
    def fragments(self) -> set[tuple[str, str]]:
        return {(slot.schedule.date, slot.schedule.department_id) for slot in self.slots}


_COLUMNS = tuple(tuple(column.name for column in table.columns) for table in WRITTEN)
# What differs between the fresh rows of one batch that stand alike, in the order in which `_Form.cast` gives it.
_DIFFERS = (
    "id", "order_no", "client_id", "user_ref", "patient_id", "person_id", "slot_id", "schedule_id", "line", "command_id",
    "waits_for", "trace", "event_id", "seq", "payload", "key", "digest", "sealed_body",
)  # fmt: skip
_SHOWN = ("id", "order_no", "user_ref", "patient_id", "slot_id", "schedule_id")
_encode = msgspec.json.Encoder().encode


def build(
    hospital: Hospital,
    requests: Sequence[HoldRequest],
    booking_ids: Sequence[str],
    decisions: Sequence[Decision],
    facts: Facts,
    vault: HospitalVault,
    render: Render,
) -> Batch:
    """The rows of a batch. Pure but for fresh ids and nonces."""
    batch = Batch(facts, [], tuple([] for _ in WRITTEN), [], [])
    form = cache(partial(_Form, hospital, facts.now_ms, render))
    order_nos = new_order_nos(facts.now_ms, len(requests))
    granted: list[tuple[_Form, tuple[Any, ...], tuple[bytes, ...]]] = []
    bodies: list[bytes] = []
    for request, booking_id, order_no, decision in zip(requests, booking_ids, order_nos, decisions, strict=True):
        if isinstance(decision, Granted):
            cut = form(decision.fee_fen, _window_ms(hospital, decision))
            if decision.offer is not None:
                batch.offers.append(Taken(decision.offer, booking_id))
            values = _granted(batch, request, booking_id, order_no, decision, cut)
            shown = _shown(values)
            granted.append((cut, values, shown))
            bodies.append(cut.body(shown))
            batch.answers.append(Answer(CREATED, bodies[-1]))
        elif isinstance(decision, Refused):
            batch.answers.append(decision)
        elif decision.stored is not None:
            body = vault.unseal(decision.stored.sealed_body, "idempotency_keys", "body")
            batch.answers.append(Answer(decision.stored.status, body, replayed=True))
        else:
            batch.answers.append(_again(batch.answers[decision.of or 0]))
    sealed_bodies = vault.seal_all(bodies, "idempotency_keys", "body")
    # Nothing else was told of these bookings before: their events are the first of their millisecond.
    event_ids = new_ids_at(facts.now_ms, len(granted))
    news = zip(new_ids(len(granted)), event_ids, sealed_bodies, _numbers(facts), strict=False)
    for (cut, values, shown), new in zip(granted, news, strict=True):
        cut.cast(batch.rows, values, shown, *new)
    batch.slots = [slot for slot in facts.slots.values() if slot.sold]
    return batch


def _window_ms(hospital: Hospital, granted: Granted) -> int:
    at = granted.slot.schedule
    return pay_window_ms(
        hospital.rules, hospital.pay_window_s, department_id=at.department_id, clinic_type=at.clinic_type
    )


def _numbers(facts: Facts) -> Iterator[int | None]:
    """The events' numbers, where one writer gives them as it writes (see `booking.news`)."""
    return itertools.repeat(None) if facts.last_event is None else itertools.count(facts.last_event + 1)


def _again(first: Answer | Refused) -> Answer | Refused:
    return Answer(first.status, first.body, replayed=True) if isinstance(first, Answer) else first


def _granted(
    batch: Batch, request: HoldRequest, booking_id: str, order_no: str, granted: Granted, form: _Form
) -> tuple[Any, ...]:
    """What differs of a booking: the values of `_DIFFERS` up to `trace` but for the command's, then the key and the digest."""
    person_id, slot = granted.patient.person_id, granted.slot
    user_ref = granted.patient.user_ref if request.user_ref is None else request.user_ref
    waits_for = None
    if form.verb is not None and granted.patient.his_state == "pending":
        waits_for = f"person:{person_id}"
        batch.hurried.append((waits_for, RANKS[form.verb]))
    return (
        booking_id, order_no, request.client_id, user_ref, request.patient_id, person_id, slot.id, slot.schedule.id,
        waits_for, None if request.span is None else request.span.context.traceparent, request.key, request.digest,
    )  # fmt: skip


class _Form:
    """What the bookings of a batch have in common that cost `fee_fen` and have as long to be paid: the moulds of their rows,
    events and answers."""

    def __init__(self, hospital: Hospital, now_ms: int, render: Render, fee_fen: int, pay_window_ms: int) -> None:
        standing = first_standing(hospital, now_ms, fee_fen, pay_window_ms)
        self.verb = standing.verb
        sample = _sample_booking(hospital, standing, now_ms, fee_fen)
        self._body = json_mould(render(sample, now_ms), _SHOWN)
        self._payload = json_mould(_encode(booking_payload(sample)), _SHOWN)
        rows: list[dict[str, Any] | None] = [
            booking_to_row(_NOTHING_SEALED, sample),
            None,
            {
                **event_row(hole("event_id"), hospital.id, hole("client_id"), BOOKING_CHANGED, hole("payload"), now_ms),
                "seq": hole("seq"),
            },
            {
                "hospital_id": hospital.id,
                "client_id": hole("client_id"),
                "key": hole("key"),
                "body_digest": hole("digest"),
                "status": CREATED,
                "sealed_body": hole("sealed_body"),
                "created_ms": now_ms,
            },
        ]
        if standing.verb is not None:
            command = new_command(
                hospital.id, hole("line"), standing.verb, hole("id"), now_ms, waits_for=hole("waits_for")
            )
            rows[1] = {**_FRESH_COMMAND, **command, "id": hole("command_id"), "trace": hole("trace")}
        self._rows = [
            None if row is None else row_mould(columns, row, _DIFFERS)
            for columns, row in zip(_COLUMNS, rows, strict=True)
        ]

    def body(self, shown: tuple[bytes, ...]) -> bytes:
        """The answer to one that was granted."""
        return self._body(shown)

    def cast(
        self,
        into: Sequence[list[Any]],
        granted: tuple[Any, ...],
        shown: tuple[bytes, ...],
        command_id: str,
        event_id: str,
        sealed_body: bytes,
        seq: int | None,
    ) -> None:
        """Add the rows of one that was granted."""
        *whose, waits_for, trace, key, digest = granted
        payload = self._payload(shown).decode()
        line = line_of(granted[0])
        values = (*whose, line, command_id, waits_for, trace, event_id, seq, payload, key, digest, sealed_body)
        for rows, mould in zip(into, self._rows, strict=True):
            if mould is not None:
                rows.append(mould(values))


def _shown(granted: tuple[Any, ...]) -> tuple[bytes, ...]:
    """The values of `_SHOWN` as JSON."""
    booking_id, order_no, _, user_ref, patient_id, _, slot_id, schedule_id = granted[:8]
    return (
        _encode(booking_id), _encode(order_no), _encode(user_ref), _encode(patient_id), _encode(slot_id), _encode(schedule_id)
    )  # fmt: skip


class _NothingSealed:
    """A new booking has nothing yet that is sealed."""

    def seal(self, plain: bytes, table: str, column: str) -> bytes:
        raise TypeError(f"a new booking has no {table}.{column}")


_NOTHING_SEALED = _NothingSealed()
# The columns of a command that has not been claimed yet.
_FRESH_COMMAND: dict[str, Any] = {
    "attempt": 0,
    "tries": 0,
    "looks": 0,
    "lease_until_ms": None,
    "first_sent_ms": None,
    "last_sent_ms": None,
    "reason": None,
}


def _sample_booking(hospital: Hospital, standing: Standing, now_ms: int, fee_fen: int) -> Booking:
    """A new booking with holes for whose it is and what it holds."""
    axes = standing.axes
    return Booking(
        hospital_id=hospital.id,
        id=hole("id"),
        order_no=hole("order_no"),
        client_id=hole("client_id"),
        user_ref=hole("user_ref"),
        patient_id=hole("patient_id"),
        person_id=hole("person_id"),
        slot_id=hole("slot_id"),
        schedule_id=hole("schedule_id"),
        version=1,
        state=axes.state,
        his_state=axes.his_state,
        his_command=axes.command,
        his_command_status=axes.status,
        payment_state="due" if fee_fen else "not_required",
        fee_fen=fee_fen,
        live=True,
        occupies=True,
        charged=True,
        created_ms=now_ms,
        updated_ms=now_ms,
        lock_by_ms=standing.lock_by_ms,
        pay_by_ms=standing.pay_by_ms,
        expires_at_ms=standing.expires_at_ms,
    )
