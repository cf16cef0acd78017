"""Events, and the webhooks that carry them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Table, text

from booking.store.tables.columns import key, metadata, ms, string

_NUMBERED = text("seq is not null")

events = Table(
    "events",
    metadata,
    key("id"),
    string("hospital_id"),
    string("client_id"),
    Column("seq", BigInteger, nullable=True),
    string("type"),
    string("payload"),
    ms("created_ms", null=False),
    Index("ux_events_seq", "seq", unique=True, sqlite_where=_NUMBERED, postgresql_where=_NUMBERED),
    Index("ix_events_client_id_seq", "client_id", "seq", sqlite_where=_NUMBERED, postgresql_where=_NUMBERED),
    Index("ix_events_unnumbered", "id", sqlite_where=text("seq is null"), postgresql_where=text("seq is null")),
)

webhooks = Table(
    "webhooks",
    metadata,
    key("id"),
    string("client_id"),
    string("url"),
    Column("sealed_secret", LargeBinary, nullable=False),
    Column("cursor", BigInteger, nullable=False),
    string("status"),
    Column("failures", Integer, nullable=False, server_default="0"),
    ms("due_ms", null=False),
    ms("created_ms", null=False),
    ms("failing_since_ms"),  # of the event that is tried in vain: its first failure
    Index(None, "client_id"),
)
