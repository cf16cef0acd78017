"""Waiting rooms before a release, and places in them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, Table, text

from booking.store.tables.columns import key, metadata, ms, string

# One row per hospital and release (its instant). `watermark` is the highest rank that is admitted.
waiting_rooms = Table(
    "waiting_rooms",
    metadata,
    key("hospital_id"),
    Column("release_ms", BigInteger, primary_key=True),
    string("opened_by"),
    ms("opened_ms", null=False),
    ms("busy_ms", null=False),  # when somebody waited, or holds were slow
    ms("closed_ms"),
    string("closed_because", null=True),
    Column("arrivals", BigInteger, nullable=False),  # of those who came from the release on
    Column("watermark", BigInteger, nullable=False),
    Column("admitted", BigInteger, nullable=False),
    Column("rate_milli", BigInteger, nullable=False),  # admitted per 1000 s, as last measured
)

# What the two indexes of places are for, in these very words: who looks for a person's place must not be led to walk either.
RANKED_PLACE = "rank >= 0"

EARLY_PLACE = "rank < 4611686018427387904"  # drawn before the release: see booking.waiting_room.ranks

_RANKED, _EARLY = text(RANKED_PLACE), text(EARLY_PLACE)

# A person's place, whichever of their patients joined, and whichever portal's. `changed` numbers the write that gave the rank.
waiting_tickets = Table(
    "waiting_tickets",
    metadata,
    key("hospital_id"),
    Column("release_ms", BigInteger, primary_key=True),
    key("person_id"),
    Column("rank", BigInteger, nullable=False),
    Column("holds", Integer, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Index("ix_waiting_tickets_rank", "hospital_id", "release_ms", "rank", sqlite_where=_RANKED, postgresql_where=_RANKED),
    Index("ix_waiting_tickets_early", "hospital_id", "release_ms", "changed", sqlite_where=_EARLY,
          postgresql_where=_EARLY),
)  # fmt: skip

# When the watermark came where: it tells until when an admitted ticket is good, and how many are admitted a second.
waiting_steps = Table(
    "waiting_steps",
    metadata,
    key("hospital_id"),
    Column("release_ms", BigInteger, primary_key=True),
    Column("watermark", BigInteger, primary_key=True),
    ms("at_ms", null=False),
    Column("admitted", BigInteger, nullable=False),
)
