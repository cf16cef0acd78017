"""API keys in the store: only their digests, with what they open."""

from __future__ import annotations

from hashlib import sha256

import msgspec
from sqlalchemy import select, update

from booking.api.auth import ApiClient
from booking.store.engine import Store, Tx
from booking.store.ids import new_id
from booking.store.tables import api_keys
from booking.webhooks import SCOPE as WEBHOOKS
from booking.webhooks import disable_webhooks

SCOPE = "#keys"


class StoredKeys:
    """Implements `booking.api.auth.KeyStore` over the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def lookup(self, digest: str) -> ApiClient | None:
        async with self._store.read() as tx:
            row = await tx.first(select(api_keys).where(api_keys.c.digest == digest, api_keys.c.revoked_ms.is_(None)))
        if row is None:
            return None
        hospitals = msgspec.json.decode(row["hospitals"], type=list[str] | None)
        return ApiClient(
            id=row["client_id"],
            name=row["name"],
            scopes=frozenset(msgspec.json.decode(row["scopes"], type=list[str])),
            hospitals=None if hospitals is None else frozenset(hospitals),
        )


async def add_key(
    tx: Tx, key: str, *, client_id: str, name: str, scopes: list[str], hospitals: list[str] | None
) -> str:
    """Store the digest of a key; returns the key's id. The same key again replaces what it opens."""
    key_id = new_id()
    await tx.upsert(
        api_keys,
        [
            {
                "digest": sha256(key.encode()).hexdigest(),
                "id": key_id,
                "client_id": client_id,
                "name": name,
                "scopes": msgspec.json.encode(scopes).decode(),
                "hospitals": msgspec.json.encode(hospitals).decode(),
                "created_ms": tx.now_ms,
                "revoked_ms": None,
            }
        ],
    )
    return key_id


async def revoke_key(tx: Tx, key_id: str) -> bool:
    """Revoke a key by its id; False if there is none such."""
    return bool(
        await tx.run(
            update(api_keys)
            .where(api_keys.c.id == key_id, api_keys.c.revoked_ms.is_(None))
            .values(revoked_ms=tx.now_ms)
        )
    )


async def end_key(store: Store, key_id: str) -> int | None:
    """Revoke a key; where its client has no other, nothing more is pushed to it. How many webhooks that are; None: no such key.

    The webhooks end first: if we die in between, the same call again does the rest.
    """
    async with store.read(SCOPE) as tx:
        client_id = await _left_without(tx, key_id)
    ended = 0
    if client_id is not None:
        async with store.write(WEBHOOKS) as tx:
            ended = await disable_webhooks(tx, client_id)
    async with store.write(SCOPE) as tx:
        return ended if await revoke_key(tx, key_id) else None


async def _left_without(tx: Tx, key_id: str) -> str | None:
    """The client that has no key but this one."""
    valid = select(api_keys.c.id, api_keys.c.client_id).where(api_keys.c.revoked_ms.is_(None))
    row = await tx.first(valid.where(api_keys.c.id == key_id))
    if row is None:
        return None
    other = valid.where(api_keys.c.client_id == row["client_id"], api_keys.c.id != key_id).limit(1)
    return None if await tx.first(other) is not None else str(row["client_id"])


async def list_keys(tx: Tx) -> list[dict[str, str]]:
    """Every key, without its digest."""
    rows = await tx.all(select(api_keys).order_by(api_keys.c.created_ms))
    return [
        {
            "id": r["id"],
            "client_id": r["client_id"],
            "scopes": ", ".join(msgspec.json.decode(r["scopes"], type=list[str])),
            "hospitals": ", ".join(msgspec.json.decode(r["hospitals"], type=list[str] | None) or ["all"]),
            "revoked": "yes" if r["revoked_ms"] is not None else "",
        }
        for r in rows
    ]
