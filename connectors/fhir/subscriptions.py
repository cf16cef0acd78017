"""The Subscriptions that we ask a server for, and look after: whatever is off or in error is asked for again.

What one is like is a request tree of the profile, `connection.subscriptions.NAME`, so that R4, the R4 backport and R5 differ in
profiles only. It may read `push.url` (where we are told), `push.authorization` ("Bearer ...") and `push.header`
("Authorization: Bearer ..."). One that is at the server already, with our address and about the same, is taken over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from connectors.fhir.client import ExchangeError, Reply
from connectors.fhir.deadlines import Deadline
from connectors.fhir.documents import Json
from connectors.fhir.exchange import Exchange, read_failed
from connectors.fhir.notified import ungated
from connectors.port import Gate, HisError, HisRefused
from mappings.engine import MappingError, RequestTree, compile_request
from mappings.profile import Profile
from monitoring import metrics
from monitoring.logs import get_logger
from monitoring.sparse import SparseLog

log = get_logger(__name__)

TIMEOUT_S = 30.0
FIRST_S = 1.0  # the listener listens, and the server may be asked
_ABOUT = ("criteria", "topic")


class SubscriptionTrouble(HisRefused):
    """The server did not do what was asked; the text says which request, and its status."""


class Subscriptions:
    """Those of one connector. `run` looks after them until it is cancelled."""

    def __init__(
        self,
        exchange: Exchange,
        trees: Mapping[str, RequestTree],
        push: Mapping[str, str],
        *,
        every_s: float,
        catch_up: Callable[[], Awaitable[Any]],
        labels: dict[str, str],
    ) -> None:
        """`push` are the names that trees may read; `catch_up` asks for what was not told while one was down."""
        self._exchange, self._trees, self._push = exchange, dict(trees), dict(push)
        self._every_s, self._catch_up, self._labels = every_s, catch_up, labels
        self.gate: Gate = ungated
        self._ids: dict[str, str] = {}
        self._was_down: set[str] = set()
        self._warn = SparseLog(log.warning, every_s=60.0)
        self._active = {name: metrics.fhir_subscription_active.labels(**labels, subscription=name) for name in trees}
        self._asked = {name: metrics.fhir_subscriptions_asked.labels(**labels, subscription=name) for name in trees}
        for gauge in self._active.values():
            gauge.set(0)

    async def run(self) -> None:
        """Ask for each, and again whenever it is gone, off or in error."""
        await asyncio.sleep(FIRST_S)
        while True:
            for name in self._trees:
                try:
                    await self.look(name)
                except (HisError, MappingError) as error:
                    self._warn("fhir_subscription_trouble", reason=str(error), subscription=name, **self._labels)
                except Exception as error:  # whatever one reply contained, the next one may be well
                    log.error("fhir_subscription_broken", subscription=name, exc_info=error, **self._labels)
            await asyncio.sleep(self._every_s)

    async def look(self, name: str) -> None:
        """See that this one is active, and ask for what was not told while it was not. Raises HisError, MappingError."""
        context = self._exchange.context()
        context = msgspec.structs.replace(context, extra={**context.extra, **self._push})
        wanted: Json = self._trees[name].write({}, context)
        if await self.gate("subscriptions", lambda: self._look(name, wanted)):
            try:
                await self._catch_up()
            except HisError:
                self._was_down.add(name)  # the next look asks again
                raise

    async def _look(self, name: str, wanted: Json) -> bool:
        """Whether there is something to catch up with. Raises HisError."""
        try:
            return await self._look_after(name, wanted, Deadline(TIMEOUT_S))
        except ExchangeError as error:
            raise read_failed(error) from error

    async def _look_after(self, name: str, wanted: Json, deadline: Deadline) -> bool:
        current = await self._current(name, wanted, deadline)
        if current is None:
            await self._create(name, wanted, deadline)
        elif current.get("status") in ("off", "error", "entered-in-error"):
            await self._ask_again(name, current, wanted, deadline)
        elif current.get("status") == "active":
            return self._note_active(name)
        else:
            self._active[name].set(0)  # requested: the server has yet to shake hands
        return False

    async def _current(self, name: str, wanted: Json, deadline: Deadline) -> Json | None:
        client, known = self._exchange.client, self._ids.get(name)
        if known is not None:
            reply = await client.read(f"Subscription/{known}", deadline=deadline, fresh=True)
            if reply.status == 200 and isinstance(reply.body, dict):
                return reply.body
            if reply.status not in (404, 410):
                raise SubscriptionTrouble(f"GET Subscription: HTTP {reply.status}")
            del self._ids[name]
        reply = await client.read("Subscription", [("url", self._push["push.url"])], deadline=deadline, fresh=True)
        for resource in _matches(reply):
            if _is_alike(resource, wanted):
                self._ids[name] = str(resource["id"])
                return resource
        return None

    async def _create(self, name: str, wanted: Json, deadline: Deadline) -> None:
        reply = await self._exchange.client.create("Subscription", wanted, deadline=deadline)
        self._note_asked(name, reply, "POST")
        told = reply.body.get("id") if isinstance(reply.body, dict) else None
        if isinstance(told, str):
            self._ids[name] = told

    async def _ask_again(self, name: str, current: Json, wanted: Json, deadline: Deadline) -> None:
        log.warning("fhir_subscription_down", status=str(current.get("status")), subscription=name, **self._labels)
        meta = current.get("meta")
        version = meta.get("versionId") if isinstance(meta, dict) else None
        body = {key: value for key, value in current.items() if key != "error"} | wanted
        reply = await self._exchange.client.update(
            f"Subscription/{current['id']}", body, deadline=deadline, if_match=f'W/"{version}"' if version else None
        )
        self._note_asked(name, reply, "PUT")

    def _note_asked(self, name: str, reply: Reply, method: str) -> None:
        self._active[name].set(0)
        self._was_down.add(name)
        if reply.status not in (200, 201):
            raise SubscriptionTrouble(f"{method} Subscription: HTTP {reply.status}")
        self._asked[name].inc()
        log.info("fhir_subscription_asked_for", subscription=name, **self._labels)

    def _note_active(self, name: str) -> bool:
        self._active[name].set(1)
        if name not in self._was_down:
            return False
        self._was_down.discard(name)
        log.info("fhir_subscription_active", subscription=name, **self._labels)
        return True


def compile_subscriptions(profile: Profile, connection: Mapping[str, Any], names: list[str]) -> dict[str, RequestTree]:
    """The trees of these names. Raises ProfileError, and ValueError for a name that the profile has not."""
    known = connection.get("subscriptions") or {}
    if not isinstance(known, dict):
        profile.fail("connection.subscriptions", "names, and a Subscription for each")
    for name in names:
        if not isinstance(known.get(name), dict):
            told = ", ".join(sorted(one for one, tree in known.items() if tree)) or "none"
            raise ValueError(f"subscribe: the profile has no subscription {name!r}, but: {told}")
    return {name: compile_request(profile, f"connection.subscriptions.{name}", known[name]) for name in names}


def _matches(reply: Reply) -> list[Json]:
    """The Subscriptions of a search; none where the server cannot search them."""
    entries = reply.body.get("entry") if reply.status == 200 and isinstance(reply.body, dict) else None
    found = [one.get("resource") for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
    return [
        one
        for one in found
        if isinstance(one, dict) and one.get("resourceType") == "Subscription" and isinstance(one.get("id"), str)
    ]


def _is_alike(resource: Json, wanted: Json) -> bool:
    """Whether it is about the same and tells us."""
    return all(resource.get(name) == wanted.get(name) for name in _ABOUT) and _endpoint(resource) == _endpoint(wanted)


def _endpoint(resource: Json) -> Any:
    channel = resource.get("channel")
    return channel.get("endpoint") if isinstance(channel, dict) else resource.get("endpoint")
