"""Sifts the pages of a search for Slots: a few in a thread, many in a process of their own.

A thread holds the interpreter while it works, and the loop beside it waits again and again: no harm for a page or ten.
The process (`connectors.elsewhere`, `connectors.fhir.aside`) is started when a search turns out to be long.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

import msgspec

from connectors.config import HospitalContext
from connectors.elsewhere import Elsewhere, Lost, command_of
from connectors.fhir.calls import Call
from connectors.fhir.deadlines import Deadline
from connectors.fhir.documents import Document, Json, encode_json
from connectors.fhir.sifting import Sifted, map_context, sift
from connectors.fhir.validation import Rules
from mappings.courtesy import courtesy
from mappings.profile import Profile

ELSEWHERE_FROM = 1000
"""From so many resources of one search on, the rest is sifted in the process."""

PIECE = 500
"""So many resources at once: what comes back of them is decoded within a turn of the loop."""

_WITHIN_S = 60.0
CHECKED = "checked"
UNKNOWN = b"?"
"""The process's answer where it does not have what stands beside the page."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What the process needs to know."""

    hospital: HospitalContext
    profile: Profile
    connection: dict[str, Any]
    rules: Rules
    job: str = "sift"


class Search:
    """One search for Slots under way: which verb's mapping reads them, what stands beside its pages, how many there were."""

    _numbers = count(1)

    def __init__(self, verb: str, call: Call, beside: Document | None) -> None:
        self.verb = verb
        self.call = call
        self.beside = beside
        self.number = next(self._numbers)
        self.seen = 0
        assert call.reply is not None  # noqa: S101 - whoever searches for Slots maps them
        self.reply = call.reply
        self.decoder: msgspec.json.Decoder[Sifted[Any]] = msgspec.json.Decoder(Sifted[call.reply.record])  # type: ignore[name-defined]


class Sifter:
    """To be closed."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._elsewhere = Elsewhere(setup, lambda: command_of("connectors.fhir.aside"))

    @property
    def process_id(self) -> int | None:
        """None while there is no process."""
        return self._elsewhere.process_id

    async def sift(
        self, search: Search, entries: list[Json], deadline: Deadline, *, checked: bool = False
    ) -> list[Sifted[Any]]:
        """What these entries give, piece by piece; `checked` ones need not be validated any more."""
        found = []
        for start in range(0, len(entries), PIECE):
            piece = entries[start : start + PIECE]
            found.append(await self._sift(search, piece, deadline, checked))
            search.seen += len(piece)
        return found

    async def close(self) -> None:
        """End the process. Idempotent."""
        await self._elsewhere.close()

    async def _sift(self, search: Search, entries: list[Json], deadline: Deadline, checked: bool) -> Sifted[Any]:
        if search.seen >= ELSEWHERE_FROM:
            try:
                return search.decoder.decode(await self._ask(search, entries, deadline, checked))
            except Lost:
                pass  # it is in the log; the work is done here
        context = map_context(self._setup.hospital, self._setup.connection)
        rules = None if checked else self._setup.rules
        return await asyncio.to_thread(lambda: sift(entries, search.beside, search.reply, rules, context, courtesy()))

    async def _ask(self, search: Search, entries: list[Json], deadline: Deadline, checked: bool) -> bytes:
        page = encode_json(entries)
        for _ in range(2):
            beside = "" if search.beside is None else str(search.number)
            told = f"{search.verb} {beside} {CHECKED if checked else ''}"
            answer: bytes = await self._elsewhere.ask(page, told, within_s=_left_s(deadline))
            if answer != UNKNOWN or search.beside is None:
                return answer
            around = encode_json(search.beside["entry"])
            await self._elsewhere.ask(around, f"beside {search.number}", within_s=_left_s(deadline))
        raise Lost("what stands beside the page does not stay")


def _left_s(deadline: Deadline) -> float:
    return max(0.1, min(_WITHIN_S, deadline.left_s()))
