"""The outbox: claims commands, sends them, looks back at what is unknown, has their outcomes recorded.

`sent` is committed before the first byte goes out, so that a crash leaves "unknown", never "not sent". One transaction
records the outcomes that have come in meanwhile and claims what there is room for: a commit waits for the disk, however much
is in it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import bindparam, func, select, text, update

from booking.allowance import Allowance
from booking.bookings import note_looked, note_sent
from booking.commands import OPEN, RANKS, wake_topic
from booking.settings import Hospital
from booking.store.bell import wait_for_ring
from booking.store.budget import Budget
from booking.store.crypto import SealBroken
from booking.store.engine import Store, StoreUnavailable, Tx
from booking.store.fixed import Fixed, is_one_of
from booking.store.tables import COMMAND_TO_DO, OPEN_COMMAND, bookings, outbox
from connectors.port import Outcome, Verb, VerbTraits
from monitoring import metrics
from monitoring.logs import get_logger
from monitoring.traces import Kind, span, working_for
from scheduler_sync.commands import MARKS, Verdict
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.lines import COMMANDS
from scheduler_sync.verdicts import Row, record_settled, record_verdict

log = get_logger("outbox")

LEASE_MARGIN_S = 15.0
IDLE_S = 1.0
PAUSE_S = 0.02  # what rings within it is one turn: a release rings for each batch of holds
# Looks that may find nothing: at once while there are few; beside a crowd, whose every batch rings while no place for its locks
# is free, so many as cost nothing. Whatever ends frees its place and is a turn by itself.
IN_VAIN_PER_S, IN_VAIN_BURST = 5.0, 5
STORE_AWAY_PAUSE_S = 0.2
MOST_CLAIMED = MOST_SETTLED = 32  # in one transaction
SOON_TRIES = 10  # how often a command that the store kept from its look is looked at again at once

_SERVED = (
    Verb.REGISTER, Verb.SETTLE_BILL, Verb.CANCEL_REGISTRATION, Verb.UNLOCK_SLOT, Verb.LOCK_SLOT, Verb.BOOK,
    Verb.CREATE_PATIENT, Verb.REFUND,
)  # fmt: skip


def _words_of(alias: str, condition: str) -> str:
    return condition.replace("status", f"{alias}.status")


# In the words of the partial indexes, as neither engine proves that a list of parameters implies them.
_waited = outbox.alias("waited")
# Looked up for each row that is reached. PostgreSQL makes a join of an EXISTS, and while it takes the queue for short, as it was
# at the last ANALYZE, one that walks the whole queue for each row.
_BLOCKED_BY = (
    select(_waited.c.id)
    .where(
        _waited.c.hospital_id == outbox.c.hospital_id,
        _waited.c.line == outbox.c.waits_for,
        text(_words_of("waited", OPEN_COMMAND)),
    )
    .limit(1)
    .scalar_subquery()
)
_DUE = Fixed(
    select(outbox)
    .where(
        outbox.c.hospital_id == bindparam("of_hospital"),
        text(_words_of("outbox", COMMAND_TO_DO)),
        outbox.c.due_ms <= bindparam("now_ms"),
        outbox.c.lease_until_ms.is_(None) | (outbox.c.lease_until_ms <= bindparam("now_ms")),
        # Else the whole queue of a verb that has no place would be walked past at every turn.
        outbox.c.rank <= bindparam("worst_rank"),
        is_one_of(outbox.c.verb, "verbs"),
        _BLOCKED_BY.is_(None),
    )
    .order_by(outbox.c.rank, outbox.c.id)
    .limit(bindparam("most"))
)
_CLAIM = Fixed(
    update(outbox)
    .where(outbox.c.hospital_id == bindparam("of_hospital"), outbox.c.id == bindparam("of_id"))
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in ("attempt", "status", "lease_until_ms", "updated_ms", "first_sent_ms", "last_sent_ms")
        }
    )
)

_OURS_STILL = Fixed(
    update(outbox)
    .where(
        outbox.c.hospital_id == bindparam("of_hospital"),
        outbox.c.id == bindparam("of_id"),
        outbox.c.attempt == bindparam("of_attempt"),
        text("status in ('sent', 'unknown')"),
    )
    .values(lease_until_ms=bindparam("new_lease_until_ms"))
)

Fence = Callable[[Tx], Awaitable[bool]]


class _Outcome(msgspec.Struct, eq=False):
    """How an attempt ended, until it is stored; given up at `until` (the loop's clock), when its lease is over."""

    row: Row
    verdict: Verdict
    until: float


class _Way:
    """The link, as one claimed command goes to it: at its first call the bulkhead knows of it, and counts it itself."""

    def __init__(self, link: HospitalLink, attempt: int, on_arrival: Callable[[], None]) -> None:
        self._link = link
        self._attempt = attempt
        self._on_arrival = on_arrival
        self.arrived = False

    def arrive(self) -> None:
        """It is there, or will never come."""
        if not self.arrived:
            self.arrived = True
            self._on_arrival()

    def traits(self, verb: Verb) -> VerbTraits:
        return self._link.traits(verb)

    async def write(self, verb: Verb, argument: Any) -> Outcome:
        self.arrive()
        return await self._link.write(verb, argument, attempt=self._attempt)

    async def read(self, verb: Verb, *arguments: Any, **how: Any) -> Any:
        self.arrive()
        return await self._link.read(verb, *arguments, **how)


class OutboxWorker:
    """The commands of one hospital. Start `run` once per hospital, under the hospital's lease."""

    def __init__(self, store: Store, hospital: Hospital, link: HospitalLink, *, fence: Fence | None = None) -> None:
        """`fence` says inside the claiming transaction whether the hospital is still ours to work."""
        self._fence = fence
        self._store = store
        self._hospital = hospital
        self._link = link
        self._running: set[asyncio.Task[None]] = set()
        self._outcomes: list[_Outcome] = []
        self._doubtful: list[Row] = []  # claimed, and nobody knows whether that was committed
        self._coming: Counter[str] = Counter()  # by connector: claimed, and not yet seen by its bulkhead
        self._in_vain = Allowance(IN_VAIN_PER_S, IN_VAIN_BURST, time.monotonic())
        self._put_off_s = 0.0  # how long until the look that was not taken

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping`; then let what is in flight finish, and record it."""
        await self._inherit()
        while not stopping.is_set():
            bell = self._store.bell.listen(wake_topic(self._hospital.id))
            if await self._turn_safely(claims=True):
                bell.cancel()
            else:
                await wait_for_ring(bell, STORE_AWAY_PAUSE_S if self._outcomes else self._put_off_s or IDLE_S)
                await asyncio.sleep(PAUSE_S)
        while self._running or self._outcomes:
            if self._running and not self._outcomes:
                await asyncio.wait(set(self._running), return_when=asyncio.FIRST_COMPLETED)
            if not await self._turn_safely(claims=False):
                await asyncio.sleep(STORE_AWAY_PAUSE_S if self._outcomes else 0)

    async def stop_waiting(self) -> None:
        """Give up on what is in flight: its rows stay `sent` and are looked at after the restart."""
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(set(self._running))

    async def _inherit(self) -> None:
        """On SQLite we are the only process: whatever is `sent` was ours before a crash, so do not wait for its lease."""
        if self._store.dialect != "sqlite":
            return
        async with self._store.write(self._hospital.id) as tx:
            await tx.run(
                update(outbox)
                .where(outbox.c.hospital_id == self._hospital.id, text(COMMAND_TO_DO))
                .where(outbox.c.status != "queued")
                .values(lease_until_ms=tx.now_ms)
            )

    # --- one turn -------------------------------------------------------------------------------------------------

    async def _turn_safely(self, *, claims: bool) -> bool:
        """Whether the turn has done anything. What goes wrong in it must not end the work for all others."""
        try:
            return await self._turn(claims=claims and self._hospital.mode == "live")
        except StoreUnavailable as e:
            log.error("store_unavailable", hospital=self._hospital.id, waiting=len(self._outcomes), reason=str(e))
        except Exception as e:
            log.error("claim_failed", hospital=self._hospital.id, exc_info=e)
        self._give_up_old()
        return False

    async def _turn(self, *, claims: bool) -> bool:
        """Record what has come in and claim what there is room for, in one short transaction."""
        self._put_off_s = 0.0
        room = self._room() if claims else {}
        outcomes, doubtful = self._outcomes[:], self._doubtful if claims else []
        if not outcomes and not doubtful and not (room and await self._is_any_due(room)):
            return False
        claimed: list[Row] = []
        recorded: Sequence[_Outcome] = ()
        try:
            async with self._store.write(self._hospital.id, here=True) as tx:
                recorded = await self._record_some(tx, outcomes)
                # Outcomes are true whoever works the hospital now; new commands are only for whoever holds it.
                if (room or doubtful) and (self._fence is None or await self._fence(tx)):
                    claimed = [row for row in doubtful if await self._is_ours_still(tx, row)]
                    if room and not doubtful:  # their places are not counted yet
                        claimed = await self._claim(tx, room)
        except StoreUnavailable:
            self._doubtful = doubtful or claimed
            raise
        except Exception as e:
            if not outcomes:
                raise
            await self._record_apart(outcomes, e)
            return True
        self._outcomes = [o for o in self._outcomes if o not in recorded]
        self._doubtful = []
        for row in claimed:
            self._start(row)
        return bool(recorded or claimed or doubtful)

    async def _record_some(self, tx: Tx, outcomes: Sequence[_Outcome]) -> Sequence[_Outcome]:
        """Settled bookings together, the others one by one while there is time; returns those that were recorded."""
        budget = Budget()
        settled = [o for o in outcomes if o.row.kind == "booking" and o.verdict.kind in ("accepted", "rejected")]
        recorded = settled[:MOST_SETTLED]
        if recorded:
            await record_settled(tx, self._hospital, [(o.row, o.verdict) for o in recorded])
        for outcome in outcomes:
            if outcome not in settled and not (recorded and budget.spent):
                await record_verdict(tx, self._hospital, outcome.row, outcome.verdict)
                recorded.append(outcome)
        return recorded

    async def _record_apart(self, outcomes: Sequence[_Outcome], error: Exception) -> None:
        """One of them cannot be recorded: each in a transaction of its own, so that it takes none of the others with it."""
        log.error("outcomes_recorded_apart", hospital=self._hospital.id, outcomes=len(outcomes), exc_info=error)
        for outcome in outcomes:
            try:
                async with self._store.write(self._hospital.id) as tx:
                    await record_verdict(tx, self._hospital, outcome.row, outcome.verdict)
            except StoreUnavailable:
                raise
            except Exception as e:  # its row stays `sent`: when its lease has run out it is looked at
                log.error("outcome_not_recorded", hospital=self._hospital.id, line=outcome.row.line, exc_info=e)
            self._outcomes.remove(outcome)

    def _give_up_old(self) -> None:
        """What could not be stored before its lease's end: its row stays `sent`, and is looked at as after a crash."""
        now = asyncio.get_running_loop().time()
        for outcome in [o for o in self._outcomes if o.until <= now]:
            log.error("outcome_not_stored", hospital=self._hospital.id, line=outcome.row.line)
            self._outcomes.remove(outcome)

    # --- claiming -------------------------------------------------------------------------------------------------

    def _room(self) -> dict[Verb, int]:
        """How many commands of each verb may be claimed now; verbs without a place are left out."""
        room = {}
        for verb in _SERVED:
            places = self._link.free_places(verb) - self._coming[self._link.connector(verb).name]
            if places > 0:
                room[verb] = places
        return room

    def _due(self, tx: Tx, room: dict[Verb, int], most: int) -> dict[str, Any]:
        return {
            "of_hospital": self._hospital.id,
            "now_ms": tx.now_ms,
            "verbs": [verb.value for verb in room],
            "worst_rank": max(RANKS[verb.value] for verb in room),  # a command's rank is its verb's, or better
            "most": most,
        }

    async def _is_any_due(self, room: dict[Verb, int]) -> bool:
        self._put_off_s = self._in_vain.wait_s(time.monotonic())
        if self._put_off_s > 0:
            return False
        # Not here on the loop: commands that wait for others, or for their next try, are walked past one by one.
        async with self._store.read(self._hospital.id) as tx:
            found = await tx.all(_DUE, self._due(tx, room, 1))
        if not found:
            self._in_vain.take(time.monotonic())
        return bool(found)

    async def _claim(self, tx: Tx, room: dict[Verb, int]) -> list[Row]:
        """Claim the first of the queue, as many as each connector has places for. Few statements, however many rows."""
        most = min(MOST_CLAIMED, sum({self._link.connector(v).name: n for v, n in room.items()}.values()))
        found = await tx.all(_DUE, self._due(tx, room, most))
        rows: list[Row] = []
        changes: list[dict[str, Any]] = []
        used: Counter[str] = Counter()
        for row in found:
            verb = Verb(row["verb"])
            connector = self._link.connector(verb).name
            if used[connector] < room[verb]:
                used[connector] += 1
                taken, change = self._take(tx.now_ms, row, verb)
                rows.append(taken)
                changes.append(change)
        if rows:
            await tx.later(_CLAIM, changes)
        await note_sent(tx, [r.subject_id for r in rows if r.kind == "booking" and r.was == "queued"])
        await note_looked(tx, [r.subject_id for r in rows if r.kind == "booking" and r.was != "queued"])
        return rows

    async def _is_ours_still(self, tx: Tx, row: Row) -> bool:
        """Whether a claim whose commit had no answer was made: then nobody has sent it, and it need not wait for its lease."""
        change = {
            "of_hospital": self._hospital.id,
            "of_id": row.id,
            "of_attempt": row.attempt,
            "new_lease_until_ms": tx.now_ms + int(row.lease_s * 1000),
        }
        return await tx.run(_OURS_STILL, change) > 0

    def _take(self, now_ms: int, row: dict[str, Any], verb: Verb) -> tuple[Row, dict[str, Any]]:
        """A row as claimed, and what to write. A `sent` one whose lease has run out was left by a crash: it is unknown."""
        was = "unknown" if row["status"] == "sent" else row["status"]
        # A command may take a look, a write and a second look, each after its wait for a place.
        lease_s = 4 * self._link.traits(verb).timeout_s + 3 * self._hospital.his_queue_deadline_s + LEASE_MARGIN_S
        # What a crash has left may have gone out at any moment until now: "not found" counts from here.
        last_sent_ms = row["last_sent_ms"] if row["status"] == "unknown" else now_ms
        change = {
            "of_hospital": self._hospital.id,
            "of_id": row["id"],
            "new_attempt": row["attempt"] + 1,
            "new_status": "sent" if was == "queued" else "unknown",
            "new_lease_until_ms": now_ms + int(lease_s * 1000),
            "new_updated_ms": now_ms,
            "new_first_sent_ms": row["first_sent_ms"] or (now_ms if was == "queued" else None),
            "new_last_sent_ms": last_sent_ms,
        }
        taken = Row(
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
            last_sent_ms=last_sent_ms,
            created_ms=row["created_ms"],
            trace=row["trace"],
        )
        return taken, change

    # --- working --------------------------------------------------------------------------------------------------

    def _start(self, row: Row) -> None:
        name = self._link.connector(row.verb).name
        self._coming[name] += 1
        way = _Way(self._link, row.attempt, lambda: self._coming.subtract([name]))
        task = asyncio.create_task(self._work(row, way), name=f"outbox {row.line}")
        self._running.add(task)
        task.add_done_callback(lambda ended: self._finished(ended, way))

    def _finished(self, task: asyncio.Task[None], way: _Way) -> None:
        way.arrive()
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("command_failed", hospital=self._hospital.id, task=task.get_name(), exc_info=error)
        self._store.bell.ring(wake_topic(self._hospital.id))

    async def _work(self, row: Row, way: _Way) -> None:
        until = asyncio.get_running_loop().time() + row.lease_s
        with working_for(row.trace), span(f"outbox {row.verb.value}", kind=Kind.CONSUMER) as one:
            verdict = await self._ask(row, way)
            if one is not None:
                one.attributes |= {
                    "hisbridge.hospital": self._hospital.id,
                    "hisbridge.verb": row.verb.value,
                    "hisbridge.attempt": row.attempt,
                    "hisbridge.was": row.was,
                    "hisbridge.verdict": verdict.kind,
                }
                if row.kind == "booking":  # of a person there is no id here
                    one.set("hisbridge.booking.id", row.subject_id)
        self._outcomes.append(_Outcome(row, verdict, until))

    async def _ask(self, row: Row, way: _Way) -> Verdict:
        command = COMMANDS[row.kind]
        do = command.send if row.was == "queued" else command.look
        try:
            async with asyncio.timeout(row.lease_s - LEASE_MARGIN_S / 2):
                return await do(self._store, self._hospital, way, row.verb, row.subject_id)
        except TimeoutError:
            return Verdict.unknown("no outcome before the lease's end")
        except StoreUnavailable as e:
            # Else it would wait for the end of its lease, minutes after the store is back.
            log.error("store_unavailable", hospital=self._hospital.id, line=row.line, reason=str(e))
            if row.was == "queued" and not way.arrived:
                return Verdict.again("not_sent")
            return Verdict.unknown("the store was away", soon=row.tries < SOON_TRIES)
        except (LookupError, SealBroken) as e:
            log.error("command_unreadable", hospital=self._hospital.id, line=row.line, exc_info=e)
            return Verdict.dead(f"cannot be read: {e}")

    # --- watching -------------------------------------------------------------------------------------------------

    async def measure(self) -> None:
        """Refresh the gauges of this hospital."""
        async with self._store.read(self._hospital.id) as tx:
            rows = await tx.all(
                select(
                    outbox.c.status,
                    func.count().label("n"),
                    func.min(outbox.c.created_ms).label("oldest"),
                    func.min(func.coalesce(outbox.c.first_sent_ms, outbox.c.created_ms)).label("sent"),
                )
                .where(outbox.c.hospital_id == self._hospital.id, text(OPEN_COMMAND))
                .group_by(outbox.c.status)
            )
            counts = {r["status"]: r["n"] for r in rows}
            oldest = min((r["oldest"] for r in rows if r["status"] != "dead"), default=tx.now_ms)
            unknown = next((r["sent"] for r in rows if r["status"] == "unknown"), tx.now_ms)
            attention = await tx.first(
                select(func.count().label("n")).where(
                    bookings.c.hospital_id == self._hospital.id, bookings.c.needs_attention
                )
            )
        for status in OPEN:
            metrics.outbox_depth.labels(hospital=self._hospital.id, status=status).set(counts.get(status, 0))
        metrics.outbox_oldest_seconds.labels(hospital=self._hospital.id).set(max(0.0, (tx.now_ms - oldest) / 1000))
        metrics.his_unknown.labels(hospital=self._hospital.id).set(counts.get("unknown", 0))
        metrics.his_unknown_oldest_seconds.labels(hospital=self._hospital.id).set(
            max(0.0, (tx.now_ms - unknown) / 1000)
        )
        dead = counts.get("dead", 0) + (attention["n"] if attention is not None else 0)
        metrics.dead_letters.labels(hospital=self._hospital.id, box="outbox").set(dead)
