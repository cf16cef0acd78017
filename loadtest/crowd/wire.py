"""HTTP/1.1 for a crowd: requests whose bytes are ready, on kept connections of gevent's, one request in flight on each.

Locust's own clients take about a millisecond for a request; what is measured here takes a tenth of that, and the generator must
not be the slower of the two. Only what the API answers is read: Content-Length, never chunks.
"""

from __future__ import annotations

import gevent
from gevent import socket

_READ = 65_536


class Answer:
    """`status` 0: none came, and `error` says why."""

    __slots__ = ("body", "error", "head", "status")

    def __init__(self, status: int, head: bytes = b"", body: bytes = b"", error: str = "") -> None:
        self.status = status
        self.head = head
        self.body = body
        self.error = error

    def field(self, name: bytes) -> bytes | None:
        """A header field by its lower-case name."""
        at = self.head.lower().find(b"\r\n" + name + b":")
        if at < 0:
            return None
        begins = at + len(name) + 3
        ends = self.head.find(b"\r\n", begins)
        return self.head[begins : ends if ends >= 0 else None].strip()


class Wire:
    """A pool of connections to one address. It grows with what is in flight, up to `most`; beyond that requests fail."""

    def __init__(self, host: str, port: int, *, most: int, time_out_s: float) -> None:
        self._address = (host, port)
        self._most = most
        self._time_out_s = time_out_s
        self._idle: list[socket.socket] = []
        self.open = 0

    def ask(self, request: bytes) -> Answer:
        """Send a request and read its answer.

        A kept connection that the server has closed meanwhile is replaced; one that it closes after the request has gone out
        is an answer that did not come, as for any client that must not send twice by itself.
        """
        try:
            with gevent.Timeout(self._time_out_s):
                return self._ask(request)
        except gevent.Timeout:
            return Answer(0, error="timeout")

    def _ask(self, request: bytes) -> Answer:
        while self._idle:
            connection = self._idle.pop()
            if not _is_closed(connection):
                return self._ask_on(connection, request)
            self._drop(connection)
        return self._ask_anew(request)

    def _ask_anew(self, request: bytes) -> Answer:
        if self.open >= self._most:
            return Answer(0, error="no connection left")
        self.open += 1
        return self._ask_on(socket.socket(), request, to=self._address)

    def _ask_on(self, connection: socket.socket, request: bytes, *, to: tuple[str, int] | None = None) -> Answer:
        """Connect it first where `to` is given."""
        try:
            if to is not None:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.connect(to)
            connection.sendall(request)
            first = connection.recv(_READ)
        except OSError as error:
            self._drop(connection)
            return Answer(0, error=type(error).__name__)
        except gevent.Timeout:
            self._drop(connection)
            raise
        if not first:
            self._drop(connection)
            return Answer(0, error="closed")
        return self._rest(connection, first)

    def _rest(self, connection: socket.socket, data: bytes) -> Answer:
        try:
            while (ends := data.find(b"\r\n\r\n")) < 0:
                data += _more(connection)
            head = data[:ends]
            status = int(head[9:12])
            at = head.find(b"Content-Length: ")
            length = 0 if at < 0 else int(head[at + 16 : head.find(b"\r\n", at) if b"\r\n" in head[at:] else None])
            begins = ends + 4
            if len(data) < begins + length:
                parts, have = [data], len(data)
                while have < begins + length:
                    parts.append(_more(connection))
                    have += len(parts[-1])
                data = b"".join(parts)
        except (OSError, ValueError) as error:
            self._drop(connection)
            return Answer(0, error=type(error).__name__)
        except gevent.Timeout:
            self._drop(connection)
            raise
        if b"Connection: close" in head:
            self._drop(connection)
        else:
            self._idle.append(connection)
        return Answer(status, head, data[begins : begins + length])

    def _drop(self, connection: socket.socket) -> None:
        self.open -= 1
        connection.close()


def _is_closed(connection: socket.socket) -> bool:
    """Whether the peer has ended a connection on which nothing is awaited."""
    try:
        # gevent's own would wait for something to read.
        connection._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True  # its end; or bytes that nobody asked for, after which nothing on it can be trusted


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(_READ)
    if not data:
        raise ConnectionError("closed in the middle of an answer")
    return bytes(data)
