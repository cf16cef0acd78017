"""Persons, and the patients that portals know them as."""

from __future__ import annotations

from sqlalchemy import Column, Index, LargeBinary, Table, text

from booking.store.tables.columns import check, key, metadata, ms, string

persons = Table(
    "persons",
    metadata,
    key("hospital_id"),
    key("id"),
    string("identity_digest", null=True),
    string("mrn_digest", null=True),
    string("phone_digest", null=True),
    string("his_state"),
    string("reject_code", null=True),
    string("merged_into", null=True),
    Column("sealed_record", LargeBinary, nullable=False),
    ms("created_ms", null=False),
    ms("updated_ms", null=False),
    check("his_state in ('pending', 'linked', 'rejected')", name="his_state"),
    Index("ux_persons_identity", "hospital_id", "identity_digest", unique=True, sqlite_where=text("merged_into is null"),
          postgresql_where=text("merged_into is null")),
    Index("ix_persons_merged", "hospital_id", "merged_into", sqlite_where=text("merged_into is not null"),
          postgresql_where=text("merged_into is not null")),
    Index("ix_persons_phone", "hospital_id", "phone_digest", sqlite_where=text("phone_digest is not null"),
          postgresql_where=text("phone_digest is not null")),
)  # fmt: skip

person_mrns = Table(
    "person_mrns",
    metadata,
    key("hospital_id"),
    key("mrn_digest"),
    string("person_id"),
    Index(None, "hospital_id", "person_id"),
)

patients = Table(
    "patients",
    metadata,
    key("hospital_id"),
    key("id"),
    string("client_id"),
    string("user_ref"),
    string("person_id"),
    ms("created_ms", null=False),
    ms("unbound_ms"),  # since when its user has let go of it; null again where it was bound anew
    Index("ux_patients_owner", "hospital_id", "client_id", "user_ref", "person_id", unique=True),
    Index(None, "hospital_id", "person_id"),
)
