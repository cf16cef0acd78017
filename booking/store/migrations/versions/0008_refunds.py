"""Payments returned in parts, refunds that the HIS is told of, what the insurance pays of a bill."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_UNSETTLED = sa.text("(settlement = 'pending' or settlement = 'unknown') and returned_fen < amount_fen")
_OPEN_REFUND = sa.text("status <> 'refunded' or his = 'pending' or his = 'unknown' or his = 'rejected'")


def upgrade() -> None:
    # In plain SQL: Alembic adds no column with a CHECK on SQLite.
    op.execute(
        "alter table payments add column returned_fen bigint default '0' not null"
        " CONSTRAINT ck_payments_returned CHECK (returned_fen >= 0 and returned_fen <= amount_fen)"
    )
    op.execute(
        "alter table refunds add column his text default 'none' not null CONSTRAINT ck_refunds_his CHECK"
        " (his = 'none' or his = 'pending' or his = 'unknown' or his = 'told' or his = 'rejected')"
    )
    op.add_column("bills", sa.Column("sealed_split", sa.LargeBinary(), nullable=True))
    # Until now a payment was refunded whole, and once.
    op.execute(
        "update payments set returned_fen = amount_fen where exists (select 1 from refunds where"
        " refunds.hospital_id = payments.hospital_id and refunds.channel = payments.channel"
        " and refunds.trade_no = payments.trade_no)"
    )
    op.drop_index("ux_refunds_payment", table_name="refunds")
    op.create_index(
        op.f("ix_refunds_hospital_id_channel_trade_no"), "refunds", ["hospital_id", "channel", "trade_no"], unique=False
    )
    for name, table, which in (
        ("ix_payments_unsettled", "payments", _UNSETTLED),
        ("ix_refunds_open", "refunds", _OPEN_REFUND),
    ):
        op.create_index(
            name, table, ["hospital_id", "created_ms"], unique=False, sqlite_where=which, postgresql_where=which
        )
