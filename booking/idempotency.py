"""Idempotency keys: the first success of a key is its answer for 24 hours. Only successes bind a key."""

from __future__ import annotations

import hashlib

from sqlalchemy import select, tuple_

from booking.errors import Refusal
from booking.store.engine import Store, Tx
from booking.store.tables import idempotency_keys

KEEP_MS = 24 * 3600 * 1000


def body_digest(route: str, body: bytes) -> str:
    """What makes two requests the same: the route with its ids, and the body's bytes."""
    return hashlib.sha256(route.encode() + b"\0" + body).hexdigest()


async def recall(tx: Tx, client_id: str, key: str, digest: str) -> tuple[int, bytes] | None:
    """The status and body that this key was answered with, None if it is new.

    Raises Refusal(idempotency_key_reused) when it was used for another request.
    """
    row = await tx.first(
        select(idempotency_keys).where(
            idempotency_keys.c.hospital_id == tx.hospital_id,
            idempotency_keys.c.client_id == client_id,
            idempotency_keys.c.key == key,
            idempotency_keys.c.created_ms > tx.now_ms - KEEP_MS,
        )
    )
    if row is None:
        return None
    if row["body_digest"] != digest:
        raise Refusal("idempotency_key_reused", "This Idempotency-Key was used for another request.")
    return row["status"], tx.unseal(row["sealed_body"], "idempotency_keys", "body")


async def remember(tx: Tx, client_id: str, key: str, digest: str, status: int, body: bytes) -> None:
    """Bind a key to its success, in the transaction of that success."""
    tx.bind(client_id, key)
    await tx.upsert(
        idempotency_keys,
        [
            {
                "hospital_id": tx.hospital_id,
                "client_id": client_id,
                "key": key,
                "body_digest": digest,
                "status": status,
                "sealed_body": tx.seal(body, "idempotency_keys", "body"),
                "created_ms": tx.now_ms,
            }
        ],
    )


async def forget_keys(store: Store, hospital_id: str, *, limit: int = 100) -> int:
    """Delete keys past their 24 hours, a few at a time."""
    async with store.write(hospital_id) as tx:
        old = (
            select(idempotency_keys.c.client_id, idempotency_keys.c.key)
            .where(
                idempotency_keys.c.hospital_id == hospital_id,
                idempotency_keys.c.created_ms <= tx.now_ms - KEEP_MS,
            )
            .limit(limit)
        )
        keys = [(row["client_id"], row["key"]) for row in await tx.all(old)]
        if not keys:
            return 0
        return await tx.run(
            idempotency_keys.delete().where(
                idempotency_keys.c.hospital_id == hospital_id,
                tuple_(idempotency_keys.c.client_id, idempotency_keys.c.key).in_(keys),
            )
        )
