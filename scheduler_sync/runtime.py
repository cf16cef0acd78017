"""What runs for one hospital in the process that works it, and what runs once for all; both end as they began, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import text, update

from booking.commands import wake_topic
from booking.lifecycle import State
from booking.news import NUMBERED, SEQUENCER, number_all
from booking.reopening import asked_topic
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import COMMAND_TO_DO, outbox
from booking.webhook_targets import Networks
from connectors.port import AsksByItself, CannotServe, Connector, HandsOnTogether, Recording, TakesQuestions
from monitoring import metrics
from monitoring.listener import CannotListen
from monitoring.logs import get_logger
from scheduler_sync.attendance import Attendance
from scheduler_sync.certificates import CERTIFICATES_EVERY_S, Certificates
from scheduler_sync.changes import changes_of, gate_of
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.inbox import Inbox
from scheduler_sync.leases import Fence
from scheduler_sync.messages.recorder import Recorder
from scheduler_sync.outbox import OutboxWorker
from scheduler_sync.pull import Puller
from scheduler_sync.questions import Questions
from scheduler_sync.reconcile import ASKED_EVERY_S, LEDGER_EVERY_S, LOOK_EVERY_S, Reconciler
from scheduler_sync.sweeps import (
    EXPIRE_EVERY_S,
    FORGET_EVERY_S,
    MEASURE_EVERY_S,
    NEWS_EVERY_S,
    RETURN_EVERY_S,
    WAITLIST_EVERY_S,
    Forgetting,
    clear_without_rule,
    expire_holds,
    measure_seats,
    measure_waitlist,
    repeat,
    return_seats,
    serve_waitlist,
)
from scheduler_sync.truth import LOOK_THROUGH_EVERY_S, Truth
from scheduler_sync.webhooks import WebhookSender

log = get_logger("runtime")

_LOOK_S = 0.02

OnFailure = Callable[[str, BaseException], None]
"""Told the name of a task that ended though nobody had stopped it, and why."""


class Tasks:
    """Tasks that run until they are stopped together; one that fails before is reported."""

    def __init__(self, on_failure: OnFailure) -> None:
        self.stopping = asyncio.Event()
        self._on_failure = on_failure
        self._tasks: list[asyncio.Task[None]] = []

    def spawn(self, work: Awaitable[None], name: str) -> asyncio.Task[None]:
        """Run it until `stop`. It should end soon after `stopping` is set."""
        task = asyncio.create_task(_run(work), name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)
        return task

    def repeat(self, every_s: float, work: Callable[[], Awaitable[object]], name: str, **more: Any) -> None:
        """Spawn `sweeps.repeat`."""
        self.spawn(repeat(self.stopping, every_s, work, name=name, **more), name)

    async def wait(self, timeout_s: float) -> None:
        """Let every task end by itself for so long; `stopping` must be set."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    async def cancel(self) -> None:
        """End what is left."""
        self.stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self.stopping.is_set():
            return
        if (error := task.exception()) is not None:
            log.critical("background_task_failed", task=task.get_name(), exc_info=error)
            self._on_failure(task.get_name(), error)


async def _run(work: Awaitable[None]) -> None:
    await work


class HospitalRuntime:
    """Link, inbox, outbox, puller, expiry and measures of one hospital. Made anew for each start."""

    def __init__(
        self,
        store: Store,
        messages: Store,
        hospital: Hospital,
        connectors: Mapping[str, Connector],
        *,
        drain_s: float,
        on_failure: OnFailure,
        fence: Fence | None = None,
        running: dict[str, HospitalLink] | None = None,
        keep_exchanges: bool = True,
    ) -> None:
        """`fence` is that of the lease, None where no other process exists. `running` shows the link while it may be asked.

        `keep_exchanges`: whether the message store keeps what connectors ask and are answered.
        """
        self.hospital = hospital
        self.link = HospitalLink(hospital, connectors)
        self._store = store
        self._fence = fence
        self._drain_s = drain_s
        self._running = {} if running is None else running
        self._group = Tasks(on_failure)
        self._recorder = Recorder(messages, hospital.id, keep_exchanges=keep_exchanges)
        self._inbox = Inbox(store, messages, hospital, fence=fence, recorder=self._recorder)
        self._questions = Questions(store, hospital.id)
        self._outbox = OutboxWorker(store, hospital, self.link, fence=fence)
        self._puller = Puller(store, hospital, self.link, hear_first=self._hear_registrations)
        self._truth = Truth(store, hospital)
        self._reconciler = Reconciler(store, hospital, self.link)
        self._certificates = Certificates(hospital)
        self._attendance = Attendance(store, hospital, self.link, self._group.stopping)
        self._pull: asyncio.Task[None] | None = None

    @property
    def status(self) -> str:
        return self.link.status

    async def start(self) -> None:
        """Apply what a crash has left, open the connectors, begin. Raises CannotListen, StoreUnavailable."""
        hospital_id = self.hospital.id
        if self._fence is not None:
            await self._inherit()
        await self._inbox.heal()
        self._recorder.start()
        for name, connector in self.link.connectors.items():
            if isinstance(connector, Recording):
                connector.record_exchanges(self._recorder.record)
            if isinstance(connector, HandsOnTogether):
                connector.hand_on_together(self._inbox.handle_together)
            if isinstance(connector, TakesQuestions):
                connector.take_questions(self._questions.refunds)
            if isinstance(connector, AsksByItself):
                connector.ask_through(gate_of(self.hospital, self.link, name))
            await connector.start()
            try:
                await connector.serve(self._inbox.handle)
            except OSError as e:
                raise CannotListen(f"hospital {hospital_id}, connector {name}: cannot listen: {e.strerror}") from e
            except CannotServe as e:
                raise CannotListen(f"hospital {hospital_id}, connector {name}: cannot listen: {e}") from e
        group = self._group
        for changes in changes_of(self.hospital, self.link):
            group.repeat(changes.every_s, changes.fetch, f"changes {changes.name}", hospital_id=hospital_id)
        group.spawn(self._outbox.run(group.stopping), f"outbox {hospital_id}")
        self._pull = group.spawn(self._puller.run(group.stopping), f"pull {hospital_id}")
        for measure in (
            self._outbox.measure,
            self._inbox.measure,
            self._recorder.measure,
            self._truth.measure,
            lambda: measure_seats(self._store, hospital_id),
        ):
            group.repeat(MEASURE_EVERY_S, measure, "measure", hospital_id=hospital_id)
        group.repeat(LOOK_THROUGH_EVERY_S, self._truth.look_through, "look_through", hospital_id=hospital_id)
        books = self._reconciler
        group.repeat(LOOK_EVERY_S, books.reconcile, "reconcile", hospital_id=hospital_id)
        group.repeat(LEDGER_EVERY_S, books.look_through_ledger, "ledger", hospital_id=hospital_id)
        group.repeat(
            ASKED_EVERY_S,
            books.make_asked,
            "reconcile_asked",
            hospital_id=hospital_id,
            bell=self._store.bell,
            topic=asked_topic(hospital_id),
        )
        if self._attendance.every_s > 0:
            group.repeat(self._attendance.every_s, self._attendance.look, "attendance", hospital_id=hospital_id)
        group.repeat(CERTIFICATES_EVERY_S, self._certificates.look, "certificates", hospital_id=hospital_id)
        group.repeat(
            EXPIRE_EVERY_S, lambda: expire_holds(self._store, self.hospital), "expire", hospital_id=hospital_id
        )
        group.repeat(
            RETURN_EVERY_S, lambda: return_seats(self._store, self.hospital), "returned_seats", hospital_id=hospital_id
        )
        if self.hospital.rules.waitlist is None:
            group.spawn(clear_without_rule(self._store, self.hospital, group.stopping), f"waitlist {hospital_id}")
        else:
            group.repeat(
                WAITLIST_EVERY_S,
                lambda: serve_waitlist(self._store, self.hospital),
                "waitlist",
                hospital_id=hospital_id,
            )
            group.repeat(
                MEASURE_EVERY_S,
                lambda: measure_waitlist(self._store, hospital_id),
                "measure",
                hospital_id=hospital_id,
            )
        self._running[hospital_id] = self.link
        metrics.greet_hospital(hospital_id)
        for state in State:  # what is counted begins at 0: Prometheus sees only increases
            metrics.bookings.labels(hospital=hospital_id, state=state.value)

    async def _hear_registrations(self) -> None:
        """Apply what connectors that ask for changes would tell of registrations by and by."""
        telling = [one for one in changes_of(self.hospital, self.link) if one.tells_registrations]
        for changes in telling:
            await changes.fetch()
        if telling:
            await self._inbox.apply_all()

    async def _inherit(self) -> None:
        """Whoever worked this hospital before has gone: what it had sent is looked at now, not when its claims run out."""
        async with self._store.write(self.hospital.id) as tx:
            if self._fence is not None and not await self._fence(tx):
                return
            await tx.run(
                update(outbox)
                .where(outbox.c.hospital_id == tx.hospital_id, text(COMMAND_TO_DO))
                .where(outbox.c.status.in_(("sent", "unknown")))
                .values(lease_until_ms=tx.now_ms)
            )

    async def stop(self, *, drain: bool = True) -> None:
        """End; with `drain` calls in flight get their time, the rest stays stored. May follow a start that failed."""
        self._running.pop(self.hospital.id, None)
        self._group.stopping.set()
        self._store.bell.ring(wake_topic(self.hospital.id))
        if self._pull is not None:
            self._pull.cancel()  # a fetch that is cut off changes nothing
        if drain:
            await self._drain()
        await self._outbox.stop_waiting()
        await self._group.cancel()
        for connector in self.link.connectors.values():
            await connector.close()
        await self._inbox.close(drain=drain)
        await self._recorder.close()
        metrics.forget_hospital(self.hospital.id)

    async def _drain(self) -> None:
        """Commands and the live reads of portals may finish, all of them together within `drain_s`."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._drain_s
        await self._group.wait(self._drain_s)
        while self.link.in_flight and loop.time() < ends:  # noqa: ASYNC110  # calls end in many places
            await asyncio.sleep(_LOOK_S)


class GlobalRuntime:
    """What is done once for the whole installation: numbering events, sending webhooks, forgetting what is past its keep."""

    status = "up"

    def __init__(
        self,
        store: Store,
        messages: Store,
        hospitals: Sequence[Hospital],
        *,
        keep_messages_days: int,
        keep_messages_mb: int = 0,
        keep_report_reads_days: int = 365,
        drain_s: float,
        on_failure: OnFailure,
        webhook_networks: Networks = (),
    ) -> None:
        self._store = store
        self._drain_s = drain_s
        self._group = Tasks(on_failure)
        self._webhooks = WebhookSender(store, networks=webhook_networks)
        self._forgetting = Forgetting(
            store,
            messages,
            hospitals,
            self._group.stopping,
            keep_messages_days=keep_messages_days,
            keep_messages_mb=keep_messages_mb,
            keep_report_reads_days=keep_report_reads_days,
        )

    async def start(self) -> None:
        """Begin."""
        bell, group = self._store.bell, self._group
        group.repeat(NEWS_EVERY_S, lambda: number_all(self._store), "number_events", bell=bell, topic=SEQUENCER)
        group.repeat(NEWS_EVERY_S, self._webhooks.send_due, "webhooks", bell=bell, topic=NUMBERED)
        group.repeat(FORGET_EVERY_S, self._forgetting.forget_old, "forget")

    async def stop(self, *, drain: bool = True) -> None:
        """End. What was numbered or delivered twice at a change of hands does no harm: both are at least once."""
        self._group.stopping.set()
        if drain:
            await self._group.wait(self._drain_s)
        await self._group.cancel()
        await self._webhooks.close()
