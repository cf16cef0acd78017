"""How the FHIR server fails, mode by mode (see loadtest.simulators.control): what it does, and what it answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Protocol

from aiohttp import web

from loadtest.simulators import fhir_resources as make
from loadtest.simulators.control import Fault, Switchboard
from loadtest.simulators.door import until_gone
from loadtest.simulators.fhir_resources import Json
from loadtest.simulators.fhir_store import refusal


class Work(Protocol):
    """Carries a request out and answers it.

    `conditional`: If-None-Exist is honoured. `shift`: rows that came into a search's list before the page that is asked for.
    `twice`: a create makes two.
    """

    def __call__(self, *, conditional: bool = True, shift: int = 0, twice: bool = False) -> web.Response: ...


# Nothing is done.
_INSTEAD: dict[str, Callable[[], web.Response]] = {
    "refuse": lambda: as_json(*refusal("refused", "not today")),
    "fault": lambda: as_json(500, make.issue("exception", "crash", "internal error")),
    "html": lambda: web.Response(text="<html><body>502 Bad Gateway</body></html>", content_type="text/html"),
    "garbage": lambda: web.Response(body=b'\x00\xff{"resourceType', content_type="application/fhir+json"),
    "conflict": lambda: as_json(*refusal("version", "somebody else was quicker")),
    "unauthorised": lambda: as_json(401, make.issue("expired", "token", "the token has expired")),
}
# It is done, and differently.
_OTHERWISE: dict[str, Callable[[Work], web.Response]] = {
    "ignore_condition": lambda work: work(conditional=False),
    "double_create": lambda work: work(twice=True),
    "list_grows": lambda work: work(shift=1),
    "list_shrinks": lambda work: work(shift=-1),
}
# It is done, and the answer hides it.
_AFTERWARDS: dict[str, Callable[[web.Response], web.Response]] = {
    "fault_after": lambda reply: as_json(500, make.issue("exception", "crash", "internal error")),
    "already_exists": lambda reply: as_json(*refusal("exists", "exists already")),
    "truncated": lambda reply: _with(reply, _bytes(reply)[: len(_bytes(reply)) // 2]),
    "wrong_type": lambda reply: _with(reply, _bytes(reply), "application/octet-stream"),
    "gbk": lambda reply: _with(reply, _bytes(reply).decode().encode("gbk"), "application/fhir+json; charset=utf-8"),
}


class Failing:
    """The faults of one server. What is put off is done unless `stop` comes first."""

    def __init__(self, board: Switchboard) -> None:
        self._board = board
        self._late: set[asyncio.TimerHandle] = set()

    def stop(self) -> None:
        """What has been put off is not done any more."""
        for handle in self._late:
            handle.cancel()

    async def answer(self, request: web.Request, fault: Fault, work: Work) -> web.Response:
        """The answer to a request that meets `fault`."""
        mode = fault.mode
        if mode == "conflict" and request.method != "PUT" and request.match_info.get("kind"):
            return work()
        if mode in _INSTEAD:
            return _INSTEAD[mode]()
        if mode in _OTHERWISE:
            return _OTHERWISE[mode](work)
        if mode == "down":
            return _drop(request)
        if mode == "hang":
            await self._board.hang(until_gone(request))
            return _drop(request)
        if mode == "late_commit":
            self._late.add(asyncio.get_running_loop().call_later(fault.delay_s, work))
            return _drop(request)
        reply = work(twice=mode == "double_lost")
        if mode == "conflict_409" and request.method == "PUT" and reply.status == 412:
            return as_json(409, make.issue("conflict", "version", "another version is current"))
        if mode in ("lose_reply", "double_lost"):
            return _drop(request)
        if mode == "slow":
            await asyncio.sleep(fault.delay_s)
        return _AFTERWARDS[mode](reply) if mode in _AFTERWARDS else reply


def as_json(status: int, body: Json, headers: dict[str, str] | None = None) -> web.Response:
    """A FHIR answer."""
    data = json.dumps(body, ensure_ascii=False).encode()
    return web.Response(status=status, body=data, headers=headers, content_type="application/fhir+json")


def _bytes(reply: web.Response) -> bytes:
    return reply.body if isinstance(reply.body, bytes) else b""


def _with(reply: web.Response, data: bytes, content_type: str = "application/fhir+json") -> web.Response:
    return web.Response(status=reply.status, body=data, headers={"Content-Type": content_type})


def _drop(request: web.Request) -> web.Response:
    """Close the connection without a reply; the response returned goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
