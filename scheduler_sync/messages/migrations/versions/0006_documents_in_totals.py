"""The totals count the documents that are kept already."""

from alembic import op

revision = "m0006"
down_revision = "m0005"
branch_labels = None
depends_on = None


COUNT_DOCUMENTS = (
    "insert into message_totals (hospital_id, kind, count, bytes, newest_id)"
    " select hospital_id, 'documents', count(*), sum(size_bytes), null from documents group by hospital_id"
)


def upgrade() -> None:
    op.execute(COUNT_DOCUMENTS)
