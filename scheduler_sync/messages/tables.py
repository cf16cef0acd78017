"""The schema of the message store."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData(
    naming_convention={"ix": "ix_%(table_name)s_%(column_0_N_name)s", "ck": "ck_%(table_name)s_%(constraint_name)s"}
)

message_clock = Table(
    "store_clock",
    metadata,
    Column("hospital_id", String(64), primary_key=True),
    Column("last_ms", BigInteger, nullable=False),
    Column("writes", BigInteger, nullable=False, server_default="0"),
)

# Which of the partial indexes: a query uses one only where its condition stands there as it stands here, not as a bound value.
OPEN, APPLIED = text("state <> 'applied'"), text("state = 'applied'")

messages = Table(
    "messages",
    metadata,
    Column("hospital_id", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("connector", Text, nullable=False),
    Column("peer", Text, nullable=False),
    Column("message_type", Text, nullable=False),
    Column("control_id", Text, nullable=False),
    Column("dedup_key", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=True),
    Column("sealed_raw", LargeBinary, nullable=False),
    Column("sealed_events", LargeBinary, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    # Not "in (...)": for that SQLite builds a tree anew for each row.
    CheckConstraint("state = 'received' or state = 'applied' or state = 'quarantined'", name="state"),
    Index(None, "hospital_id", "dedup_key"),
    # Storing a message changes few pages. What is done moves to an index of its own when it is marked, and then many do.
    Index("ix_messages_open", "hospital_id", "state", "id", sqlite_where=OPEN, postgresql_where=OPEN),
    Index("ix_messages_applied", "hospital_id", "received_ms", sqlite_where=APPLIED, postgresql_where=APPLIED),
)

# What passed and is not applied: requests to the HIS with their answers, what was refused before storing, repeats.
exchanges = Table(
    "exchanges",
    metadata,
    Column("hospital_id", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("connector", Text, nullable=False),
    Column("peer", Text, nullable=False),
    Column("direction", Text, nullable=False),
    Column("verb", Text, nullable=True),
    Column("message_type", Text, nullable=False),
    Column("control_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=True),
    Column("answer", Text, nullable=True),
    Column("order_no", Text, nullable=True),
    Column("patient_digest", Text, nullable=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sealed_request", LargeBinary, nullable=False),
    Column("sealed_answer", LargeBinary, nullable=True),
    Column("began_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger, nullable=False),
    # Ids begin with their time: in this order they are listed, and go.
    Index(None, "hospital_id", "state", "id"),
)

# What is known of a stored message and need not be in the commit that stores it.
message_notes = Table(
    "message_notes",
    metadata,
    Column("hospital_id", String(64), primary_key=True),
    Column("message_id", String(64), primary_key=True),
    Column("answer", Text, nullable=True),
    Column("order_no", Text, nullable=True),
    Column("patient_digest", Text, nullable=True),
    Column("size_bytes", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# By what messages and exchanges are found: `order:`, `his:`, `patient:` (a digest) or `control:`, and then the value.
message_links = Table(
    "message_links",
    metadata,
    Column("hospital_id", String(64), primary_key=True),
    Column("ref", Text, primary_key=True),
    Column("message_id", String(64), primary_key=True),
    Index(None, "hospital_id", "message_id"),
    sqlite_with_rowid=False,
)

# How much there is, by kind: `messages` (of which `newest_id` is the newest with a note), `exchanges` or `documents`.
message_totals = Table(
    "message_totals",
    metadata,
    Column("hospital_id", String(64), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("newest_id", String(64), nullable=True),
)

# Where the numbered messages of a sender stand.
message_series = Table(
    "message_series",
    metadata,
    Column("hospital_id", String(64), primary_key=True),
    Column("series", String(64), primary_key=True),
    Column("last_number", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
)

# Large documents of reports, apart from the booking store (ADR-0033). One that is not `complete` is being written, or was when
# its writer ended. `kept_ms`: when it last came.
documents = Table(
    "documents",
    metadata,
    Column("hospital_id", String(64), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("kept_ms", BigInteger, nullable=False),
    Index(None, "hospital_id", "kept_ms", "id"),
)

document_pieces = Table(
    "document_pieces",
    metadata,
    Column("hospital_id", String(64), primary_key=True),
    Column("document_id", String(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)
