"""The money of a day: the merchant's lines, and how they compare."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, Table, text

from booking.store.tables.columns import flag, key, metadata, ms, string

merchant_lines = Table(
    "merchant_lines",
    metadata,
    key("hospital_id"),
    key("date"),
    Column("revision", Integer, primary_key=True),
    Column("line", Integer, primary_key=True),
    string("kind"),
    string("channel"),
    string("trade_no"),
    Column("amount_fen", BigInteger, nullable=False),
    ms("at_ms"),
    string("source", default="lines"),  # who sent it: a day's bill may come in several files
    string("status", default="done"),
    string("order_no", null=True),
    flag("of_others"),  # of another business under the same merchant number
)

# Comparisons of the books of a day: what was asked for, and what came of it. `run` counts up for each day.
reconciliations = Table(
    "reconciliations",
    metadata,
    key("hospital_id"),
    key("date"),
    Column("run", Integer, primary_key=True),
    ms("asked_ms", null=False),
    ms("done_ms"),
    string("failed", null=True),
    Column("merchant_lines", Integer, nullable=False, server_default="0"),
    Column("our_lines", Integer, nullable=False, server_default="0"),
    Column("his_lines", Integer, nullable=True),
    Column("differences", Integer, nullable=False, server_default="0"),
    Index("ix_reconciliations_asked", "hospital_id", "asked_ms", sqlite_where=text("done_ms is null"),
          postgresql_where=text("done_ms is null")),
)  # fmt: skip

differences = Table(
    "differences",
    metadata,
    key("hospital_id"),
    key("date"),
    Column("run", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    string("kind"),
    string("channel", null=True),
    string("trade_no"),
    Column("merchant_fen", BigInteger, nullable=True),
    Column("ours_fen", BigInteger, nullable=True),
    Column("his_fen", BigInteger, nullable=True),
)
