"""Sending webhooks: one event at a time each, in order, until it is taken."""

from __future__ import annotations

import asyncio

import aiohttp

from booking.store.engine import Store
from booking.webhooks import Delivery, due_deliveries, record_delivery
from monitoring.logs import get_logger

log = get_logger("webhooks")

TIMEOUT_S = 15.0


class WebhookSender:
    """Delivers what is due. Redirects are not followed: a webhook goes where it was registered."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._session: aiohttp.ClientSession | None = None

    async def send_due(self) -> int:
        """One round; returns how many were delivered."""
        due = await due_deliveries(self._store)
        if not due:
            return 0
        results = await asyncio.gather(*(self._send(d) for d in due))
        for delivery, delivered in zip(due, results, strict=True):
            await record_delivery(self._store, delivery, delivered=delivered)
        return sum(results)

    async def _send(self, delivery: Delivery) -> bool:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        try:
            async with self._session.post(
                delivery.url, data=delivery.body, headers=delivery.headers, allow_redirects=False
            ) as response:
                delivered = 200 <= response.status < 300
                if not delivered:
                    log.warning(
                        "webhook_refused", webhook=delivery.webhook_id, seq=delivery.seq, status=response.status
                    )
                return delivered
        except (aiohttp.ClientError, TimeoutError, ValueError) as e:
            log.warning("webhook_failed", webhook=delivery.webhook_id, seq=delivery.seq, reason=type(e).__name__)
            return False

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
