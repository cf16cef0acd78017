"""Holding leases: whatever we hold is worked, whatever we lose is stopped at once, whatever is too much is handed over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from booking.store.engine import Store, StoreUnavailable, Tx
from monitoring.logs import get_logger
from scheduler_sync.ask import StoreClock
from scheduler_sync.leases import (
    BEAT_S,
    GLOBAL,
    LEASE_S,
    LEASES,
    Fence,
    Node,
    Share,
    beat,
    give_back,
    is_held,
    leave,
    steady_s,
)

log = get_logger("leases")

MARGIN_S = 1.0  # we stop so long before others may begin
LOOK_S = 0.5  # how soon a change of a HIS's status is told to those who read the lease
RETRY_S = 2.0  # what could not be started is tried again, here or elsewhere
FIRST_RETRY_S = 0.5  # after a beat that found no store


class Tenant(Protocol):
    """What is done under one lease."""

    @property
    def status(self) -> str:
        """`up`, `degraded` or `down`, as of the last calls to the HIS."""
        ...

    async def start(self) -> None: ...

    async def stop(self, *, drain: bool) -> None:
        """End. With `drain` what is in flight may finish; without, another process may work already: let go at once."""
        ...


class _Tenancy:
    """A lease that we hold, from the moment it was taken to the moment its work has ended."""

    def __init__(self, name: str, tenant: Tenant) -> None:
        self.name = name
        self.tenant = tenant
        self.leaving = asyncio.Event()
        self.lost = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class LeaseKeeper:
    """The leases of one process. `tenants` maps everything that can be held to a maker of its work, given the fence."""

    def __init__(
        self,
        store: Store,
        node: Node,
        tenants: Mapping[str, Callable[[Fence], Tenant]],
        *,
        predecessor: str | None = None,
        clock: StoreClock | None = None,
        now_s: Callable[[], float] = steady_s,
    ) -> None:
        """`predecessor` is the id of a node that has certainly ended: what it held need not run out."""
        self._store = store
        self._node = node
        self._tenants = tenants
        self._predecessor = predecessor
        self._clock = clock or StoreClock()
        self._now_s = now_s
        self._held: dict[str, _Tenancy] = {}
        self._failed_at_s: dict[str, float] = {}
        self._valid_until_s = 0.0
        self._told: dict[str, str] = {}
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._problems: dict[str, str] = {}  # why something that we were to hold could not be started

    @property
    def held(self) -> frozenset[str]:
        """What is being worked here now, or is being started or ended."""
        return frozenset(self._held)

    async def check(self) -> str | None:
        """For readiness: whether we beat in time, and what could not be started."""
        if self._now_s() >= self._valid_until_s:
            return "no beat in time: the store does not answer"
        return "; ".join(f"{name}: {reason}" for name, reason in sorted(self._problems.items())) or None

    async def start(self) -> None:
        """Begin to beat; returns at once."""
        self._tasks = [
            asyncio.create_task(self._run(), name="leases"),
            asyncio.create_task(self._guard(), name="lease guard"),
        ]

    async def close(self) -> None:
        """End all work, drained, while the leases are still prolonged; hand them back and leave."""
        self._closing = True
        for tenancy in self._held.values():
            tenancy.leaving.set()
        await asyncio.gather(*(t.task for t in list(self._held.values()) if t.task is not None), return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await leave(self._store, self._node.id)
        except StoreUnavailable as e:
            log.warning("lease_not_left", reason=str(e))

    # --- beating --------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            rung = self._store.bell.listen(LEASES)
            try:
                pause_s = self._pause_s(await self._beat())
            except StoreUnavailable as e:
                log.error("store_unavailable", sweep="leases", reason=str(e))
                pause_s = FIRST_RETRY_S
            except Exception as e:
                log.error("lease_beat_failed", exc_info=e)
                pause_s = FIRST_RETRY_S
            await self._wait(pause_s, rung)

    async def _beat(self) -> Share:
        if self._predecessor is not None:
            await leave(self._store, self._predecessor)
            self._predecessor = None
        began_s = self._now_s()
        statuses = {name: t.tenant.status for name, t in self._held.items() if name != GLOBAL}
        avoid = set(self._tenants) if self._closing else self._resting()
        share = await beat(self._store, self._node, wanted=list(self._tenants), avoid=avoid, statuses=statuses)
        self._clock.note(share.now_ms)
        self._told = statuses
        # Counted from before the store was asked: for us a lease ends before it does for anybody else.
        self._valid_until_s = began_s + LEASE_S - MARGIN_S
        for name in set(self._held) - share.mine:
            self._lose(name, "taken over or run out")
        for name in share.mine - set(self._held):
            if name in self._tenants and not self._closing:
                self._take(name)
        for name in share.surplus & set(self._held):
            self._held[name].leaving.set()
        return share

    def _resting(self) -> set[str]:
        now_s = self._now_s()
        return {name for name, failed_s in self._failed_at_s.items() if now_s < failed_s + RETRY_S}

    def _pause_s(self, share: Share) -> float:
        """Until the next beat: soon after a lease of others has run out, else as usual."""
        if share.next_expiry_ms is None:
            return BEAT_S
        return min(BEAT_S, max(0.05, (share.next_expiry_ms - share.now_ms) / 1000 + 0.05))

    async def _wait(self, pause_s: float, rung: asyncio.Future[None]) -> None:
        """Wait until the next beat is due, a lease has changed hands, or a HIS's status has changed."""
        ends_s = self._now_s() + pause_s
        try:
            while (left_s := ends_s - self._now_s()) > 0 and not rung.done():
                await asyncio.wait([rung], timeout=min(left_s, LOOK_S))
                if any(self._told.get(n, t.tenant.status) != t.tenant.status for n, t in self._held.items()):
                    return
        finally:
            rung.cancel()

    async def _guard(self) -> None:
        """Without a beat in time nothing is ours any more, whoever may hold it: stop before others begin."""
        while True:
            left_s = self._valid_until_s - self._now_s()
            if left_s <= 0:
                for name in list(self._held):
                    self._lose(name, "no beat in time")
                left_s = LOOK_S
            await asyncio.sleep(min(left_s, LOOK_S))  # a sleeping machine stops the loop's clock, and not `now_s`

    # --- working --------------------------------------------------------------------------------------------------

    def _take(self, name: str) -> None:
        log.info("lease_taken", hospital=name)
        tenancy = _Tenancy(name, self._tenants[name](self._fence(name)))
        self._held[name] = tenancy
        tenancy.task = asyncio.create_task(self._work(tenancy), name=f"lease {name}")

    def _lose(self, name: str, reason: str) -> None:
        tenancy = self._held[name]
        if not tenancy.lost.is_set():
            log.error("lease_lost", hospital=name, reason=reason)
            tenancy.lost.set()

    def _fence(self, name: str) -> Fence:
        async def fence(tx: Tx) -> bool:
            tenancy = self._held.get(name)
            if tenancy is None or tenancy.lost.is_set() or self._now_s() >= self._valid_until_s:
                return False
            return await is_held(tx, self._node, name)

        return fence

    async def _work(self, tenancy: _Tenancy) -> None:
        name = tenancy.name
        lost = asyncio.create_task(tenancy.lost.wait())
        course = asyncio.create_task(self._course(tenancy), name=f"work {name}")
        try:
            await asyncio.wait([lost, course], return_when=asyncio.FIRST_COMPLETED)
            if course.done():
                await course
            else:
                course.cancel()
                await asyncio.gather(course, return_exceptions=True)
                await tenancy.tenant.stop(drain=False)
        except Exception as e:
            log.error("hospital_not_ended_well", hospital=name, exc_info=e)
        finally:
            lost.cancel()
            if not tenancy.lost.is_set():
                await self._give_back(name)
            del self._held[name]

    async def _course(self, tenancy: _Tenancy) -> None:
        """Start, work until told to leave, drain."""
        name = tenancy.name
        try:
            await tenancy.tenant.start()
        except Exception as e:
            log.error("hospital_not_started", hospital=name, reason=str(e), kind=type(e).__name__)
            self._problems[name] = str(e)
            self._failed_at_s[name] = self._now_s()
            await tenancy.tenant.stop(drain=False)
            return
        self._problems.pop(name, None)
        self._failed_at_s.pop(name, None)
        await tenancy.leaving.wait()
        await tenancy.tenant.stop(drain=True)

    async def _give_back(self, name: str) -> None:
        try:
            await give_back(self._store, self._node, [name])
            log.info("lease_given_back", hospital=name)
        except StoreUnavailable as e:
            log.warning("lease_not_given_back", hospital=name, reason=str(e))
