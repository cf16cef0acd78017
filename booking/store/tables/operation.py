"""What the service needs for itself: its clock, who works on which hospital, keys of the API, what was done and asked."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, String, Table

from booking.store.tables.columns import key, metadata, ms, string

# One row per hospital, moved by every write under the hospital's lock: the clock never runs backwards, and `writes` numbers
# what was committed in the order of the commits, so that a reader can ask for everything after a number without a gap.
# `room_ms` is the release whose waiting room is open, 0 for none: whoever decides holds reads it with the clock, for nothing.
store_clock = Table(
    "store_clock",
    metadata,
    key("hospital_id"),
    ms("last_ms", null=False),
    Column("writes", BigInteger, nullable=False, server_default="0"),
    Column("room_ms", BigInteger, nullable=False, server_default="0"),
)

# Which hospital is worked by which sync process, and until when; `nodes` are those processes and where they can be asked.
leases = Table(
    "leases",
    metadata,
    key("hospital_id"),
    string("owner"),
    ms("until_ms", null=False),
    string("his_status", default="up"),
)

nodes = Table("nodes", metadata, key("id"), string("address"), ms("until_ms", null=False), ms("started_ms", null=False))

api_keys = Table(
    "api_keys",
    metadata,
    key("digest"),
    string("id"),
    string("client_id"),
    string("name"),
    string("scopes"),
    string("hospitals"),
    ms("created_ms", null=False),
    ms("revoked_ms"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    key("hospital_id"),
    key("client_id"),
    Column("key", String(255), primary_key=True),
    string("body_digest"),
    Column("status", Integer, nullable=False),
    Column("sealed_body", LargeBinary, nullable=False),
    ms("created_ms", null=False),
    Index(None, "hospital_id", "created_ms"),
)

# Who did what that is nobody's daily work: see booking.audit. Rows are added, and never altered or deleted.
audit = Table(
    "audit",
    metadata,
    key("hospital_id"),
    Column("number", BigInteger, primary_key=True),
    ms("at_ms", null=False),
    string("actor"),
    string("action"),
    string("subject"),
    string("reason"),
    string("digest"),
)
