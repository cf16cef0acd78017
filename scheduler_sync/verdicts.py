"""What an attempt's verdict does to its row and its subject, in the transaction that records it.

Outcomes count only under the attempt number that was claimed: a late worker cannot overwrite a later one's word.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import bindparam, select, update

from booking.commands import wake_topic
from booking.gathering import booking_rows, gathered
from booking.lifecycle import CommandStatus, State
from booking.moves import fetch_topic, load_booking, note_command, save_booking
from booking.settings import Hospital
from booking.store.crypto import SealBroken
from booking.store.engine import Tx
from booking.store.fixed import Fixed, is_one_of
from booking.store.tables import bookings, outbox, slots
from connectors.port import Verb
from monitoring.logs import get_logger
from monitoring.traces import working_for
from scheduler_sync.commands import MARKS, Verdict
from scheduler_sync.lines import COMMANDS

log = get_logger("outbox")

MOST_ATTEMPTS = 1_000  # at pauses of a minute: most of a day; whatever goes on longer needs a person
MOST_LOOKS_FOR_CREATED = 10
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 60.0
LONGEST_ASKED_S = 300.0  # a HIS that wants to be left alone for longer is asked all the same


class Row(msgspec.Struct, kw_only=True):
    """A claimed row of the outbox. `was` is the status it was claimed in: queued sends, unknown looks back."""

    id: str
    line: str
    verb: Verb
    subject_id: str
    attempt: int
    tries: int
    looks: int
    was: str
    mark: str | None
    lease_s: float
    last_sent_ms: int | None
    created_ms: int
    trace: str | None = None

    @property
    def kind(self) -> str:
        """booking, person, bill or refund."""
        return self.line.partition(":")[0]


async def record_verdict(tx: Tx, hospital: Hospital, row: Row, verdict: Verdict) -> None:
    """Write down how an attempt ended, and do what follows from it. A late word is ignored."""
    with working_for(row.trace):  # what follows, as the line's next command, belongs to the trace of this one
        _log(tx, row, verdict)
        await _RECORD.get(verdict.kind, _bury)(tx, hospital, row, verdict)


def _log(tx: Tx, row: Row, verdict: Verdict) -> None:
    log.info(
        "command_outcome",
        hospital=tx.hospital_id,
        line=row.line,
        verb=row.verb.value,
        attempt=row.attempt,
        verdict=verdict.kind,
        code=verdict.code,
        reason=verdict.reason,
    )


async def record_settled(tx: Tx, hospital: Hospital, settled: Sequence[tuple[Row, Verdict]]) -> None:
    """`record_verdict` for many accepted or rejected commands of bookings at once, in few statements."""
    fences = {"of_hospital": tx.hospital_id, "ids": [row.id for row, _ in settled]}
    found = await tx.all(_FENCES, fences)
    mine = {(r["id"], r["attempt"]) for r in found if r["status"] in ("sent", "unknown")}
    counted = [(row, verdict) for row, verdict in settled if (row.id, row.attempt) in mine]
    async with gathered(tx, await booking_rows(tx, [row.subject_id for row, _ in counted])) as them:
        if counted:
            closed = [
                {"of_hospital": tx.hospital_id, "of_id": row.id, "code": of.code, "n": row.looks, "now_ms": tx.now_ms}
                for row, of in counted
            ]
            await tx.later(_CLOSE, closed)  # first: what follows may queue the line's next command
            tx.ring(wake_topic(tx.hospital_id))
        for row, verdict in counted:
            with working_for(row.trace):
                _log(tx, row, verdict)
                await COMMANDS["booking"].settle(them, hospital, row.verb, row.subject_id, verdict)
    for row in (row for row, _ in settled if (row.id, row.attempt) not in mine):
        log.warning("late_outcome_ignored", hospital=tx.hospital_id, line=row.line, attempt=row.attempt)


# By key alone: a condition on the status would lead PostgreSQL to the index of what is to do, and through all of a crowd's.
_FENCES = Fixed(
    select(outbox.c.id, outbox.c.attempt, outbox.c.status).where(
        outbox.c.hospital_id == bindparam("of_hospital"), is_one_of(outbox.c.id, "ids")
    )
)
_CLOSE = Fixed(
    update(outbox)
    .where(outbox.c.hospital_id == bindparam("of_hospital"), outbox.c.id == bindparam("of_id"))
    .values(
        status="done",
        reason=bindparam("code"),
        looks=bindparam("n"),
        lease_until_ms=None,
        updated_ms=bindparam("now_ms"),
    )
)


async def _put(tx: Tx, row: Row, **values: Any) -> bool:
    """Write the row under its fence; False when somebody else has had the last word since."""
    mine = (
        outbox.c.hospital_id == tx.hospital_id,
        outbox.c.id == row.id,
        outbox.c.attempt == row.attempt,
        outbox.c.status.in_(("sent", "unknown")),
    )
    values = {"lease_until_ms": None, "updated_ms": tx.now_ms, **values}
    if await tx.run(update(outbox).where(*mine).values(**values)):
        return True
    log.warning("late_outcome_ignored", hospital=tx.hospital_id, line=row.line, attempt=row.attempt)
    return False


async def _close(tx: Tx, hospital: Hospital, row: Row, verdict: Verdict) -> None:
    if await _put(tx, row, status="done", reason=verdict.code, looks=row.looks):
        await COMMANDS[row.kind].settle(tx, hospital, row.verb, row.subject_id, verdict)
        tx.ring(wake_topic(tx.hospital_id))


async def _again(tx: Tx, hospital: Hospital, row: Row, verdict: Verdict, *, at_once: bool = False) -> None:
    """The HIS has certainly not done it, and may later: back into the queue with growing pauses.

    `at_once` follows a look that found nothing: the longer the pause, the less that look would be worth.
    """
    if await _is_pointless(tx, row):
        await _close(tx, hospital, row, Verdict.rejected(verdict.code or "abandoned"))
        return
    if row.attempt >= MOST_ATTEMPTS:
        await _bury(tx, hospital, row, Verdict.dead(f"{row.attempt} attempts, the last: {verdict.code}"))
        return
    pause_s = 0.0 if at_once else min(FIRST_BACKOFF_S * 2 ** min(row.tries, 10), LONGEST_BACKOFF_S)
    pause_s = max(pause_s, min(verdict.pause_s, LONGEST_ASKED_S))
    due_ms = tx.now_ms + int(pause_s * 1000)
    if await _put(tx, row, status="queued", tries=row.tries + 1, due_ms=due_ms, reason=verdict.code):
        await _mirror(tx, row, CommandStatus.QUEUED, refused=row.was == "queued")


async def _unknown(tx: Tx, hospital: Hospital, row: Row, verdict: Verdict) -> None:
    """No usable reply: look back, soon at first. Never sent again blind."""
    first = row.was == "queued"
    pause_s = 0.2 if verdict.soon else min(1.0 * 2 ** min(row.tries, 5), 30.0)
    if await _put(
        tx,
        row,
        status="unknown",
        tries=0 if first else row.tries + 1,
        looks=0 if first else row.looks,
        last_sent_ms=tx.now_ms if first else row.last_sent_ms,
        due_ms=tx.now_ms + int(pause_s * 1000),
        reason=(verdict.code if verdict.code in MARKS else row.mark) or verdict.reason,
    ):
        await _mirror(tx, row, CommandStatus.UNKNOWN)


async def _absent(tx: Tx, hospital: Hospital, row: Row, verdict: Verdict) -> None:
    """The HIS does not know it. That counts only on two looks, the last `his_settle_s` after the last byte."""
    looks = row.looks + 1
    row.mark = verdict.code if verdict.code in MARKS else row.mark
    settled_ms = (row.last_sent_ms or tx.now_ms) + int(hospital.his_settle_s * 1000)
    if looks < 2 or tx.now_ms < settled_ms:
        due_ms = tx.now_ms + max(500, min(settled_ms - tx.now_ms, 5_000))
        if await _put(tx, row, status="unknown", looks=looks, due_ms=due_ms, reason=row.mark or "not found yet"):
            await _mirror(tx, row, CommandStatus.UNKNOWN)
    elif verdict.absent_means_done:
        await _close(tx, hospital, row, Verdict.accepted(gone_already=True))
    elif row.mark is not None:
        await _contradiction(tx, hospital, row, looks)
    elif await _is_pointless(tx, row):
        await _close(tx, hospital, row, Verdict.rejected("abandoned"))
    else:
        await _again(tx, hospital, row, Verdict.again("not_found"), at_once=True)


async def _contradiction(tx: Tx, hospital: Hospital, row: Row, looks: int) -> None:
    """The HIS says that it has it, and cannot show it. Sending again would only be told the same, or double it."""
    if row.mark == "created" and looks < MOST_LOOKS_FOR_CREATED:
        due_ms = tx.now_ms + min(5_000 * looks, 30_000)
        await _put(tx, row, status="unknown", looks=looks, due_ms=due_ms, reason=row.mark)
    elif row.verb == Verb.SETTLE_BILL:
        await _close(tx, hospital, row, Verdict.rejected("taken"))  # settled, but not by us: our money goes back
    elif row.verb == Verb.CREATE_PATIENT:
        await _close(tx, hospital, row, Verdict.rejected("patient_mismatch"))
    else:
        await _bury(tx, hospital, row, Verdict.dead("exists at the HIS under our key, and cannot be found there"))


async def _bury(tx: Tx, hospital: Hospital, row: Row, verdict: Verdict) -> None:
    """No machine can settle it: it keeps its seat, blocks its booking, and waits for a person."""
    if not await _put(tx, row, status="dead", reason=verdict.reason or verdict.code):
        return
    tx.ring(fetch_topic(tx.hospital_id))
    if row.kind != "booking":
        return
    try:
        booking = await load_booking(tx, row.subject_id)
    except (SealBroken, ValueError):
        # What cannot be read can still be marked; nobody is told, as nothing of it changes for the patient.
        await tx.run(
            update(bookings)
            .where(bookings.c.hospital_id == tx.hospital_id, bookings.c.id == row.subject_id)
            .values(needs_attention=True, his_command_status="unknown")
        )
        return
    if booking is not None:
        booking.needs_attention = True
        booking.his_command_status = CommandStatus.UNKNOWN
        await save_booking(tx, booking)


async def _is_pointless(tx: Tx, row: Row) -> bool:
    """A lock or a registration for a hold that is over, or for a visit that is, need not be asked for again."""
    if row.verb not in (Verb.LOCK_SLOT, Verb.BOOK, Verb.REGISTER):
        return False
    booking = await load_booking(tx, row.subject_id)
    if booking is None or booking.state != State.HELD:
        return True
    span = await tx.first(
        select(slots.c.starts_at_ms, slots.c.ends_at_ms).where(
            slots.c.hospital_id == tx.hospital_id, slots.c.id == booking.slot_id
        )
    )
    if span is None:
        return True
    over_ms: int = span["ends_at_ms" if row.verb == Verb.REGISTER else "starts_at_ms"]
    return tx.now_ms >= over_ms


async def _mirror(tx: Tx, row: Row, status: CommandStatus, *, refused: bool = False) -> None:
    if row.kind != "booking":
        await COMMANDS[row.kind].mirror(tx, row.subject_id, status)
    elif (booking := await load_booking(tx, row.subject_id)) is not None:
        if refused and row.verb in (Verb.LOCK_SLOT, Verb.BOOK):
            booking.lock_sent_ms = None  # no lock runs at the HIS: its time begins with the next attempt
        await note_command(tx, booking, status)


_RECORD: dict[str, Callable[[Tx, Hospital, Row, Verdict], Awaitable[None]]] = {
    "accepted": _close,
    "rejected": _close,
    "again": _again,
    "unknown": _unknown,
    "absent": _absent,
    "dead": _bury,
}
