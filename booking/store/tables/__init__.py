"""The schema. Instants are `_ms` since the epoch, dates ISO text, money `_fen`; `sealed_*` columns are encrypted.

Partial unique indexes and CHECKs are the backstop of the booking rules: what must never exist is refused by the store.
"""

from __future__ import annotations

from booking.store.tables.bookings import bookings
from booking.store.tables.books import differences, merchant_lines, reconciliations
from booking.store.tables.catalogue import departments, fragments, practitioners, returned_seats, schedules, slots
from booking.store.tables.columns import metadata
from booking.store.tables.money import OPEN_REFUND, UNSETTLED, bills, insured_settlements, ledger, payments, refunds
from booking.store.tables.news import events, webhooks
from booking.store.tables.operation import api_keys, audit, idempotency_keys, leases, nodes, store_clock
from booking.store.tables.outbox import COMMAND_TO_DO, OPEN_COMMAND, outbox
from booking.store.tables.people import patients, person_mrns, persons
from booking.store.tables.reads import report_read_segments, report_reads
from booking.store.tables.records import applied_messages, registrations, report_documents, report_versions, reports
from booking.store.tables.waiting import EARLY_PLACE, RANKED_PLACE, waiting_rooms, waiting_steps, waiting_tickets
from booking.store.tables.waitlist import waitlist

__all__ = (
    "COMMAND_TO_DO",
    "EARLY_PLACE",
    "OPEN_COMMAND",
    "OPEN_REFUND",
    "RANKED_PLACE",
    "UNSETTLED",
    "api_keys",
    "applied_messages",
    "audit",
    "bills",
    "bookings",
    "departments",
    "differences",
    "events",
    "fragments",
    "idempotency_keys",
    "insured_settlements",
    "leases",
    "ledger",
    "merchant_lines",
    "metadata",
    "nodes",
    "outbox",
    "patients",
    "payments",
    "person_mrns",
    "persons",
    "practitioners",
    "reconciliations",
    "refunds",
    "registrations",
    "report_documents",
    "report_read_segments",
    "report_reads",
    "report_versions",
    "reports",
    "returned_seats",
    "schedules",
    "slots",
    "store_clock",
    "waiting_rooms",
    "waiting_steps",
    "waiting_tickets",
    "waitlist",
    "webhooks",
)
