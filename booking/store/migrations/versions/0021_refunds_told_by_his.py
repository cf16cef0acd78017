"""Under which number a HIS has told of a refund that a portal began."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("refunds", sa.Column("his_refund_no", sa.Text(), nullable=True))
