"""What a watched statement has cost, and which of them looked at too much."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

LARGE = frozenset(
    {
        "slots", "schedules", "bookings", "outbox", "events", "idempotency_keys", "persons", "person_mrns", "patients",
        "fragments", "payments", "refunds", "ledger", "bills", "reports", "registrations", "messages", "waiting_tickets",
        "waiting_steps", "exchanges",
        "message_notes", "message_links", "returned_seats", "waitlist", "report_reads",
    }
)  # fmt: skip
"""What grows with the years or with the catalogue; the others have a handful of rows for each hospital or portal."""

UNTIL_ANALYSED = (
    "slots.id IN",
    "refunds.trade_no IN",  # of the differences of a day
    "payments.trade_no IN",
    "FROM events WHERE events.client_id",
    # What a person lists, and what the sweep deletes, of stored messages:
    "ORDER BY messages.id DESC",
    "ORDER BY exchanges.id DESC",
    "ORDER BY exchanges.id LIMIT",
    "messages.id IN (?, ...)",
    "exchanges.id IN (?, ...)",
    "message_id IN (?, ...)",
)
"""Of a table that it has never counted PostgreSQL believes that every value comes 200 times: then some 200 rows of an index that
does not fit look cheaper than 60 rows or 500 sorted ones of that which does. It counts within a minute by itself."""


@dataclass(frozen=True)
class Cost:
    """`sql` without its values; `scanned` are large tables that were read from end to end; `looked_at` rows or steps."""

    sql: str
    scanned: tuple[str, ...]
    looked_at: int
    plan: str

    def __str__(self) -> str:
        scans = f"scans {', '.join(self.scanned)}; " if self.scanned else ""
        return f"{scans}looked at {self.looked_at}:\n    {self.sql}\n{self.plan}"


_VALUE = re.compile(r"'(?:[^']|'')*'|X'[0-9A-Fa-f]*'|\$\d+|\b\d+\b")
_LIST = re.compile(r"\(\s*\?(?:::\w+)?(?:\s*,\s*\?(?:::\w+)?)+\s*\)")


def without_values(sql: str) -> str:
    """A statement's text with every value, and every list of values, replaced: the same for all its calls."""
    return " ".join(_LIST.sub("(?, ...)", _VALUE.sub("?", sql)).split())


def faults(costs: list[Cost], most: int, *, excused: Sequence[str] = ()) -> list[Cost]:
    """The statements that scanned a large table or looked at more than `most`, the worst call of each, worst first."""
    worst: dict[str, Cost] = {}
    for cost in costs:
        if not any(piece in cost.sql for piece in excused) and (cost.scanned or cost.looked_at > most):
            known = worst.get(cost.sql)
            if known is None or cost.looked_at > known.looked_at:
                worst[cost.sql] = cost
    return sorted(worst.values(), key=lambda cost: -cost.looked_at)
