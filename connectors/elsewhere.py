"""Work on one message in a process of its own, so that the interpreter of the event loop is not held by it.

A thread does not help with megabytes: the loop beside it waits for the interpreter again and again. The process is started when
it is first needed and ended when nobody has needed it for a while. It gets one message at a time, over its stdin; what it makes
of it comes back over its stdout. `connectors.aside` is its side.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from monitoring.logs import get_logger

log = get_logger(__name__)

IDLE_S = 60.0
END_GRACE_S = 2.0
AGAIN_AFTER_S = 10.0
"""After the process was lost, messages are read here for so long: what ends it may end the next one."""

LENGTH = struct.Struct(">Q")
_PIPE_BYTES = 1_048_576
_PIECE_BYTES = 262_144
_ROOT = str(Path(__file__).parents[1])


def command_of(module: str) -> str:
    """The program of a process that runs `module`.main().

    Its place in the queue of the machine comes before all imports; the folder that it starts in says nothing about where we are.
    """
    return (
        "import os, sys; hasattr(os, 'nice') and os.nice(10); sys.path.append(sys.argv[1]);"
        f" from {module} import main; main()"
    )


class Lost(Exception):
    """The process could not be started, has ended, or took too long. Nothing is known of the message."""


class Setup(Protocol):
    """What a process is for, in a form that can be pickled; `job` names its work in the log."""

    @property
    def job(self) -> str: ...


class Elsewhere:
    """One process, started on demand. To be closed. `command` gives its program (`command_of`) when it starts."""

    def __init__(
        self, setup: Setup, command: Callable[[], str], *, idle_s: float = IDLE_S, again_after_s: float = AGAIN_AFTER_S
    ) -> None:
        self.setup = setup
        self._command = command
        self._idle_s = idle_s
        self._again_after_s = again_after_s
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._not_before = 0.0
        self._closed = False

    @property
    def process_id(self) -> int | None:
        """None while there is no process."""
        return None if self._process is None else self._process.pid

    async def ask(self, payload: bytes, told: str, *, within_s: float) -> Any:
        """What the process makes of a message; `told` goes with it. Waits for its turn, then `within_s` at most. Raises Lost.

        Whoever is cancelled ends the process with its work: the answer would be taken for that of the next message.
        """
        async with self._turn:
            if self._closed or asyncio.get_running_loop().time() < self._not_before:
                raise Lost("not to be asked now")
            if self._timer is not None:
                self._timer.cancel()
            answered = False
            try:
                async with asyncio.timeout(within_s):
                    answer = await self._converse(payload, told)
                answered = True
            except (OSError, EOFError, pickle.UnpicklingError) as error:  # a time-out is an OSError
                self._not_before = asyncio.get_running_loop().time() + self._again_after_s
                log.warning("helper_lost", job=self.setup.job, reason=type(error).__name__, size=len(payload))
                raise Lost(type(error).__name__) from error
            finally:
                if not answered:
                    self._drop(kill=True)
            self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._rest)
        if isinstance(answer, Failed):
            raise Lost(answer.reason)
        return answer

    async def close(self) -> None:
        """End the process, whatever it does. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._drop(kill=self._turn.locked())
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _converse(self, payload: bytes, told: str) -> Any:
        process = self._process
        if process is None or process.returncode is not None:
            self._drop(kill=True)
            process = self._process = await self._start()
        if process.stdin is None or process.stdout is None:
            raise EOFError("no pipes")
        for part in (told.encode(), payload):
            await _write(process.stdin, part)
        # From our own process, over a pipe that nobody else has: not what a peer sends. Thousands of records take their time.
        return await asyncio.to_thread(pickle.loads, await _read(process.stdout))

    async def _start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", self._command(), _ROOT),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_PIPE_BYTES,
        )
        self._process = process
        setup = pickle.dumps(self.setup, 5)
        if process.stdin is not None:
            process.stdin.write(LENGTH.pack(len(setup)))
            process.stdin.write(setup)
        return process

    def _rest(self) -> None:
        """The timer: nobody has asked for a while."""
        if not self._turn.locked():
            self._drop(kill=False)

    def _drop(self, *, kill: bool) -> None:
        process, self._process = self._process, None
        if process is not None:
            task = asyncio.get_running_loop().create_task(_end(process, kill=kill))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


async def _write(stream: asyncio.StreamWriter, part: bytes) -> None:
    """Piece by piece: the transport would copy what the pipe does not take, megabytes of it while the loop waits."""
    stream.write(LENGTH.pack(len(part)))
    view = memoryview(part)
    for start in range(0, len(part), _PIECE_BYTES):
        stream.write(view[start : start + _PIECE_BYTES])
        await stream.drain()


async def _read(stream: asyncio.StreamReader) -> bytearray:
    size = LENGTH.unpack(await stream.readexactly(LENGTH.size))[0]
    whole = bytearray(size)
    have = 0
    while have < size:
        piece = await stream.read(min(_PIECE_BYTES, size - have))
        if not piece:
            raise EOFError("the process has ended")
        whole[have : have + len(piece)] = piece
        have += len(piece)
    return whole


class Failed(msgspec.Struct, frozen=True):
    """The answer of a process that lives where it could not do its work: the kind of the error."""

    reason: str


async def _end(process: asyncio.subprocess.Process, *, kill: bool) -> None:
    """It ends when its stdin does; one that is at work is not waited for."""
    if kill:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(END_GRACE_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
