"""The schema. Instants are `_ms` since the epoch, dates ISO text, money `_fen`; `sealed_*` columns are encrypted.

Partial unique indexes and CHECKs are the backstop of the booking rules: what must never exist is refused by the store.
"""

from __future__ import annotations

import re

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "ck": "ck_%(table_name)s_%(constraint_name)s"}
)


def _check(condition: str, name: str) -> CheckConstraint:
    """A CHECK, with every `x in (...)` spelt out as comparisons.

    SQLite builds a small tree for the list of an `in`, anew for each row and each CHECK: 34 of the 51 us of a booking's insert.
    """
    return CheckConstraint(_IN_LIST.sub(_spelt_out, condition), name=name)


_IN_LIST = re.compile(r"(\w+) (not )?in \(([^()]*)\)")


def _spelt_out(found: re.Match[str]) -> str:
    column, negated, values = found.groups()
    one, joint = (" <> ", " and ") if negated else (" = ", " or ")
    return "(" + joint.join(column + one + value.strip() for value in values.split(",")) + ")"


def _key(name: str) -> Column[str]:
    return Column(name, String(64), primary_key=True)


def _his_key(name: str) -> Column[str]:
    """A code of the HIS's own, whatever its length."""
    return Column(name, Text, primary_key=True)


def _ms(name: str, *, null: bool = True) -> Column[int]:
    return Column(name, BigInteger, nullable=null)


def _str(name: str, *, null: bool = False, default: str | None = None) -> Column[str]:
    return Column(name, Text, nullable=null, server_default=default)


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=text("false"))


# One row per hospital, moved by every write under the hospital's lock: the clock never runs backwards, and `writes` numbers
# what was committed in the order of the commits, so that a reader can ask for everything after a number without a gap.
# `room_ms` is the release whose waiting room is open, 0 for none: whoever decides holds reads it with the clock, for nothing.
store_clock = Table(
    "store_clock",
    metadata,
    _key("hospital_id"),
    _ms("last_ms", null=False),
    Column("writes", BigInteger, nullable=False, server_default="0"),
    Column("room_ms", BigInteger, nullable=False, server_default="0"),
)

# Which hospital is worked by which sync process, and until when; `nodes` are those processes and where they can be asked.
leases = Table(
    "leases",
    metadata,
    _key("hospital_id"),
    _str("owner"),
    _ms("until_ms", null=False),
    _str("his_status", default="up"),
)

nodes = Table(
    "nodes", metadata, _key("id"), _str("address"), _ms("until_ms", null=False), _ms("started_ms", null=False)
)

api_keys = Table(
    "api_keys",
    metadata,
    _key("digest"),
    _str("id"),
    _str("client_id"),
    _str("name"),
    _str("scopes"),
    _str("hospitals"),
    _ms("created_ms", null=False),
    _ms("revoked_ms"),
)

# --- what can be booked ------------------------------------------------------------------------------------------

departments = Table(
    "departments",
    metadata,
    _key("hospital_id"),
    _his_key("id"),
    _str("name"),
    _str("parent_id", null=True),
    _str("campus", null=True),
    _str("his_refs", default="{}"),
)

practitioners = Table(
    "practitioners",
    metadata,
    _key("hospital_id"),
    _his_key("id"),
    _str("name"),
    _str("department_id", null=True),
    _str("title", null=True),
    _str("his_refs", default="{}"),
)

schedules = Table(
    "schedules",
    metadata,
    _key("hospital_id"),
    _key("id"),
    _str("his_id"),
    _str("date"),
    _str("session"),
    _str("department_id"),
    _str("department_name", null=True),
    _str("practitioner_id", null=True),
    _str("practitioner_name", null=True),
    _str("clinic_type", null=True),
    Column("fee_fen", BigInteger, nullable=True),
    _str("status"),
    _ms("opens_at_ms"),
    Column("quota", Integer, nullable=True),
    Column("taken", Integer, nullable=False, server_default="0"),
    Column("held_back", Integer, nullable=False, server_default="0"),
    _str("location", null=True),
    _str("his_refs", default="{}"),
    _ms("stopped_ms"),
    _str("moved", null=True),  # where it has moved, or what it was before: see booking.rescheduling.marks
    _ms("seen_ms", null=False),
    _flag("booked"),  # whether there ever was a booking of it: such a one is kept for good
    _check("status in ('open', 'stopped')", name="status"),
    _check("fee_fen is null or fee_fen >= 0", name="fee"),
    _check("taken >= 0", name="taken"),
    Index(None, "hospital_id", "date", "department_id"),
    Index(None, "hospital_id", "his_id", "date"),
    Index("ix_schedules_opens", "hospital_id", "opens_at_ms", sqlite_where=text("opens_at_ms is not null"),
          postgresql_where=text("opens_at_ms is not null")),
    Index("ix_schedules_moved", "hospital_id", "date", sqlite_where=text("moved is not null"),
          postgresql_where=text("moved is not null")),
)  # fmt: skip

# The parts of the catalogue that readers keep ready-made: a department's day, and the write that changed it last.
fragments = Table(
    "fragments",
    metadata,
    _key("hospital_id"),
    _key("date"),
    _his_key("department_id"),
    Column("changed", BigInteger, nullable=False),
    Index(None, "hospital_id", "changed"),
)

slots = Table(
    "slots",
    metadata,
    _key("hospital_id"),
    _key("id"),
    _str("schedule_id"),
    _str("his_id"),
    _str("date"),
    _ms("starts_at_ms", null=False),
    _ms("ends_at_ms", null=False),
    _str("status"),
    Column("his_left", Integer, nullable=False),
    Column("unreflected", Integer, nullable=False, server_default="0"),
    Column("held_back", Integer, nullable=False, server_default="0"),
    _ms("fetch_started_ms", null=False),
    _ms("fetch_ended_ms", null=False),
    _ms("stopped_ms"),
    _str("moved", null=True),  # as of a schedule
    _str("practitioner_id", null=True),  # who holds this segment instead of the schedule's
    _str("practitioner_name", null=True),
    _str("his_refs", default="{}"),
    _flag("booked"),
    _check("ends_at_ms > starts_at_ms", name="span"),
    _check("unreflected >= 0", name="unreflected"),
    _check("his_left >= 0", name="his_left"),
    _check("status in ('open', 'stopped')", name="status"),
    Index(None, "hospital_id", "date"),
    Index(None, "hospital_id", "schedule_id"),
    Index("ix_slots_moved", "hospital_id", "date", sqlite_where=text("moved is not null"),
          postgresql_where=text("moved is not null")),
)  # fmt: skip

# Seats that have come back and are not sold again yet: as many as `held_back` of their slot and of their schedule say.
returned_seats = Table(
    "returned_seats",
    metadata,
    _key("hospital_id"),
    _key("booking_id"),
    _str("slot_id"),
    _str("schedule_id"),
    _ms("due_ms", null=False),
    Index(None, "hospital_id", "due_ms"),
)

# --- people ------------------------------------------------------------------------------------------------------

persons = Table(
    "persons",
    metadata,
    _key("hospital_id"),
    _key("id"),
    _str("identity_digest", null=True),
    _str("mrn_digest", null=True),
    _str("phone_digest", null=True),
    _str("his_state"),
    _str("reject_code", null=True),
    _str("merged_into", null=True),
    Column("sealed_record", LargeBinary, nullable=False),
    _ms("created_ms", null=False),
    _ms("updated_ms", null=False),
    _check("his_state in ('pending', 'linked', 'rejected')", name="his_state"),
    Index("ux_persons_identity", "hospital_id", "identity_digest", unique=True, sqlite_where=text("merged_into is null"),
          postgresql_where=text("merged_into is null")),
    Index("ix_persons_phone", "hospital_id", "phone_digest", sqlite_where=text("phone_digest is not null"),
          postgresql_where=text("phone_digest is not null")),
)  # fmt: skip

person_mrns = Table(
    "person_mrns",
    metadata,
    _key("hospital_id"),
    _key("mrn_digest"),
    _str("person_id"),
    Index(None, "hospital_id", "person_id"),
)

patients = Table(
    "patients",
    metadata,
    _key("hospital_id"),
    _key("id"),
    _str("client_id"),
    _str("user_ref"),
    _str("person_id"),
    _ms("created_ms", null=False),
    Index("ux_patients_owner", "hospital_id", "client_id", "user_ref", "person_id", unique=True),
    Index(None, "hospital_id", "person_id"),
)

# --- bookings ----------------------------------------------------------------------------------------------------

_LIVE = text("live")
# SQLAlchemy asks SQLite for `live = 1`, and SQLite takes a partial index only where the query says what the index says.
_LIVE_SQLITE = text("live = 1")

bookings = Table(
    "bookings",
    metadata,
    _key("hospital_id"),
    _key("id"),
    _str("order_no"),
    _str("client_id"),
    _str("user_ref"),
    _str("patient_id"),
    _str("person_id"),
    _str("slot_id"),
    _str("schedule_id"),
    Column("version", Integer, nullable=False),
    _str("state"),
    _str("his_state"),
    _str("his_command"),
    _str("his_command_status"),
    _str("payment_state"),
    Column("fee_fen", BigInteger, nullable=False),
    _flag("live"),
    _flag("occupies"),
    _flag("charged"),
    _flag("needs_attention"),
    _ms("lock_sent_ms"),
    _ms("lock_reply_ms"),
    _ms("unlock_sent_ms"),
    _ms("lock_by_ms"),
    _ms("pay_by_ms"),
    _ms("expires_at_ms"),
    _ms("cancelled_ms"),  # when the patient asked for it; null again where the hospital refused
    _ms("moved_ms"),
    _str("reason", null=True),
    _str("his_id", null=True),
    _str("deferred_news", null=True),
    Column("sealed_registration", LargeBinary, nullable=True),
    Column("sealed_his_refs", LargeBinary, nullable=True),
    _ms("created_ms", null=False),
    _ms("updated_ms", null=False),
    # What must never exist together (DESIGN section 4); `booking.lifecycle.must_not_be` has the same rules by the same names.
    _check(
        "state in ('held','booked','checked_in','fulfilled','no_show','cancelling','cancelled','expired','rejected','stopped')",
        name="state",
    ),
    _check("his_state in ('none','locked','registered','released','rejected')", name="his_state"),
    _check("his_command in ('none','lock','register','unlock','cancel')", name="his_command"),
    _check("his_command_status in ('none','queued','sent','unknown')", name="his_command_status"),
    _check(
        "payment_state in ('not_required','due','paid','paid_at_window','part_refunded','refund_due','refunded','void')",
        name="payment_state",
    ),
    _check("(his_command = 'none') = (his_command_status = 'none')", name="command_status"),
    _check(
        "case his_command when 'lock' then his_state = 'none' when 'register' then his_state = 'locked'"
        " when 'unlock' then his_state = 'locked' when 'cancel' then his_state = 'registered' else true end",
        name="command_needs",
    ),
    _check(
        "case his_command when 'lock' then state in ('held','cancelling','expired','stopped')"
        " when 'register' then state in ('held','cancelling','stopped')"
        " when 'none' then true else state in ('cancelling','cancelled','expired','rejected','stopped') end",
        name="command_state",
    ),
    _check(
        "state not in ('booked','checked_in','fulfilled','no_show') or his_state = 'registered'", name="booked_is_registered"
    ),
    _check("state <> 'held' or his_state = 'locked' or his_command = 'lock'", name="held_waits_or_locked"),
    _check("state <> 'cancelling' or his_command <> 'none'", name="cancelling_waits"),
    _check("state <> 'rejected' or his_state <> 'none'", name="rejected_was_asked"),
    _check("state not in ('expired','rejected') or payment_state <> 'due'", name="nothing_due_when_over"),
    _check("state <> 'expired' or payment_state not in ('paid','paid_at_window')", name="no_expiry_with_money"),
    _check("his_state <> 'registered' or payment_state <> 'due'", name="registered_owes_nothing"),
    _check("payment_state <> 'not_required' or fee_fen = 0", name="fee_is_required"),
    # What is derived must agree with what it is derived from: the partial indexes and the seats stand on it.
    _check("live = (state in ('held','booked','checked_in','cancelling'))", name="live"),
    _check("occupies = (his_state in ('locked','registered') or his_command <> 'none')", name="occupies"),
    _check("occupies or not charged", name="charged_occupies"),
    _check("expires_at_ms is null or state = 'held'", name="only_holds_expire"),
    _check("fee_fen >= 0", name="fee"),
    Index("ux_bookings_order_no", "hospital_id", "order_no", unique=True),
    Index("ux_bookings_live", "hospital_id", "person_id", "schedule_id", unique=True, sqlite_where=_LIVE_SQLITE,
          postgresql_where=_LIVE),
    # Not by slot: a schedule's bookings lie together here, and a batch's in one place.
    Index("ix_bookings_occupies", "hospital_id", "schedule_id", sqlite_where=text("occupies = 1"),
          postgresql_where=text("occupies")),
    Index("ix_bookings_due", "hospital_id", "expires_at_ms", sqlite_where=text("state = 'held'"),
          postgresql_where=text("state = 'held'")),
    Index(None, "hospital_id", "patient_id", "id"),
    Index(None, "hospital_id", "user_ref", "id"),
    Index(None, "hospital_id", "client_id", "id"),
    Index("ix_bookings_his_id", "hospital_id", "his_id", sqlite_where=text("his_id is not null"),
          postgresql_where=text("his_id is not null")),
    Index("ix_bookings_attention", "hospital_id", "needs_attention", "id", sqlite_where=text("needs_attention = 1"),
          postgresql_where=text("needs_attention")),
)  # fmt: skip

# Money that the HIS has not booked yet, and that does not go back; a query must say these very words.
UNSETTLED = "(settlement = 'pending' or settlement = 'unknown') and returned_fen < amount_fen"

# `kept`: it pays for its purpose. `settlement`: how far the HIS has booked it.
payments = Table(
    "payments",
    metadata,
    _key("hospital_id"),
    Column("channel", String(32), primary_key=True),
    Column("trade_no", String(128), primary_key=True),
    _str("client_id"),
    _str("booking_id", null=True),
    _str("bill_id", null=True),
    Column("amount_fen", BigInteger, nullable=False),
    _ms("paid_at_ms", null=False),
    _flag("kept"),
    _str("settlement"),
    _str("unusable", null=True),
    _ms("created_ms", null=False),
    # What of it is to go back, or has: the sum of its refunds, moved by whatever writes one.
    Column("returned_fen", BigInteger, nullable=False, server_default="0"),
    _check("amount_fen > 0", name="amount"),
    _check("returned_fen >= 0 and returned_fen <= amount_fen", name="returned"),
    _check("settlement in ('none','pending','settled','rejected','unknown')", name="settlement"),
    _check("(booking_id is null) <> (bill_id is null)", name="one_purpose"),
    _check("kept or settlement in ('none','rejected')", name="only_kept_is_settled"),
    _check("unusable is null or not kept", name="unusable_is_not_kept"),
    Index("ux_payments_booking", "hospital_id", "booking_id", unique=True, sqlite_where=text("kept = 1"),
          postgresql_where=text("kept")),
    Index("ux_payments_bill", "hospital_id", "bill_id", unique=True, sqlite_where=text("kept = 1"),
          postgresql_where=text("kept")),
    Index(None, "hospital_id", "booking_id"),
    Index(None, "hospital_id", "bill_id"),
    Index(None, "hospital_id", "paid_at_ms"),
    Index("ix_payments_unsettled", "hospital_id", "created_ms", sqlite_where=text(UNSETTLED),
          postgresql_where=text(UNSETTLED)),
)  # fmt: skip

# What has not gone back yet, or what the HIS does not know of; a query must say these very words.
OPEN_REFUND = "status <> 'refunded' or his = 'pending' or his = 'unknown' or his = 'rejected'"

refunds = Table(
    "refunds",
    metadata,
    _key("hospital_id"),
    _key("id"),
    _str("channel"),
    _str("trade_no"),
    _str("client_id"),
    _str("booking_id", null=True),
    _str("bill_id", null=True),
    Column("amount_fen", BigInteger, nullable=False),
    _str("status"),
    _str("reason"),
    _str("refund_trade_no", null=True),
    _ms("created_ms", null=False),
    _ms("updated_ms", null=False),
    # Whether the HIS has been told of it: none where there is nothing to tell, or no way.
    _str("his", default="none"),
    _check("his in ('none','pending','unknown','told','rejected')", name="his"),
    _check("amount_fen > 0", name="amount"),
    _check(
        "status in ('refund_due','refunding','refunded','refund_unknown','refund_failed')",
        name="status",
    ),
    _check("(booking_id is null) <> (bill_id is null)", name="one_purpose"),
    Index(None, "hospital_id", "channel", "trade_no"),
    Index(None, "hospital_id", "booking_id"),
    Index(None, "hospital_id", "bill_id"),
    Index(None, "hospital_id", "updated_ms"),
    Index("ix_refunds_open", "hospital_id", "created_ms", sqlite_where=text(OPEN_REFUND),
          postgresql_where=text(OPEN_REFUND)),
)  # fmt: skip

# Double entry, one movement a row: `amount_fen` goes from the account `credit` to the account `debit`, so that no row can be out
# of balance; see booking.ledger. Rows are added, and never altered or deleted.
ledger = Table(
    "ledger",
    metadata,
    _key("hospital_id"),
    Column("channel", String(32), primary_key=True),
    Column("trade_no", String(128), primary_key=True),
    Column("entry", String(16), primary_key=True),
    Column("refund_id", String(64), primary_key=True),  # empty for what is of no refund
    _str("debit"),
    _str("credit"),
    Column("amount_fen", BigInteger, nullable=False),
    _ms("at_ms", null=False),
    _check("amount_fen > 0", name="amount"),
    _check(
        "case entry when 'received' then debit = 'merchant_clearing' and credit = 'receipts' and refund_id = ''"
        " when 'settled' then debit = 'receipts' and credit = 'his_settlement' and refund_id = ''"
        " when 'refund_due' then debit in ('receipts','his_settlement') and credit = 'refunds_payable' and refund_id <> ''"
        " when 'refunded' then debit = 'refunds_payable' and credit = 'merchant_clearing' and refund_id <> ''"
        " else false end",
        name="entry",
    ),
)

bills = Table(
    "bills",
    metadata,
    _key("hospital_id"),
    _key("id"),
    _str("his_id"),
    _str("mrn_digest"),
    Column("amount_fen", BigInteger, nullable=False),
    _str("currency"),
    _str("status"),
    _str("order_no"),
    Column("sealed_record", LargeBinary, nullable=False),
    Column("sealed_settlement", LargeBinary, nullable=True),
    _ms("updated_ms", null=False),
    # What the insurance pays and what the patient, as the HIS last calculated it (医保预结算).
    Column("sealed_split", LargeBinary, nullable=True),
    Index(None, "hospital_id", "mrn_digest"),
)

reports = Table(
    "reports",
    metadata,
    _key("hospital_id"),
    _key("id"),
    _str("his_id"),
    _str("mrn_digest"),
    _str("status"),
    Column("version", Integer, nullable=False),
    Column("sealed_record", LargeBinary, nullable=False),
    _ms("occurred_ms"),
    _ms("updated_ms", null=False),
    Index(None, "hospital_id", "mrn_digest"),
)

# What a report said before: one row for each version that another took the place of, sealed as in `reports`.
report_versions = Table(
    "report_versions",
    metadata,
    _key("hospital_id"),
    _key("report_id"),
    Column("version", Integer, primary_key=True),
    _str("status"),
    Column("sealed_record", LargeBinary, nullable=False),
    _ms("occurred_ms"),
    _ms("updated_ms", null=False),
)

# Which documents that are kept in the message store (ADR-0033) a report shows: what none shows any more is forgotten there.
report_documents = Table(
    "report_documents",
    metadata,
    _key("hospital_id"),
    _key("report_id"),
    _key("document_id"),
    Index(None, "hospital_id", "document_id"),
)

registrations = Table(
    "registrations",
    metadata,
    _key("hospital_id"),
    _key("id"),
    _str("order_no", null=True),
    _str("his_id", null=True),
    _str("mrn_digest", null=True),
    _str("booking_id", null=True),
    _str("status"),
    _ms("starts_at_ms"),
    _ms("ends_at_ms"),
    _ms("occurred_ms"),
    Column("sealed_record", LargeBinary, nullable=False),
    _ms("updated_ms", null=False),
    Index(None, "hospital_id", "mrn_digest"),
)

# --- commands to the HIS, keys, news ------------------------------------------------------------------------------

_DEAD = text("status = 'dead'")

# Spelt out, as the CHECKs above; a query must say these very words, or neither engine takes the partial index.
OPEN_COMMAND = "status <> 'done' and status <> 'dropped'"
COMMAND_TO_DO = f"{OPEN_COMMAND} and status <> 'dead'"
_OPEN, _TO_DO = text(OPEN_COMMAND), text(COMMAND_TO_DO)

outbox = Table(
    "outbox",
    metadata,
    _key("hospital_id"),
    _key("id"),
    _str("line"),
    _str("waits_for", null=True),
    _str("verb"),
    _str("subject_id"),
    Column("rank", Integer, nullable=False),
    _str("status"),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("looks", Integer, nullable=False, server_default="0"),
    _ms("due_ms", null=False),
    _ms("lease_until_ms"),
    _ms("first_sent_ms"),
    _ms("last_sent_ms"),
    _str("reason", null=True),
    _ms("created_ms", null=False),
    _ms("updated_ms", null=False),
    # The span of the request that made it (`monitoring.traces`), where that was traced.
    _str("trace", null=True),
    _check("status in ('queued','sent','unknown','done','dead','dropped')", name="status"),
    Index("ux_outbox_open_line", "hospital_id", "line", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
    # In the order in which they are served, so that the first few are found without sorting a release's whole queue.
    Index("ix_outbox_dead", "hospital_id", "status", "id", sqlite_where=_DEAD, postgresql_where=_DEAD),
    Index("ix_outbox_turn", "hospital_id", "rank", "id", sqlite_where=_TO_DO, postgresql_where=_TO_DO),
)  # fmt: skip

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    _key("hospital_id"),
    _key("client_id"),
    Column("key", String(255), primary_key=True),
    _str("body_digest"),
    Column("status", Integer, nullable=False),
    Column("sealed_body", LargeBinary, nullable=False),
    _ms("created_ms", null=False),
    Index(None, "hospital_id", "created_ms"),
)

_NUMBERED = text("seq is not null")

events = Table(
    "events",
    metadata,
    _key("id"),
    _str("hospital_id"),
    _str("client_id"),
    Column("seq", BigInteger, nullable=True),
    _str("type"),
    _str("payload"),
    _ms("created_ms", null=False),
    Index("ux_events_seq", "seq", unique=True, sqlite_where=_NUMBERED, postgresql_where=_NUMBERED),
    Index("ix_events_client_id_seq", "client_id", "seq", sqlite_where=_NUMBERED, postgresql_where=_NUMBERED),
    Index("ix_events_unnumbered", "id", sqlite_where=text("seq is null"), postgresql_where=text("seq is null")),
)

webhooks = Table(
    "webhooks",
    metadata,
    _key("id"),
    _str("client_id"),
    _str("url"),
    Column("sealed_secret", LargeBinary, nullable=False),
    Column("cursor", BigInteger, nullable=False),
    _str("status"),
    Column("failures", Integer, nullable=False, server_default="0"),
    _ms("due_ms", null=False),
    _ms("created_ms", null=False),
    _ms("failing_since_ms"),  # of the event that is tried in vain: its first failure
    Index(None, "client_id"),
)

merchant_lines = Table(
    "merchant_lines",
    metadata,
    _key("hospital_id"),
    _key("date"),
    Column("revision", Integer, primary_key=True),
    Column("line", Integer, primary_key=True),
    _str("kind"),
    _str("channel"),
    _str("trade_no"),
    Column("amount_fen", BigInteger, nullable=False),
    _ms("at_ms"),
    _str("source", default="lines"),  # who sent it: a day's bill may come in several files
    _str("status", default="done"),
    _str("order_no", null=True),
    _flag("of_others"),  # of another business under the same merchant number
)

# Comparisons of the books of a day: what was asked for, and what came of it. `run` counts up for each day.
reconciliations = Table(
    "reconciliations",
    metadata,
    _key("hospital_id"),
    _key("date"),
    Column("run", Integer, primary_key=True),
    _ms("asked_ms", null=False),
    _ms("done_ms"),
    _str("failed", null=True),
    Column("merchant_lines", Integer, nullable=False, server_default="0"),
    Column("our_lines", Integer, nullable=False, server_default="0"),
    Column("his_lines", Integer, nullable=True),
    Column("differences", Integer, nullable=False, server_default="0"),
    Index("ix_reconciliations_asked", "hospital_id", "asked_ms", sqlite_where=text("done_ms is null"),
          postgresql_where=text("done_ms is null")),
)  # fmt: skip

differences = Table(
    "differences",
    metadata,
    _key("hospital_id"),
    _key("date"),
    Column("run", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    _str("kind"),
    _str("channel", null=True),
    _str("trade_no"),
    Column("merchant_fen", BigInteger, nullable=True),
    Column("ours_fen", BigInteger, nullable=True),
    Column("his_fen", BigInteger, nullable=True),
)

# The newest messages of the HIS that were applied, their ids in a row: written by the transaction that applies them, because the
# message store, where they are marked, is another database (ADR-0015). The last may be one that is begun, `<id>:<events>`. One
# row per hospital.
applied_messages = Table("applied_messages", metadata, _key("hospital_id"), _str("ids"))

# --- waiting rooms --------------------------------------------------------------------------------------------------

# One row per hospital and release (its instant). `watermark` is the highest rank that is admitted.
waiting_rooms = Table(
    "waiting_rooms",
    metadata,
    _key("hospital_id"),
    Column("release_ms", BigInteger, primary_key=True),
    _str("opened_by"),
    _ms("opened_ms", null=False),
    _ms("busy_ms", null=False),  # when somebody waited, or holds were slow
    _ms("closed_ms"),
    _str("closed_because", null=True),
    Column("arrivals", BigInteger, nullable=False),  # of those who came from the release on
    Column("watermark", BigInteger, nullable=False),
    Column("admitted", BigInteger, nullable=False),
    Column("rate_milli", BigInteger, nullable=False),  # admitted per 1000 s, as last measured
)

# What the two indexes of places are for, in these very words: who looks for a person's place must not be led to walk either.
RANKED_PLACE = "rank >= 0"
EARLY_PLACE = "rank < 4611686018427387904"  # drawn before the release: see booking.waiting_room.ranks
_RANKED, _EARLY = text(RANKED_PLACE), text(EARLY_PLACE)

# A person's place, whichever of their patients joined, and whichever portal's. `changed` numbers the write that gave the rank.
waiting_tickets = Table(
    "waiting_tickets",
    metadata,
    _key("hospital_id"),
    Column("release_ms", BigInteger, primary_key=True),
    _key("person_id"),
    Column("rank", BigInteger, nullable=False),
    Column("holds", Integer, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Index("ix_waiting_tickets_rank", "hospital_id", "release_ms", "rank", sqlite_where=_RANKED, postgresql_where=_RANKED),
    Index("ix_waiting_tickets_early", "hospital_id", "release_ms", "changed", sqlite_where=_EARLY,
          postgresql_where=_EARLY),
)  # fmt: skip

# When the watermark came where: it tells until when an admitted ticket is good, and how many are admitted a second.
waiting_steps = Table(
    "waiting_steps",
    metadata,
    _key("hospital_id"),
    Column("release_ms", BigInteger, primary_key=True),
    Column("watermark", BigInteger, primary_key=True),
    _ms("at_ms", null=False),
    Column("admitted", BigInteger, nullable=False),
)

# Who did what that is nobody's daily work: see booking.audit. Rows are added, and never altered or deleted.
audit = Table(
    "audit",
    metadata,
    _key("hospital_id"),
    Column("number", BigInteger, primary_key=True),
    _ms("at_ms", null=False),
    _str("actor"),
    _str("action"),
    _str("subject"),
    _str("reason"),
    _str("digest"),
)
