"""What passed on the wire, written down behind it: in memory first, a few rows in one transaction a moment later.

Nothing waits for it. What a crash loses are the exchanges of the last moment: what was to be done stands in the outbox, what was
told in `messages` (ADR-0031). Notes of stored messages are made up for at the next start.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable

import msgspec

from booking.allowance import Allowance
from booking.store.engine import Store, StoreUnavailable
from booking.store.ids import new_id
from connectors.port import Acknowledged, Exchanged, Inbound, Passed
from monitoring import metrics
from monitoring.logs import get_logger
from monitoring.trace_context import nobodys
from scheduler_sync.messages.groups import (
    Kept,
    Note,
    SealedRow,
    heal_notes,
    log_scope,
    read_totals,
    seal_exchange,
    write_group,
)
from scheduler_sync.messages.references import References, references_of

log = get_logger("recorder")

FLUSH_AFTER_S = 0.25
MOST_WAITING = 2_000  # records
MOST_WAITING_BYTES = 16 * 1024 * 1024
GROUP = 100  # records in one transaction
GROUP_BYTES = 1024 * 1024
GROUP_REFS = 500  # a message can name hundreds of patients: that many are written in some 10 ms
OFF_LOOP_BYTES = 65_536  # sealing this much takes over a millisecond
REFUSED_BYTES = (
    16_384  # what is kept of a message that was not taken: enough to see what it was; a repeat is stored already
)
REFUSED_PER_S, REFUSED_BURST = 0.5, 60  # how many of them, and of what never left our machine
CLOSE_WITHIN_S = 2.0
PAUSE_S = 1.0  # after a store that was away
REMEMBERED = 1_000  # stored messages whose acknowledgement may still come


class Recorder:
    """The record of one hospital; its connectors and its inbox are given it. Made anew for each start."""

    def __init__(
        self, store: Store, hospital_id: str, *, keep_exchanges: bool = True, flush_after_s: float = FLUSH_AFTER_S
    ) -> None:
        """`store` is the message store. Without `keep_exchanges` only what belongs to stored messages is written."""
        self._store = store
        self._hospital_id = hospital_id
        self._keep = keep_exchanges
        self._flush_after_s = flush_after_s
        self._waiting: deque[Note | Kept] = deque()
        self._bytes = 0
        self._answers: dict[str, str] = {}  # by message id: of notes that are written already
        self._recent: OrderedDict[tuple[str, str], Note] = OrderedDict()
        self._stored = {  # looked up once: every message of a stream counts one
            state: metrics.messages_stored.labels(hospital=hospital_id, direction="in", state=state)
            for state in ("received", "quarantined")
        }
        now_s = time.monotonic()
        self._refused = Allowance(REFUSED_PER_S, REFUSED_BURST, now_s)
        self._unsent = Allowance(REFUSED_PER_S, REFUSED_BURST, now_s)
        self._turn = asyncio.Lock()
        self._working: asyncio.Task[None] | None = None
        self._heal_before: str | None = None
        self._closed = False

    def start(self) -> None:
        """Make up for the notes that a crash has lost, in the background."""
        self._heal_before = new_id()
        self._begin_work()

    def stored(self, inbound: Inbound, message_id: str, size_bytes: int) -> None:
        """A message stands in the store under this id."""
        if inbound.problem is None:
            named = references_of(inbound.events)
        else:
            named = References(
                order_nos=() if inbound.order_no is None else (inbound.order_no,),
                mrns=() if inbound.mrn is None else (inbound.mrn,),
            )
        note = Note(message_id=message_id, control_id=inbound.control_id, named=named, size_bytes=size_bytes)
        self._recent[inbound.connector, inbound.dedup_key] = note
        if len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)
        self._add(note, 0)
        self._stored["received" if inbound.problem is None else "quarantined"].inc()

    def record(self, what: Exchanged | Acknowledged) -> None:
        """A `connectors.port.Recorder`."""
        if isinstance(what, Acknowledged):
            self._acknowledged(what)
        elif self._keep and self._allowed(what):
            kept = _cut(what)
            # Its id is made once: where the answer of a commit is lost the same row is written again.
            self._add(Kept(new_id(), kept), _size(kept))

    def _acknowledged(self, what: Acknowledged) -> None:
        note = self._recent.pop((what.connector, what.dedup_key), None)
        if note is None:
            return
        if note.written:
            self._answers[note.message_id] = what.answer_code
            self._begin_work()
        else:
            note.answer = what.answer_code

    def _allowed(self, what: Exchanged) -> bool:
        """Whoever sends garbage for ever must not fill the disk, nor a HIS that is down for days."""
        if what.state in (Passed.REFUSED, Passed.DUPLICATE):
            allowance = self._refused
        elif what.state is Passed.FAILED and what.answer is None:
            allowance = self._unsent
        else:
            return True
        now_s = time.monotonic()
        if allowance.wait_s(now_s) > 0:
            self._count_dropped("rate")
            return False
        allowance.take(now_s)
        return True

    def _add(self, what: Note | Kept, size_bytes: int) -> None:
        if self._closed or len(self._waiting) >= MOST_WAITING or self._bytes + size_bytes > MOST_WAITING_BYTES:
            self._count_dropped("full")
            return
        self._waiting.append(what)
        self._bytes += size_bytes
        self._begin_work()

    def _count_dropped(self, reason: str, count: int = 1) -> None:
        metrics.message_records_dropped.labels(hospital=self._hospital_id, reason=reason).inc(count)

    # --- writing --------------------------------------------------------------------------------------------------------

    def _begin_work(self) -> None:
        if not self._closed and (self._working is None or self._working.done()):
            self._working = asyncio.create_task(self._work(), name=f"recorder {self._hospital_id}", context=nobodys())

    async def _work(self) -> None:
        while self._waiting or self._answers or self._heal_before:
            await asyncio.sleep(self._flush_after_s)
            await self._try(self._write_due())

    async def _try(self, work: Awaitable[None]) -> None:
        try:
            await work
        except StoreUnavailable as e:
            log.warning("record_not_written", hospital=self._hospital_id, reason=str(e))
            await asyncio.sleep(PAUSE_S)
        except Exception as e:  # a record that cannot be written must not end the writing of the others
            log.error("record_not_written", hospital=self._hospital_id, exc_info=e)

    async def flush(self) -> None:
        """Write all that waits. Raises StoreUnavailable: what was not written waits on."""
        async with self._turn:
            await self._heal()
            while self._waiting or self._answers:
                await self._write_some()

    async def _write_due(self) -> None:
        """Write what waits now. What comes meanwhile shares a commit the next time: a stream's next message is there at once."""
        async with self._turn:
            await self._heal()
            due = len(self._waiting)
            while due > 0 or (self._answers and not self._waiting):
                due -= await self._write_some()

    async def _heal(self) -> None:
        before = self._heal_before
        if before is None:
            return
        more = True
        try:
            while more:
                more = await heal_notes(self._store, self._hospital_id, before=before)
        except StoreUnavailable:
            raise
        except Exception as e:  # what cannot be made up for must not keep what comes from being written
            log.error("notes_not_healed", hospital=self._hospital_id, exc_info=e)
        self._heal_before = None

    async def _write_some(self) -> int:
        """One group, in one transaction; returns how many of those that wait."""
        await asyncio.sleep(0)  # beside a quick disk nothing else is waited for
        notes, exchanges, size_bytes = self._next_group()
        answers = self._answers
        self._answers = {}
        count = len(notes) + len(exchanges)
        try:
            if size_bytes > OFF_LOOP_BYTES:
                rows = await asyncio.to_thread(self._sealed, exchanges)
            else:
                rows = self._sealed(exchanges)
            await write_group(self._store, self._hospital_id, notes, rows, answers)
        except StoreUnavailable:
            self._answers = answers | self._answers
            raise
        except Exception:
            self._done(count)
            self._count_dropped("failed", count)
            raise
        self._done(count)
        for note in notes:
            note.written = True
            if note.answer is not None and note.answer != note.written_answer:
                self._answers[note.message_id] = note.answer
        for _, one in exchanges:
            metrics.messages_stored.labels(
                hospital=self._hospital_id, direction=one.direction.value, state=one.state.value
            ).inc()
        return count

    def _next_group(self) -> tuple[list[Note], list[Kept], int]:
        """The oldest ones, as many as fit; they wait on until they are written."""
        notes: list[Note] = []
        exchanges: list[Kept] = []
        size_bytes = refs = 0
        for what in self._waiting:
            if len(notes) + len(exchanges) >= GROUP or size_bytes >= GROUP_BYTES or refs >= GROUP_REFS:
                break
            if isinstance(what, Note):
                what.written_answer = what.answer
                notes.append(what)
                refs += what.named.count
            else:
                size_bytes += _size(what.exchange)
                exchanges.append(what)
        return notes, exchanges, size_bytes

    def _done(self, count: int) -> None:
        for _ in range(count):
            what = self._waiting.popleft()
            if isinstance(what, Kept):
                self._bytes -= _size(what.exchange)

    def _sealed(self, exchanges: list[Kept]) -> list[SealedRow]:
        return [seal_exchange(self._store.vault, self._hospital_id, one, id_) for id_, one in exchanges]

    async def measure(self) -> None:
        """Refresh the gauge of how much is stored. Raises StoreUnavailable."""
        async with self._store.read(log_scope(self._hospital_id), clock=False) as tx:
            totals = await read_totals(tx, self._hospital_id)
        metrics.message_store_bytes.labels(hospital=self._hospital_id).set(sum(totals.values()))

    async def close(self) -> None:
        """Write what waits, within CLOSE_WITHIN_S. What comes later is counted as dropped."""
        self._closed = True
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await (
                    self.flush()
                )  # after one that is under way: cut off in its commit it would be written again, and counted twice
        except (StoreUnavailable, TimeoutError) as e:
            log.warning("record_not_written", hospital=self._hospital_id, reason=str(e) or "no time left")
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
        if self._waiting:
            self._count_dropped("full", len(self._waiting))


def _cut(what: Exchanged) -> Exchanged:
    """Of what was not taken only the beginning."""
    if what.state not in (Passed.REFUSED, Passed.DUPLICATE) or len(what.request) <= REFUSED_BYTES:
        return what
    reason = f"{what.error or 'refused'}; {len(what.request)} bytes, of which {REFUSED_BYTES} are kept"
    return msgspec.structs.replace(what, request=what.request[:REFUSED_BYTES], error=reason)


def _size(what: Exchanged) -> int:
    return len(what.request) + len(what.answer or b"")
