"""What the HIS tells of a patient's visits: reports and registrations, and which of its messages were applied."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, LargeBinary, Table

from booking.store.tables.columns import key, metadata, ms, string

reports = Table(
    "reports",
    metadata,
    key("hospital_id"),
    key("id"),
    string("his_id"),
    string("mrn_digest"),
    string("status"),
    Column("version", Integer, nullable=False),
    Column("sealed_record", LargeBinary, nullable=False),
    ms("occurred_ms"),
    ms("updated_ms", null=False),
    Index(None, "hospital_id", "mrn_digest"),
)

# What a report said before: one row for each version that another took the place of, sealed as in `reports`.
report_versions = Table(
    "report_versions",
    metadata,
    key("hospital_id"),
    key("report_id"),
    Column("version", Integer, primary_key=True),
    string("status"),
    Column("sealed_record", LargeBinary, nullable=False),
    ms("occurred_ms"),
    ms("updated_ms", null=False),
)

# Which documents that are kept in the message store (ADR-0033) a report shows: what none shows any more is forgotten there.
report_documents = Table(
    "report_documents",
    metadata,
    key("hospital_id"),
    key("report_id"),
    key("document_id"),
    Column("last_version", Integer),  # that shows it, where it is one of before
    Index(None, "hospital_id", "document_id"),
)

registrations = Table(
    "registrations",
    metadata,
    key("hospital_id"),
    key("id"),
    string("order_no", null=True),
    string("his_id", null=True),
    string("mrn_digest", null=True),
    string("booking_id", null=True),
    string("status"),
    ms("starts_at_ms"),
    ms("ends_at_ms"),
    ms("occurred_ms"),
    Column("sealed_record", LargeBinary, nullable=False),
    ms("updated_ms", null=False),
    Index(None, "hospital_id", "mrn_digest"),
)

# The newest messages of the HIS that were applied, their ids in a row: written by the transaction that applies them, because the
# message store, where they are marked, is another database (ADR-0015). The last may be one that is begun, `<id>:<events>`. One
# row per hospital.
applied_messages = Table("applied_messages", metadata, key("hospital_id"), string("ids"))
