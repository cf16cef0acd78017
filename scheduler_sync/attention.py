"""Commands that wait for a person: listing them, and taking the person's word for how they ended."""

from __future__ import annotations

from sqlalchemy import literal_column, select, update

from booking.moves import load_booking, save_booking
from booking.settings import Hospital
from booking.store.engine import Store, Tx
from booking.store.tables import bills, bookings, outbox
from connectors.port import Verb
from scheduler_sync.commands import Verdict
from scheduler_sync.lines import COMMANDS

_AT_ONCE = 500  # ids of one query


async def dead_commands(store: Store, hospital_id: str) -> list[dict[str, str]]:
    """Every dead letter of a hospital, oldest first; `order_no` is what the hospital knows it by, "" where it has none."""
    async with store.read(hospital_id) as tx:
        rows = await tx.all(
            select(outbox.c.id, outbox.c.verb, outbox.c.line, outbox.c.reason, outbox.c.subject_id)
            .where(outbox.c.hospital_id == hospital_id, outbox.c.status == literal_column("'dead'"))
            .order_by(outbox.c.id)
        )
        orders = await _order_nos(tx, [row["subject_id"] for row in rows])
    known = ("id", "verb", "line", "reason")
    return [{k: str(row[k] or "") for k in known} | {"order_no": orders.get(row["subject_id"], "")} for row in rows]


async def _order_nos(tx: Tx, subjects: list[str]) -> dict[str, str]:
    """Of those that are bookings or bills."""
    found: dict[str, str] = {}
    for first in range(0, len(subjects), _AT_ONCE):
        some = subjects[first : first + _AT_ONCE]
        for table in (bookings, bills):
            of_some = table.c.hospital_id == tx.hospital_id, table.c.id.in_(some)
            found |= {
                r["id"]: r["order_no"] for r in await tx.all(select(table.c.id, table.c.order_no).where(*of_some))
            }
    return found


async def settle_dead(store: Store, hospital: Hospital, command_id: str, outcome: str) -> bool:
    """Settle one dead letter as `accepted`, `rejected` or `retry`; False if there is none such."""
    async with store.write(hospital.id) as tx:
        row = await tx.first(
            select(outbox).where(
                outbox.c.hospital_id == hospital.id, outbox.c.id == command_id, outbox.c.status == "dead"
            )
        )
        if row is None:
            return False
        status = "queued" if outcome == "retry" else "done"
        await tx.run(
            update(outbox)
            .where(outbox.c.hospital_id == hospital.id, outbox.c.id == command_id)
            .values(status=status, due_ms=tx.now_ms, updated_ms=tx.now_ms, reason=f"settled by a person: {outcome}")
        )
        if outcome != "retry":
            verdict = Verdict.accepted() if outcome == "accepted" else Verdict.rejected("settled_by_a_person")
            await COMMANDS[row["line"].partition(":")[0]].settle(
                tx, hospital, Verb(row["verb"]), row["subject_id"], verdict
            )
        if row["line"].startswith("booking:") and (booking := await load_booking(tx, row["subject_id"])) is not None:
            booking.needs_attention = False
            await save_booking(tx, booking)
    return True
