"""The outbox as the booking rules write it: one open row per line, in the transaction of the change that wants it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, text, update

from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.ids import new_id
from booking.store.tables import OPEN_COMMAND, outbox
from monitoring.traces import stored_here

# Served in this order when the HIS is busy: paid registrations first, then what frees seats, then new locks (DESIGN 3).
RANKS = {
    "register": 0,
    "settle_bill": 0,
    "cancel_registration": 1,
    "unlock_slot": 1,
    "lock_slot": 3,
    "book": 3,
    "create_patient": 4,  # a crowd of new patients must not hold up those who wait for a seat
    "refund": 5,  # the money has gone back already
}

# In the words of the partial index: a list of parameters does not show the engines that it fits.
_IS_OPEN = text(OPEN_COMMAND)
OPEN = ("queued", "sent", "unknown", "dead")


def wake_topic(hospital_id: str) -> str:
    """What the outbox worker of a hospital listens to."""
    return f"outbox:{hospital_id}"


async def queue_command(
    tx: Tx, *, line: str, verb: str, subject_id: str, waits_for: str | None = None, due_ms: int | None = None
) -> str:
    """Queue one command of `line`, for the trace that this task works for. The store refuses a second open one."""
    row = new_command(tx.hospital_id, line, verb, subject_id, tx.now_ms, waits_for=waits_for)
    row["trace"] = stored_here()
    if due_ms is not None:
        row["due_ms"] = due_ms
    await tx.add(outbox, row)
    return str(row["id"])


def new_command(
    hospital_id: str, line: str, verb: str, subject_id: str, now_ms: int, *, waits_for: str | None = None
) -> dict[str, Any]:
    """The row of a command that is due at once."""
    return {
        "hospital_id": hospital_id,
        "id": new_id(),
        "line": line,
        "waits_for": waits_for,
        "verb": verb,
        "subject_id": subject_id,
        "rank": RANKS[verb],
        "status": "queued",
        "due_ms": now_ms,
        "created_ms": now_ms,
        "updated_ms": now_ms,
    }


async def hurry(tx: Tx, line: str, rank: int) -> None:
    """Somebody waits for this line's queued command: serve it as early as theirs."""
    await tx.run(
        update(outbox)
        .where(
            outbox.c.hospital_id == tx.hospital_id,
            outbox.c.line == line,
            _IS_OPEN,
            outbox.c.status.in_(("queued", "unknown")),
            outbox.c.rank > rank,
        )
        .values(rank=rank)
    )


async def close_flying(tx: Tx, line: str) -> bool:
    """The HIS has told us the outcome of a line's command unasked: close it, so that the worker's own word comes too late."""
    return bool(
        await tx.run(
            update(outbox)
            .where(
                outbox.c.hospital_id == tx.hospital_id,
                outbox.c.line == line,
                _IS_OPEN,
                outbox.c.status.in_(("sent", "unknown", "dead")),
            )
            .values(
                status="done",
                attempt=outbox.c.attempt + 1,
                lease_until_ms=None,
                reason="told by the HIS",
                updated_ms=tx.now_ms,
            )
        )
    )


_DROP = Fixed(
    update(outbox)
    .where(outbox.c.hospital_id == bindparam("of_hospital"), outbox.c.line == bindparam("of_line"), _IS_OPEN)
    .where(outbox.c.status == "queued")
    .values(status="dropped", updated_ms=bindparam("now_ms"))
)


async def drop_queued(tx: Tx, line: str) -> bool:
    """Drop the queued command of a line; False if there is none that never left."""
    return bool(await tx.run(_DROP, {"of_hospital": tx.hospital_id, "of_line": line, "now_ms": tx.now_ms}))
