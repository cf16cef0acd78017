"""The door of a simulated hospital: the port on which it listens, shut while it is down."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web

AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: the peer gets a reset, and not an orderly end (socket(7))

GONE_EVERY_S = 0.01

Listen = Callable[[socket.socket], Awaitable[asyncio.AbstractServer]]
Connections = Callable[[], Iterable[asyncio.BaseTransport | None]]


class Door:
    """`listen` serves on a socket; `connections` are those that are open."""

    def __init__(self, listen: Listen, connections: Connections) -> None:
        self._listen = listen
        self._connections = connections
        self._place: socket.socket | None = None
        self._server: asyncio.AbstractServer | None = None
        self.address: tuple[str, int] = ("", 0)

    async def open(self, host: str, port: int) -> None:
        """Listen; port 0 takes any, see `address`."""
        self._place = _bound(host, port)
        self.address = (host, self._place.getsockname()[1])
        self._server = await self._listen(self._place)

    def shut(self) -> None:
        """Refuse whoever comes and reset whoever is there. Does nothing where it is shut. Linux, BSD.

        The port stays ours: a socket that is bound and does not listen refuses like none at all, and nobody else on this
        machine is given its number meanwhile.
        """
        if self._server is None or self._place is None:
            return
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        heir = _bound(*self.address, shared=True)
        self._server.close()
        self._server, self._place = None, heir
        for transport in list(self._connections()):
            _reset(transport)

    async def reopen(self) -> None:
        """Listen on the same port again. Does nothing where it is open."""
        if self._server is None and self._place is not None:
            self._server = await self._listen(self._place)

    def close(self) -> None:
        """For good. Whoever is there stays."""
        if self._server is not None:
            self._server.close()
        elif self._place is not None:
            self._place.close()
        self._server = self._place = None


def door_of(runner: web.AppRunner) -> Door:
    """The door of an HTTP server, whose runner is set up."""
    server = runner.server
    if server is None:
        raise RuntimeError("the runner is not set up")
    loop = asyncio.get_running_loop()

    async def listen(place: socket.socket) -> asyncio.Server:
        return await loop.create_server(server, sock=place)

    return Door(listen, lambda: [connection.transport for connection in server.connections])


async def until_gone(request: web.Request) -> None:
    """Wait until the caller has closed its connection. aiohttp tells that only by ending the handler, where it does at all."""
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110
        await asyncio.sleep(GONE_EVERY_S)


def _bound(host: str, port: int, *, shared: bool = False) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        made.setblocking(False)
        if os.name == "posix":  # elsewhere it would let two listen on one port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((host, port))
    except BaseException:
        made.close()
        raise
    return made


def _reset(transport: asyncio.BaseTransport | None) -> None:
    if not isinstance(transport, asyncio.WriteTransport) or transport.is_closing():
        return
    peer = transport.get_extra_info("socket")
    if peer is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    transport.abort()
