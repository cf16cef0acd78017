"""What handlers share: the store, the hospitals, the live reads, and how errors of the rules become problems."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from booking import idempotency
from booking.api.admission import retry_later_s
from booking.api.problems import ApiProblem
from booking.api.routing import Call, Reply
from booking.api.waiting import told_to_wait
from booking.errors import Refusal
from booking.feed import ChangeFeed
from booking.inventory.writer import Crowded, HoldWriter
from booking.ports import Documents, Links, LiveFailed, LiveHis
from booking.report_reads import ReadLog
from booking.settings import Hospital
from booking.store.engine import Store, StoreBusy, StoreUnavailable, Tx
from booking.store.turns import Of
from booking.waiting_room.rooms import WaitingRooms
from booking.webhook_targets import Networks

V = TypeVar("V")
_encode = msgspec.json.Encoder().encode


class Context(msgspec.Struct, frozen=True):
    """Handed to every group of handlers by the composition root."""

    store: Store
    hospitals: Mapping[str, Hospital]
    live: LiveHis
    holds: HoldWriter
    draining: Callable[[], bool] = lambda: False
    feed: ChangeFeed | None = None  # none: lists are read through the store each time
    snapshot_bytes: int = 64_000_000
    documents: Documents | None = None  # none: no report has any that is kept apart
    links: Links | None = None  # none: what a report only names is not fetched
    rooms: WaitingRooms | None = None  # none: no hospital has a waiting room
    webhook_networks: Networks = ()  # none: anywhere but link-local addresses
    reads: ReadLog | None = None  # none: each group of handlers has one of its own
    public_url: str | None = None  # none: FHIR names resources by the address that was asked

    def hospital(self, call: Call[Any, Any]) -> Hospital:
        return self.hospitals[call.hospital_id]

    async def once(
        self, call: Call[Any, Any], status: int, work: Callable[[Tx], Awaitable[V]], *, scope: str | None = None
    ) -> Reply:
        """Do `work` in one transaction under the request's Idempotency-Key; a repeat gets the first success again.

        `scope` stands for the hospital where a route has none.
        """
        key, digest = call.idempotency_key or "", call.fingerprint()
        async with self.store.write(scope or call.hospital_id, here=True, of=Of.BINDS) as tx:
            known = await idempotency.recall(tx, call.caller.id, key, digest)
            if known is not None:
                return Reply(known[1], status=known[0], headers={"Idempotent-Replayed": "true"})
            body = _encode(await work(tx))
            await idempotency.remember(tx, call.caller.id, key, digest, status, body)
        return Reply(body, status=status)


def translate(error: Exception) -> ApiProblem | None:
    """The problem for an error of the rules, the store or a live read; None for a bug."""
    match error:
        case Refusal(code="waiting_room"):
            return told_to_wait(error)
        case Refusal():
            return ApiProblem(error.code, error.detail or None, extra=error.extra)
        case LiveFailed():
            return ApiProblem(
                error.code, error.detail or None, retry_after_s=5 if error.code == "his_unavailable" else None
            )
        case StoreBusy() | Crowded():
            return ApiProblem("overloaded", str(error), retry_after_s=retry_later_s())
        case StoreUnavailable():
            return ApiProblem("store_unavailable", retry_after_s=2)
    return None
