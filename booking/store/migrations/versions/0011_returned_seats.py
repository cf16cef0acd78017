"""Seats that have come back and are held back for a while."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("slots", "schedules"):
        op.add_column(table, sa.Column("held_back", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "returned_seats",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("booking_id", sa.String(length=64), nullable=False),
        sa.Column("slot_id", sa.Text(), nullable=False),
        sa.Column("schedule_id", sa.Text(), nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hospital_id", "booking_id"),
    )
    op.create_index(
        op.f("ix_returned_seats_hospital_id_due_ms"), "returned_seats", ["hospital_id", "due_ms"], unique=False
    )
