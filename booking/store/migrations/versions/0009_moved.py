"""Sessions and bookings that were moved (改诊, 替诊)."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("bookings", sa.Column("moved_ms", sa.BigInteger(), nullable=True))
    for table in ("schedules", "slots"):
        op.add_column(table, sa.Column("moved", sa.Text(), nullable=True))
        op.create_index(
            f"ix_{table}_moved",
            table,
            ["hospital_id", "date"],
            unique=False,
            sqlite_where=sa.text("moved is not null"),
            postgresql_where=sa.text("moved is not null"),
        )
    for column in ("practitioner_id", "practitioner_name"):
        op.add_column("slots", sa.Column(column, sa.Text(), nullable=True))
