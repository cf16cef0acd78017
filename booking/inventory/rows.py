"""From what was decided to what is stored: the rows of one batch, table by table, and the answers of its items."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cache, partial
from operator import itemgetter
from typing import Any

import msgspec
from sqlalchemy import Table

from booking.commands import RANKS, new_command
from booking.inventory.requests import Answer, Decision, Facts, Granted, HoldRequest, Refused, SlotFacts
from booking.news import BOOKING_CHANGED, booking_payload, new_event
from booking.openings import Standing, first_standing
from booking.records import Booking, booking_to_row
from booking.settings import Hospital
from booking.store.crypto import HospitalVault
from booking.store.ids import new_order_no
from booking.store.tables import bookings, events, idempotency_keys, outbox

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
    "outbox": frozenset(("id", "line", "waits_for", "subject_id")),
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

    @property
    def granted(self) -> int:
        return len(self.rows[0])

    @property
    def schedules(self) -> dict[str, int]:
        """`taken` of every schedule that has lost seats."""
        return {slot.schedule.id: slot.schedule.taken for slot in self.slots}

    @property
    def fragments(self) -> set[tuple[str, str]]:
        return {(slot.schedule.date, slot.schedule.department_id) for slot in self.slots}


_IN_ORDER = [itemgetter(*(column.name for column in table.columns)) for table in WRITTEN]


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
    standing = cache(partial(first_standing, hospital, facts.now_ms))
    for request, booking_id, decision in zip(requests, booking_ids, decisions, strict=True):
        if isinstance(decision, Refused):
            batch.answers.append(decision)
        elif isinstance(decision, Granted):
            stands = standing(decision.fee_fen)
            batch.answers.append(_grant(batch, hospital, request, booking_id, decision, stands, vault, render))
        elif decision.stored is not None:
            body = vault.unseal(decision.stored.sealed_body, "idempotency_keys", "body")
            batch.answers.append(Answer(decision.stored.status, body, replayed=True))
        else:
            batch.answers.append(_again(batch.answers[decision.of or 0]))
    batch.slots = [slot for slot in facts.slots.values() if slot.sold]
    return batch


def _again(first: Answer | Refused) -> Answer | Refused:
    return Answer(first.status, first.body, replayed=True) if isinstance(first, Answer) else first


def _grant(
    batch: Batch,
    hospital: Hospital,
    request: HoldRequest,
    booking_id: str,
    granted: Granted,
    standing: Standing,
    vault: HospitalVault,
    render: Render,
) -> Answer:
    now_ms, verb = batch.facts.now_ms, standing.verb
    booking = _new_booking(hospital, request, booking_id, granted, standing, now_ms)
    body = render(booking, now_ms)
    rows: list[dict[str, Any] | None] = [
        booking_to_row(vault, booking),
        None,
        {"seq": None, **new_event(hospital.id, request.client_id, BOOKING_CHANGED, booking_payload(booking), now_ms)},
        {
            "hospital_id": hospital.id,
            "client_id": request.client_id,
            "key": request.key,
            "body_digest": request.digest,
            "status": CREATED,
            "sealed_body": vault.seal(body, "idempotency_keys", "body"),
            "created_ms": now_ms,
        },
    ]
    if verb is not None:
        waits_for = None
        if granted.patient.his_state == "pending":
            waits_for = f"person:{granted.patient.person_id}"
            batch.hurried.append((waits_for, RANKS[verb]))
        command = new_command(hospital.id, booking.line, verb, booking.id, now_ms, waits_for=waits_for)
        rows[1] = {**_FRESH_COMMAND, **command}
    for into, row, in_order in zip(batch.rows, rows, _IN_ORDER, strict=True):
        if row is not None:
            into.append(in_order(row))
    return Answer(CREATED, body)


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


def _new_booking(
    hospital: Hospital, request: HoldRequest, booking_id: str, granted: Granted, standing: Standing, now_ms: int
) -> Booking:
    axes = standing.axes
    return Booking(
        hospital_id=hospital.id,
        id=booking_id,
        order_no=new_order_no(now_ms),
        client_id=request.client_id,
        user_ref=request.user_ref,
        patient_id=request.patient_id,
        person_id=granted.patient.person_id,
        slot_id=request.slot_id,
        schedule_id=granted.slot.schedule.id,
        version=1,
        state=axes.state,
        his_state=axes.his_state,
        his_command=axes.command,
        his_command_status=axes.status,
        payment_state="due" if granted.fee_fen else "not_required",
        fee_fen=granted.fee_fen,
        live=True,
        occupies=True,
        charged=True,
        created_ms=now_ms,
        updated_ms=now_ms,
        lock_by_ms=standing.lock_by_ms,
        pay_by_ms=standing.pay_by_ms,
        expires_at_ms=standing.expires_at_ms,
    )


def number_events(batch: Batch, last: int) -> None:
    """Give the batch's events their numbers after `last`: only for a store with a single writer (see `booking.news`)."""
    place = [column.name for column in events.columns].index("seq")
    for number, (index, row) in zip(itertools.count(last + 1), enumerate(batch.rows[2]), strict=False):
        batch.rows[2][index] = (*row[:place], number, *row[place + 1 :])
