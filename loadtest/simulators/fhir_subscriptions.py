"""The Subscriptions of the simulated FHIR server: it shakes hands, and tells of every Appointment that the hospital changes.

R4 rest-hooks without the backport are told by an empty POST; with it, by a Bundle whose first entry is a Parameters. One of R5,
which names a topic, is told by a Bundle whose first entry is a SubscriptionStatus.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import aiohttp
from aiohttp import web

Json = dict[str, Any]
BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-subscription"


class SubscriptionDesk:
    """Keeps them, and tells."""

    def __init__(self) -> None:
        self.kept: dict[str, Json] = {}
        self.counts: dict[str, int] = {}
        self.asked: list[str] = []
        self.lose = 0  # so many notifications get lost on the way
        self._numbers = itertools.count(1)

    async def answer(self, request: web.Request) -> web.Response:
        """GET, POST and PUT of Subscriptions."""
        key = request.match_info.get("key", "")
        if request.method == "GET":
            return self._read(request, key)
        body: Json = json.loads(await request.text())
        self.asked.append(request.method)
        if request.method == "POST":
            key = f"sub{next(self._numbers)}"
        elif key not in self.kept:
            return _json(404, {"resourceType": "OperationOutcome", "issue": []})
        version = str(int(self.kept.get(key, {"meta": {"versionId": "0"}})["meta"]["versionId"]) + 1)
        self.kept[key] = {
            **body,
            "id": key,
            "meta": {**body.get("meta", {}), "versionId": version},
            "status": "requested",
        }
        self.counts[key] = 0
        reply = _json(201 if request.method == "POST" else 200, self.kept[key])
        self.kept[key]["status"] = "active" if await self._send(key, "handshake") == 200 else "error"
        return reply

    def _read(self, request: web.Request, key: str) -> web.Response:
        if key:
            found = self.kept.get(key)
            return _json(200, found) if found else _json(404, {"resourceType": "OperationOutcome", "issue": []})
        url = request.query.get("url")
        entries = [{"resource": one} for one in self.kept.values() if _address(one)[0] == url]
        return _json(200, {"resourceType": "Bundle", "type": "searchset", "entry": entries})

    async def tell(self, focus: str) -> list[int]:
        """What every active one's address answered; a lost notification counts as an event all the same."""
        said = []
        for key, kept in self.kept.items():
            if kept["status"] == "active":
                self.counts[key] += 1
                if self.lose > 0:
                    self.lose -= 1
                    continue
                said.append(await self._send(key, "event-notification", focus))
        return said

    async def beat(self) -> None:
        """A heartbeat of every active one."""
        for key, kept in self.kept.items():
            if kept["status"] == "active":
                await self._send(key, "heartbeat")

    async def _send(self, key: str, kind: str, focus: str = "") -> int:
        kept = self.kept[key]
        endpoint, headers = _address(kept)
        body = b""
        if "topic" in kept:
            body = self._status(key, kind, focus)
        elif BACKPORT in kept["meta"].get("profile", ()):
            body = self._bundle(key, kind, focus)
        if not body and kind != "event-notification":
            return 200  # plain R4 has neither handshake nor heartbeat
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.post(
                    endpoint, data=body, headers=headers | {"Content-Type": "application/fhir+json"}
                ) as response,
            ):
                return response.status
        except aiohttp.ClientError:
            return 0

    def _bundle(self, key: str, kind: str, focus: str) -> bytes:
        count = self.counts[key]
        parameters: list[Json] = [
            {"name": "subscription", "valueReference": {"reference": f"Subscription/{key}"}},
            {"name": "status", "valueCode": self.kept[key]["status"]},
            {"name": "type", "valueCode": kind},
            {"name": "events-since-subscription-start", "valueString": str(count)},
        ]
        if focus:
            number = {"name": "event-number", "valueString": str(count)}
            where = {"name": "focus", "valueReference": {"reference": focus}}
            parameters.append({"name": "notification-event", "part": [number, where]})
        first = {"resource": {"resourceType": "Parameters", "parameter": parameters}}
        return json.dumps({"resourceType": "Bundle", "type": "history", "entry": [first]}).encode()

    def _status(self, key: str, kind: str, focus: str) -> bytes:
        """R5 subscriptionstatus.html: numbers are integer64, strings in JSON."""
        count = str(self.counts[key])
        status: Json = {
            "resourceType": "SubscriptionStatus",
            "status": self.kept[key]["status"],
            "type": kind,
            "eventsSinceSubscriptionStart": count,
            "subscription": {"reference": f"Subscription/{key}"},
            "topic": self.kept[key]["topic"],
        }
        if focus:
            status["notificationEvent"] = [{"eventNumber": count, "focus": {"reference": focus}}]
        entry = [{"resource": status}]
        return json.dumps({"resourceType": "Bundle", "type": "subscription-notification", "entry": entry}).encode()


def _address(subscription: Json) -> tuple[str, dict[str, str]]:
    """Where one is told, and with which headers: R4 has them in its channel, R5 as parameters."""
    channel = subscription.get("channel")
    if channel is not None:
        return channel["endpoint"], dict(line.split(": ", 1) for line in channel.get("header", ()))
    return subscription["endpoint"], {one["name"]: one["value"] for one in subscription.get("parameter", ())}


def _json(status: int, body: Json) -> web.Response:
    return web.Response(status=status, body=json.dumps(body).encode(), content_type="application/fhir+json")
