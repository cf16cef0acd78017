"""Webhooks: the events of the feed, pushed and signed as Standard Webhooks specifies (v1, HMAC-SHA256)."""

from __future__ import annotations

import base64
import hmac
import secrets
from hashlib import sha256
from typing import Any

import msgspec
from sqlalchemy import func, select, update

from booking.store.engine import Store, Tx
from booking.store.ids import new_id
from booking.store.tables import events, webhooks

SCOPE = "#webhooks"  # stands for the hospital: webhooks belong to an API client, not to one
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 1_000, 3_600_000


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One event for one webhook, ready to be sent."""

    webhook_id: str
    url: str
    seq: int
    headers: dict[str, str]
    body: bytes


def sign(secret: str, message_id: str, timestamp_s: int, body: bytes) -> str:
    """The `webhook-signature` header: `v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, sha256).digest()).decode()


async def add_webhook(tx: Tx, client_id: str, url: str) -> tuple[str, str]:
    """Store a webhook; returns its id and its secret. It begins with the next event."""
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    webhook_id = new_id()
    newest = (await tx.conn.execute(select(func.coalesce(func.max(events.c.seq), 0)))).scalar_one()
    await tx.insert(
        webhooks,
        {
            "id": webhook_id,
            "client_id": client_id,
            "url": url,
            "sealed_secret": tx.seal(secret.encode(), "webhooks", "secret"),
            "cursor": newest,
            "status": "active",
            "failures": 0,
            "due_ms": tx.now_ms,
            "created_ms": tx.now_ms,
        },
    )
    return webhook_id, secret


async def due_deliveries(store: Store, *, limit: int = 20) -> list[Delivery]:
    """The next event of every webhook that is due. One at a time each, so that order is kept."""
    ready: list[Delivery] = []
    async with store.read(SCOPE) as tx:
        rows = await tx.all(
            select(webhooks).where(webhooks.c.status == "active", webhooks.c.due_ms <= tx.now_ms).limit(limit)
        )
        for row in rows:
            event = await tx.first(
                select(events)
                .where(events.c.client_id == row["client_id"], events.c.seq > row["cursor"])
                .order_by(events.c.seq)
                .limit(1)
            )
            if event is not None:
                secret = tx.unseal(row["sealed_secret"], "webhooks", "secret").decode()
                ready.append(_delivery(row, event, secret, tx.now_ms // 1000))
    return ready


def _delivery(row: dict[str, Any], event: dict[str, Any], secret: str, now_s: int) -> Delivery:
    body = msgspec.json.encode(
        {
            "type": event["type"],
            "seq": event["seq"],
            "hospital_id": event["hospital_id"],
            "at_ms": event["created_ms"],
            "data": msgspec.Raw(event["payload"].encode()),
        }
    )
    return Delivery(
        webhook_id=row["id"],
        url=row["url"],
        seq=event["seq"],
        body=body,
        headers={
            "content-type": "application/json",
            "webhook-id": event["id"],
            "webhook-timestamp": str(now_s),
            "webhook-signature": sign(secret, event["id"], now_s, body),
        },
    )


async def record_delivery(store: Store, delivery: Delivery, *, delivered: bool) -> None:
    """Move on after a success; after a failure try the same event again, with growing pauses. Nothing is skipped."""
    async with store.write(SCOPE) as tx:
        row = await tx.first(select(webhooks).where(webhooks.c.id == delivery.webhook_id))
        if row is None or row["cursor"] >= delivery.seq:
            return
        failures = 0 if delivered else row["failures"] + 1
        pause_ms = 0 if delivered else min(FIRST_PAUSE_MS * 4 ** min(failures - 1, 6), LONGEST_PAUSE_MS)
        await tx.run(
            update(webhooks)
            .where(webhooks.c.id == delivery.webhook_id)
            .values(cursor=delivery.seq if delivered else row["cursor"], failures=failures, due_ms=tx.now_ms + pause_ms)
        )
