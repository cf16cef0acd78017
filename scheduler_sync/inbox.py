"""The inbox: what a HIS sends us is stored before it is acknowledged, applied at once, and set aside when it cannot be.

A message is acknowledged when it is on the disk of the message store (ADR-0015). Applying follows in the background, strictly in
the order in which the messages were stored; that they were applied is noted in the commit that stores the next one. What is
found stored and not applied (after a crash, a commit whose answer was lost, another process that worked the hospital) is
applied before any newer message. Peers wait while too much is not applied yet.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from booking.errors import SetAside
from booking.lifecycle import IllegalMove
from booking.moves import RuleBroken
from booking.settings import Hospital
from booking.stops import carry_left_stops
from booking.store.engine import Store, StoreUnavailable
from connectors.port import Inbound, InboundAnswer, Refused, Stored
from connectors.recording import shown_id
from mappings.canonical import AnyEvent
from monitoring import metrics
from monitoring.logs import get_logger
from monitoring.trace_context import nobodys
from monitoring.traces import Kind, Span, is_tracing, span
from scheduler_sync.applying import (
    LONG_BYTES,
    MOST_AT_ONCE,
    Applied,
    Begun,
    Waiting,
    applied_ids,
    apply_messages,
    forget_begun,
    shield_patients,
)
from scheduler_sync.arrivals import MOST_BYTES, Arrival, Arrivals
from scheduler_sync.backlog import Backlog
from scheduler_sync.leases import Fence, NotOurs
from scheduler_sync.messages.documents import MessageDocuments, apart_bytes
from scheduler_sync.messages.journal import Taken, take_messages
from scheduler_sync.messages.ledger import Ledger
from scheduler_sync.messages.recorder import Recorder
from scheduler_sync.messages.store import (
    Left,
    Mark,
    count_quarantined,
    mark_messages,
    measure_unapplied,
    read_events,
    unapplied,
)
from scheduler_sync.stubborn import Stubborn

log = get_logger("inbox")

MARK_AFTER_S = 0.05
GATHER_S = 0.01  # between two transactions of a stream: what comes meanwhile shares the next one, and other processes may write
DEEP = 8 * MOST_AT_ONCE  # so many waiting ones are applied without a pause
OPEN_S = 0.01  # a transaction waits so long for more, at most
STREAM_S = 0.03  # messages that follow each other within this are a stream
ROOM_WITHIN_S = 10.0  # below the time-out of the peers that we know of
HEAL_WITHIN_S = 10.0
CLOSE_WITHIN_S = 5.0
STOPS_AGAIN_S = 60.0  # until left stops that cannot be carried out are tried again
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
MOST_UNMARKED = 2 * MOST_AT_ONCE
LOAD = 100  # messages that are read at once from what a crash has left
OUT_OF_SERIES = "out_of_series"
_NOT_NEXT = "the sequence number is not the one that is expected"
_STOPS = "#stops"  # stands for a message's id where the stops that are left fail


class Inbox:
    """The inbox of one hospital; `handle` is what connectors are given."""

    def __init__(
        self,
        store: Store,
        messages: Store,
        hospital: Hospital,
        *,
        fence: Fence | None = None,
        backlog: Backlog | None = None,
        recorder: Recorder | None = None,
        mark_after_s: float = MARK_AFTER_S,
        room_within_s: float = ROOM_WITHIN_S,
    ) -> None:
        """`fence` is that of the lease, None where no other process exists. `recorder` is told what was stored."""
        self._store = store
        self._messages = messages
        self._ledger = Ledger(messages, store, hospital.id, fence)
        self._hospital = hospital
        self._fence = fence
        self._recorder = recorder
        self._mark_after_s = mark_after_s
        self._room_within_s = room_within_s
        self._order = asyncio.Lock()  # of storing: the order of the ids is that of the backlog
        self._arrivals = Arrivals(self._take)
        self._documents = MessageDocuments(messages)
        self._turn = asyncio.Lock()  # of applying
        self._backlog = Backlog() if backlog is None else backlog
        self._left = True  # something may be stored and not in the backlog: known to be false only after a look
        self._unsure = True  # something may be applied and not in `_marks`
        self._singly = 0  # so many of the oldest ones are applied one by one, because together they could not be
        self._tried = 0  # messages that the newest transaction has begun with
        self._begun: Begun | None = None  # the oldest one, where a part of it is applied
        self._stubborn = Stubborn()
        self._stops_left_s: float | None = None  # stops may be half carried out: not to be tried before this time
        self._closed = False
        self._lingers = store.dialect == "sqlite"
        self._ended = -math.inf  # when the newest transaction did
        self._marks: list[Mark] = []  # of applied messages, oldest first, to be noted with the next message
        self._long: set[str] = (
            set()
        )  # those of them whose rows are long: to note them takes as long as to write them anew
        self._working: asyncio.Task[None] | None = None
        self._marking: asyncio.Task[None] | None = None

    async def handle(self, inbound: Inbound) -> InboundAnswer:
        """Store, then answer; applying follows. Refused, retryable when it should come again, where we do not know it stored.

        A refused one is stored all the same where the answer of the commit was lost: it is looked for then and applied, and is a
        duplicate when it comes again. A process that has lost the hospital's lease refuses too.
        While too much waits to be applied the answer waits, and becomes a retryable refusal after `room_within_s`.
        """
        if not is_tracing():
            return await self._handle(inbound)
        with span("inbound", kind=Kind.CONSUMER) as one:
            answer = await self._handle(inbound)
            if one is not None:
                self._describe(one, inbound, answer)
            return answer

    async def handle_together(self, inbounds: Sequence[Inbound]) -> list[InboundAnswer]:
        """`handle` for messages that came in one frame, in their order: what is short shares commits.

        The answers end with the first that may come again: nothing is stored behind it.
        """
        answers: list[InboundAnswer] = []
        if any(one.series is not None or len(one.raw) > MOST_BYTES for one in inbounds):
            for one in inbounds:
                answers.append(await self.handle(one))
                if _may_come_again(answers[-1]):
                    break
            return answers
        with span("inbound", kind=Kind.CONSUMER) as traced:
            answers = await self._handle_together(inbounds)
            if traced is not None:
                self._describe(traced, inbounds[0], answers[-1])
                traced.attributes["hisbridge.messages"] = len(inbounds)
        return answers

    async def _handle_together(self, inbounds: Sequence[Inbound]) -> list[InboundAnswer]:
        if (refused := await self._wait_for_room(inbounds[0])) is not None:
            return [refused]
        answers: list[InboundAnswer] = []
        # Nothing in them is long enough to be kept apart.
        for inbound, found in zip(inbounds, await self._arrivals.store_together(inbounds), strict=True):
            answers.append(self._not_stored(inbound, found) if isinstance(found, Exception) else found)
            if _may_come_again(answers[-1]):
                break
        return answers

    def _describe(self, traced: Span, inbound: Inbound, answer: InboundAnswer) -> None:
        traced.failed = isinstance(answer, Refused)
        traced.attributes |= {
            "hisbridge.hospital": self._hospital.id,
            "hisbridge.connector": inbound.connector,
            "hisbridge.message_type": metrics.message_type_label(inbound.message_type),
            "hisbridge.answer": "refused" if isinstance(answer, Refused) else "stored",
        }

    async def _handle(self, inbound: Inbound) -> InboundAnswer:
        if self._backlog.full and (refused := await self._wait_for_room(inbound)) is not None:
            return refused
        try:
            return await self._arrivals.store(await self._documents.put_away(inbound))
        except Exception as e:
            return self._not_stored(inbound, e)

    async def _wait_for_room(self, inbound: Inbound) -> Refused | None:
        try:
            await self._backlog.room(self._room_within_s)
        except TimeoutError:
            return self._refused(inbound, "backlog_full", "too many messages wait to be applied")
        return None

    def _not_stored(self, inbound: Inbound, e: Exception) -> Refused:
        if isinstance(e, StoreUnavailable):
            return self._refused(inbound, "store_unavailable", "the message could not be stored", reason=str(e))
        # Whatever it is: a peer that gets no answer sends the same for ever, and nothing behind it.
        reason = type(e).__name__
        return self._refused(
            inbound, "cannot_be_stored", "the message cannot be stored", reason=reason, retryable=False
        )

    def _refused(self, inbound: Inbound, code: str, text: str, *, reason: str = "", retryable: bool = True) -> Refused:
        log.error("message_not_stored", hospital=self._hospital.id, connector=inbound.connector, reason=reason or text)
        return Refused(code=code, text=text, retryable=retryable)

    async def _take(self, batch: Sequence[Arrival]) -> None:
        """Store what has arrived, and hand it on to be applied."""
        async with self._order:
            if self._long:
                await self._mark()
            marks = self._marks.copy()  # while this is stored, others may be applied
            try:
                taken = await take_messages(self._ledger, [one.inbound for one in batch], marks)
            except BaseException:
                self._look_again()  # it may be stored all the same: nobody else would apply it
                raise
            self._forget(marks)
            for arrival, found in zip(batch, taken, strict=True):
                arrival.stored = self._hand_on(arrival, found)

    def _hand_on(self, arrival: Arrival, taken: Taken) -> InboundAnswer:
        inbound = arrival.inbound
        expected = None if taken.place is None else taken.place.expected
        if taken.known_as is not None:
            if taken.known_as == "received" and not self._waits(taken.id):
                self._look_again()
            return Stored(duplicate=True, quarantined=taken.known_as == "quarantined", expected=expected)
        if taken.place is not None and taken.place.refused:
            return Refused(code=OUT_OF_SERIES, text=_NOT_NEXT, retryable=True, out_of_series=True, expected=expected)
        if not taken.id:
            return Stored(expected=expected)
        if self._recorder is not None:
            self._recorder.stored(inbound, taken.id, taken.size_bytes)
        message = Waiting(
            id=taken.id,
            connector=inbound.connector,
            message_type=inbound.message_type,
            control_id=inbound.control_id,
            events=inbound.events,
            size=max(0, len(inbound.raw) - apart_bytes(inbound.events) * 4 // 3),  # in Base64 they were
            problem=taken.problem,
            trace=arrival.trace,
            row_is_long=taken.size_bytes > LONG_BYTES,
        )
        if taken.problem is not None:
            self._tell_set_aside(message, taken.problem)
            return Stored(quarantined=True, same_id=taken.same_id, expected=expected)
        if self._left:
            self._backlog.unread += 1  # it stands behind others that have not been read
        else:
            self._backlog.append(message)
        self._begin_work()
        return Stored(same_id=taken.same_id, expected=expected)

    def _waits(self, message_id: str) -> bool:
        """Whether a message will be applied, or noted as applied, without being looked for."""
        return self._backlog.holds(message_id) or any(message_id == marked for marked, _, _ in self._marks)

    def _look_again(self) -> None:
        """Something is stored, or may be, that we do not know of: read what is, behind what we know, before anything newer."""
        self._left = True
        self._begin_work()

    def _begin_work(self) -> None:
        if not self._closed and (self._working is None or self._working.done()):
            self._working = asyncio.create_task(self._work(), name=f"inbox {self._hospital.id}", context=nobodys())

    # --- applying ------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Apply until nothing waits. Ends by itself; the next message begins it anew."""
        pause_s = FIRST_PAUSE_S
        while self._left or self._backlog:
            try:
                await asyncio.sleep(self._lull_s())
                await self._step()
            except Exception as e:  # whatever it is, messages are stored and must be applied: try again
                if isinstance(e, StoreUnavailable):
                    log.error("store_unavailable", hospital=self._hospital.id, reason=str(e))
                else:
                    log.critical("messages_not_applied", hospital=self._hospital.id, exc_info=e)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                pause_s = FIRST_PAUSE_S

    def _lull_s(self) -> float:
        """How long to leave others room before the next transaction, in seconds.

        Whoever else writes to a SQLite file from another process can only try now and then whether it is free.
        """
        if self._singly or len(self._backlog) >= (DEEP if self._lingers else MOST_AT_ONCE):
            return 0.0
        return max(0.0, self._ended + GATHER_S - asyncio.get_running_loop().time())

    async def _step(self) -> int:
        """Deal with the oldest messages that wait; returns how many. Raises StoreUnavailable: they wait on."""
        async with self._turn:
            try:
                return await self._apply_oldest()
            except BaseException:
                self._unsure = True  # it may have been committed all the same
                raise

    async def _apply_oldest(self) -> int:
        if self._left:
            await self._load()
        settled = await self._settle() if self._unsure else 0
        await self._carry_stops()
        oldest = self._backlog.at(0)
        if oldest is None:
            return settled
        if len(self._marks) >= MOST_UNMARKED:
            await self.note()
        reason = oldest.problem or self._stubborn.reason(oldest.id)
        if reason is None:
            try:
                done = await self._apply(oldest)
            except StoreUnavailable as e:
                if self._tried > 1:
                    self._singly = self._tried  # one of them may be the reason
                else:
                    self._stubborn.note(oldest.id, e)
                raise
            except Exception as e:
                if self._tried > 1:
                    self._singly = self._tried
                    return settled
                reason = reason_of(e)
        if reason is not None:
            await self._set_aside(oldest, reason + await self._shield(oldest))
            return settled + 1
        for _ in range(done.messages):
            message = self._forget_oldest()
            self._marks.append((message.id, "applied", None))
            if message.row_is_long:
                self._long.add(message.id)
            metrics.count_inbound(self._hospital.id, message.connector, message.message_type, "applied")
        left = self._backlog.at(0)
        self._begun = Begun(left.id, done.events) if done.events and left is not None else None
        self._note_later()
        return settled + done.messages

    async def _apply(self, oldest: Waiting) -> Applied:
        """Apply the oldest ones in one transaction, or as much of the oldest as there is time for.

        In a stream on SQLite it stays open for what comes within OPEN_S, so that most of the work is done while the peer has not
        sent its next message; not longer than until somebody else in this process wants to write.
        """
        loop = asyncio.get_running_loop()
        turn = self._store.turn(self._hospital.id)
        begun = self._events_applied_of(oldest)
        most = 1 if self._singly or begun or oldest.apart else MOST_AT_ONCE
        is_over = not (self._lingers and most > 1 and loop.time() - self._ended < STREAM_S)
        self._tried = 0

        def end() -> None:
            nonlocal is_over
            is_over = True
            self._backlog.wake()

        async def following(done: int) -> Waiting | None:
            while done < most:
                message = self._backlog.at(done)
                if message is not None:
                    if done and message.apart:
                        return None
                    self._tried = done + 1
                    return message
                if is_over or turn.wanted:
                    return None
                turn.on_wanted = end
                try:
                    await self._backlog.news()
                finally:
                    turn.on_wanted = None
            return None

        timer = None if is_over else loop.call_later(OPEN_S, end)
        try:
            unmarked = [message_id for message_id, _, _ in self._marks]
            return await apply_messages(
                self._store,
                self._hospital,
                following,
                unmarked=unmarked,
                fence=self._fence,
                heavy=oldest.heavy,
                begun=begun,
            )
        finally:
            self._ended = loop.time()
            if timer is not None:
                timer.cancel()

    def _events_applied_of(self, message: Waiting) -> int:
        return self._begun.events if self._begun is not None and self._begun.id == message.id else 0

    async def _shield(self, message: Waiting) -> str:
        """Hide what a message that waits for a person makes doubtful; what to add to its reason. Raises StoreUnavailable.

        A fault in it must not hold up everything that the hospital tells behind this message.
        """
        try:
            await shield_patients(self._store, self._hospital, message.events, fence=self._fence)
        except StoreUnavailable:
            raise
        except Exception as e:
            log.critical("patients_not_shielded", hospital=self._hospital.id, message_id=message.id, exc_info=e)
            return f", and what it makes doubtful is still shown ({type(e).__name__}): unbind its patients"
        return ""

    async def _set_aside(self, message: Waiting, reason: str) -> None:
        if count := self._events_applied_of(message):
            reason = f"{reason}, after {count} of its {len(message.events)} events were applied"
            unmarked = [message_id for message_id, _, _ in self._marks]
            await forget_begun(self._store, self._hospital.id, unmarked=unmarked, fence=self._fence)
            self._begun = None
        # Noted before anything newer is applied: after a crash it must not be tried again over that.
        async with self._order:
            await self._mark((message.id, "quarantined", reason), here=not message.row_is_long)
        self._stubborn.forget(message.id)  # a person may have it tried again
        self._forget_oldest()
        self._tell_set_aside(message, reason)

    def _forget_oldest(self) -> Waiting:
        self._singly = max(0, self._singly - 1)
        return self._backlog.pop()

    def _tell_set_aside(self, message: Waiting, reason: str) -> None:
        metrics.count_inbound(self._hospital.id, message.connector, message.message_type, "quarantined")
        log.warning(
            "message_set_aside",
            hospital=self._hospital.id,
            connector=message.connector,
            message_type=message.message_type,
            control_id=shown_id(message.control_id),
            message_id=message.id,
            reason=reason,
        )

    async def _load(self) -> None:
        """Read the oldest messages that are stored and not applied, once those before them are noted."""
        if self._backlog:
            return
        async with self._order:
            marks = self._marks.copy()
            # A write: it waits for a commit whose answer was lost, and tells other processes that we have looked.
            async with self._ledger.write() as tx:
                await mark_messages(tx, marks)
                left = await unapplied(tx, limit=LOAD)
            self._forget(marks)
            for message in [await self._opened(one) for one in left]:
                self._backlog.append(message)
            # Whoever stores a message from now on appends it: none can have come between.
            self._left = len(left) == LOAD
            self._backlog.unread = max(1, self._backlog.unread - len(left)) if self._left else 0

    async def _opened(self, left: Left) -> Waiting:
        events: tuple[AnyEvent, ...] = ()
        problem = None
        what = self._messages, self._hospital.id, left.sealed_events
        try:
            events = read_events(*what) if len(what[2]) <= LONG_BYTES else await asyncio.to_thread(read_events, *what)
        except Exception as e:  # a key that is gone, a record of another version: one message must not hold up the rest
            problem = f"cannot be read ({type(e).__name__})"
        return Waiting(
            id=left.id,
            connector=left.connector,
            message_type=left.message_type,
            control_id=left.control_id,
            events=events,
            size=len(left.sealed_events),
            problem=problem,
        )

    async def _settle(self) -> int:
        """Find out what was applied by a commit of which we know nothing; returns how many waiting messages were."""
        applied, self._begun = await applied_ids(self._store, self._hospital.id)
        known = {message_id for message_id, _, _ in self._marks}
        found = [message_id for message_id in applied if message_id not in known]
        self._marks += [(message_id, "applied", None) for message_id in found]
        self._long.update(found)  # for all we know
        dropped = self._backlog.drop(frozenset(applied))
        for message in dropped:
            metrics.count_inbound(self._hospital.id, message.connector, message.message_type, "applied")
        if self._stops_left_s is None:
            self._stops_left_s = -math.inf
        self._unsure = False
        self._note_later()
        return len(dropped)

    async def _carry_stops(self) -> None:
        """Carry out what a crash has left of stops, before anything newer; only what keeps failing waits while others go on."""
        loop = asyncio.get_running_loop()
        if self._stops_left_s is None or loop.time() < self._stops_left_s:
            return
        try:
            await carry_left_stops(self._store, self._hospital)
        except Exception as e:
            if isinstance(e, StoreUnavailable):
                self._stubborn.note(_STOPS, e)
                if self._stubborn.reason(_STOPS) is None:
                    raise
            log.critical("stops_not_carried_out", hospital=self._hospital.id, exc_info=e)
            self._stops_left_s = loop.time() + STOPS_AGAIN_S
        else:
            self._stops_left_s = None

    # --- noting ----------------------------------------------------------------------------------------------------------

    def _note_later(self) -> None:
        """Applied messages are noted with the next one, or soon when none comes: one commit less for each of a stream."""
        if self._marks and (self._marking is None or self._marking.done()):
            self._marking = asyncio.create_task(
                self._note_soon(), name=f"inbox {self._hospital.id} notes", context=nobodys()
            )

    async def _note_soon(self) -> None:
        waiting: str | None = None
        while self._marks:
            # As long as messages follow each other, each notes the ones before it.
            if waiting == self._marks[0][0]:
                try:
                    await self.note()
                    continue
                except StoreUnavailable as e:
                    log.error("store_unavailable", hospital=self._hospital.id, reason=str(e))
            waiting = self._marks[0][0]
            await asyncio.sleep(self._mark_after_s)

    async def note(self) -> None:
        """Note now which messages were applied. Raises StoreUnavailable."""
        async with self._order:
            await self._mark()

    async def _mark(self, *more: Mark, here: bool = True) -> None:
        """Note what was applied, and more. The caller has the lock of the order. `here` as for `Store.write`."""
        marks = self._marks.copy()
        if marks or more:
            async with self._ledger.write(here=here and not self._long) as tx:
                await mark_messages(tx, [*marks, *more])
        self._forget(marks)

    def _forget(self, marks: Sequence[Mark]) -> None:
        """The oldest ones are noted."""
        del self._marks[: len(marks)]
        if self._long:
            self._long -= {message_id for message_id, _, _ in marks}

    # --- beginning and end -----------------------------------------------------------------------------------------------

    async def heal(self) -> int:
        """Apply what a crash has left stored but not applied; returns how many were dealt with. What cannot be is set aside.

        Stops that it left half carried out are carried out. What is not done within HEAL_WITHIN_S, or fails, goes on in the
        background, before anything newer: one bad message must not keep a hospital from starting. Raises StoreUnavailable where
        the message store cannot be read and written, NotOurs where the lease is lost.
        """
        self._left = self._unsure = True
        async with self._turn:
            await self._load()
        count = 0
        try:
            async with asyncio.timeout(HEAL_WITHIN_S):
                while self._left or self._unsure or self._backlog:
                    count += await self._step()
                    await asyncio.sleep(0)  # beside a quick disk no step gives the loop back
                await self.note()
        except NotOurs:
            raise
        except Exception as e:
            reason = str(e) if isinstance(e, StoreUnavailable) else type(e).__name__
            log.error("messages_left", hospital=self._hospital.id, count=len(self._backlog), reason=reason)
            self._begin_work()
        return count

    async def apply_all(self) -> int:
        """Apply everything that is stored, and note it; returns how many messages. Raises StoreUnavailable."""
        count = 0
        while self._left or self._unsure or self._backlog:
            count += await self._step()
            await asyncio.sleep(0)
        await self.note()
        return count

    async def close(self, *, drain: bool = True) -> None:
        """Apply and note what is stored, within CLOSE_WITHIN_S; without `drain` only note. Afterwards nothing may be handled.

        What is left is applied at the next start.
        """
        self._closed = True
        tasks = [task for task in (self._working, self._marking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._lingers = False
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                while drain and (self._backlog or self._backlog.unread):
                    await self._step()
                await self.note()
        except (StoreUnavailable, TimeoutError) as e:
            log.error("messages_left", hospital=self._hospital.id, count=len(self._backlog), reason=str(e))

    async def measure(self) -> None:
        """Refresh the gauges of what waits, and look whether something does of which we do not know."""
        async with self._order, self._messages.read(self._hospital.id) as tx:
            quarantined, left = await count_quarantined(tx), await measure_unapplied(tx)
            # In the order of storing: nothing is between its commit and the backlog.
            if left.oldest_id is not None and not self._left and not self._waits(left.oldest_id):
                # One that was replayed, or, which must not be, one that we had lost sight of.
                log.info("message_found", hospital=self._hospital.id, message_id=left.oldest_id)
                self._look_again()
        age_s = max(0.0, (tx.now_ms - left.oldest_ms) / 1000) if left.count else 0.0
        metrics.dead_letters.labels(hospital=self._hospital.id, box="inbox").set(quarantined)
        metrics.inbox_waiting.labels(hospital=self._hospital.id).set(left.count)
        metrics.inbox_oldest_seconds.labels(hospital=self._hospital.id).set(age_s)


def _may_come_again(answer: InboundAnswer) -> bool:
    return isinstance(answer, Refused) and answer.retryable


def reason_of(error: Exception) -> str:
    """Why a message cannot be applied, for a person to read.

    The text of an error that is not of our rules may quote a value of the message: its kind is all that may be told.
    """
    if isinstance(error, SetAside | IllegalMove | RuleBroken):
        return str(error)
    return f"cannot be applied ({type(error).__name__})"
