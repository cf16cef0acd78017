"""Until which version a report shows a document."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("report_documents", sa.Column("last_version", sa.Integer(), nullable=True))
