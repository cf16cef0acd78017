"""Since when a patient's user has let go of them."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("patients", sa.Column("unbound_ms", sa.BigInteger(), nullable=True))
