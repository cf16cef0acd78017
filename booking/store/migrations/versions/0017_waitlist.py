"""The waitlist of sessions that are sold out."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("schedules", sa.Column("waiting", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "waitlist",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("user_ref", sa.Text(), nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("person_id", sa.Text(), nullable=False),
        sa.Column("schedule_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("live", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("clears_ms", sa.BigInteger(), nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=True),
        sa.Column("slot_id", sa.Text(), nullable=True),
        sa.Column("booking_id", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "(state = 'waiting' or state = 'offered' or state = 'accepted' or state = 'lapsed' or state = 'cancelled'"
            " or state = 'cleared')",
            name=op.f("ck_waitlist_state"),
        ),
        sa.CheckConstraint("live = ((state = 'waiting' or state = 'offered'))", name=op.f("ck_waitlist_live")),
        sa.CheckConstraint("live = (due_ms is not null)", name=op.f("ck_waitlist_due")),
        sa.CheckConstraint("state <> 'offered' or slot_id is not null", name=op.f("ck_waitlist_offer")),
        sa.CheckConstraint("(state = 'accepted') = (booking_id is not null)", name=op.f("ck_waitlist_accepted")),
        sa.PrimaryKeyConstraint("hospital_id", "id"),
    )
    for name, columns in (
        ("ux_waitlist_live", ("person_id", "schedule_id")),
        ("ux_waitlist_line", ("schedule_id", "number")),
    ):
        op.create_index(
            name,
            "waitlist",
            ["hospital_id", *columns],
            unique=True,
            sqlite_where=sa.text("live = 1"),
            postgresql_where=sa.text("live"),
        )
    due = sa.text("due_ms is not null")
    op.create_index("ix_waitlist_due", "waitlist", ["hospital_id", "due_ms"], sqlite_where=due, postgresql_where=due)
    op.create_index(op.f("ix_waitlist_hospital_id_patient_id"), "waitlist", ["hospital_id", "patient_id"])
