"""Webhooks: the events of the feed, pushed and signed as Standard Webhooks specifies (v1, HMAC-SHA256)."""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Collection, Sequence
from hashlib import sha256
from typing import Any

import msgspec
from sqlalchemy import bindparam, func, select, update

from booking.errors import Refusal
from booking.news import NUMBERED
from booking.store.crypto import SealBroken
from booking.store.engine import Store, Tx
from booking.store.fixed import Fixed
from booking.store.ids import new_id
from booking.store.tables import events, webhooks
from monitoring import metrics

SCOPE = "#webhooks"  # stands for the hospital: webhooks belong to an API client, not to one
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 1_000, 3_600_000
MOST_PER_CLIENT = 20
"""Each may hang until its time-out: one client's must not take the places of all others."""
DISABLED_AFTER_MS = 24 * 3_600_000


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One event for one webhook, ready to be sent. `broken`: its secret cannot be opened, so that nothing can be signed.

    `after` is the webhook's cursor, beyond which the event is the next one.
    """

    webhook_id: str
    url: str
    after: int
    seq: int
    headers: dict[str, str]
    body: bytes
    broken: bool = False


def sign(secret: str, message_id: str, timestamp_s: int, body: bytes) -> str:
    """The `webhook-signature` header: `v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, sha256).digest()).decode()


async def add_webhook(tx: Tx, client_id: str, url: str) -> tuple[str, str]:
    """Store a webhook; returns its id and its secret. It begins with the next event. Raises Refusal(limit_reached)."""
    of_client = select(webhooks.c.id).where(webhooks.c.client_id == client_id).limit(MOST_PER_CLIENT)
    if len(await tx.all(of_client)) == MOST_PER_CLIENT:
        raise Refusal(
            "limit_reached",
            f"One API client may have {MOST_PER_CLIENT} webhooks.",
            limit="webhooks_per_client",
            most=MOST_PER_CLIENT,
        )
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    webhook_id = new_id()
    newest = (
        await tx.conn.execute(select(func.coalesce(func.max(events.c.seq), 0)).where(events.c.seq.is_not(None)))
    ).scalar_one()
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


async def webhooks_of(tx: Tx, client_id: str) -> list[dict[str, Any]]:
    """The webhooks of an API client, oldest first."""
    return await tx.all(
        select(webhooks.c.id, webhooks.c.url, webhooks.c.status, webhooks.c.failures, webhooks.c.failing_since_ms)
        .where(webhooks.c.client_id == client_id)
        .order_by(webhooks.c.id)
    )


async def remove_webhook(tx: Tx, client_id: str, webhook_id: str) -> bool:
    """Delete a webhook of an API client; False if there is none such."""
    return bool(await tx.run(webhooks.delete().where(webhooks.c.client_id == client_id, webhooks.c.id == webhook_id)))


async def disable_webhooks(tx: Tx, client_id: str) -> int:
    """Push nothing more to an API client until it resumes its webhooks, which takes a key; returns how many they were."""
    mine = (webhooks.c.client_id == client_id, webhooks.c.status == "active")
    return await tx.run(update(webhooks).where(*mine).values(status="disabled"))


async def due_deliveries(store: Store, *, busy: Collection[str] = (), limit: int = 20) -> list[Delivery]:
    """The next event of every webhook that is due and has one, longest due first, without the `busy` ones."""
    async with store.read(SCOPE, here=True) as tx:
        # The busy ones are left out here: a statement that names them would have another text for each number of them.
        due = await tx.all(_DUE, {"now_ms": tx.now_ms, "most": limit + len(busy)})
        return await _next_events(tx, [row for row in due if row["id"] not in busy][:limit])


async def next_delivery(store: Store, webhook_id: str) -> Delivery | None:
    """The next event of one webhook; None if it has none or must wait."""
    async with store.read(SCOPE) as tx:
        found = await _next_events(tx, await tx.all(_DUE_OF, {"now_ms": tx.now_ms, "of_id": webhook_id}))
    return found[0] if found else None


_due = select(webhooks).where(
    webhooks.c.status == "active",
    webhooks.c.due_ms <= bindparam("now_ms"),
    select(events.c.id).where(events.c.client_id == webhooks.c.client_id, events.c.seq > webhooks.c.cursor).exists(),
)
_DUE = Fixed(_due.order_by(webhooks.c.due_ms, webhooks.c.id).limit(bindparam("most")))
_DUE_OF = Fixed(_due.where(webhooks.c.id == bindparam("of_id")))
_NEXT = Fixed(
    select(events)
    .where(events.c.client_id == bindparam("of_client"), events.c.seq > bindparam("cursor"))
    .order_by(events.c.seq)
    .limit(1)
)


async def _next_events(tx: Tx, rows: Sequence[dict[str, Any]]) -> list[Delivery]:
    ready = []
    for row in rows:
        event = await tx.first(_NEXT, {"of_client": row["client_id"], "cursor": row["cursor"]})
        if event is not None:
            ready.append(_delivery(tx, row, event))
    return ready


def _delivery(tx: Tx, row: dict[str, Any], event: dict[str, Any]) -> Delivery:
    try:
        secret = tx.unseal(row["sealed_secret"], "webhooks", "secret").decode()
    except SealBroken:
        return Delivery(
            webhook_id=row["id"],
            url=row["url"],
            after=row["cursor"],
            seq=event["seq"],
            headers={},
            body=b"",
            broken=True,
        )
    now_s = tx.now_ms // 1000
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
        after=row["cursor"],
        seq=event["seq"],
        body=body,
        headers={
            "content-type": "application/json",
            "webhook-id": event["id"],
            "webhook-timestamp": str(now_s),
            "webhook-signature": sign(secret, event["id"], now_s, body),
        },
    )


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """How a receiver answered. `gone`: it wants no more (410). `retry_after_s`: so long it wants to be left alone."""

    delivered: bool
    gone: bool = False
    retry_after_s: float | None = None


TAKEN, NOT_TAKEN = Answer(delivered=True), Answer(delivered=False)


async def record_delivery(store: Store, delivery: Delivery, answer: Answer) -> bool:
    """Move on after a success; after a failure try the same event again, with growing pauses. Nothing is skipped.

    What takes nothing for 24 hours is disabled, and what is gone at once: True, the one time. Nothing is noted where the webhook
    was removed, or was set to go on from another place, while the event was under way.
    """
    delivered = answer.delivered
    async with store.write(SCOPE, here=True) as tx:
        row = await tx.first(select(webhooks).where(webhooks.c.id == delivery.webhook_id))
        if row is None or row["cursor"] != delivery.after or row["status"] != "active":
            return False
        failures = 0 if delivered else row["failures"] + 1
        pause_ms = 0 if delivered else _pause_ms(failures, answer.retry_after_s)
        failing_since_ms = None if delivered else row["failing_since_ms"] or tx.now_ms
        in_vain = failing_since_ms is not None and tx.now_ms - failing_since_ms >= DISABLED_AFTER_MS
        ended = answer.gone or in_vain
        await tx.run(
            update(webhooks)
            .where(webhooks.c.id == delivery.webhook_id)
            .values(
                cursor=delivery.seq if delivered else row["cursor"],
                failures=failures,
                due_ms=tx.now_ms + pause_ms,
                failing_since_ms=failing_since_ms,
                status="disabled" if ended else "active",
            )
        )
        if ended:
            tx.count(metrics.webhooks_disabled.inc)
        return ended


def _pause_ms(failures: int, retry_after_s: float | None) -> int:
    """1 s, 4 s, 16 s and so on up to an hour; longer where the receiver asks for it, up to that hour."""
    own_ms: int = min(FIRST_PAUSE_MS * 4 ** min(failures - 1, 6), LONGEST_PAUSE_MS)
    asked_ms = 0 if retry_after_s is None else min(round(retry_after_s * 1000), LONGEST_PAUSE_MS)
    return max(own_ms, asked_ms)


async def resume_webhook(tx: Tx, client_id: str, webhook_id: str, *, after: int | None) -> dict[str, Any] | None:
    """Let a webhook of an API client send again, from where it stopped or from the event beyond `after`; None if there is none.

    Raises Refusal(cursor_expired) where events beyond that place are not kept any more, or where there is no such place yet.
    """
    mine = (webhooks.c.client_id == client_id, webhooks.c.id == webhook_id)
    row = await tx.first(select(webhooks).where(*mine))
    if row is None:
        return None
    cursor = row["cursor"] if after is None else after
    await check_cursor(tx, cursor)
    values = {"status": "active", "failures": 0, "failing_since_ms": None, "due_ms": tx.now_ms, "cursor": cursor}
    await tx.run(update(webhooks).where(*mine).values(**values))
    tx.ring(NUMBERED)
    return {**row, **values}


async def check_cursor(tx: Tx, cursor: int) -> None:
    """Whether events can be read on from this place without a gap.

    Raises Refusal(cursor_expired): older ones are forgotten; or the database was restored from a backup since, and without a word
    nothing would ever come.
    """
    # Each by itself: both in one statement would read the whole index on SQLite.
    oldest, newest = [
        (await tx.conn.execute(select(bound(events.c.seq)).where(events.c.seq.is_not(None)))).scalar_one()
        for bound in (func.min, func.max)
    ]
    if cursor > 0 and oldest is not None and cursor < oldest - 1:
        raise Refusal("cursor_expired", f"Events before {oldest} are no longer kept.")
    if cursor > (newest or 0):
        raise Refusal("cursor_expired", f"The newest event is {newest or 0}.", newest=newest or 0)
