"""A parent that keeps child processes running: starts, restarts with growing pauses, replaces without a gap, ends in order.

It knows nothing of what its children do. A child gets its orders as one line of JSON on stdin, says on stdout when it is
ready, and ends when stdin closes, which it does with the parent, however that ends (see `monitoring.child`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

import msgspec

from monitoring.child import Orders, Report
from monitoring.logs import get_logger

log = get_logger("supervisor")

START_S = 60.0  # a child that is not ready by then is ended and started again
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
STEADY_S = 30.0  # after so long alive, a child that ends is started again as quickly as the first time


class ChildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One process that should always run. `orders` carries the descriptors that it inherits.

    SIGKILL follows SIGTERM after `kill_after_s`.
    """

    command: tuple[str, ...]
    orders: Orders
    kill_after_s: float

    @property
    def name(self) -> str:
        return f"{self.orders.role}-{self.orders.worker}"


class ChildFailed(Exception):
    """A child ended before it was ready. `code` is its exit code (negative: the signal), None when it took too long."""

    def __init__(self, name: str, code: int | None) -> None:
        super().__init__(f"{name} was not ready in time" if code is None else f"{name} ended with {code} at its start")
        self.code = code


class Child:
    """Keeps one process running until it is stopped."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.admin: str | None = None
        """Where its own admin listener is; None while it is not ready."""
        self.restarts = 0
        self._process: asyncio.subprocess.Process | None = None
        self._first: asyncio.Future[int | None] | None = (
            None  # done at the first readiness (0) or the first end (its code)
        )
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Role and worker."""
        return self.spec.orders.role, self.spec.orders.worker

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises ChildFailed; then nothing of it runs any more."""
        self._first = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._keep(), name=f"child {self.spec.name}")
        done, _ = await asyncio.wait([self._first], timeout=START_S)
        code = self._first.result() if done else None
        if code != 0 or self.admin is None:
            await self.stop()
            raise ChildFailed(self.spec.name, code)

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL. It is not started again."""
        self._stopping.set()
        if self._task is not None:
            await self._task

    async def _keep(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            began_s = time.monotonic()
            code = await self._run_once()
            if self._first is not None and not self._first.done():
                self._first.set_result(code if code != 0 else 1)
            if self._stopping.is_set():
                return
            if time.monotonic() - began_s >= STEADY_S:
                pause_s = FIRST_PAUSE_S
            self.restarts += 1
            log.error("child_ended", child=self.spec.name, code=code, again_in_s=pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _run_once(self) -> int:
        """One life of the process; its exit code."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self.spec.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                pass_fds=tuple(self.spec.orders.listening.values()),
            )
        except OSError as e:
            log.error("child_not_started", child=self.spec.name, reason=e.strerror or type(e).__name__)
            return 1
        self._process = process
        life = asyncio.create_task(self._watch(process))
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([life, stop], return_when=asyncio.FIRST_COMPLETED)
            if not life.done():
                await self._end(process)
            await asyncio.gather(life, return_exceptions=True)
            return await process.wait()
        finally:
            stop.cancel()
            self.admin = None

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Give the orders, hear the report, wait for the end."""
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a child was started without pipes")
        orders = msgspec.structs.replace(self.spec.orders, life=self.restarts)
        try:
            line = b""
            try:
                async with asyncio.timeout(START_S):
                    with contextlib.suppress(ConnectionError):  # it ended before it had read them
                        process.stdin.write(msgspec.json.encode(orders) + b"\n")
                        await process.stdin.drain()
                    line = await process.stdout.readline()
            except TimeoutError:
                log.error("child_not_ready", child=self.spec.name, pid=process.pid)
                _kill(process)
            if line:
                self._note_ready(line, process)
            await process.wait()
        finally:
            process.stdin.close()

    def _note_ready(self, line: bytes, process: asyncio.subprocess.Process) -> None:
        try:
            self.admin = msgspec.json.decode(line, type=Report).admin
        except msgspec.DecodeError:
            log.error("child_report_unreadable", child=self.spec.name, pid=process.pid)
            _kill(process)
            return
        log.info("child_ready", child=self.spec.name, pid=process.pid)
        if self._first is not None and not self._first.done():
            self._first.set_result(0)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self.spec.kill_after_s):
                await process.wait()
        except TimeoutError:
            log.error("child_killed", child=self.spec.name, pid=process.pid)
            _kill(process)


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


async def _stop(children: Sequence[Child]) -> None:
    for role in reversed(list(dict.fromkeys(role for role, _ in (child.key for child in children)))):
        await asyncio.gather(*(child.stop() for child in children if child.key[0] == role))


class Supervisor:
    """All children of a parent. `replace` makes them what a new list says, without a moment in which one is missing."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self._restarts_before: dict[tuple[str, int], int] = {}  # of children that have been replaced

    async def replace(self, specs: Sequence[ChildSpec], *, on_ready: Callable[[], None] = lambda: None) -> None:
        """Start these, and end the present ones when all of them are ready. Raises ChildFailed: nothing has changed then.

        `on_ready` is called when the new ones run and before the old ones end. The first ones start side by side; later ones
        one after the other, because those that serve need the processor too.
        """
        fresh = [Child(spec) for spec in specs]
        old = self.children
        try:
            if old:
                for child in fresh:
                    await child.start()
            else:
                await asyncio.gather(*(child.start() for child in fresh))
        except BaseException:
            await asyncio.gather(*(child.stop() for child in fresh))
            raise
        self.children = fresh
        for child in old:
            self._restarts_before[child.key] = self._restarts_before.get(child.key, 0) + child.restarts
        on_ready()
        await _stop(old)

    async def stop(self) -> None:
        """End all: role by role, the last named first, because it may need the others to the end."""
        await _stop(self.children)

    def restarts(self) -> dict[tuple[str, int], int]:
        """How often each child was started again because it had ended, by role and worker."""
        found = dict(self._restarts_before)
        for child in self.children:
            found[child.key] = found.get(child.key, 0) + child.restarts
        return found
