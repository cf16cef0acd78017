"""Which documents of the message store a report shows."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "report_documents",
        sa.Column("hospital_id", sa.String(length=64), nullable=False),
        sa.Column("report_id", sa.String(length=64), nullable=False),
        sa.Column("document_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("hospital_id", "report_id", "document_id"),
    )
    op.create_index(
        op.f("ix_report_documents_hospital_id_document_id"),
        "report_documents",
        ["hospital_id", "document_id"],
        unique=False,
    )
