"""Asking a HIS what has changed, where its connector can: through the bulkhead, as any other read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from booking.settings import Hospital
from booking.store.engine import StoreUnavailable
from connectors.port import FetchesChanges, Gate, HisError, HisUnavailable
from monitoring.logs import get_logger
from monitoring.sparse import SparseLog
from scheduler_sync.gateway import HospitalLink

log = get_logger("changes")


class Changes:
    """The changes of one connector. What goes wrong is in the log, and the next look reaches back over it."""

    def __init__(self, hospital: Hospital, link: HospitalLink, name: str, connector: FetchesChanges) -> None:
        self._hospital, self._link = hospital, link
        self.name, self._connector = name, connector
        self.every_s = connector.changes_every_s
        self.tells_registrations = connector.tells_registrations
        self._warn = SparseLog(log.warning, every_s=60.0)

    async def fetch(self) -> None:
        """One look."""
        if self._hospital.mode == "paused":
            return
        try:
            found = await self._link.ask(self.name, "fetch_changes", self._connector.fetch_changes)
        except HisError as e:
            self._warn("changes_not_fetched", hospital=self._hospital.id, connector=self.name, reason=str(e))
        except StoreUnavailable:
            raise
        except Exception as e:  # whatever one reply contained, the next one may be well
            log.error("changes_broken", hospital=self._hospital.id, connector=self.name, exc_info=e)
        else:
            if found:
                log.info("changes_fetched", hospital=self._hospital.id, connector=self.name, changes=found)


def gate_of(hospital: Hospital, link: HospitalLink, name: str) -> Gate:
    """What a connector asks by itself goes this way: through its bulkhead, and not at all while the hospital is paused."""

    async def ask(what: str, call: Callable[[], Awaitable[Any]]) -> Any:
        if hospital.mode == "paused":
            raise HisUnavailable("the hospital is paused", hospital_id=hospital.id, verb=what)
        return await link.ask(name, what, call)

    return ask


def changes_of(hospital: Hospital, link: HospitalLink) -> Iterator[Changes]:
    """One for each connector that wants to be asked."""
    for name, connector in link.connectors.items():
        if isinstance(connector, FetchesChanges) and connector.changes_every_s > 0:
            yield Changes(hospital, link, name, connector)
