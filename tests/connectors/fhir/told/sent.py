"""Notifications as servers write them: those of the R5 Backport guide for R4, and of R5 itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Events = Sequence[tuple[int, str | None]]


def backport(
    kind: str, *, since_start: int = 0, events: Events = (), subscription: str = "sub1", status: str = "active"
) -> bytes:
    """Subscriptions R5 Backport 1.1.0, `backport-subscription-status-r4`: numbers are strings."""
    parameters: list[dict[str, Any]] = [
        {
            "name": "subscription",
            "valueReference": {"reference": f"https://his.example/fhir/Subscription/{subscription}"},
        },
        {"name": "topic", "valueCanonical": "http://his.example/SubscriptionTopic/appointments"},
        {"name": "status", "valueCode": status},
        {"name": "type", "valueCode": kind},
        {"name": "events-since-subscription-start", "valueString": str(since_start)},
    ]
    for number, focus in events:
        parts: list[dict[str, Any]] = [{"name": "event-number", "valueString": str(number)}]
        if focus is not None:
            parts.append({"name": "focus", "valueReference": {"reference": focus}})
        parameters.append({"name": "notification-event", "part": parts})
    return _bundle("history", {"resourceType": "Parameters", "parameter": parameters}, events)


def r5(
    kind: str, *, since_start: int = 0, events: Events = (), subscription: str = "sub1", status: str = "active"
) -> bytes:
    """R5 SubscriptionStatus: integer64 is a string in JSON."""
    told: dict[str, Any] = {
        "resourceType": "SubscriptionStatus",
        "status": status,
        "type": kind,
        "eventsSinceSubscriptionStart": str(since_start),
        "notificationEvent": [
            {"eventNumber": str(number), **({"focus": {"reference": focus}} if focus else {})}
            for number, focus in events
        ],
        "subscription": {"reference": f"Subscription/{subscription}"},
        "topic": "http://his.example/SubscriptionTopic/appointments",
    }
    return _bundle("subscription-notification", told, events)


def _bundle(kind: str, first: dict[str, Any], events: Events) -> bytes:
    entries: list[dict[str, Any]] = [{"fullUrl": "urn:uuid:1", "resource": first}]
    entries += [{"fullUrl": focus, "request": {"method": "PUT", "url": focus}} for _, focus in events if focus]
    return json.dumps({"resourceType": "Bundle", "type": kind, "entry": entries}).encode()
