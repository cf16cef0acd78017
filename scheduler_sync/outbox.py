"""The outbox: claims commands, sends them, looks back at what is unknown, records outcomes under a fence.

`sent` is committed before the first byte goes out, so that a crash leaves "unknown", never "not sent". Outcomes count only
under the attempt number that was claimed: a late worker cannot overwrite a later one's word.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from sqlalchemy import func, select, update

from booking.bookings import note_sent
from booking.commands import OPEN, wake_topic
from booking.lifecycle import CommandStatus, State
from booking.moves import fetch_topic, load_booking, note_command, save_booking
from booking.settings import Hospital
from booking.store.bell import wait_for_ring
from booking.store.engine import Store, StoreUnavailable, Tx
from booking.store.tables import bookings, outbox
from connectors.port import Verb
from monitoring import metrics
from monitoring.logs import get_logger
from scheduler_sync.commands import COMMANDS, Verdict
from scheduler_sync.gateway import HospitalLink

log = get_logger("outbox")

LEASE_MARGIN_S = 15.0
IDLE_S = 1.0
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 60.0


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
    last_sent_ms: int | None
    created_ms: int


class OutboxWorker:
    """The commands of one hospital. Start `run` once per hospital, under the hospital's lease."""

    def __init__(self, store: Store, hospital: Hospital, link: HospitalLink) -> None:
        self._store = store
        self._hospital = hospital
        self._link = link
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping`; then let what is in flight finish."""
        await self._inherit()
        while not stopping.is_set():
            bell = self._store.bell.listen(wake_topic(self._hospital.id))
            try:
                claimed = [] if self._hospital.mode != "live" else await self._claim()
            except StoreUnavailable as e:
                log.error("store_unavailable", hospital=self._hospital.id, reason=str(e))
                claimed = []
            for row in claimed:
                task = asyncio.create_task(self._work(row), name=f"outbox {row.line}")
                self._running.add(task)
                task.add_done_callback(self._finished)
            if claimed:
                bell.cancel()
                continue
            await wait_for_ring(bell, IDLE_S)
        if self._running:
            await asyncio.wait(set(self._running))

    async def stop_waiting(self) -> None:
        """Give up on what is in flight: its rows stay `sent` and are looked at after the restart."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(set(self._running))

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("command_failed", hospital=self._hospital.id, task=task.get_name(), exc_info=error)
        self._store.bell.ring(wake_topic(self._hospital.id))

    async def _inherit(self) -> None:
        """On SQLite we are the only process: whatever is `sent` was ours before a crash, so do not wait for its lease."""
        if self._store.dialect != "sqlite":
            return
        async with self._store.write(self._hospital.id) as tx:
            await tx.run(
                update(outbox)
                .where(outbox.c.hospital_id == self._hospital.id, outbox.c.status.in_(("sent", "unknown")))
                .values(lease_until_ms=tx.now_ms)
            )

    # --- claiming -------------------------------------------------------------------------------------------------

    async def _claim(self) -> list[Row]:
        limit = self._hospital.his_concurrency - len(self._running)
        if limit <= 0:
            return []
        async with self._store.read(self._hospital.id) as tx:
            if not await tx.all(self._due(tx.now_ms, 1)):
                return []
        async with self._store.write(self._hospital.id) as tx:
            rows = await tx.all(self._due(tx.now_ms, limit))
            return [await self._take(tx, r) for r in rows]

    def _due(self, now_ms: int, limit: int) -> Any:
        waited = outbox.alias("waited")
        blocked = (
            select(waited.c.id)
            .where(
                waited.c.hospital_id == self._hospital.id,
                waited.c.line == outbox.c.waits_for,
                waited.c.status.in_(OPEN),
            )
            .exists()
        )
        free = outbox.c.lease_until_ms.is_(None) | (outbox.c.lease_until_ms <= now_ms)
        return (
            select(outbox)
            .where(
                outbox.c.hospital_id == self._hospital.id,
                outbox.c.status.in_(("queued", "sent", "unknown")),
                outbox.c.due_ms <= now_ms,
                free,
                ~blocked,
            )
            .order_by(outbox.c.rank, outbox.c.id)
            .limit(limit)
        )

    async def _take(self, tx: Tx, row: dict[str, Any]) -> Row:
        """Claim one row. A `sent` one whose lease has run out was left by a crash: its outcome is unknown."""
        was = "unknown" if row["status"] == "sent" else row["status"]
        verb = Verb(row["verb"])
        lease_s = self._link.traits(verb).timeout_s * 3 + self._hospital.his_queue_deadline_s + LEASE_MARGIN_S
        values: dict[str, Any] = {
            "attempt": row["attempt"] + 1,
            "status": "sent" if was == "queued" else "unknown",
            "lease_until_ms": tx.now_ms + int(lease_s * 1000),
            "updated_ms": tx.now_ms,
        }
        if row["status"] != "unknown":
            # What a crash has left may have gone out at any moment until now: "not found" counts from here.
            values["last_sent_ms"] = tx.now_ms
        if was == "queued":
            values["first_sent_ms"] = row["first_sent_ms"] or tx.now_ms
        await tx.run(_this(tx, row["id"]).values(**values))
        booking = await load_booking(tx, row["subject_id"]) if row["line"].startswith("booking:") else None
        if booking is not None:
            if was == "queued":
                await note_sent(tx, booking)
            else:
                await note_command(tx, booking, CommandStatus.UNKNOWN)
        return Row(
            id=row["id"],
            line=row["line"],
            verb=verb,
            subject_id=row["subject_id"],
            attempt=row["attempt"] + 1,
            tries=row["tries"],
            looks=row["looks"],
            was=was,
            last_sent_ms=values.get("last_sent_ms", row["last_sent_ms"]),
            created_ms=row["created_ms"],
        )

    # --- working --------------------------------------------------------------------------------------------------

    async def _work(self, row: Row) -> None:
        command = COMMANDS[row.line.partition(":")[0]]
        try:
            if row.was == "queued":
                verdict = await command.send(self._store, self._hospital, self._link, row.verb, row.subject_id)
            else:
                verdict = await command.look(self._store, self._hospital, self._link, row.verb, row.subject_id)
        except LookupError as e:
            verdict = Verdict.dead(str(e))
        await self._record(row, verdict)

    async def _record(self, row: Row, verdict: Verdict) -> None:
        for pause_s in (0.1, 0.5, 2.0, 5.0, 10.0):
            try:
                async with self._store.write(self._hospital.id) as tx:
                    await self._write_verdict(tx, row, verdict)
                return
            except StoreUnavailable as e:
                log.error("outcome_not_stored", hospital=self._hospital.id, line=row.line, reason=str(e))
                await asyncio.sleep(pause_s)
        # The row stays `sent`; when its lease has run out it is looked at like one that a crash has left.

    async def _write_verdict(self, tx: Tx, row: Row, verdict: Verdict) -> None:
        mine = await tx.first(
            select(outbox.c.id).where(
                outbox.c.hospital_id == tx.hospital_id,
                outbox.c.id == row.id,
                outbox.c.attempt == row.attempt,
                outbox.c.status.in_(("sent", "unknown")),
            )
        )
        if mine is None:
            log.warning("late_outcome_ignored", hospital=tx.hospital_id, line=row.line, attempt=row.attempt)
            return
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
        match verdict.kind:
            case "accepted" | "rejected":
                await self._close(tx, row, verdict)
            case "again":
                await self._again(tx, row, verdict)
            case "unknown":
                await self._unknown(tx, row, verdict)
            case "absent":
                await self._absent(tx, row, verdict)
            case _:
                await self._bury(tx, row, verdict)

    async def _close(self, tx: Tx, row: Row, verdict: Verdict) -> None:
        await tx.run(
            _this(tx, row.id).values(
                status="done", reason=verdict.code, lease_until_ms=None, updated_ms=tx.now_ms, looks=row.looks
            )
        )
        await COMMANDS[row.line.partition(":")[0]].settle(tx, self._hospital, row.verb, row.subject_id, verdict)
        tx.ring(wake_topic(tx.hospital_id))

    async def _again(self, tx: Tx, row: Row, verdict: Verdict) -> None:
        """The HIS has certainly not done it, and may later: back into the queue with growing pauses."""
        if await self._is_pointless(tx, row):
            await self._close(tx, row, Verdict.rejected(verdict.code or "abandoned"))
            return
        pause_ms = int(min(FIRST_BACKOFF_S * 2 ** min(row.tries, 10), LONGEST_BACKOFF_S) * 1000)
        await tx.run(
            _this(tx, row.id).values(
                status="queued",
                tries=row.tries + 1,
                due_ms=tx.now_ms + pause_ms,
                lease_until_ms=None,
                reason=verdict.code,
                updated_ms=tx.now_ms,
            )
        )
        await self._mirror(tx, row, CommandStatus.QUEUED, refused=row.was == "queued")

    async def _unknown(self, tx: Tx, row: Row, verdict: Verdict) -> None:
        """No usable reply: look back, soon at first. Never sent again blind."""
        first = row.was == "queued"
        pause_s = 0.2 if verdict.soon else min(1.0 * 2 ** min(row.tries, 5), 30.0)
        await tx.run(
            _this(tx, row.id).values(
                status="unknown",
                tries=0 if first else row.tries + 1,
                looks=0 if first else row.looks,
                last_sent_ms=tx.now_ms if first else row.last_sent_ms,
                due_ms=tx.now_ms + int(pause_s * 1000),
                lease_until_ms=None,
                reason=verdict.reason,
                updated_ms=tx.now_ms,
            )
        )
        await self._mirror(tx, row, CommandStatus.UNKNOWN)

    async def _absent(self, tx: Tx, row: Row, verdict: Verdict) -> None:
        """The HIS does not know it. That counts only on two looks, the last `his_settle_s` after the last byte."""
        looks = row.looks + 1
        settled_ms = (row.last_sent_ms or tx.now_ms) + int(self._hospital.his_settle_s * 1000)
        if looks < 2 or tx.now_ms < settled_ms:
            wait_ms = max(500, min(settled_ms - tx.now_ms, 5_000))
            await tx.run(
                _this(tx, row.id).values(
                    status="unknown",
                    looks=looks,
                    due_ms=tx.now_ms + wait_ms,
                    lease_until_ms=None,
                    reason="not found yet",
                    updated_ms=tx.now_ms,
                )
            )
            await self._mirror(tx, row, CommandStatus.UNKNOWN)
            return
        if verdict.absent_means_done:
            await self._close(tx, row, Verdict.accepted())
        elif await self._is_pointless(tx, row):
            await self._close(tx, row, Verdict.rejected("abandoned"))
        else:
            await self._again(tx, row, Verdict.again("not_found"))

    async def _bury(self, tx: Tx, row: Row, verdict: Verdict) -> None:
        """No machine can settle it: it keeps its seat, blocks its booking, and waits for a person."""
        await tx.run(
            _this(tx, row.id).values(
                status="dead", reason=verdict.reason or verdict.code, lease_until_ms=None, updated_ms=tx.now_ms
            )
        )
        if row.line.startswith("booking:") and (booking := await load_booking(tx, row.subject_id)) is not None:
            booking.needs_attention = True
            booking.his_command_status = CommandStatus.UNKNOWN
            await save_booking(tx, booking)
        tx.ring(fetch_topic(tx.hospital_id))

    async def _is_pointless(self, tx: Tx, row: Row) -> bool:
        """A lock or a registration for a hold that is over need not be asked for again."""
        if row.verb not in (Verb.LOCK_SLOT, Verb.BOOK, Verb.REGISTER):
            return False
        booking = await load_booking(tx, row.subject_id)
        return booking is None or booking.state != State.HELD

    async def _mirror(self, tx: Tx, row: Row, status: CommandStatus, *, refused: bool = False) -> None:
        if row.line.startswith("booking:") and (booking := await load_booking(tx, row.subject_id)) is not None:
            if refused and row.verb in (Verb.LOCK_SLOT, Verb.BOOK):
                booking.lock_sent_ms = None  # no lock runs at the HIS: its time begins with the next attempt
            await note_command(tx, booking, status)

    # --- watching -------------------------------------------------------------------------------------------------

    async def measure(self) -> None:
        """Refresh the gauges of this hospital."""
        async with self._store.read(self._hospital.id) as tx:
            rows = await tx.all(
                select(outbox.c.status, func.count().label("n"), func.min(outbox.c.created_ms).label("oldest"))
                .where(outbox.c.hospital_id == self._hospital.id, outbox.c.status.in_(OPEN))
                .group_by(outbox.c.status)
            )
            counts = {r["status"]: r["n"] for r in rows}
            oldest = min((r["oldest"] for r in rows), default=tx.now_ms)
            attention = await tx.first(
                select(func.count().label("n")).where(
                    bookings.c.hospital_id == self._hospital.id, bookings.c.needs_attention
                )
            )
        for status in OPEN:
            metrics.outbox_depth.labels(hospital=self._hospital.id, status=status).set(counts.get(status, 0))
        metrics.outbox_oldest_seconds.labels(hospital=self._hospital.id).set(max(0.0, (tx.now_ms - oldest) / 1000))
        dead = counts.get("dead", 0) + (attention["n"] if attention is not None else 0)
        metrics.dead_letters.labels(hospital=self._hospital.id, box="outbox").set(dead)


def _this(tx: Tx, row_id: str) -> Any:
    return update(outbox).where(outbox.c.hospital_id == tx.hospital_id, outbox.c.id == row_id)
