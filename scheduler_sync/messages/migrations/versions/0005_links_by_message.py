"""What is found by a message's id: its links, when it goes."""

from alembic import op

revision = "m0005"
down_revision = "m0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        op.f("ix_message_links_hospital_id_message_id"), "message_links", ["hospital_id", "message_id"], unique=False
    )
