"""Filling the tables as years of work would: copies of one row of each, with keys of their own."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Table, text

from booking.store import tables as t
from booking.store.engine import Tx
from scheduler_sync.messages import tables as m

ROWS = 40_000

_OWN = "'fill' || n"
_DAY = "'2' || (100 + n % 300) || '-0' || (1 + n % 9) || '-1' || (n % 9)"
_LATER = "(cast(1000 as bigint) * 86400000 + n)"
_COPIES: list[tuple[Table, dict[str, str]]] = [
    (t.schedules, {"id": _OWN, "his_id": _OWN, "date": _DAY}),
    (t.slots, {"id": _OWN, "his_id": _OWN, "schedule_id": "'fill' || (n / 20)", "date": _DAY,
               "starts_at_ms": f"starts_at_ms + {_LATER}", "ends_at_ms": f"ends_at_ms + {_LATER}"}),
    (t.fragments, {"date": _DAY, "department_id": _OWN, "changed": "1"}),
    (t.persons, {"id": _OWN, "identity_digest": _OWN, "mrn_digest": _OWN, "phone_digest": _OWN,
                 "merged_into": "null"}),
    (t.person_mrns, {"mrn_digest": _OWN, "person_id": _OWN}),
    (t.patients, {"id": _OWN, "person_id": _OWN, "user_ref": _OWN}),
    (t.bookings, {"id": _OWN, "order_no": _OWN, "user_ref": _OWN, "patient_id": _OWN, "person_id": _OWN, "slot_id": _OWN,
                  "schedule_id": _OWN, "state": "'cancelled'", "his_state": "'released'", "his_command": "'none'",
                  "his_command_status": "'none'", "payment_state": "'void'", "live": "false", "occupies": "false",
                  "charged": "false", "needs_attention": "false", "expires_at_ms": "null", "his_id": _OWN}),
    (t.payments, {"trade_no": _OWN, "booking_id": _OWN, "bill_id": "null", "kept": "true",
                  "paid_at_ms": f"paid_at_ms - {_LATER}", "created_ms": f"created_ms - {_LATER}"}),
    (t.refunds, {"id": _OWN, "trade_no": _OWN, "booking_id": _OWN, "status": "'refunded'", "his": "'none'",
                 "created_ms": f"created_ms - {_LATER}", "updated_ms": f"updated_ms - {_LATER}"}),
    (t.ledger, {"trade_no": _OWN}),
    (t.bills, {"id": _OWN, "his_id": _OWN, "mrn_digest": _OWN}),
    (t.reports, {"id": _OWN, "his_id": _OWN, "mrn_digest": _OWN}),
    (t.outbox, {"id": _OWN, "line": _OWN, "subject_id": _OWN, "status": "'done'", "waits_for": "null"}),
    (t.idempotency_keys, {"key": _OWN}),
    (t.report_reads, {"number": "1000 + n", "at_ms": "at_ms - 40001 + n", "person_id": _OWN}),
    (t.returned_seats, {"booking_id": _OWN, "slot_id": _OWN, "schedule_id": _OWN}),
    (t.waitlist, {"id": _OWN, "number": "number + n", "patient_id": _OWN, "person_id": _OWN, "schedule_id": _OWN,
                  "state": "'cancelled'", "live": "false", "due_ms": "null", "slot_id": "null", "booking_id": "null"}),
    (t.events, {"id": _OWN, "seq": "(select max(seq) from events) + n"}),
]  # fmt: skip
_MESSAGE_COPIES: list[tuple[Table, dict[str, str]]] = [
    (m.messages, {"id": _OWN, "dedup_key": _OWN, "state": "'applied'"}),
    (m.exchanges, {"id": _OWN, "control_id": _OWN, "order_no": _OWN, "state": "'done'"}),
    (m.message_notes, {"message_id": _OWN, "order_no": _OWN}),
    (m.message_links, {"message_id": _OWN, "ref": _OWN}),
]


# The HIS's own registrations come only as news; a person's sealed record is as long as theirs.
_REGISTRATION = {
    "id": _OWN, "order_no": _OWN, "his_id": _OWN, "mrn_digest": _OWN, "booking_id": "null", "status": "'registered'",
    "starts_at_ms": "created_ms", "ends_at_ms": "created_ms", "occurred_ms": "created_ms",
}  # fmt: skip


async def fill_store(tx: Tx) -> None:
    """Fill the booking store of one hospital, whose tables must have a row each."""
    for table, own in _COPIES:
        await _copy(tx, table, own)
    await _copy(tx, t.registrations, _REGISTRATION, of=t.persons)


async def fill_messages(tx: Tx) -> None:
    """Fill the message store."""
    for table, own in _MESSAGE_COPIES:
        await _copy(tx, table, own)


async def _copy(tx: Tx, table: Table, own: Mapping[str, str], of: Table | None = None) -> None:
    names = [column.name for column in table.columns]
    assert own.keys() <= set(names)
    wanted = ", ".join(f"{own[name]} as {name}" if name in own else name for name in names)
    numbers = (
        f"(with recursive k(n) as (select 1 union all select n + 1 from k where n < {ROWS}) select n from k)"
        if tx.dialect == "sqlite"
        else f"(select generate_series(1, {ROWS}) as n)"
    )
    sample = f"(select * from {(table if of is None else of).name} where hospital_id = :h limit 1)"
    copied = await tx.run(
        text(
            f"insert into {table.name} ({', '.join(names)}) select {wanted} from {sample} as s cross join {numbers} as k"
        ),
        {"h": tx.hospital_id},
    )
    assert copied in (ROWS, -1), f"{table.name} had no row to copy"
