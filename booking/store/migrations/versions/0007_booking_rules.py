"""What booking rules look at: when a patient cancelled, and who has the same phone number."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("bookings", sa.Column("cancelled_ms", sa.BigInteger(), nullable=True))
    op.add_column("persons", sa.Column("phone_digest", sa.Text(), nullable=True))
    op.create_index(
        "ix_persons_phone",
        "persons",
        ["hospital_id", "phone_digest"],
        unique=False,
        sqlite_where=sa.text("phone_digest is not null"),
        postgresql_where=sa.text("phone_digest is not null"),
    )
