"""Comparisons of the books as they are kept; bills of merchants in several files."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, default in (("source", "lines"), ("status", "done")):
        op.add_column("merchant_lines", sa.Column(name, sa.Text(), nullable=False, server_default=default))
    op.add_column("merchant_lines", sa.Column("order_no", sa.Text(), nullable=True))
    op.add_column(
        "merchant_lines", sa.Column("of_others", sa.Boolean(), nullable=False, server_default=sa.text("false"))
    )
    op.create_table(
        "reconciliations",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("date", sa.String(length=64), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("asked_ms", sa.BigInteger(), nullable=False),
        sa.Column("done_ms", sa.BigInteger(), nullable=True),
        sa.Column("failed", sa.Text(), nullable=True),
        sa.Column("merchant_lines", sa.Integer(), server_default="0", nullable=False),
        sa.Column("our_lines", sa.Integer(), server_default="0", nullable=False),
        sa.Column("his_lines", sa.Integer(), nullable=True),
        sa.Column("differences", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("hospital_id", "date", "run"),
    )
    op.create_index(
        "ix_reconciliations_asked",
        "reconciliations",
        ["hospital_id", "asked_ms"],
        sqlite_where=sa.text("done_ms is null"),
        postgresql_where=sa.text("done_ms is null"),
    )
    op.create_table(
        "differences",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("date", sa.String(length=64), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=True),
        sa.Column("trade_no", sa.Text(), nullable=False),
        sa.Column("merchant_fen", sa.BigInteger(), nullable=True),
        sa.Column("ours_fen", sa.BigInteger(), nullable=True),
        sa.Column("his_fen", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("hospital_id", "date", "run", "number"),
    )
