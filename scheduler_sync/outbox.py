"""The outbox: claims commands, sends them, looks back at what is unknown, records outcomes under a fence.

`sent` is committed before the first byte goes out, so that a crash leaves "unknown", never "not sent". Outcomes count only
under the attempt number that was claimed: a late worker cannot overwrite a later one's word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from sqlalchemy import func, select, update

from booking.bookings import note_sent
from booking.commands import OPEN, wake_topic
from booking.lifecycle import CommandStatus, State
from booking.moves import RuleBroken, fetch_topic, load_booking, note_command, save_booking
from booking.settings import Hospital
from booking.store.bell import wait_for_ring
from booking.store.crypto import SealBroken
from booking.store.engine import Store, StoreUnavailable, Tx
from booking.store.tables import bookings, outbox, slots
from connectors.port import Verb
from monitoring import metrics
from monitoring.logs import get_logger
from scheduler_sync.commands import COMMANDS, MARKS, Verdict
from scheduler_sync.gateway import HospitalLink

log = get_logger("outbox")

LEASE_MARGIN_S = 15.0
MOST_ATTEMPTS = 1_000  # at pauses of a minute: most of a day; whatever goes on longer needs a person
MOST_LOOKS_FOR_CREATED = 10
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
    mark: str | None
    lease_s: float
    last_sent_ms: int | None
    created_ms: int


class OutboxWorker:
    """The commands of one hospital. Start `run` once per hospital, under the hospital's lease."""

    def __init__(
        self,
        store: Store,
        hospital: Hospital,
        link: HospitalLink,
        *,
        fence: Callable[[Tx], Awaitable[bool]] | None = None,
    ) -> None:
        """`fence` says inside the claiming transaction whether the hospital is still ours to work."""
        self._fence = fence
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
            except Exception as e:  # one bad row must not end the work for all others
                log.error("claim_failed", hospital=self._hospital.id, exc_info=e)
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
        taken: list[Row] = []
        unreadable: list[tuple[str, str]] = []
        async with self._store.write(self._hospital.id) as tx:
            if self._fence is not None and not await self._fence(tx):
                return []
            for row in await tx.all(self._due(tx.now_ms, limit)):
                try:
                    async with tx.conn.begin_nested():
                        taken.append(await self._take(tx, row))
                except (SealBroken, LookupError, ValueError, RuleBroken) as e:
                    log.error("command_unreadable", hospital=tx.hospital_id, line=row["line"], exc_info=e)
                    unreadable.append((row["id"], type(e).__name__))
            for row_id, reason in unreadable:
                await tx.run(_this(tx, row_id).values(status="dead", reason=f"cannot be read: {reason}"))
        return taken

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
        # A command may take a look, a write and a second look, each after its wait for a place.
        lease_s = 4 * self._link.traits(verb).timeout_s + 3 * self._hospital.his_queue_deadline_s + LEASE_MARGIN_S
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
            mark=row["reason"] if row["reason"] in MARKS else None,
            lease_s=lease_s,
            last_sent_ms=values.get("last_sent_ms", row["last_sent_ms"]),
            created_ms=row["created_ms"],
        )

    # --- working --------------------------------------------------------------------------------------------------

    async def _work(self, row: Row) -> None:
        command = COMMANDS[row.line.partition(":")[0]]
        do = command.send if row.was == "queued" else command.look
        try:
            async with asyncio.timeout(row.lease_s - LEASE_MARGIN_S / 2):
                verdict = await do(self._store, self._hospital, self._link, row.verb, row.subject_id)
        except TimeoutError:
            verdict = Verdict.unknown("no outcome before the lease's end")
        except (LookupError, SealBroken) as e:
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

    async def _again(self, tx: Tx, row: Row, verdict: Verdict, *, at_once: bool = False) -> None:
        """The HIS has certainly not done it, and may later: back into the queue with growing pauses.

        `at_once` follows a look that found nothing: the longer the pause, the less that look would be worth.
        """
        if await self._is_pointless(tx, row):
            await self._close(tx, row, Verdict.rejected(verdict.code or "abandoned"))
            return
        if row.attempt >= MOST_ATTEMPTS:
            await self._bury(tx, row, Verdict.dead(f"{row.attempt} attempts, the last: {verdict.code}"))
            return
        pause_ms = int(min(FIRST_BACKOFF_S * 2 ** min(row.tries, 10), LONGEST_BACKOFF_S) * 1000)
        if at_once:
            pause_ms = 0
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
                reason=(verdict.code if verdict.code in MARKS else row.mark) or verdict.reason,
                updated_ms=tx.now_ms,
            )
        )
        await self._mirror(tx, row, CommandStatus.UNKNOWN)

    async def _absent(self, tx: Tx, row: Row, verdict: Verdict) -> None:
        """The HIS does not know it. That counts only on two looks, the last `his_settle_s` after the last byte."""
        looks = row.looks + 1
        row.mark = verdict.code if verdict.code in MARKS else row.mark
        settled_ms = (row.last_sent_ms or tx.now_ms) + int(self._hospital.his_settle_s * 1000)
        if looks < 2 or tx.now_ms < settled_ms:
            wait_ms = max(500, min(settled_ms - tx.now_ms, 5_000))
            await tx.run(
                _this(tx, row.id).values(
                    status="unknown",
                    looks=looks,
                    due_ms=tx.now_ms + wait_ms,
                    lease_until_ms=None,
                    reason=row.mark or "not found yet",
                    updated_ms=tx.now_ms,
                )
            )
            await self._mirror(tx, row, CommandStatus.UNKNOWN)
            return
        if verdict.absent_means_done:
            await self._close(tx, row, Verdict.accepted(gone_already=True))
        elif row.mark is not None:
            await self._contradiction(tx, row, looks)
        elif await self._is_pointless(tx, row):
            await self._close(tx, row, Verdict.rejected("abandoned"))
        else:
            await self._again(tx, row, Verdict.again("not_found"), at_once=True)

    async def _contradiction(self, tx: Tx, row: Row, looks: int) -> None:
        """The HIS says that it has it, and cannot show it. Sending again would only be told the same, or double it."""
        if row.mark == "created" and looks < MOST_LOOKS_FOR_CREATED:
            await tx.run(
                _this(tx, row.id).values(
                    status="unknown",
                    looks=looks,
                    due_ms=tx.now_ms + min(5_000 * looks, 30_000),
                    lease_until_ms=None,
                    reason=row.mark,
                    updated_ms=tx.now_ms,
                )
            )
        elif row.verb == Verb.SETTLE_BILL:
            await self._close(tx, row, Verdict.rejected("taken"))  # settled, but not by us: our money goes back
        elif row.verb == Verb.CREATE_PATIENT:
            await self._close(tx, row, Verdict.rejected("patient_mismatch"))
        else:
            await self._bury(tx, row, Verdict.dead("exists at the HIS under our key, and cannot be found there"))

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
