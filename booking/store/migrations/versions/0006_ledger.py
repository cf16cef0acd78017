"""The ledger of payments and refunds, with what was recorded before it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_COLUMNS = "hospital_id, channel, trade_no, entry, refund_id, debit, credit, amount_fen, at_ms"
_BEFORE = (
    "select hospital_id, channel, trade_no, 'received', '', 'merchant_clearing', 'receipts', amount_fen, created_ms from payments",
    "select hospital_id, channel, trade_no, 'settled', '', 'receipts', 'his_settlement', amount_fen, created_ms from payments"
    " where settlement = 'settled'",
    "select r.hospital_id, r.channel, r.trade_no, 'refund_due', r.id,"
    " case when p.settlement = 'settled' then 'his_settlement' else 'receipts' end, 'refunds_payable', r.amount_fen, r.created_ms"
    " from refunds r join payments p on p.hospital_id = r.hospital_id and p.channel = r.channel and p.trade_no = r.trade_no",
    "select hospital_id, channel, trade_no, 'refunded', id, 'refunds_payable', 'merchant_clearing', amount_fen, updated_ms"
    " from refunds where status = 'refunded'",
)


def upgrade() -> None:
    op.create_table(
        "ledger",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("channel", sa.String(length=32), nullable=False),
        sa.Column("trade_no", sa.String(length=128), nullable=False),
        sa.Column("entry", sa.String(length=16), nullable=False),
        sa.Column("refund_id", sa.String(length=64), nullable=False),
        sa.Column("debit", sa.Text(), nullable=False),
        sa.Column("credit", sa.Text(), nullable=False),
        sa.Column("amount_fen", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount_fen > 0", name="ck_ledger_amount"),
        sa.CheckConstraint(
            "case entry when 'received' then debit = 'merchant_clearing' and credit = 'receipts' and refund_id = ''"
            " when 'settled' then debit = 'receipts' and credit = 'his_settlement' and refund_id = ''"
            " when 'refund_due' then (debit = 'receipts' or debit = 'his_settlement') and credit = 'refunds_payable'"
            " and refund_id <> ''"
            " when 'refunded' then debit = 'refunds_payable' and credit = 'merchant_clearing' and refund_id <> ''"
            " else false end",
            name="ck_ledger_entry",
        ),
        sa.PrimaryKeyConstraint("hospital_id", "channel", "trade_no", "entry", "refund_id"),
    )
    for select in _BEFORE:
        op.execute(f"insert into ledger ({_COLUMNS}) {select}")
