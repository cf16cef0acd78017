"""Who is killed, how, and what brings it back."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum

from tests.acceptance.installation import START_PATIENCE_S, Installation, ServiceProcess, run_process, until
from tests.acceptance.processes import children_of
from tests.torture.server import DurableServer

WORKERS = 2


class Victim(StrEnum):
    SERVICE = "service"  # the one process on SQLite
    API = "api"  # one of the API workers
    SYNC = "sync"  # the process that talks to the hospitals
    POSTGRES = "postgres"  # the database server, with all its processes


@dataclass
class Scene:
    """A running installation, and what a round may break in it. `stack` ends what is started in its course."""

    site: Installation
    stack: AsyncExitStack
    process: ServiceProcess
    server: DurableServer | None = None

    async def strike(self, victim: Victim, worker: int) -> None:
        """kill -9, and see to it that the victim comes back; returns when it has."""
        match victim:
            case Victim.SERVICE:
                await self.process.kill()
                self.process = await self.stack.enter_async_context(run_process(self.site))
            case Victim.API:
                await self._replaced(f"api-{worker}")
            case Victim.SYNC:
                await self._replaced("sync-0")
            case Victim.POSTGRES:
                assert self.server is not None
                await asyncio.to_thread(self.server.kill)
                await asyncio.to_thread(self.server.start)

    async def _replaced(self, name: str) -> None:
        """The parent starts the next one by itself."""
        parent = self.process.process.pid
        killed = children_of(parent)[name]
        os.kill(killed, signal.SIGKILL)

        async def successor() -> int | None:
            return children_of(parent).get(name)

        await until(
            successor, lambda pid: pid not in (None, killed), what=f"the next {name}", within_s=START_PATIENCE_S
        )
