"""A parent process from start to end: it owns the sockets, runs what the plan says, and follows its signals.

SIGTERM and SIGINT end everything in order. SIGHUP asks for the plan again and replaces all children without a gap; a plan
that is refused, or a child that does not come up, leaves everything as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from aiohttp import web

from monitoring.discovery import ChildrenHealth, build_parent_app
from monitoring.health import Health
from monitoring.listener import Listener, shown
from monitoring.logs import get_logger
from monitoring.supervisor import ChildFailed, ChildSpec, Supervisor

log = get_logger("parent")


class PlanRefused(Exception):
    """The children cannot be what was asked for; the text says why and what to do."""


class Plan(Protocol):
    """What should run."""

    def children(self, listening: dict[str, int]) -> Sequence[ChildSpec]:
        """The children now, given the descriptors to hand on. Asked again at SIGHUP. Raises PlanRefused."""
        ...

    def kept(self) -> None:
        """The children asked for last run now."""
        ...


class Parent:
    """Owns `sockets`, given open; closes them at the end."""

    def __init__(
        self,
        plan: Plan,
        sockets: Sequence[socket.socket],
        *,
        admin_host: str,
        admin_port: int,
        admin_setting: str,
        backlog: int,
    ) -> None:
        self._plan = plan
        self._sockets = sockets
        self._supervisor = Supervisor()
        self._health = Health()
        self._children_health = ChildrenHealth(self._supervisor, self._health)
        runner = web.AppRunner(build_parent_app(self._supervisor, self._health), access_log=None)
        self._admin = Listener("admin", runner, admin_host, admin_port, setting=admin_setting, backlog=backlog)
        self._done, self._again = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises PlanRefused, ChildFailed and CannotListen at the start, after an orderly end."""
        on_signals(done=self._done.set, again=self._again.set)
        try:
            await self._admin.start()
            log.info("listening", listener="api", on=shown(self._sockets[0].getsockname()[:2]))
            if await self._follow_plan():
                log.info("ready", children=len(self._supervisor.children))
            while not self._done.is_set():
                await _first_of(self._done, self._again)
                if self._again.is_set():
                    self._again.clear()
                    await self._reload()
            log.info("draining")
        finally:
            self._health.start_leaving()
            for listening in self._sockets:
                listening.close()  # the children close theirs as well: from then on connections are refused
            await self._supervisor.stop()
            await self._children_health.close()
            await self._admin.close()
        log.info("stopped")

    async def _reload(self) -> None:
        log.info("reloading")
        try:
            if await self._follow_plan():
                log.info("reloaded", children=len(self._supervisor.children))
        except (PlanRefused, ChildFailed) as e:
            log.error("reload_refused", reason=str(e))

    async def _follow_plan(self) -> bool:
        """Run what the plan says now; False where we were told to end before it ran. Raises PlanRefused, ChildFailed."""
        children = self._plan.children({f"api{n}": s.fileno() for n, s in enumerate(self._sockets)})
        work = asyncio.create_task(self._supervisor.replace(children, on_ready=self._replaced))
        end = asyncio.create_task(self._done.wait())
        try:
            await asyncio.wait([work, end], return_when=asyncio.FIRST_COMPLETED)
        finally:
            end.cancel()
        if not work.done():
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            return False
        await work
        return True

    def _replaced(self) -> None:
        self._plan.kept()
        self._children_health.watch()


def on_signals(*, done: Callable[[], None], again: Callable[[], None]) -> None:
    """SIGTERM and SIGINT call `done`, SIGHUP calls `again`. On Windows the loop has no signals: Ctrl-C interrupts."""
    loop = asyncio.get_running_loop()
    for name, call in (("SIGTERM", done), ("SIGINT", done), ("SIGHUP", again)):
        with contextlib.suppress(NotImplementedError, AttributeError):
            loop.add_signal_handler(getattr(signal, name), call)


async def _first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
