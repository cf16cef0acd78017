"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.create_table(
        "api_keys",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("hospitals", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_table(
        "applied_messages",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("ids", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("hospital_id"),
    )
    op.create_table(
        "bills",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("his_id", sa.Text(), nullable=False),
        sa.Column("mrn_digest", sa.Text(), nullable=False),
        sa.Column("amount_fen", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("order_no", sa.Text(), nullable=False),
        sa.Column("sealed_record", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_settlement", sa.LargeBinary(), nullable=True),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hospital_id", "id"),
    )
    op.create_index(op.f("ix_bills_hospital_id_mrn_digest"), "bills", ["hospital_id", "mrn_digest"], unique=False)
    op.create_table(
        "bookings",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("order_no", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("user_ref", sa.Text(), nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("person_id", sa.Text(), nullable=False),
        sa.Column("slot_id", sa.Text(), nullable=False),
        sa.Column("schedule_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("his_state", sa.Text(), nullable=False),
        sa.Column("his_command", sa.Text(), nullable=False),
        sa.Column("his_command_status", sa.Text(), nullable=False),
        sa.Column("payment_state", sa.Text(), nullable=False),
        sa.Column("fee_fen", sa.BigInteger(), nullable=False),
        sa.Column("live", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("occupies", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("charged", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("needs_attention", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("lock_sent_ms", sa.BigInteger(), nullable=True),
        sa.Column("lock_reply_ms", sa.BigInteger(), nullable=True),
        sa.Column("unlock_sent_ms", sa.BigInteger(), nullable=True),
        sa.Column("lock_by_ms", sa.BigInteger(), nullable=True),
        sa.Column("pay_by_ms", sa.BigInteger(), nullable=True),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("his_id", sa.Text(), nullable=True),
        sa.Column("deferred_news", sa.Text(), nullable=True),
        sa.Column("sealed_registration", sa.LargeBinary(), nullable=True),
        sa.Column("sealed_his_refs", sa.LargeBinary(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "(his_command = 'none' or his_command = 'lock' or his_command = 'register' or his_command = 'unlock' or his_command = 'cancel')",
            name=op.f("ck_bookings_his_command"),
        ),
        sa.CheckConstraint(
            "(his_command = 'none') = (his_command_status = 'none')", name=op.f("ck_bookings_command_status")
        ),
        sa.CheckConstraint(
            "(his_command_status = 'none' or his_command_status = 'queued' or his_command_status = 'sent' or his_command_status = 'unknown')",
            name=op.f("ck_bookings_his_command_status"),
        ),
        sa.CheckConstraint(
            "(his_state = 'none' or his_state = 'locked' or his_state = 'registered' or his_state = 'released' or his_state = 'rejected')",
            name=op.f("ck_bookings_his_state"),
        ),
        sa.CheckConstraint(
            "(payment_state = 'not_required' or payment_state = 'due' or payment_state = 'paid' or payment_state = 'paid_at_window' or payment_state = 'part_refunded' or payment_state = 'refund_due' or payment_state = 'refunded' or payment_state = 'void')",
            name=op.f("ck_bookings_payment_state"),
        ),
        sa.CheckConstraint(
            "(state <> 'booked' and state <> 'checked_in' and state <> 'fulfilled' and state <> 'no_show') or his_state = 'registered'",
            name=op.f("ck_bookings_booked_is_registered"),
        ),
        sa.CheckConstraint(
            "(state <> 'expired' and state <> 'rejected') or payment_state <> 'due'",
            name=op.f("ck_bookings_nothing_due_when_over"),
        ),
        sa.CheckConstraint(
            "(state = 'held' or state = 'booked' or state = 'checked_in' or state = 'fulfilled' or state = 'no_show' or state = 'cancelling' or state = 'cancelled' or state = 'expired' or state = 'rejected' or state = 'stopped')",
            name=op.f("ck_bookings_state"),
        ),
        sa.CheckConstraint(
            "case his_command when 'lock' then (state = 'held' or state = 'cancelling' or state = 'expired' or state = 'stopped') when 'register' then (state = 'held' or state = 'cancelling' or state = 'stopped') when 'none' then true else (state = 'cancelling' or state = 'cancelled' or state = 'expired' or state = 'rejected' or state = 'stopped') end",
            name=op.f("ck_bookings_command_state"),
        ),
        sa.CheckConstraint(
            "case his_command when 'lock' then his_state = 'none' when 'register' then his_state = 'locked' when 'unlock' then his_state = 'locked' when 'cancel' then his_state = 'registered' else true end",
            name=op.f("ck_bookings_command_needs"),
        ),
        sa.CheckConstraint("expires_at_ms is null or state = 'held'", name=op.f("ck_bookings_only_holds_expire")),
        sa.CheckConstraint(
            "his_state <> 'registered' or payment_state <> 'due'", name=op.f("ck_bookings_registered_owes_nothing")
        ),
        sa.CheckConstraint(
            "live = ((state = 'held' or state = 'booked' or state = 'checked_in' or state = 'cancelling'))",
            name=op.f("ck_bookings_live"),
        ),
        sa.CheckConstraint(
            "occupies = ((his_state = 'locked' or his_state = 'registered') or his_command <> 'none')",
            name=op.f("ck_bookings_occupies"),
        ),
        sa.CheckConstraint("payment_state <> 'not_required' or fee_fen = 0", name=op.f("ck_bookings_fee_is_required")),
        sa.CheckConstraint("state <> 'cancelling' or his_command <> 'none'", name=op.f("ck_bookings_cancelling_waits")),
        sa.CheckConstraint(
            "state <> 'expired' or (payment_state <> 'paid' and payment_state <> 'paid_at_window')",
            name=op.f("ck_bookings_no_expiry_with_money"),
        ),
        sa.CheckConstraint(
            "state <> 'held' or his_state = 'locked' or his_command = 'lock'",
            name=op.f("ck_bookings_held_waits_or_locked"),
        ),
        sa.CheckConstraint("state <> 'rejected' or his_state <> 'none'", name=op.f("ck_bookings_rejected_was_asked")),
        sa.CheckConstraint("fee_fen >= 0", name=op.f("ck_bookings_fee")),
        sa.CheckConstraint("occupies or not charged", name=op.f("ck_bookings_charged_occupies")),
        sa.PrimaryKeyConstraint("hospital_id", "id"),
    )
    op.create_index(
        "ix_bookings_attention",
        "bookings",
        ["hospital_id", "needs_attention", "id"],
        unique=False,
        sqlite_where=sa.text("needs_attention = 1"),
        postgresql_where=sa.text("needs_attention"),
    )
    op.create_index(
        "ix_bookings_due",
        "bookings",
        ["hospital_id", "expires_at_ms"],
        unique=False,
        sqlite_where=sa.text("state = 'held'"),
        postgresql_where=sa.text("state = 'held'"),
    )
    op.create_index(
        "ix_bookings_his_id",
        "bookings",
        ["hospital_id", "his_id"],
        unique=False,
        sqlite_where=sa.text("his_id is not null"),
        postgresql_where=sa.text("his_id is not null"),
    )
    op.create_index(
        op.f("ix_bookings_hospital_id_client_id_id"), "bookings", ["hospital_id", "client_id", "id"], unique=False
    )
    op.create_index(
        op.f("ix_bookings_hospital_id_patient_id_id"), "bookings", ["hospital_id", "patient_id", "id"], unique=False
    )
    op.create_index(
        op.f("ix_bookings_hospital_id_user_ref_id"), "bookings", ["hospital_id", "user_ref", "id"], unique=False
    )
    op.create_index(
        "ix_bookings_occupies",
        "bookings",
        ["hospital_id", "schedule_id"],
        unique=False,
        sqlite_where=sa.text("occupies = 1"),
        postgresql_where=sa.text("occupies"),
    )
    op.create_index(
        "ux_bookings_live",
        "bookings",
        ["hospital_id", "person_id", "schedule_id"],
        unique=True,
        sqlite_where=sa.text("live = 1"),
        postgresql_where=sa.text("live"),
    )
    op.create_index("ux_bookings_order_no", "bookings", ["hospital_id", "order_no"], unique=True)
    op.create_table(
        "departments",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.Text(), nullable=True),
        sa.Column("campus", sa.Text(), nullable=True),
        sa.Column("his_refs", sa.Text(), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("hospital_id", "id"),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("hospital_id", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "ix_events_client_id_seq",
        "events",
        ["client_id", "seq"],
        unique=False,
        sqlite_where=sa.text("seq is not null"),
        postgresql_where=sa.text("seq is not null"),
    )
    op.create_index(
        "ix_events_unnumbered",
        "events",
        ["id"],
        unique=False,
        sqlite_where=sa.text("seq is null"),
        postgresql_where=sa.text("seq is null"),
    )
    op.create_index(
        "ux_events_seq",
        "events",
        ["seq"],
        unique=True,
        sqlite_where=sa.text("seq is not null"),
        postgresql_where=sa.text("seq is not null"),
    )
    op.create_table(
        "fragments",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("date", sa.String(length=64), nullable=False),
        sa.Column("department_id", sa.Text(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hospital_id", "date", "department_id"),
    )
    op.create_index(op.f("ix_fragments_hospital_id_changed"), "fragments", ["hospital_id", "changed"], unique=False)
    op.create_table(
        "idempotency_keys",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("client_id", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("body_digest", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("sealed_body", sa.LargeBinary(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hospital_id", "client_id", "key"),
    )
    op.create_index(
        op.f("ix_idempotency_keys_hospital_id_created_ms"),
        "idempotency_keys",
        ["hospital_id", "created_ms"],
        unique=False,
    )
    op.create_table(
        "leases",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.Column("his_status", sa.Text(), server_default="up", nullable=False),
        sa.PrimaryKeyConstraint("hospital_id"),
    )
    op.create_table(
        "merchant_lines",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("date", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("trade_no", sa.Text(), nullable=False),
        sa.Column("amount_fen", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("hospital_id", "date", "revision", "line"),
    )
    op.create_table(
        "nodes",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.Column("started_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "outbox",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        sa.Column("waits_for", sa.Text(), nullable=True),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("looks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=False),
        sa.Column("lease_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("first_sent_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_sent_ms", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "(status = 'queued' or status = 'sent' or status = 'unknown' or status = 'done' or status = 'dead' or status = 'dropped')",
            name=op.f("ck_outbox_status"),
        ),
        sa.PrimaryKeyConstraint("hospital_id", "id"),
    )
    op.create_index(
        "ix_outbox_dead",
        "outbox",
        ["hospital_id", "status", "id"],
        unique=False,
        sqlite_where=sa.text("status = 'dead'"),
        postgresql_where=sa.text("status = 'dead'"),
    )
    op.create_index(
        "ix_outbox_turn",
        "outbox",
        ["hospital_id", "rank", "id"],
        unique=False,
        sqlite_where=sa.text("status <> 'done' and status <> 'dropped' and status <> 'dead'"),
        postgresql_where=sa.text("status <> 'done' and status <> 'dropped' and status <> 'dead'"),
    )
    op.create_index(
        "ux_outbox_open_line",
        "outbox",
        ["hospital_id", "line"],
        unique=True,
        sqlite_where=sa.text("status <> 'done' and status <> 'dropped'"),
        postgresql_where=sa.text("status <> 'done' and status <> 'dropped'"),
    )
    op.create_table(
        "patients",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("user_ref", sa.Text(), nullable=False),
        sa.Column("person_id", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hospital_id", "id"),
    )
    op.create_index(op.f("ix_patients_hospital_id_person_id"), "patients", ["hospital_id", "person_id"], unique=False)
    op.create_index("ux_patients_owner", "patients", ["hospital_id", "client_id", "user_ref", "person_id"], unique=True)
    op.create_table(
        "payments",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("channel", sa.String(length=32), nullable=False),
        sa.Column("trade_no", sa.String(length=128), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("booking_id", sa.Text(), nullable=True),
        sa.Column("bill_id", sa.Text(), nullable=True),
        sa.Column("amount_fen", sa.BigInteger(), nullable=False),
        sa.Column("paid_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("kept", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("settlement", sa.Text(), nullable=False),
        sa.Column("unusable", sa.Text(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "(settlement = 'none' or settlement = 'pending' or settlement = 'settled' or settlement = 'rejected' or settlement = 'unknown')",
            name=op.f("ck_payments_settlement"),
        ),
        sa.CheckConstraint(
            "kept or (settlement = 'none' or settlement = 'rejected')", name=op.f("ck_payments_only_kept_is_settled")
        ),
        sa.CheckConstraint("(booking_id is null) <> (bill_id is null)", name=op.f("ck_payments_one_purpose")),
        sa.CheckConstraint("amount_fen > 0", name=op.f("ck_payments_amount")),
        sa.CheckConstraint("unusable is null or not kept", name=op.f("ck_payments_unusable_is_not_kept")),
        sa.PrimaryKeyConstraint("hospital_id", "channel", "trade_no"),
    )
    op.create_index(op.f("ix_payments_hospital_id_bill_id"), "payments", ["hospital_id", "bill_id"], unique=False)
    op.create_index(op.f("ix_payments_hospital_id_booking_id"), "payments", ["hospital_id", "booking_id"], unique=False)
    op.create_index(op.f("ix_payments_hospital_id_paid_at_ms"), "payments", ["hospital_id", "paid_at_ms"], unique=False)
    op.create_index(
        "ux_payments_bill",
        "payments",
        ["hospital_id", "bill_id"],
        unique=True,
        sqlite_where=sa.text("kept = 1"),
        postgresql_where=sa.text("kept"),
    )
    op.create_index(
        "ux_payments_booking",
        "payments",
        ["hospital_id", "booking_id"],
        unique=True,
        sqlite_where=sa.text("kept = 1"),
        postgresql_where=sa.text("kept"),
    )
    op.create_table(
        "person_mrns",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("mrn_digest", sa.String(length=64), nullable=False),
        sa.Column("person_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("hospital_id", "mrn_digest"),
    )
    op.create_index(
        op.f("ix_person_mrns_hospital_id_person_id"), "person_mrns", ["hospital_id", "person_id"], unique=False
    )
    op.create_table(
        "persons",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("identity_digest", sa.Text(), nullable=True),
        sa.Column("mrn_digest", sa.Text(), nullable=True),
        sa.Column("his_state", sa.Text(), nullable=False),
        sa.Column("reject_code", sa.Text(), nullable=True),
        sa.Column("merged_into", sa.Text(), nullable=True),
        sa.Column("sealed_record", sa.LargeBinary(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "(his_state = 'pending' or his_state = 'linked' or his_state = 'rejected')",
            name=op.f("ck_persons_his_state"),
        ),
        sa.PrimaryKeyConstraint("hospital_id", "id"),
    )
    op.create_index(
        "ux_persons_identity",
        "persons",
        ["hospital_id", "identity_digest"],
        unique=True,
        sqlite_where=sa.text("merged_into is null"),
        postgresql_where=sa.text("merged_into is null"),
    )
    op.create_table(
        "practitioners",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("department_id", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("his_refs", sa.Text(), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("hospital_id", "id"),
    )
    op.create_table(
        "refunds",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("trade_no", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("booking_id", sa.Text(), nullable=True),
        sa.Column("bill_id", sa.Text(), nullable=True),
        sa.Column("amount_fen", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("refund_trade_no", sa.Text(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "(status = 'refund_due' or status = 'refunding' or status = 'refunded' or status = 'refund_unknown' or status = 'refund_failed')",
            name=op.f("ck_refunds_status"),
        ),
        sa.CheckConstraint("(booking_id is null) <> (bill_id is null)", name=op.f("ck_refunds_one_purpose")),
        sa.CheckConstraint("amount_fen > 0", name=op.f("ck_refunds_amount")),
        sa.PrimaryKeyConstraint("hospital_id", "id"),
    )
    op.create_index(op.f("ix_refunds_hospital_id_bill_id"), "refunds", ["hospital_id", "bill_id"], unique=False)
    op.create_index(op.f("ix_refunds_hospital_id_booking_id"), "refunds", ["hospital_id", "booking_id"], unique=False)
    op.create_index(op.f("ix_refunds_hospital_id_updated_ms"), "refunds", ["hospital_id", "updated_ms"], unique=False)
    op.create_index("ux_refunds_payment", "refunds", ["hospital_id", "channel", "trade_no"], unique=True)
    op.create_table(
        "registrations",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("order_no", sa.Text(), nullable=True),
        sa.Column("his_id", sa.Text(), nullable=True),
        sa.Column("mrn_digest", sa.Text(), nullable=True),
        sa.Column("booking_id", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("starts_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("ends_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("occurred_ms", sa.BigInteger(), nullable=True),
        sa.Column("sealed_record", sa.LargeBinary(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hospital_id", "id"),
    )
    op.create_index(
        op.f("ix_registrations_hospital_id_mrn_digest"), "registrations", ["hospital_id", "mrn_digest"], unique=False
    )
    op.create_table(
        "reports",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("his_id", sa.Text(), nullable=False),
        sa.Column("mrn_digest", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("sealed_record", sa.LargeBinary(), nullable=False),
        sa.Column("occurred_ms", sa.BigInteger(), nullable=True),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hospital_id", "id"),
    )
    op.create_index(op.f("ix_reports_hospital_id_mrn_digest"), "reports", ["hospital_id", "mrn_digest"], unique=False)
    op.create_table(
        "schedules",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("his_id", sa.Text(), nullable=False),
        sa.Column("date", sa.Text(), nullable=False),
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("department_id", sa.Text(), nullable=False),
        sa.Column("department_name", sa.Text(), nullable=True),
        sa.Column("practitioner_id", sa.Text(), nullable=True),
        sa.Column("practitioner_name", sa.Text(), nullable=True),
        sa.Column("clinic_type", sa.Text(), nullable=True),
        sa.Column("fee_fen", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("opens_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("quota", sa.Integer(), nullable=True),
        sa.Column("taken", sa.Integer(), server_default="0", nullable=False),
        sa.Column("location", sa.Text(), nullable=True),
        sa.Column("his_refs", sa.Text(), server_default="{}", nullable=False),
        sa.Column("stopped_ms", sa.BigInteger(), nullable=True),
        sa.Column("seen_ms", sa.BigInteger(), nullable=False),
        sa.Column("booked", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint("(status = 'open' or status = 'stopped')", name=op.f("ck_schedules_status")),
        sa.CheckConstraint("fee_fen is null or fee_fen >= 0", name=op.f("ck_schedules_fee")),
        sa.CheckConstraint("taken >= 0", name=op.f("ck_schedules_taken")),
        sa.PrimaryKeyConstraint("hospital_id", "id"),
    )
    op.create_index(
        op.f("ix_schedules_hospital_id_date_department_id"),
        "schedules",
        ["hospital_id", "date", "department_id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_schedules_hospital_id_his_id_date"), "schedules", ["hospital_id", "his_id", "date"], unique=False
    )
    op.create_index(
        "ix_schedules_opens",
        "schedules",
        ["hospital_id", "opens_at_ms"],
        unique=False,
        sqlite_where=sa.text("opens_at_ms is not null"),
        postgresql_where=sa.text("opens_at_ms is not null"),
    )
    op.create_table(
        "slots",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("schedule_id", sa.Text(), nullable=False),
        sa.Column("his_id", sa.Text(), nullable=False),
        sa.Column("date", sa.Text(), nullable=False),
        sa.Column("starts_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("ends_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("his_left", sa.Integer(), nullable=False),
        sa.Column("unreflected", sa.Integer(), server_default="0", nullable=False),
        sa.Column("fetch_started_ms", sa.BigInteger(), nullable=False),
        sa.Column("fetch_ended_ms", sa.BigInteger(), nullable=False),
        sa.Column("stopped_ms", sa.BigInteger(), nullable=True),
        sa.Column("his_refs", sa.Text(), server_default="{}", nullable=False),
        sa.Column("booked", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint("(status = 'open' or status = 'stopped')", name=op.f("ck_slots_status")),
        sa.CheckConstraint("ends_at_ms > starts_at_ms", name=op.f("ck_slots_span")),
        sa.CheckConstraint("his_left >= 0", name=op.f("ck_slots_his_left")),
        sa.CheckConstraint("unreflected >= 0", name=op.f("ck_slots_unreflected")),
        sa.PrimaryKeyConstraint("hospital_id", "id"),
    )
    op.create_index(op.f("ix_slots_hospital_id_date"), "slots", ["hospital_id", "date"], unique=False)
    op.create_index(op.f("ix_slots_hospital_id_schedule_id"), "slots", ["hospital_id", "schedule_id"], unique=False)
    op.create_table(
        "store_clock",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("last_ms", sa.BigInteger(), nullable=False),
        sa.Column("writes", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("hospital_id"),
    )
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("sealed_secret", sa.LargeBinary(), nullable=False),
        sa.Column("cursor", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_webhooks_client_id"), "webhooks", ["client_id"], unique=False)
