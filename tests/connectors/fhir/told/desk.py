"""The handler behind the connector, and what it was given. It knows a repeat by its key, as the inbox does."""

from __future__ import annotations

from dataclasses import dataclass, field

from connectors.port import Inbound, InboundAnswer, Refused, Stored
from mappings.canonical import AnyEvent, Registration, RegistrationChanged


@dataclass
class Desk:
    taken: list[Inbound] = field(default_factory=list)
    asked: int = 0
    away: bool = False

    async def handle(self, inbound: Inbound) -> InboundAnswer:
        self.asked += 1
        if self.away:
            return Refused(code="store_unavailable", text="", retryable=True)
        if any(one.dedup_key == inbound.dedup_key for one in self.taken):
            return Stored(duplicate=True)
        self.taken.append(inbound)
        return Stored(quarantined=inbound.problem is not None)

    @property
    def events(self) -> list[AnyEvent]:
        return [event for inbound in self.taken for event in inbound.events]

    @property
    def registrations(self) -> list[Registration]:
        return [event.registration for event in self.events if isinstance(event, RegistrationChanged)]

    @property
    def statuses(self) -> list[str]:
        return [one.status.value for one in self.registrations]
