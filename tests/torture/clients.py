"""Patients who want seats while things break: each asks until there is an answer, and writes down every attempt."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.acceptance.installation import Answer, Portal, money
from tests.history.operations import NEVER, History, Kind, Operation, Outcome
from tests.history.recorder import now_ms

AGAIN_S = 0.1
PATIENCE_S = 240.0  # only ends a round that would never end
_NO_VERDICT = frozenset({"request_in_progress", "rate_limited"})


@dataclass
class Books:
    """What the patients were told: which booking each key got, which bookings are paid for, and which were cancelled."""

    history: History
    bookings: dict[str, str] = field(default_factory=dict)
    paid: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    unknowns: int = 0


@dataclass
class Visitor:
    """One patient at one hospital, with a mind of its own: `whims` decides what is wanted next."""

    portal: Portal
    books: Books
    hospital_id: str
    patient_id: str
    slots: Sequence[Mapping[str, Any]]
    whims: random.Random

    async def live(self, enough: asyncio.Event) -> None:
        """Hold, pay, cancel and begin anew until it is enough. What was begun is brought to an answer."""
        while not enough.is_set():
            booking = await self.hold(self.whims.choice(self.slots))
            if booking is not None:
                await self._decide(booking)
            await asyncio.sleep(self.whims.uniform(0.01, 0.06))

    async def _decide(self, booking: Mapping[str, Any]) -> None:
        match self.whims.choice(("keep", "pay", "pay", "cancel", "cancel", "wait", "return", "both")):
            case "pay":
                await self.pay(booking)
            case "cancel":
                await self.cancel(booking)
            case "wait":
                await self._wait(booking)
                await self.pay(booking)
            case "return":
                await self.pay(booking)
                await self._wait(booking)
                await self.cancel(booking)
            case "both":
                await asyncio.gather(self.pay(booking), self.cancel(booking))

    async def hold(self, slot: Mapping[str, Any]) -> dict[str, Any] | None:
        """The booking, or None when it was refused."""
        body = {"user_ref": "crash", "slot_id": slot["id"], "patient_id": self.patient_id}
        where = {
            "slot": str(slot["id"]),
            "schedule": str(slot["schedule_id"]),
            "patient": self.patient_id,
            "digest": "d",
        }
        key = uuid.UUID(int=self.whims.getrandbits(128)).hex
        answer = await self._ask(Kind.HOLD, "", body, key, where)
        if answer.status != 201:
            return None
        self.books.bookings[key] = str(answer.body["id"])
        return answer.body

    async def pay(self, booking: Mapping[str, Any]) -> None:
        """Report the fee, under a trade number of its own."""
        paid = money(booking["fee_fen"], uuid.UUID(int=self.whims.getrandbits(128)).hex)
        named = {"booking": str(booking["id"])}
        answer = await self._ask(Kind.PAY, f"/{booking['id']}/payments", paid, paid["trade_no"], named)
        if _unusable(answer, paid["trade_no"]) == "":
            self.books.paid.add(booking["id"])

    async def cancel(self, booking: Mapping[str, Any]) -> None:
        """Ask to cancel. Its seat and its place come back later, when the hospital has let go."""
        named = {"booking": str(booking["id"])}
        self.books.left.add(booking["id"])
        self.books.history.operations.append(
            may_end(Kind.CHANGE, booking["id"], booking["slot_id"], booking["schedule_id"], self.patient_id, now_ms())
        )
        body = {"reason": "plans changed"}
        await self._ask(Kind.CANCEL, f"/{booking['id']}/cancel", body, uuid.uuid4().hex, named)

    async def _wait(self, booking: Mapping[str, Any]) -> None:
        """Wait for the next change, or not so long: nothing is demanded of a read while things break."""
        of = f"/v1/hospitals/{self.hospital_id}/bookings/{booking['id']}"
        try:
            await self.portal.call("GET", of, wait_s=1, since_version=booking["version"])
        except (aiohttp.ClientError, TimeoutError):
            await asyncio.sleep(AGAIN_S)

    async def _ask(self, kind: Kind, path: str, body: Any, key: str, fields: Mapping[str, Any]) -> Answer:
        of = f"/v1/hospitals/{self.hospital_id}/bookings{path}"
        ends = time.monotonic() + PATIENCE_S
        while True:
            asked_ms = now_ms()
            answer = await self._once(of, body, key)
            self.books.history.operations.append(
                _operation(kind, answer, asked_ms, key, {**fields, "key": key} if kind == Kind.HOLD else fields)
            )
            if answer is not None:
                return answer
            self.books.unknowns += 1
            assert time.monotonic() < ends, f"no answer to {kind} {key} within {PATIENCE_S:g} s"
            await asyncio.sleep(AGAIN_S)

    async def _once(self, path: str, body: Any, key: str) -> Answer | None:
        """One attempt; None when nobody can say what has become of it."""
        try:
            answer = await self._reach(path, body, key)
        except (aiohttp.ClientError, TimeoutError):
            return None
        if answer.status >= 500 or (answer.status >= 400 and answer.code in _NO_VERDICT):
            return None
        return answer

    async def _reach(self, path: str, body: Any, key: str) -> Answer:
        """An answer to what was sent; a refused connection is no attempt, for nothing was sent on it."""
        ends = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await self.portal.call("POST", path, body, key=key)
            except aiohttp.ClientConnectorError:
                assert time.monotonic() < ends, f"nobody listens since {PATIENCE_S:g} s"
                await asyncio.sleep(AGAIN_S)


def may_end(kind: Kind, booking: str, slot: str, schedule: str, patient: str, asked_ms: float) -> Operation:
    """A booking that may be over at any time from now on, and its seat on sale again: nobody outside sees when."""
    return Operation(
        kind=kind, asked_ms=asked_ms, answered_ms=NEVER, outcome=Outcome.UNKNOWN, booking=booking, slot=slot,
        schedule=schedule, patient=patient, delta=1, ended=True,
    )  # fmt: skip


def _operation(kind: Kind, answer: Answer | None, asked_ms: float, key: str, fields: Mapping[str, Any]) -> Operation:
    if answer is None:
        return Operation(kind=kind, asked_ms=asked_ms, answered_ms=NEVER, outcome=Outcome.UNKNOWN, **fields)
    said: dict[str, Any] = {}
    if answer.status >= 400:
        outcome, said["code"] = Outcome.FAIL, answer.code
    else:
        outcome = Outcome.OK
        if kind == Kind.HOLD:
            said = {"booking": str(answer.body["id"]), "body": answer.data.decode()}
        elif kind == Kind.PAY:
            said["code"] = _unusable(answer, key) or ""
    return Operation(kind=kind, asked_ms=asked_ms, answered_ms=now_ms(), outcome=outcome, **{**fields, **said})


def _unusable(answer: Answer, trade_no: str) -> str | None:
    """Why the money goes back, "" when it pays, None when the answer does not show it."""
    if answer.status >= 400:
        return None
    told = next((p for p in answer.body["payments"] if p["trade_no"] == trade_no), None)
    assert told is not None, f"money that was reported is not shown: {trade_no}"
    return str(told.get("unusable") or "")
