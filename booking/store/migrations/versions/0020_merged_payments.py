"""One payment for several bills (合并支付): each bill's piece of it is a row, and so are its entries in the ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_UNSETTLED = sa.text("(settlement = 'pending' or settlement = 'unknown') and returned_fen < amount_fen")
_PIECE = "piece = '' or (bill_id is not null and piece = bill_id)"


def _piece() -> sa.Column[str]:
    return sa.Column("piece", sa.String(length=64), server_default="", nullable=False)


def upgrade() -> None:
    op.add_column("refunds", _piece())
    if op.get_bind().dialect.name == "postgresql":
        for table, keys in (
            ("payments", "hospital_id, channel, trade_no, piece"),
            ("ledger", "hospital_id, channel, trade_no, entry, refund_id, piece"),
        ):
            op.add_column(table, _piece())
            op.execute(f"alter table {table} drop constraint {table}_pkey, add primary key ({keys})")
        op.create_check_constraint(op.f("ck_payments_piece"), "payments", _PIECE)
    else:
        _payments_anew()
        _ledger_anew()


def _in_place_of(table: str, columns: str) -> None:
    """SQLite alters no primary key: everything goes into a new table, which takes the name of the old one."""
    op.execute(f"insert into {table}_anew ({columns}) select {columns} from {table}")  # noqa: S608 - words of ours
    op.drop_table(table)
    op.rename_table(f"{table}_anew", table)


def _payments_anew() -> None:
    op.create_table(
        "payments_anew",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("channel", sa.String(length=32), nullable=False),
        sa.Column("trade_no", sa.String(length=128), nullable=False),
        _piece(),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("booking_id", sa.Text(), nullable=True),
        sa.Column("bill_id", sa.Text(), nullable=True),
        sa.Column("amount_fen", sa.BigInteger(), nullable=False),
        sa.Column("paid_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("kept", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("settlement", sa.Text(), nullable=False),
        sa.Column("unusable", sa.Text(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("returned_fen", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("amount_fen > 0", name=op.f("ck_payments_amount")),
        sa.CheckConstraint("returned_fen >= 0 and returned_fen <= amount_fen", name=op.f("ck_payments_returned")),
        sa.CheckConstraint(
            "(settlement = 'none' or settlement = 'pending' or settlement = 'settled' or settlement = 'rejected'"
            " or settlement = 'unknown')",
            name=op.f("ck_payments_settlement"),
        ),
        sa.CheckConstraint("(booking_id is null) <> (bill_id is null)", name=op.f("ck_payments_one_purpose")),
        sa.CheckConstraint(
            "kept or (settlement = 'none' or settlement = 'rejected')", name=op.f("ck_payments_only_kept_is_settled")
        ),
        sa.CheckConstraint("unusable is null or not kept", name=op.f("ck_payments_unusable_is_not_kept")),
        sa.CheckConstraint(_PIECE, name=op.f("ck_payments_piece")),
        sa.PrimaryKeyConstraint("hospital_id", "channel", "trade_no", "piece"),
    )
    _in_place_of(
        "payments",
        "hospital_id, channel, trade_no, client_id, booking_id, bill_id, amount_fen, paid_at_ms, kept, settlement, unusable,"
        " created_ms, returned_fen",
    )
    for column in ("booking_id", "bill_id", "paid_at_ms"):
        op.create_index(op.f(f"ix_payments_hospital_id_{column}"), "payments", ["hospital_id", column], unique=False)
    for name, column in (("ux_payments_booking", "booking_id"), ("ux_payments_bill", "bill_id")):
        op.create_index(name, "payments", ["hospital_id", column], unique=True, sqlite_where=sa.text("kept = 1"))
    op.create_index(
        "ix_payments_unsettled", "payments", ["hospital_id", "created_ms"], unique=False, sqlite_where=_UNSETTLED
    )


def _ledger_anew() -> None:
    op.create_table(
        "ledger_anew",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("channel", sa.String(length=32), nullable=False),
        sa.Column("trade_no", sa.String(length=128), nullable=False),
        sa.Column("entry", sa.String(length=16), nullable=False),
        sa.Column("refund_id", sa.String(length=64), nullable=False),
        _piece(),
        sa.Column("debit", sa.Text(), nullable=False),
        sa.Column("credit", sa.Text(), nullable=False),
        sa.Column("amount_fen", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount_fen > 0", name=op.f("ck_ledger_amount")),
        sa.CheckConstraint(
            "case entry when 'received' then debit = 'merchant_clearing' and credit = 'receipts' and refund_id = ''"
            " when 'settled' then debit = 'receipts' and credit = 'his_settlement' and refund_id = ''"
            " when 'refund_due' then (debit = 'receipts' or debit = 'his_settlement') and credit = 'refunds_payable'"
            " and refund_id <> ''"
            " when 'refunded' then debit = 'refunds_payable' and credit = 'merchant_clearing' and refund_id <> ''"
            " else false end",
            name=op.f("ck_ledger_entry"),
        ),
        sa.PrimaryKeyConstraint("hospital_id", "channel", "trade_no", "entry", "refund_id", "piece"),
    )
    _in_place_of("ledger", "hospital_id, channel, trade_no, entry, refund_id, debit, credit, amount_fen, at_ms")
