"""What a server tells us, from the settings: the listener, and the Subscriptions by which it knows of it."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from connectors.fhir.changes import Changes
from connectors.fhir.exchange import Exchange
from connectors.fhir.notified import Notified
from connectors.fhir.push import Push
from connectors.fhir.push_options import PushOptions
from connectors.fhir.subscriptions import Subscriptions, compile_subscriptions
from connectors.port import Gate
from mappings.profile import Profile
from monitoring.logs import get_logger
from monitoring.trace_context import nobodys

log = get_logger(__name__)


class Pushing:
    """Listener and Subscriptions of one connector. Nothing is opened before `start`."""

    def __init__(self, push: Push, subscriptions: Subscriptions | None) -> None:
        self.push, self._subscriptions = push, subscriptions
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen, then ask for what is to be told. Raises OSError when the port is taken, BadTLSFiles."""
        await self.push.start()
        if self._subscriptions is not None and self._looking is None:
            self._looking = asyncio.create_task(self._subscriptions.run(), context=nobodys())

    def ask_through(self, gate: Gate) -> None:
        """Whatever the server is asked from here is asked through `gate`."""
        self.push.notified.gate = gate
        if self._subscriptions is not None:
            self._subscriptions.gate = gate

    async def close(self) -> None:
        """Answer what is in hand, and close every connection. The Subscriptions stay: the next start finds them."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        await self.push.close()


def make_push(
    options: PushOptions, profile: Profile, exchange: Exchange, changes: Changes, where: dict[str, str]
) -> Pushing | None:
    """None where nothing listens. Raises ValueError for settings that are no good, ProfileError."""
    if options.listen_port is None:
        if options.subscribe:
            raise ValueError("subscribe needs listen_port and public_url, where the server is to tell us")
        return None
    notified = Notified(changes, options.base_url, where)
    push = Push(options, notified, exchange.client.record, where)
    trees = compile_subscriptions(profile, exchange.connection, options.subscribe)
    if not trees:
        return Pushing(push, None)
    if urlsplit(options.public_url or "").scheme not in ("http", "https"):
        raise ValueError("subscribe needs public_url, as in https://hisbridge.example/notifications")
    if not exchange.hospital.writes:
        log.info("fhir_subscriptions_not_asked_for", reason="nothing is written here but in mode live", **where)
        return Pushing(push, None)
    names = {"push.url": options.public_url or ""}
    if push.shown_secret:
        names |= {"push.authorization": push.shown_secret, "push.header": f"Authorization: {push.shown_secret}"}
    every_s = options.subscriptions_every_s
    return Pushing(push, Subscriptions(exchange, trees, names, every_s=every_s, catch_up=notified.look, labels=where))
