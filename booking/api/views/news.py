"""Events, and the webhooks that carry them."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

from msgspec import Meta

from booking.api.views.base import LARGEST, Body, Query, View


class EventQuery(Query, frozen=True):
    """Events after the cursor `after` (0: from the oldest kept)."""

    after: Annotated[int, Meta(ge=0, le=LARGEST)] = 0
    limit: Annotated[int, Meta(ge=1, le=500)] = 100


class EventView(View, frozen=True):
    """One change. `data` holds ids and states; read the thing itself for the rest."""

    seq: int
    id: str
    type: str
    hospital_id: str
    at: dt.datetime
    data: dict[str, Any]


class EventList(View, frozen=True):
    """Events in order; go on with `next`."""

    items: list[EventView]
    next: int


class NewWebhook(Body, frozen=True):
    """Where to send events. Only events after this moment are sent."""

    url: Annotated[str, Meta(min_length=8, max_length=500, pattern="^https?://")]


class ResumedWebhook(Body, frozen=True):
    """Where a webhook goes on: with the event beyond `after`, by itself with the one that it could not deliver."""

    after: Annotated[int, Meta(ge=0, le=9_000_000_000_000_000)] | None = None


class WebhookView(View, frozen=True):
    """A webhook. `secret` (`whsec_...`, Standard Webhooks) is shown once, here."""

    id: str
    url: str
    secret: str
    status: str


class WebhookSummary(View, frozen=True):
    """A webhook, without its secret. `failures`: how often its next event has been tried in vain, `failing_since` when first.

    After 24 hours of that its `status` is `disabled`, no more `active`.
    """

    id: str
    url: str
    status: str
    failures: int
    failing_since: dt.datetime | None = None


class WebhookList(View, frozen=True):
    """The webhooks of this key's client."""

    items: list[WebhookSummary]
    next: str | None = None
