"""The bytes of one inbound connection: reading and writing with deadlines, at the cost of one future for each wait.

asyncio's streams make a task and a timer for every read and every drain that has a time-out. Here a deadline is a number, and one
timer for each connection looks at it.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import cast

try:
    import fcntl
    import termios
except ImportError:  # not POSIX: what the system holds is not known
    fcntl = termios = None  # type: ignore[assignment]

FOLLOWS_WITHIN_TURNS = 3  # of the loop
READ_BYTES = 65_536  # beyond this the peer has to wait until what it sent is taken

KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""Seconds of silence, seconds between probes, probes: a peer that has vanished is noticed two minutes after its last byte.

Systems wait two hours unless told otherwise, and firewalls forget a silent connection after minutes.
"""


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Let the system probe whether the peer is still there, as far as it can be told how."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        if (option := getattr(socket, name, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _held_by_system(transport: asyncio.BaseTransport) -> int:
    sock = transport.get_extra_info("socket")
    size = array.array("i", [0])
    if sock is not None and fcntl is not None:
        with contextlib.suppress(OSError):  # it is gone, and so is what it held
            fcntl.ioctl(sock.fileno(), termios.FIONREAD, size)
    return size[0]


class Wire(asyncio.Protocol):
    """One connection. `opened` is called when it is there; it is to be closed by `aclose`.

    `is_tls`: it speaks TLS. On the server's side `secure` makes it.
    """

    def __init__(self, opened: Callable[[Wire], None], *, is_tls: bool = False) -> None:
        self._opened = opened
        self._is_tls = is_tls
        self._is_made = False
        self._loop = asyncio.get_running_loop()
        self._received: list[bytes] = []
        self._size = 0
        self.handed = 0  # bytes that `read` has given
        self._held_up = False  # reading is paused
        self._over = False  # the peer sends no more
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._read_by = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._writable: asyncio.Future[None] | None = None
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)

    @property
    def idle(self) -> bool:
        """Whether somebody waits for bytes, and nobody for anything else."""
        return self._reader is not None

    # --- what the event loop calls ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self._is_made = cast(asyncio.Transport, transport), True
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        self._received.append(data)
        self._size += len(data)
        self._wake()
        self._hold_up()

    def _hold_up(self) -> None:
        if self._size >= READ_BYTES and not self._held_up:
            self._held_up = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self._over = True
        self._wake()
        # What came before is still answered. TLS has no half: asyncio closes both directions.
        return not self._is_tls

    def connection_lost(self, exc: Exception | None) -> None:
        self._over, self._error = True, exc
        self._wake()
        for future in (self._writable, self._lost):
            if future is not None and not future.done():
                future.set_result(None)
        if self._timer is not None:
            self._timer.cancel()

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _look(self) -> None:
        """The timer: time out who waits too long; come again when the next one could."""
        self._timer = None
        if self._reader is None or self._reader.done():
            return  # the next read sets the timer
        if self._loop.time() >= self._read_by:
            self._reader.set_exception(TimeoutError())
        else:
            self._timer = self._loop.call_at(self._read_by, self._look)

    # --- what the session calls ------------------------------------------------------------------------------------------

    async def secure(
        self, sock: socket.socket, context: ssl.SSLContext, within_s: float, shutdown_within_s: float
    ) -> None:
        """Shake hands as the server on a connection that was accepted. Raises TimeoutError, ssl.SSLError and other OSErrors."""
        began = self._loop.time()
        try:
            await self._loop.connect_accepted_socket(
                lambda: self,
                sock,
                ssl=context,
                ssl_handshake_timeout=within_s,
                ssl_shutdown_timeout=shutdown_within_s,
            )
        except ConnectionAbortedError as error:
            if self._loop.time() - began < within_s:
                raise
            raise TimeoutError from error

    def reached(self) -> int:
        """How many bytes have come to this machine so far: what `read` gave, what it will give at once, what the system holds.

        Under TLS what the system holds is a little more than what will be read of it.
        """
        return self.handed + self._size + _held_by_system(self.transport)

    async def is_dry(self) -> bool:
        """Whether nothing follows at once: the loop is given the turns in which more would be received."""
        for _ in range(FOLLOWS_WITHIN_TURNS):
            if self._received or self._over:
                break
            await asyncio.sleep(0)
        return not self._received

    async def read(self, within_s: float) -> bytes:
        """All that has come, b"" at the end. Raises TimeoutError and what the connection was lost by."""
        if not self._received and not self._over:
            self._read_by = self._loop.time() + within_s
            if self._timer is None or self._timer.when() > self._read_by:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = self._loop.call_at(self._read_by, self._look)
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if not self._received:
            if self._error is not None:
                raise self._error
            return b""
        self.handed += self._size
        data = self._received[0] if len(self._received) == 1 else b"".join(self._received)
        self._received.clear()
        self._size = 0
        if self._held_up:
            self._held_up = False
            self.transport.resume_reading()
        return data

    async def write(self, data: bytes, within_s: float) -> None:
        """Send; waits while too much is unsent. Raises TimeoutError when the peer does not take it, OSError when it is gone."""
        if self._lost.done():  # asyncio's transports say nothing then, uvloop's have an error of their own
            raise ConnectionResetError("the connection is gone") from self._error
        self.transport.write(data)
        if self._writable is not None:
            async with asyncio.timeout(within_s):
                await asyncio.shield(self._writable)

    async def aclose(self, within_s: float) -> bool:
        """Close, and let what was written go out; whether it has gone out. Afterwards nothing of it is left."""
        if not self._is_made:
            return True  # its handshake has failed
        self.transport.close()
        try:
            async with asyncio.timeout(within_s):
                await asyncio.shield(self._lost)
        except TimeoutError:
            return False
        finally:
            # A peer that takes no byte would keep the socket, which nobody counts any more.
            self.transport.abort()
        return self._error is None
