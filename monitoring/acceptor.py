"""Accepting connections: as many as wait, or a few at a time from a socket that several processes share.

uvloop's own servers accept one connection in each turn of the loop (libuv since 1.45). In a crowd a turn takes tens of
milliseconds, and whoever comes on a new connection waits for seconds while all others are served. asyncio's accept until nothing
waits: of a shared socket, whichever process wakes first takes a whole crowd, and keeps it as long as its connections live.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from monitoring.logs import get_logger

log = get_logger("acceptor")

SHARED_AT_ONCE = 8  # connections taken before the other processes have their turn
ALONE_AT_ONCE = 256
PAUSE_S = 0.2  # without descriptors or memory nothing can be accepted: whoever waits keeps its place in the queue
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Serves the connections of one listening socket with protocols from `factory`."""

    def __init__(
        self, listening: socket.socket, factory: Callable[[], asyncio.BaseProtocol], *, at_once: int = ALONE_AT_ONCE
    ) -> None:
        """Owns this process's copy of the descriptor; the socket stays open in the processes that share it."""
        self._listening = listening
        self._at_once = at_once
        self._factory = factory
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._paused: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to accept."""
        self._listening.setblocking(False)
        self._loop.add_reader(self._listening.fileno(), self._accept)

    async def close(self) -> None:
        """Accept nothing more; what has been accepted is served."""
        if self._paused is not None:
            self._paused.cancel()
        self._loop.remove_reader(self._listening.fileno())
        self._listening.close()
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(self._at_once):
            try:
                connection, _address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return  # another process was quicker, or the caller has gone
            except OSError as e:
                if e.errno not in _EXHAUSTED:
                    raise
                self._pause(e)
                return
            connection.setblocking(False)
            task = asyncio.ensure_future(self._open(connection))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, connection)
        except OSError:
            connection.close()  # it was reset before it could be served

    def _pause(self, error: OSError) -> None:
        log.error("cannot_accept", reason=error.strerror, again_in_s=PAUSE_S)
        self._loop.remove_reader(self._listening.fileno())
        self._paused = self._loop.call_later(PAUSE_S, self.start)
