"""The MLLP listener: who may connect, with or without TLS, and how it comes to an end.

What is said on a connection is `session`'s, what a message means the receiver's.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import msgspec

from connectors.accepting import Accepting
from connectors.admission import Admission
from connectors.hl7v2.answerer import Answerer
from connectors.hl7v2.meters import ListenerMeters
from connectors.hl7v2.pace import Pace, Paces
from connectors.hl7v2.session import Limits, Session
from connectors.hl7v2.turns import Turns
from connectors.hl7v2.wire import Wire, keep_alive
from connectors.tls import TLSContext
from monitoring.logs import get_logger
from monitoring.sparse import SparseLog

log = get_logger(__name__)

CLOSE_GRACE_S = 5.0
HANDSHAKE_TIMEOUT_S = 10.0


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """Who may connect, and how fast a peer is read.

    `allow`: addresses and networks, empty: all. `max_connections` at once in all, `max_connections_per_peer` from one address
    (None: as many). `max_messages_per_s` of one address, after a burst of `message_burst` (None: as fast as it can).
    """

    allow: Sequence[str] = ()
    max_connections: int = 32
    max_connections_per_peer: int | None = None
    max_messages_per_s: float | None = None
    message_burst: int = 100


class Talk(Protocol):
    """What is said on one connection. `run` ends with it, and says why as one of `metrics.MLLP_ENDED`."""

    @property
    def idle(self) -> bool: ...
    def stop(self) -> None: ...
    async def run(self) -> str: ...


class MLLPServer:
    """Listens on one port. Connections that `door` does not let in are closed as soon as they come."""

    def __init__(
        self,
        answerer: Answerer,
        meters: ListenerMeters,
        *,
        limits: Limits,
        door: Door,
        tls: TLSContext | None = None,
        talk: Callable[[Wire, str, Callable[[], float]], Talk] | None = None,
    ) -> None:
        """`talk`: what is said on a connection, if not a `Session`; it is given how long the peer's next message has to wait."""
        self._answerer = answerer
        self._meters = meters
        self._limits = limits
        self._door = Admission(door.allow, door.max_connections, door.max_connections_per_peer)
        self._paces = Paces(door.max_messages_per_s, door.message_burst)
        self._tls = tls
        self._talk = talk
        self._warn = SparseLog(partial(log.warning, **meters.labels))
        self._server: asyncio.Server | None = None
        self._accepting: Accepting | None = None
        self._tasks: dict[asyncio.Task[None], Talk | None] = {}
        self._looking: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port really listened on; 0 before `start`."""
        if self._accepting is not None:
            return self._accepting.port
        return self._server.sockets[0].getsockname()[1] if self._server and self._server.sockets else 0

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._turns = Turns()
        if self._tls is None:
            self._server = await loop.create_server(lambda: Wire(self._connected), host, port)
        else:
            self._accepting = Accepting(host, port, self._accepted)
            self._looking = loop.create_task(self._tls.watch())

    async def close(self) -> None:
        """Accept no more, let messages in hand be answered (at most CLOSE_GRACE_S), close every connection."""
        if self._server is not None:
            self._server.close()
        if self._accepting is not None:
            self._accepting.close()
        if self._looking is not None:
            self._looking.cancel()
        for task, session in self._tasks.items():
            if session is None or session.idle:
                task.cancel()
            else:
                session.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
        self._server = self._accepting = None

    def _connected(self, wire: Wire) -> None:
        peername = wire.transport.get_extra_info("peername")
        address, port = (peername[0], peername[1]) if peername else ("?", 0)
        if self._server is None or not self._server.is_serving() or not self._admits(address):
            wire.transport.close()
            return
        self._begin(wire, None, address, port)

    def _accepted(self, sock: socket.socket, address: str, port: int) -> None:
        """One that is to speak TLS."""
        if self._admits(address):
            self._begin(Wire(_nothing, is_tls=True), sock, address, port)
        else:
            sock.close()

    def _admits(self, address: str) -> bool:
        if (refusal := self._door.refusal(address)) is not None:
            self._meters.refused(refusal)
            self._warn("mllp_connection_refused", reason=refusal, peer=address)
        return refusal is None

    def _begin(self, wire: Wire, sock: socket.socket | None, address: str, port: int) -> None:
        self._door.enter(address)
        self._meters.open.inc()
        task = asyncio.get_running_loop().create_task(self._run(wire, sock, address, f"{address}:{port}"))
        self._tasks[task] = None
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            # The peer got no acknowledgement and will send the message again.
            task.get_loop().call_exception_handler(
                {"message": "an MLLP connection failed", "exception": error, "task": task}
            )

    async def _run(self, wire: Wire, sock: socket.socket | None, address: str, peer: str) -> None:
        reason = ""  # until something could be said
        try:
            if sock is not None and not await self._secure(wire, sock, peer):
                return
            reason = "stopping"
            keep_alive(wire.transport)
            session = self._session(wire, address, peer)
            self._note(session)
            reason = await session.run()
        finally:
            if sock is not None and not reason:
                sock.close()
            self._door.leave(address)
            self._meters.open.dec()
            if reason:
                self._meters.ended(reason)
            if not await wire.aclose(CLOSE_GRACE_S if reason else 0.0) and reason:
                reason = f"{reason}, aborted"
            if reason not in ("", "peer", "stopping"):
                self._warn("mllp_connection_ended", reason=reason, peer=peer)

    def _session(self, wire: Wire, address: str, peer: str) -> Talk:
        pace, on_throttled = self._paces.of(address), self._meters.throttled.inc
        if self._talk is not None:
            return self._talk(wire, peer, lambda: _pause_s(pace, on_throttled))
        return Session(
            wire,
            self._answerer,
            peer,
            limits=self._limits,
            turns=self._turns,
            pace=pace,
            on_throttled=on_throttled,
        )

    def _note(self, session: Talk) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it runs
        self._tasks[task] = session

    async def _secure(self, wire: Wire, sock: socket.socket, peer: str) -> bool:
        """Shake hands. False: the peer cannot, or may not."""
        assert self._tls is not None  # noqa: S101 - nobody else accepts so
        try:
            await wire.secure(sock, await self._tls.current(), HANDSHAKE_TIMEOUT_S, CLOSE_GRACE_S)
        except TimeoutError:
            self._handshake_failed("timeout", "it took too long", peer)
        except ssl.SSLError as error:
            about_peer = "CERTIFICATE" in (error.reason or "") and "ALERT" not in (error.reason or "")
            self._handshake_failed("certificate" if about_peer else "other", error.reason or "no TLS", peer)
        except OSError as error:
            self._handshake_failed("other", type(error).__name__, peer)
        else:
            return True
        return False

    def _handshake_failed(self, counted: str, reason: str, peer: str) -> None:
        self._meters.handshake_failed(counted)
        self._warn("mllp_handshake_failed", reason=reason, peer=peer)


def _pause_s(pace: Pace | None, on_throttled: Callable[[], None]) -> float:
    """How long the next message of a peer has to wait; counted where it has to."""
    wait_s = 0.0 if pace is None else pace.take(asyncio.get_running_loop().time())
    if wait_s > 0:
        on_throttled()
    return wait_s


def _nothing(wire: Wire) -> None:
    """Whoever accepted the connection runs it."""
