"""Waiting rooms, and which of them is open beside each hospital's clock."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("store_clock", sa.Column("room_ms", sa.BigInteger(), server_default="0", nullable=False))
    op.create_table(
        "waiting_rooms",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("release_ms", sa.BigInteger(), nullable=False),
        sa.Column("opened_by", sa.Text(), nullable=False),
        sa.Column("opened_ms", sa.BigInteger(), nullable=False),
        sa.Column("busy_ms", sa.BigInteger(), nullable=False),
        sa.Column("closed_ms", sa.BigInteger(), nullable=True),
        sa.Column("closed_because", sa.Text(), nullable=True),
        sa.Column("arrivals", sa.BigInteger(), nullable=False),
        sa.Column("watermark", sa.BigInteger(), nullable=False),
        sa.Column("admitted", sa.BigInteger(), nullable=False),
        sa.Column("rate_milli", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hospital_id", "release_ms"),
    )
    op.create_table(
        "waiting_tickets",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("release_ms", sa.BigInteger(), nullable=False),
        sa.Column("person_id", sa.String(length=64), nullable=False),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column("holds", sa.Integer(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hospital_id", "release_ms", "person_id"),
    )
    for name, column, which in (
        ("rank", "rank", "rank >= 0"),
        ("early", "changed", "rank < 4611686018427387904"),
    ):
        op.create_index(
            f"ix_waiting_tickets_{name}",
            "waiting_tickets",
            ["hospital_id", "release_ms", column],
            unique=False,
            sqlite_where=sa.text(which),
            postgresql_where=sa.text(which),
        )
    op.create_table(
        "waiting_steps",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("release_ms", sa.BigInteger(), nullable=False),
        sa.Column("watermark", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("admitted", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hospital_id", "release_ms", "watermark"),
    )
