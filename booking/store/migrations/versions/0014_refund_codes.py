"""Why the HIS does not hear of a refund; an index of open refunds that PostgreSQL takes without statistics too."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_OPEN_REFUND = sa.text(
    "status = 'refund_due' or status = 'refunding' or status = 'refund_unknown' or status = 'refund_failed'"
    " or his = 'pending' or his = 'unknown' or his = 'rejected'"
)


def upgrade() -> None:
    op.add_column("refunds", sa.Column("his_code", sa.Text(), nullable=True))
    op.drop_index("ix_refunds_open", table_name="refunds")
    op.create_index(
        "ix_refunds_open",
        "refunds",
        ["hospital_id", "created_ms"],
        unique=False,
        sqlite_where=_OPEN_REFUND,
        postgresql_where=_OPEN_REFUND,
    )
