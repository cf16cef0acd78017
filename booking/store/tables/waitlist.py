"""The waitlist (候补) of sessions that are sold out."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, Table, text

from booking.store.tables.columns import check, flag, key, metadata, ms, string

_LIVE = text("live")
_LIVE_SQLITE = text("live = 1")  # as SQLAlchemy asks for it
_DUE = text("due_ms is not null")

# 候补, see booking.waitlist. `number` is the place in line, counted over all of a hospital. `due_ms`: when something happens
# without anybody: an offer is over, or the queue is cleared (`clears_ms`).
waitlist = Table(
    "waitlist",
    metadata,
    key("hospital_id"),
    key("id"),
    Column("number", BigInteger, nullable=False),
    string("client_id"),
    string("user_ref"),
    string("patient_id"),
    string("person_id"),
    string("schedule_id"),
    Column("version", Integer, nullable=False),
    string("state"),
    flag("live"),
    ms("clears_ms", null=False),
    ms("due_ms"),
    string("slot_id", null=True),  # that is offered, or was taken
    string("booking_id", null=True),
    string("reason", null=True),
    ms("created_ms", null=False),
    ms("updated_ms", null=False),
    check("state in ('waiting','offered','accepted','lapsed','cancelled','cleared')", name="state"),
    check("live = (state in ('waiting','offered'))", name="live"),
    check("live = (due_ms is not null)", name="due"),
    check("state <> 'offered' or slot_id is not null", name="offer"),
    check("(state = 'accepted') = (booking_id is not null)", name="accepted"),
    Index("ux_waitlist_live", "hospital_id", "person_id", "schedule_id", unique=True, sqlite_where=_LIVE_SQLITE,
          postgresql_where=_LIVE),
    Index("ux_waitlist_line", "hospital_id", "schedule_id", "number", unique=True, sqlite_where=_LIVE_SQLITE,
          postgresql_where=_LIVE),
    Index("ix_waitlist_due", "hospital_id", "due_ms", sqlite_where=_DUE,
          postgresql_where=_DUE),
    Index(None, "hospital_id", "patient_id"),
)  # fmt: skip
