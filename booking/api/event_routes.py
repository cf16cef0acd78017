"""The event feed and webhooks."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from sqlalchemy import select

from booking.api.context import Context
from booking.api.problems import ApiProblem, FieldError
from booking.api.routing import Call, Reply, RequestClass, Route
from booking.api.views.news import (
    EventList,
    EventQuery,
    EventView,
    NewWebhook,
    ResumedWebhook,
    WebhookList,
    WebhookSummary,
    WebhookView,
)
from booking.store.engine import Tx
from booking.store.tables import events
from booking.webhook_targets import literal_of, may_lead_to
from booking.webhooks import SCOPE, add_webhook, check_cursor, remove_webhook, resume_webhook, webhooks_of


class EventHandlers:
    """Every change, numbered after its commit; at least once, kept 30 days."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def feed(self, call: Call[EventQuery, None]) -> EventList:
        query = call.query
        async with self._context.store.read() as tx:
            await check_cursor(tx, query.after)
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
                at=dt.datetime.fromtimestamp(r["created_ms"] / 1000, self._zone(r["hospital_id"])),
                data=msgspec.json.decode(r["payload"]),
            )
            for r in rows
            if call.caller.may_use(r["hospital_id"])
        ]
        return EventList(items=items, next=rows[-1]["seq"] if rows else query.after)

    def _zone(self, hospital_id: str) -> dt.tzinfo:
        """That of the event's hospital; UTC for one that is in the settings no more."""
        hospital = self._context.hospitals.get(hospital_id)
        return dt.UTC if hospital is None else hospital.zone

    async def add_webhook(self, call: Call[None, NewWebhook]) -> Reply:
        literal = literal_of(call.body.url)
        if literal is not None and not may_lead_to(literal, self._context.webhook_networks):
            expected = "an address that the hospital's webhooks may lead to"
            raise ApiProblem("invalid_field", errors=(FieldError(path="$.url", expected=expected),))

        async def work(tx: Tx) -> WebhookView:
            webhook_id, secret = await add_webhook(tx, call.caller.id, call.body.url)
            return WebhookView(id=webhook_id, url=call.body.url, secret=secret, status="active")

        return await self._context.once(call, 201, work, scope=SCOPE)

    async def webhooks(self, call: Call[None, None]) -> WebhookList:
        async with self._context.store.read(SCOPE) as tx:
            rows = await webhooks_of(tx, call.caller.id)
        return WebhookList(items=[_summary(row) for row in rows])

    async def resume(self, call: Call[None, ResumedWebhook]) -> WebhookSummary:
        async with self._context.store.write(SCOPE) as tx:
            row = await resume_webhook(tx, call.caller.id, call.path["webhook_id"], after=call.body.after)
        if row is None:
            raise ApiProblem("webhook_unknown", "There is no such webhook of yours.")
        return _summary(row)

    async def remove_webhook(self, call: Call[None, None]) -> None:
        async with self._context.store.write(SCOPE) as tx:
            if not await remove_webhook(tx, call.caller.id, call.path["webhook_id"]):
                raise ApiProblem("webhook_unknown", "There is no such webhook of yours.")


def _summary(row: dict[str, Any]) -> WebhookSummary:
    since_ms = row["failing_since_ms"]
    return WebhookSummary(
        id=row["id"],
        url=row["url"],
        status=row["status"],
        failures=row["failures"],
        failing_since=None if since_ms is None else dt.datetime.fromtimestamp(since_ms / 1000, dt.UTC),
    )


def event_routes(context: Context) -> list[Route]:
    """The routes of this group."""
    handlers, scopes = EventHandlers(context), ("events",)
    return [
        Route("GET", "/v1/events", handlers.feed, summary="Every change after a cursor", tag="events",
              request_class=RequestClass.BULK, query=EventQuery,
              response=EventList, scopes=scopes, errors=("cursor_expired",)),
        Route("POST", "/v1/webhooks", handlers.add_webhook, summary="Have events pushed", tag="events",
              request_class=RequestClass.BULK,
              request=NewWebhook, response=WebhookView, status=201, scopes=scopes, idempotent=True,
              errors=("limit_reached",)),
        Route("GET", "/v1/webhooks", handlers.webhooks, summary="Your webhooks, without their secrets", tag="events",
              request_class=RequestClass.BULK,
              response=WebhookList, scopes=scopes),
        Route("POST", "/v1/webhooks/{webhook_id}/resume", handlers.resume, summary="Push again, also from an earlier event on",
              tag="events", request_class=RequestClass.BULK, request=ResumedWebhook, response=WebhookSummary, scopes=scopes,
              errors=("cursor_expired", "webhook_unknown")),
        Route("DELETE", "/v1/webhooks/{webhook_id}", handlers.remove_webhook, summary="Push no more events there",
              tag="events", request_class=RequestClass.BULK, status=204, scopes=scopes, errors=("webhook_unknown",)),
    ]  # fmt: skip
