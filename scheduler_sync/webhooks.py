"""Sending webhooks: each by itself, its events in order and one at a time, until they are taken."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from booking.news import NUMBERED
from booking.store.engine import Store, StoreUnavailable
from booking.webhook_targets import Networks, literal_of, may_lead_to
from booking.webhooks import (
    LONGEST_PAUSE_MS,
    NOT_TAKEN,
    TAKEN,
    Answer,
    Delivery,
    due_deliveries,
    next_delivery,
    record_delivery,
)
from connectors.retry_after import retry_after_s
from monitoring.logs import get_logger
from monitoring.traces import Kind, Span, headers_here, span

log = get_logger("webhooks")

TIMEOUT_S = 15.0
GONE = 410  # Standard Webhooks, "Delivery success and failure": the receiver wants no more
AT_ONCE = 100  # webhooks served at the same time
IN_A_ROW = 100  # events that one webhook gets before it goes back into the queue


class _Resolver(AbstractResolver):
    """Leaves out where webhooks may not lead."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._names = aiohttp.DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._names.resolve(host, port, family)
        fit = [one for one in found if may_lead_to(one["host"], self._networks)]
        if not fit:
            raise OSError("the name leads to no address that webhooks may go to")
        return fit

    async def close(self) -> None:
        await self._names.close()


class WebhookSender:
    """Delivers what is due. Redirects are not followed: a webhook goes where it was registered.

    `networks`: where webhooks may lead, see `booking.webhook_targets`.
    """

    def __init__(self, store: Store, *, networks: Networks = ()) -> None:
        self._store = store
        self._networks = networks
        self._session: aiohttp.ClientSession | None = None
        self._serving: dict[str, asyncio.Task[bool]] = {}

    async def send_due(self) -> None:
        """Begin to serve every webhook that is due and not being served; does not wait for any."""
        free = AT_ONCE - len(self._serving)
        if free <= 0:
            return
        for delivery in await due_deliveries(self._store, busy=list(self._serving), limit=free):
            task = asyncio.create_task(self._serve(delivery), name=f"webhook {delivery.webhook_id}")
            self._serving[delivery.webhook_id] = task
            task.add_done_callback(partial(self._served, delivery.webhook_id))

    def _served(self, webhook_id: str, task: asyncio.Task[bool]) -> None:
        self._serving.pop(webhook_id, None)
        if task.cancelled() or not task.result():
            return  # what could not be noted is due still: it waits for the next look, or its receiver would be stormed
        self._store.bell.ring(NUMBERED)  # it may have more, and another may have waited for its place

    async def _serve(self, first: Delivery) -> bool:
        """Whether all that was sent could be noted."""
        delivery: Delivery | None = first
        try:
            for _ in range(IN_A_ROW):
                if delivery is None:
                    break
                answer = await self._send(delivery)
                if await record_delivery(self._store, delivery, answer):
                    log.error(
                        "webhook_disabled", webhook=delivery.webhook_id, seq=delivery.seq, do="the portal resumes it"
                    )
                delivery = await next_delivery(self._store, delivery.webhook_id) if answer.delivered else None
        except StoreUnavailable as e:
            # What was delivered and could not be noted comes again: at least once.
            log.error("store_unavailable", webhook=first.webhook_id, reason=str(e))
        except Exception as e:
            log.error("webhook_failed", webhook=first.webhook_id, seq=first.seq, reason=type(e).__name__)
        else:
            return True
        return False

    async def _send(self, delivery: Delivery) -> Answer:
        if delivery.broken:
            log.error("webhook_secret_lost", webhook=delivery.webhook_id, seq=delivery.seq)
            return NOT_TAKEN
        literal = literal_of(delivery.url)
        if literal is not None and not may_lead_to(literal, self._networks):
            log.warning("webhook_not_allowed", webhook=delivery.webhook_id, do="see service.webhook_networks")
            return NOT_TAKEN
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                connector=aiohttp.TCPConnector(limit=AT_ONCE, resolver=_Resolver(self._networks)),
                cookie_jar=aiohttp.DummyCookieJar(),  # what one receiver sets is no other's, and would fill the memory
            )
        with span("webhook", kind=Kind.PRODUCER) as one:
            answer = await self._post(self._session, delivery, one)
            if one is not None:
                one.failed = not answer.delivered
                one.attributes |= {"hisbridge.webhook": delivery.webhook_id, "hisbridge.event.seq": delivery.seq}
            return answer

    @staticmethod
    async def _post(session: aiohttp.ClientSession, delivery: Delivery, one: Span | None) -> Answer:
        headers = {**delivery.headers, **headers_here()}
        try:
            async with session.post(
                delivery.url, data=delivery.body, headers=headers, allow_redirects=False
            ) as response:
                if one is not None:
                    one.set("http.response.status_code", response.status)
                if 200 <= response.status < 300:
                    return TAKEN
                log.warning("webhook_refused", webhook=delivery.webhook_id, seq=delivery.seq, status=response.status)
                told = response.headers
                wish_s = retry_after_s(told.get("Retry-After"), told.get("Date"), longest_s=LONGEST_PAUSE_MS / 1000)
                return Answer(delivered=False, gone=response.status == GONE, retry_after_s=wish_s)
        except (aiohttp.ClientError, TimeoutError, ValueError) as e:
            log.warning("webhook_failed", webhook=delivery.webhook_id, seq=delivery.seq, reason=type(e).__name__)
            return NOT_TAKEN

    async def close(self) -> None:
        """Cut off what is being sent (it comes again after the next start) and close the connections."""
        serving = list(self._serving.values())
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None
