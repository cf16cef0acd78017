"""Bookings."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Table, text

from booking.store.tables.columns import check, flag, key, metadata, ms, string

_LIVE = text("live")

# SQLAlchemy asks SQLite for `live = 1`, and SQLite takes a partial index only where the query says what the index says.
_LIVE_SQLITE = text("live = 1")

bookings = Table(
    "bookings",
    metadata,
    key("hospital_id"),
    key("id"),
    string("order_no"),
    string("client_id"),
    string("user_ref"),
    string("patient_id"),
    string("person_id"),
    string("slot_id"),
    string("schedule_id"),
    Column("version", Integer, nullable=False),
    string("state"),
    string("his_state"),
    string("his_command"),
    string("his_command_status"),
    string("payment_state"),
    Column("fee_fen", BigInteger, nullable=False),
    flag("live"),
    flag("occupies"),
    flag("charged"),
    flag("needs_attention"),
    ms("lock_sent_ms"),
    ms("lock_reply_ms"),
    ms("unlock_sent_ms"),
    ms("lock_by_ms"),
    ms("pay_by_ms"),
    ms("expires_at_ms"),
    ms("cancelled_ms"),  # when the patient asked for it; null again where the hospital refused
    ms("moved_ms"),
    string("reason", null=True),
    string("his_id", null=True),
    string("deferred_news", null=True),
    Column("sealed_registration", LargeBinary, nullable=True),
    Column("sealed_his_refs", LargeBinary, nullable=True),
    ms("created_ms", null=False),
    ms("updated_ms", null=False),
    # What must never exist together (DESIGN section 4); `booking.lifecycle.must_not_be` has the same rules by the same names.
    check(
        "state in ('held','booked','checked_in','fulfilled','no_show','cancelling','cancelled','expired','rejected','stopped')",
        name="state",
    ),
    check("his_state in ('none','locked','registered','released','rejected')", name="his_state"),
    check("his_command in ('none','lock','register','unlock','cancel')", name="his_command"),
    check("his_command_status in ('none','queued','sent','unknown')", name="his_command_status"),
    check(
        "payment_state in ('not_required','due','paid','paid_at_window','part_refunded','refund_due','refunded','void')",
        name="payment_state",
    ),
    check("(his_command = 'none') = (his_command_status = 'none')", name="command_status"),
    check(
        "case his_command when 'lock' then his_state = 'none' when 'register' then his_state = 'locked'"
        " when 'unlock' then his_state = 'locked' when 'cancel' then his_state = 'registered' else true end",
        name="command_needs",
    ),
    check(
        "case his_command when 'lock' then state in ('held','cancelling','expired','stopped')"
        " when 'register' then state in ('held','cancelling','stopped')"
        " when 'none' then true else state in ('cancelling','cancelled','expired','rejected','stopped') end",
        name="command_state",
    ),
    check(
        "state not in ('booked','checked_in','fulfilled','no_show') or his_state = 'registered'", name="booked_is_registered"
    ),
    check("state <> 'held' or his_state = 'locked' or his_command = 'lock'", name="held_waits_or_locked"),
    check("state <> 'cancelling' or his_command <> 'none'", name="cancelling_waits"),
    check("state <> 'rejected' or his_state <> 'none'", name="rejected_was_asked"),
    check("state not in ('expired','rejected') or payment_state <> 'due'", name="nothing_due_when_over"),
    check("state <> 'expired' or payment_state not in ('paid','paid_at_window')", name="no_expiry_with_money"),
    check("his_state <> 'registered' or payment_state <> 'due'", name="registered_owes_nothing"),
    check("payment_state <> 'not_required' or fee_fen = 0", name="fee_is_required"),
    # What is derived must agree with what it is derived from: the partial indexes and the seats stand on it.
    check("live = (state in ('held','booked','checked_in','cancelling'))", name="live"),
    check("occupies = (his_state in ('locked','registered') or his_command <> 'none')", name="occupies"),
    check("occupies or not charged", name="charged_occupies"),
    check("expires_at_ms is null or state = 'held'", name="only_holds_expire"),
    check("fee_fen >= 0", name="fee"),
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
