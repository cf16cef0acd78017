"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "m0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.create_table(
        "messages",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("connector", sa.Text(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("message_type", sa.Text(), nullable=False),
        sa.Column("control_id", sa.Text(), nullable=False),
        sa.Column("dedup_key", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("sealed_raw", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_events", sa.LargeBinary(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state = 'received' or state = 'applied' or state = 'quarantined'", name=op.f("ck_messages_state")
        ),
        sa.PrimaryKeyConstraint("hospital_id", "id"),
    )
    op.create_index(op.f("ix_messages_hospital_id_dedup_key"), "messages", ["hospital_id", "dedup_key"], unique=False)
    op.create_index(
        "ix_messages_open",
        "messages",
        ["hospital_id", "state", "id"],
        unique=False,
        sqlite_where=sa.text("state <> 'applied'"),
        postgresql_where=sa.text("state <> 'applied'"),
    )
    op.create_index(
        "ix_messages_applied",
        "messages",
        ["hospital_id", "received_ms"],
        unique=False,
        sqlite_where=sa.text("state = 'applied'"),
        postgresql_where=sa.text("state = 'applied'"),
    )
    op.create_table(
        "store_clock",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("last_ms", sa.BigInteger(), nullable=False),
        sa.Column("writes", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("hospital_id"),
    )
