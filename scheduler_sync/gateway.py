"""The one way to a hospital's HIS: routes verbs to connectors, keeps the bulkheads, counts every call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from booking.commands import RANKS
from booking.settings import Hospital
from connectors.port import (
    Accepted,
    Capability,
    Connector,
    FetchesInventory,
    HisRefused,
    HisReplyInvalid,
    HisUnavailable,
    Inventory,
    NotOffered,
    Outcome,
    Rejected,
    Unknown,
    Verb,
    VerbTraits,
    Window,
)
from monitoring import metrics
from monitoring.logs import get_logger
from monitoring.traces import Kind, Span, span
from scheduler_sync.breaker import BreakerState
from scheduler_sync.bulkhead import Bulkhead, NoPlace, Reason, Visit
from scheduler_sync.limiter import GradientLimiter

T = TypeVar("T")
log = get_logger("gateway")

READ_RANK = 9
_INVENTORY = (Verb.FETCH_SCHEDULES, Verb.FETCH_SLOTS, Verb.FETCH_STOPS)
READ_ATTEMPTS = 2


class HospitalLink:
    """All connectors of one hospital behind one face. `route` maps a verb to a connector's name; else the first that can."""

    def __init__(self, hospital: Hospital, connectors: Mapping[str, Connector]) -> None:
        self.hospital = hospital
        self.connectors = dict(connectors)
        self._bulkheads = {
            name: Bulkhead(
                limiter=GradientLimiter(
                    floor=hospital.his_concurrency_floor,
                    ceiling=hospital.his_concurrency,
                ),
                queue=hospital.his_queue,
                deadline_s=hospital.his_queue_deadline_s,
            )
            for name in connectors
        }
        for name, bulkhead in self._bulkheads.items():
            metrics.connector_up.labels(hospital=hospital.id, connector=name).set(1)
            _track(hospital.id, name, bulkhead)

    def connector(self, verb: Verb) -> Connector:
        """The connector that carries a verb: by route, else the first that offers it, else the first."""
        return self.connectors[self._name(verb)]

    def _name(self, verb: Verb) -> str:
        routed = self.hospital.route.get(verb.value)
        if routed is not None:
            return routed
        for name, connector in self.connectors.items():
            if connector.traits(verb).capability != Capability.OFF:
                return name
        return next(iter(self.connectors))

    def traits(self, verb: Verb) -> VerbTraits:
        """What the hospital can do for a verb."""
        return self.connector(verb).traits(verb)

    def capabilities(self) -> dict[str, str]:
        """`native`, `pushed` or `off` for every verb."""
        return {verb.value: self.traits(verb).capability.value for verb in Verb}

    def inventory(self) -> FetchesInventory | None:
        """The connector that tells schedules, slots and stops in one reading; None where they go different ways."""
        name = self._name(Verb.FETCH_SLOTS)
        connector = self.connectors[name]
        alike = all(
            self._name(verb) == name and connector.traits(verb).capability == Capability.NATIVE for verb in _INVENTORY
        )
        return connector if alike and isinstance(connector, FetchesInventory) else None

    async def read_inventory(self, connector: FetchesInventory, window: Window) -> Inventory:
        """One reading by the connector that `inventory` gives. Raises HisError."""
        return await self.ask(
            self._name(Verb.FETCH_SLOTS), "fetch_inventory", lambda: connector.fetch_inventory(window)
        )

    @property
    def status(self) -> str:
        """`up`, `degraded` or `down`: the worst of the connectors."""
        states = {b.breaker.status for b in self._bulkheads.values()}
        return next(s for s in ("down", "degraded", "up") if s in states)

    @property
    def in_flight(self) -> int:
        """Calls that run now."""
        return sum(bulkhead.in_flight for bulkhead in self._bulkheads.values())

    def free_places(self, verb: Verb) -> int:
        """How many calls of this verb would have a place before any of a worse rank: as many commands may be claimed now.

        Reads of portals may hold these places at the moment; the next that are given back go to the commands. Commands that
        are claimed and have not asked for their place yet are not known here: whoever claims subtracts them.
        """
        bulkhead = self._bulkheads[self._name(verb)]
        if bulkhead.breaker.state(asyncio.get_running_loop().time()) == BreakerState.OPEN:
            return 0
        return bulkhead.room(_rank(verb))

    async def write(self, verb: Verb, argument: Any, *, attempt: int = 1) -> Outcome:
        """One attempt at a write, the how manieth of its command it is. What never left our machine is Rejected("not_sent"),
        retryable.
        """
        name = self._name(verb)
        connector = self.connectors[name]
        if connector.traits(verb).capability == Capability.OFF:
            return Rejected(code="not_offered")
        call: Callable[[Any], Awaitable[Outcome]] = getattr(connector, verb.value)
        loop = asyncio.get_running_loop()
        try:
            async with self._bulkheads[name].place(_rank(verb)) as visit:
                began = loop.time()
                with span(f"his {verb.value}", kind=Kind.CLIENT) as one:
                    try:
                        outcome = await call(argument)
                    except asyncio.CancelledError:
                        self._tell(name, verb.value, attempt, "cancelled", loop.time() - began, one)
                        raise
                    answered = not isinstance(outcome, Unknown) and not (
                        isinstance(outcome, Rejected) and outcome.code == "not_sent"
                    )
                    self._record(name, visit, verb.value, answered)
                    self._tell(name, verb.value, attempt, _outcome_label(outcome), loop.time() - began, one)
                    return outcome
        except NoPlace as e:
            self._count_refused(name, e)
            return Rejected(code="not_sent", text=str(e), retryable=True)

    async def read(
        self,
        verb: Verb,
        *arguments: Any,
        attempts: int = READ_ATTEMPTS,
        rank: int = READ_RANK,
        within_s: float | None = None,
    ) -> Any:
        """A read, tried again once or twice when the HIS was not there. Raises HisError.

        `rank` is that of the command whose outcome is being looked up, if any: a look need not wait behind portals. After
        `within_s` nothing more is begun: the caller has gone.
        """
        ends_s = None if within_s is None else asyncio.get_running_loop().time() + within_s
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(HisUnavailable),
            stop=stop_after_attempt(attempts),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            reraise=True,
        ):
            with attempt:
                number = attempt.retry_state.attempt_number
                return await self._read_once(verb, rank, ends_s, number, *arguments)
        raise AssertionError("unreachable: tenacity reraises")

    async def ask(self, name: str, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """A read that is no verb of the port, of this connector; `what` is what it is counted as. Raises HisError."""
        return await self._ask(name, what, READ_RANK, None, 1, call)  # type: ignore[no-any-return]

    async def _read_once(self, verb: Verb, rank: int, ends_s: float | None, attempt: int, *arguments: Any) -> Any:
        name = self._name(verb)
        connector = self.connectors[name]
        if connector.traits(verb).capability != Capability.NATIVE:
            raise NotOffered(f"{verb.value} is not offered", hospital_id=self.hospital.id, verb=verb.value)
        call: Callable[..., Awaitable[Any]] = getattr(connector, verb.value)
        return await self._ask(name, verb.value, rank, ends_s, attempt, lambda: call(*arguments))

    async def _ask(
        self, name: str, verb: str, rank: int, ends_s: float | None, attempt: int, call: Callable[[], Awaitable[Any]]
    ) -> Any:
        loop = asyncio.get_running_loop()
        try:
            left_s = None if ends_s is None else ends_s - loop.time()
            if left_s is not None and left_s <= 0:
                raise NoPlace(Reason.DEADLINE)
            async with self._bulkheads[name].place(rank, within_s=left_s) as visit:
                began = loop.time()
                label, answered = "error", False
                with span(f"his {verb}", kind=Kind.CLIENT) as one:
                    try:
                        result = await call()
                        label, answered = "ok", True
                        return result
                    except HisUnavailable:
                        label = "unavailable"
                        raise
                    except HisRefused:
                        label, answered = "refused", True
                        raise
                    except HisReplyInvalid:
                        label, answered = "reply_invalid", True
                        raise
                    except asyncio.CancelledError:
                        label = "cancelled"
                        raise
                    finally:
                        if label != "cancelled":
                            self._record(name, visit, verb, answered)
                        self._tell(name, verb, attempt, label, loop.time() - began, one)
        except NoPlace as e:
            self._count_refused(name, e)
            raise HisUnavailable(str(e), hospital_id=self.hospital.id, verb=verb) from None

    def _record(self, name: str, visit: Visit, verb: str, answered: bool) -> None:
        breaker = self._bulkheads[name].breaker
        before = breaker.status
        visit.record(verb, answered=answered)
        if breaker.status != before:
            log.warning("his_status", hospital=self.hospital.id, connector=name, status=breaker.status, was=before)
            if breaker.status != "degraded":  # the connector may know already that there is no connection
                metrics.connector_up.labels(hospital=self.hospital.id, connector=name).set(breaker.status == "up")

    def _tell(self, name: str, verb: str, attempt: int, outcome: str, seconds: float, one: Span | None) -> None:
        """Count a call that has ended, and write down in its span what it was."""
        exemplar = None if one is None else one.exemplar
        metrics.observe_his_call(self.hospital.id, verb, outcome, seconds, exemplar)
        if one is not None:
            one.failed = one.failed or outcome in ("unknown", "unavailable", "reply_invalid", "error")
            one.attributes |= {
                "hisbridge.hospital": self.hospital.id,
                "hisbridge.connector": name,
                "hisbridge.verb": verb,
                "hisbridge.attempt": attempt,
                "hisbridge.outcome": outcome,
            }

    def _count_refused(self, name: str, error: NoPlace) -> None:
        metrics.his_refused.labels(hospital=self.hospital.id, connector=name, reason=error.reason.value).inc()


def _rank(verb: Verb) -> int:
    return RANKS.get(verb.value, READ_RANK)


def _track(hospital_id: str, name: str, bulkhead: Bulkhead) -> None:
    """Let every scrape ask the bulkhead itself: on the way of a call nothing is counted twice."""
    for gauge, ask in (
        (metrics.his_limit, lambda: bulkhead.limiter.limit),
        (metrics.his_in_flight, lambda: bulkhead.in_flight),
        (metrics.his_queued, lambda: bulkhead.queued),
        (metrics.his_breaker, lambda: bulkhead.breaker.state(time.monotonic())),
    ):
        gauge.labels(hospital=hospital_id, connector=name).set_function(ask)


def _outcome_label(outcome: Outcome) -> str:
    match outcome:
        case Accepted():
            return "accepted"
        case Rejected():
            return "rejected"
        case Unknown():
            return "unknown"
