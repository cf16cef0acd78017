"""Accepting connections that are to speak TLS: who may come in is asked before the handshake.

asyncio's servers shake hands first, and uvloop's `start_tls` never ends on a connection that its own server has accepted.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

AT_ONCE = 64
PAUSE_S = 0.2  # without descriptors nothing can be accepted: whoever waits keeps its place in the queue


class Accepting:
    """One listening socket. Each connection is handed to `taken` with its address and port."""

    def __init__(self, host: str, port: int, taken: Callable[[socket.socket, str, int], None]) -> None:
        """Raises OSError when the port is taken."""
        self._socket = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=100
        )
        self._socket.setblocking(False)
        self._taken = taken
        self._loop = asyncio.get_running_loop()
        self._paused: asyncio.TimerHandle | None = None
        self.port: int = self._socket.getsockname()[1]
        self._begin()

    def close(self) -> None:
        """Accept no more."""
        if self._paused is not None:
            self._paused.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _begin(self) -> None:
        self._paused = None
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                sock, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._loop.remove_reader(self._socket.fileno())
                self._paused = self._loop.call_later(PAUSE_S, self._begin)
                return
            sock.setblocking(False)
            self._taken(sock, address[0], address[1])
