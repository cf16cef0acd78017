"""The event feed and webhooks."""

from __future__ import annotations

import datetime as dt

import msgspec
from sqlalchemy import func, select

from booking.api.context import Context
from booking.api.problems import ApiProblem
from booking.api.routing import Call, Reply, RequestClass, Route
from booking.api.views import EventList, EventQuery, EventView, NewWebhook, WebhookList, WebhookSummary, WebhookView
from booking.store.engine import Tx
from booking.store.tables import events
from booking.webhooks import SCOPE, add_webhook, remove_webhook, webhooks_of


class EventHandlers:
    """Every change, numbered after its commit; at least once, kept 30 days."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def feed(self, call: Call[EventQuery, None]) -> EventList:
        query = call.query
        async with self._context.store.read() as tx:
            oldest = (
                await tx.conn.execute(select(func.min(events.c.seq)).where(events.c.seq.is_not(None)))
            ).scalar_one()
            if query.after > 0 and oldest is not None and query.after < oldest - 1:
                raise ApiProblem("cursor_expired", f"Events before {oldest} are no longer kept.")
            newest = (
                await tx.conn.execute(select(func.max(events.c.seq)).where(events.c.seq.is_not(None)))
            ).scalar_one()
            if query.after > (newest or 0):
                # A cursor of a database that was restored from a backup since: without a word nothing would ever come.
                raise ApiProblem("cursor_expired", f"The newest event is {newest or 0}.", extra={"newest": newest or 0})
            rows = await tx.all(
                select(events)
                .where(events.c.client_id == call.caller.id, events.c.seq > query.after)
                .order_by(events.c.seq)
                .limit(query.limit)
            )
        items = [
            EventView(
                seq=r["seq"],
                id=r["id"],
                type=r["type"],
                hospital_id=r["hospital_id"],
                at=dt.datetime.fromtimestamp(r["created_ms"] / 1000, dt.UTC),
                data=msgspec.json.decode(r["payload"]),
            )
            for r in rows
            if call.caller.may_use(r["hospital_id"])
        ]
        return EventList(items=items, next=rows[-1]["seq"] if rows else query.after)

    async def add_webhook(self, call: Call[None, NewWebhook]) -> Reply:
        async def work(tx: Tx) -> WebhookView:
            webhook_id, secret = await add_webhook(tx, call.caller.id, call.body.url)
            return WebhookView(id=webhook_id, url=call.body.url, secret=secret, status="active")

        return await self._context.once(call, 201, work, scope=SCOPE)

    async def webhooks(self, call: Call[None, None]) -> WebhookList:
        async with self._context.store.read(SCOPE) as tx:
            rows = await webhooks_of(tx, call.caller.id)
        return WebhookList(items=[WebhookSummary(**row) for row in rows])

    async def remove_webhook(self, call: Call[None, None]) -> None:
        async with self._context.store.write(SCOPE) as tx:
            if not await remove_webhook(tx, call.caller.id, call.path["webhook_id"]):
                raise ApiProblem("not_found", "There is no such webhook of yours.")


def event_routes(context: Context) -> list[Route]:
    """The routes of this group."""
    handlers, scopes = EventHandlers(context), ("events",)
    return [
        Route("GET", "/v1/events", handlers.feed, summary="Every change after a cursor", tag="events",
              request_class=RequestClass.BULK, query=EventQuery,
              response=EventList, scopes=scopes, errors=("cursor_expired",)),
        Route("POST", "/v1/webhooks", handlers.add_webhook, summary="Have events pushed", tag="events",
              request_class=RequestClass.BULK,
              request=NewWebhook, response=WebhookView, status=201, scopes=scopes, idempotent=True),
        Route("GET", "/v1/webhooks", handlers.webhooks, summary="Your webhooks, without their secrets", tag="events",
              request_class=RequestClass.BULK,
              response=WebhookList, scopes=scopes),
        Route("DELETE", "/v1/webhooks/{webhook_id}", handlers.remove_webhook, summary="Push no more events there",
              tag="events", request_class=RequestClass.BULK, status=204, scopes=scopes),
    ]  # fmt: skip
