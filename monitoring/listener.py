"""HTTP listeners that end politely, and listening sockets that outlive the processes that serve them."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence

from aiohttp import web

from monitoring.acceptor import ALONE_AT_ONCE, SHARED_AT_ONCE, Acceptor
from monitoring.health import Health
from monitoring.logs import get_logger

log = get_logger("listener")

LAST_ANSWERS_S = 1.0  # open connections that ask once more within this time are answered before they are closed
_LOOK_S = 0.01


class CannotListen(Exception):
    """An address cannot be had; the text says which, and why."""


class Listener:
    """One HTTP listener, on an address of its own or on sockets that are open already."""

    def __init__(
        self,
        name: str,
        runner: web.BaseRunner,
        host: str,
        port: int,
        *,
        setting: str,
        backlog: int,
        health: Health | None = None,
        inherited: Sequence[int] = (),
    ) -> None:
        """`setting` is what gives the address, for an error. `inherited` are descriptors of listening sockets.

        With `health` open connections get a last answer at the end.
        """
        self._name = name
        self._runner = runner
        self._place = host, port
        self._setting = setting
        self._backlog = backlog
        self._health = health
        self._sockets = [socket.socket(fileno=number) for number in inherited]
        self._shared = bool(inherited)
        self._acceptors: list[Acceptor] = []

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, once it does."""
        places = [listening.getsockname() for listening in self._sockets] or self._runner.addresses
        host, port = places[0][:2]
        return host, port

    async def start(self) -> None:
        """Listen. Raises CannotListen."""
        await self._runner.setup()
        server = self._runner.server
        if sys.platform == "win32" or server is None:  # its loop watches no sockets
            await self._listen()
        else:
            if not self._shared:
                self._sockets = bind(*self._place, setting=self._setting, backlog=self._backlog)
            at_once = SHARED_AT_ONCE if self._shared else ALONE_AT_ONCE
            self._acceptors = [Acceptor(listening, server, at_once=at_once) for listening in self._sockets]
            for acceptor in self._acceptors:
                acceptor.start()
        log.info("listening", listener=self._name, on=shown(self.address))

    async def _listen(self) -> None:
        try:
            await web.TCPSite(self._runner, *self._place, backlog=self._backlog).start()
        except OSError as e:
            raise CannotListen(_reason(self._place, e, self._setting)) from e

    async def close(self) -> None:
        """No new connections; requests in flight are answered."""
        for acceptor in self._acceptors:
            await acceptor.close()
        for site in list(self._runner.sites):
            await site.stop()
        if self._health is not None:
            await self._answer_once_more(self._health)
        await self._runner.cleanup()

    async def _answer_once_more(self, health: Health) -> None:
        """Whoever is about to send on an open connection is answered, and told that it was the last time there."""
        health.start_leaving()
        loop = asyncio.get_running_loop()
        ends = loop.time() + LAST_ANSWERS_S
        # aiohttp tells nobody when a connection ends.
        while (server := self._runner.server) is not None and server.connections and loop.time() < ends:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
        health.start_draining()


def bind(host: str, port: int, *, setting: str, backlog: int) -> list[socket.socket]:
    """Listening sockets, one for each address of the host. Raises CannotListen."""
    opened: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, place in dict.fromkeys(found):
            opened.append(listening := socket.socket(family, kind, protocol))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(place)
            listening.listen(backlog)
    except OSError as e:
        for listening in opened:
            listening.close()
        raise CannotListen(_reason((host, port), e, setting)) from e
    return opened


def _reason(place: tuple[str, int], error: OSError, setting: str) -> str:
    return f"cannot listen on {shown(place)}: {error.strerror or error}. Stop the other program or set {setting}."


def shown(address: tuple[str, int]) -> str:
    """`host:port`, or `[ipv6]:port`."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
