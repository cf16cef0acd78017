"""Who read which report, and where the chain of those rows begins and ends: see booking.report_reads."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Table

from booking.store.tables.columns import key, metadata, ms, string

report_reads = Table(
    "report_reads",
    metadata,
    key("hospital_id"),
    Column("number", BigInteger, primary_key=True),
    ms("at_ms", null=False),
    string("client_id"),
    string("user_ref", null=True),
    string("patient_id", null=True),
    string("person_id", null=True),
    string("what"),
    string("reports"),
    string("outcome"),
    string("request_id"),
    string("digest"),
    Index(None, "hospital_id", "at_ms"),
    Index(None, "hospital_id", "person_id", "number"),
)

report_read_segments = Table(
    "report_read_segments",
    metadata,
    key("hospital_id"),
    Column("segment", BigInteger, primary_key=True),
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    ms("opened_ms", null=False),
    ms("last_ms", null=False),
    string("before"),
    string("closing"),
    ms("cut_ms"),
    string("seal"),
)
