"""Bills of which the insurance pays all."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "insured_settlements",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("bill_id", sa.String(length=64), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("settlement", sa.Text(), nullable=False),
        sa.Column("asked_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "(settlement = 'pending' or settlement = 'settled' or settlement = 'rejected' or settlement = 'unknown')",
            name=op.f("ck_insured_settlements_settlement"),
        ),
        sa.PrimaryKeyConstraint("hospital_id", "bill_id"),
    )
