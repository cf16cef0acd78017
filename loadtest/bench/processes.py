"""Processes of a measurement: started on a core of their own, ended with certainty, their CPU read from /proc (Linux)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
QUIET_SHARE = 0.05  # of one core
QUIET_WITHIN_S = 60.0


class ProcessFailed(Exception):
    """A process did not do what it was started for; the text holds its last words."""


@dataclass(frozen=True)
class Cores:
    """Which cores the measured server has, and which the load, the simulated HIS and the database. Both: everything."""

    server: frozenset[int]
    load: frozenset[int]

    @property
    def pinned(self) -> bool:
        return self.server != self.load


def divide_cores(available: Collection[int]) -> Cores:
    """The first core for the server, the others for the load; with one core alone they share it."""
    ordered = sorted(available)
    if len(ordered) < 2:
        return Cores(frozenset(ordered), frozenset(ordered))
    return Cores(frozenset(ordered[:1]), frozenset(ordered[1:]))


def on_cores(cores: Collection[int]) -> Callable[[], None]:
    """For `preexec_fn`: everything that the process starts inherits it. No cores: wherever it likes."""

    def pin() -> None:
        if cores:
            os.sched_setaffinity(0, cores)

    return pin


async def start(
    *arguments: str, cores: Collection[int], log: Path | None = None, environment: dict[str, str] | None = None
) -> asyncio.subprocess.Process:
    """Start `python <arguments>` on `cores`. Its standard output is a pipe, or goes to `log` with its errors."""
    environment = {**os.environ, **(environment or {})}
    if log is not None:
        with log.open("ab") as stream:
            return await asyncio.create_subprocess_exec(
                sys.executable, *arguments, stdout=stream, stderr=stream, preexec_fn=on_cores(cores), env=environment
            )
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=on_cores(cores),
        env=environment,
    )


async def output_of(
    *command: str,
    cores: Collection[int],
    within_s: float,
    environment: dict[str, str] | None = None,
    codes: Collection[int] = (0,),
) -> str:
    """Run a command to its end and return what it printed. Raises ProcessFailed where its exit code is none of `codes`."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=on_cores(cores),
        env={**os.environ, **(environment or {})},
    )
    try:
        async with asyncio.timeout(within_s):
            said, complained = await process.communicate()
    except TimeoutError:
        raise ProcessFailed(f"{command[0]} did not end within {within_s:g} s") from None
    finally:
        await end(process)
    if process.returncode not in codes:
        raise ProcessFailed(f"{' '.join(command[:4])} failed: {_last_line(complained) or _last_line(said)}")
    return said.decode()


async def first_line(process: asyncio.subprocess.Process, what: str, *, within_s: float = 30.0) -> str:
    """The line by which a process says that it is ready. Raises ProcessFailed."""
    if process.stdout is None or process.stderr is None:
        raise ProcessFailed(f"{what} was started without pipes")
    try:
        async with asyncio.timeout(within_s):
            line = await process.stdout.readline()
    except TimeoutError:
        raise ProcessFailed(f"{what} was not ready within {within_s:g} s") from None
    if not line:
        raise ProcessFailed(f"{what} ended at once: {_last_line(await process.stderr.read())}")
    return line.decode()


async def end(process: asyncio.subprocess.Process, *, within_s: float = 20.0) -> None:
    """Ask a process to end, then insist."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(within_s):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def end_on_sigterm() -> None:
    """From now on SIGTERM cancels the current task, as Ctrl-C does: processes and folders of a run are its own to end."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def accepts(port: int) -> bool:
    """Whether somebody on this machine takes connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def last_words(log: Path) -> str:
    """The end of a log."""
    return log.read_text(encoding="utf-8", errors="replace").strip()[-500:]


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def family(pid: int) -> list[int]:
    """A process and all its descendants that live."""
    found = [pid]
    for parent in found:
        try:
            tasks = list(Path(f"/proc/{parent}/task").iterdir())
        except OSError:
            continue
        for task in tasks:
            try:
                found += [int(child) for child in (task / "children").read_text(encoding="ascii").split()]
            except OSError:
                continue
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and its descendants, those that have ended included: utime, stime, cutime, cstime (proc(5))."""
    ticks = 0
    for member in family(pid):
        try:
            stat = Path(f"/proc/{member}/stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        # The command's name stands in parentheses and may hold anything; fields are counted from behind it.
        ticks += sum(int(field) for field in stat.rpartition(")")[2].split()[11:15])
    return ticks * TICK_S


async def until_quiet(pid: int, *, within_s: float = QUIET_WITHIN_S, share: float = QUIET_SHARE) -> None:
    """Wait until a process has done its start-up work: it takes at most this share of a core over half a second.

    Raises ProcessFailed where that takes longer than `within_s`.
    """
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        before = cpu_s(pid)
        await asyncio.sleep(0.5)
        if cpu_s(pid) - before <= 0.5 * share:
            return
    raise ProcessFailed(f"the server was still busy after {within_s:g} s")
