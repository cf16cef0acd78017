"""What can be booked."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, Table, text

from booking.store.tables.columns import check, flag, his_key, key, metadata, ms, string

departments = Table(
    "departments",
    metadata,
    key("hospital_id"),
    his_key("id"),
    string("name"),
    string("parent_id", null=True),
    string("campus", null=True),
    string("his_refs", default="{}"),
)

practitioners = Table(
    "practitioners",
    metadata,
    key("hospital_id"),
    his_key("id"),
    string("name"),
    string("department_id", null=True),
    string("title", null=True),
    string("his_refs", default="{}"),
)

schedules = Table(
    "schedules",
    metadata,
    key("hospital_id"),
    key("id"),
    string("his_id"),
    string("date"),
    string("session"),
    string("department_id"),
    string("department_name", null=True),
    string("practitioner_id", null=True),
    string("practitioner_name", null=True),
    string("clinic_type", null=True),
    Column("fee_fen", BigInteger, nullable=True),
    string("status"),
    ms("opens_at_ms"),
    Column("quota", Integer, nullable=True),
    Column("taken", Integer, nullable=False, server_default="0"),
    Column("held_back", Integer, nullable=False, server_default="0"),
    # People on its waitlist who have no offer yet: while there are any, no seat of it is for others.
    Column("waiting", Integer, nullable=False, server_default="0"),
    string("location", null=True),
    string("his_refs", default="{}"),
    ms("stopped_ms"),
    string("moved", null=True),  # where it has moved, or what it was before: see booking.rescheduling.marks
    ms("seen_ms", null=False),
    flag("booked"),  # whether there ever was a booking of it: such a one is kept for good
    check("status in ('open', 'stopped')", name="status"),
    check("fee_fen is null or fee_fen >= 0", name="fee"),
    check("taken >= 0", name="taken"),
    Index(None, "hospital_id", "date", "department_id"),
    Index(None, "hospital_id", "his_id", "date"),
    Index("ix_schedules_opens", "hospital_id", "opens_at_ms", sqlite_where=text("opens_at_ms is not null"),
          postgresql_where=text("opens_at_ms is not null")),
    Index("ix_schedules_moved", "hospital_id", "date", sqlite_where=text("moved is not null"),
          postgresql_where=text("moved is not null")),
)  # fmt: skip

# The parts of the catalogue that readers keep ready-made: a department's day, and the write that changed it last.
fragments = Table(
    "fragments",
    metadata,
    key("hospital_id"),
    key("date"),
    his_key("department_id"),
    Column("changed", BigInteger, nullable=False),
    Index(None, "hospital_id", "changed"),
)

slots = Table(
    "slots",
    metadata,
    key("hospital_id"),
    key("id"),
    string("schedule_id"),
    string("his_id"),
    string("date"),
    ms("starts_at_ms", null=False),
    ms("ends_at_ms", null=False),
    string("status"),
    Column("his_left", Integer, nullable=False),
    Column("unreflected", Integer, nullable=False, server_default="0"),
    Column("held_back", Integer, nullable=False, server_default="0"),
    ms("fetch_started_ms", null=False),
    ms("fetch_ended_ms", null=False),
    ms("stopped_ms"),
    string("moved", null=True),  # as of a schedule
    string("practitioner_id", null=True),  # who holds this segment instead of the schedule's
    string("practitioner_name", null=True),
    string("his_refs", default="{}"),
    flag("booked"),
    check("ends_at_ms > starts_at_ms", name="span"),
    check("unreflected >= 0", name="unreflected"),
    check("his_left >= 0", name="his_left"),
    check("status in ('open', 'stopped')", name="status"),
    Index(None, "hospital_id", "date"),
    Index(None, "hospital_id", "schedule_id"),
    Index("ix_slots_moved", "hospital_id", "date", sqlite_where=text("moved is not null"),
          postgresql_where=text("moved is not null")),
)  # fmt: skip

# Seats that have come back and are not sold again yet: as many as `held_back` of their slot and of their schedule say.
returned_seats = Table(
    "returned_seats",
    metadata,
    key("hospital_id"),
    key("booking_id"),
    string("slot_id"),
    string("schedule_id"),
    ms("due_ms", null=False),
    Index(None, "hospital_id", "due_ms"),
)
