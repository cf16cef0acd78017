"""Commands to the HIS."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, Table, text

from booking.store.tables.columns import check, key, metadata, ms, string

_DEAD = text("status = 'dead'")

# Spelt out, as the CHECKs above; a query must say these very words, or neither engine takes the partial index.
OPEN_COMMAND = "status <> 'done' and status <> 'dropped'"

COMMAND_TO_DO = f"{OPEN_COMMAND} and status <> 'dead'"

_OPEN, _TO_DO = text(OPEN_COMMAND), text(COMMAND_TO_DO)

outbox = Table(
    "outbox",
    metadata,
    key("hospital_id"),
    key("id"),
    string("line"),
    string("waits_for", null=True),
    string("verb"),
    string("subject_id"),
    Column("rank", Integer, nullable=False),
    string("status"),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("looks", Integer, nullable=False, server_default="0"),
    ms("due_ms", null=False),
    ms("lease_until_ms"),
    ms("first_sent_ms"),
    ms("last_sent_ms"),
    string("reason", null=True),
    ms("created_ms", null=False),
    ms("updated_ms", null=False),
    # The span of the request that made it (`monitoring.traces`), where that was traced.
    string("trace", null=True),
    check("status in ('queued','sent','unknown','done','dead','dropped')", name="status"),
    Index("ux_outbox_open_line", "hospital_id", "line", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
    # In the order in which they are served, so that the first few are found without sorting a release's whole queue.
    Index("ix_outbox_dead", "hospital_id", "status", "id", sqlite_where=_DEAD, postgresql_where=_DEAD),
    Index("ix_outbox_turn", "hospital_id", "rank", "id", sqlite_where=_TO_DO, postgresql_where=_TO_DO),
)  # fmt: skip
