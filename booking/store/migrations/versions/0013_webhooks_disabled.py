"""Since when a webhook takes nothing: after a day it is disabled."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("webhooks", sa.Column("failing_since_ms", sa.BigInteger(), nullable=True))
