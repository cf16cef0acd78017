"""Which sync process works which hospital: leases with expiry in the store, by the store's clock.

Every process beats every few seconds: it says that it lives, prolongs what it holds, takes what nobody holds, and learns what
it holds beyond its share. All of that is one transaction under one lock, so that two processes never take the same lease.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import msgspec
from sqlalchemy import bindparam, delete, select, update

from booking.store.engine import Store, StoreUnavailable, Tx
from booking.store.fixed import Fixed
from booking.store.tables import leases, nodes

LEASES = "#leases"  # the store lock under which leases change hands, and the topic that rings when one has
GLOBAL = "#global"  # the lease of what is done once for the whole installation

LEASE_S = 10.0
BEAT_S = 3.0
LEASE_MS = int(LEASE_S * 1000)
FORGET_NODES_MS = 3_600_000

Fence = Callable[[Tx], Awaitable[bool]]
"""Whether the lease is still ours, asked inside the transaction that would act on it."""


class NotOurs(StoreUnavailable):
    """The lease is another process's, or nobody knows whose: nothing was done, and the other one will do it."""


class Node(msgspec.Struct, frozen=True):
    """One sync process: an id that no other process ever has, and the address at which it can be asked."""

    id: str
    address: str


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What a beat has found: the store's clock, what is ours now, and what of it others should have."""

    now_ms: int
    mine: frozenset[str]
    surplus: frozenset[str]
    next_expiry_ms: int | None
    """When the next lease of another process runs out, unless it is prolonged."""


async def beat(
    store: Store, node: Node, *, wanted: Collection[str], avoid: Collection[str], statuses: Mapping[str, str]
) -> Share:
    """Prolong, take, and count. `wanted` is everything that must be held by somebody, `avoid` what is not to be taken now.

    `statuses` holds the `his_status` of what we run. Raises StoreUnavailable: nothing was prolonged.
    """
    async with store.write(LEASES) as tx:
        alive = await _note_node(tx, node)
        rows = {row["hospital_id"]: row for row in await tx.all(select(leases))}
        valid = {name: row["owner"] for name, row in rows.items() if row["until_ms"] > tx.now_ms}
        mine = {name for name, owner in valid.items() if owner == node.id}
        hospitals = sorted(name for name in mine if name != GLOBAL)
        fair = -(-sum(name != GLOBAL for name in wanted) // alive)
        free = [name for name in sorted(wanted) if name not in valid and name not in avoid]
        taken = [name for name in free if name == GLOBAL]
        taken += [name for name in free if name != GLOBAL][: max(0, fair - len(hospitals))]
        held = [_held(tx, node, name, rows, statuses) for name in (*sorted(mine), *taken)]
        await tx.upsert(leases, held)
        if taken or any(row["his_status"] != rows[row["hospital_id"]]["his_status"] for row in held):
            tx.ring(LEASES)
    return Share(
        now_ms=tx.now_ms,
        mine=frozenset(mine).union(taken),
        surplus=frozenset(hospitals[fair:]),
        next_expiry_ms=min((rows[name]["until_ms"] for name in valid if name not in mine), default=None),
    )


def _held(
    tx: Tx, node: Node, name: str, rows: Mapping[str, dict[str, Any]], statuses: Mapping[str, str]
) -> dict[str, Any]:
    known = rows[name]["his_status"] if name in rows else "up"
    return {
        "hospital_id": name,
        "owner": node.id,
        "until_ms": tx.now_ms + LEASE_MS,
        "his_status": statuses.get(name, known),
    }


async def _note_node(tx: Tx, node: Node) -> int:
    """Say that we live, forget who has long been gone; returns how many live, ourselves included."""
    row = {"id": node.id, "address": node.address, "until_ms": tx.now_ms + LEASE_MS, "started_ms": tx.now_ms}
    await tx.upsert(nodes, [row], keep=("started_ms",))
    await tx.run(delete(nodes).where(nodes.c.until_ms < tx.now_ms - FORGET_NODES_MS))
    return len(await tx.all(select(nodes.c.id).where(nodes.c.until_ms > tx.now_ms)))


async def give_back(store: Store, node: Node, names: Collection[str]) -> None:
    """Let others have these leases at once. Their work must have ended. Raises StoreUnavailable: they run out then."""
    async with store.write(LEASES) as tx:
        await tx.run(
            update(leases)
            .where(leases.c.owner == node.id, leases.c.hospital_id.in_(sorted(names)))
            .values(owner="", until_ms=tx.now_ms)
        )
        tx.ring(LEASES)


async def leave(store: Store, node_id: str) -> None:
    """This process takes no part any more, by its own word or because it has certainly ended: what it held is free.

    Raises StoreUnavailable.
    """
    async with store.write(LEASES) as tx:
        await tx.run(delete(nodes).where(nodes.c.id == node_id))
        await tx.run(update(leases).where(leases.c.owner == node_id).values(owner="", until_ms=tx.now_ms))
        tx.ring(LEASES)


async def is_held(tx: Tx, node: Node, name: str) -> bool:
    """Whether this lease is ours, by the clock of this very transaction."""
    return await tx.first(_HELD, {"name": name, "of_owner": node.id, "now_ms": tx.now_ms}) is not None


_HELD = Fixed(
    select(leases.c.hospital_id).where(
        leases.c.hospital_id == bindparam("name"),
        leases.c.owner == bindparam("of_owner"),
        leases.c.until_ms > bindparam("now_ms"),
    )
)


def steady_s() -> float:
    """Seconds that also pass while the machine sleeps, so that a lease is not believed in after it."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
