"""What can be booked at one server: schedules, segments with their seats, and stops, all read of its Slots."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from connectors.fhir.deadlines import Deadline
from connectors.fhir.exchange import Exchange
from connectors.fhir.inventory import merge_schedules, merge_slots, merging_slots, stops_of
from connectors.fhir.streams import Pause, Wanted, read_slots
from connectors.port import Inventory, Window
from mappings.canonical import Schedule, ScheduleStatus, ScheduleStopped, Slot

SCHEDULES, SLOTS = "fetch_schedules", "fetch_slots"


class Openings:
    """The readings of one server. `inventory` knows which stops it has told: they need not be proved again."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._told: frozenset[Any] = frozenset()

    async def inventory(self, window: Window, deadline: Deadline) -> Inventory:
        """All of it, of one reading of the Slots."""
        calls = self._exchange.calls
        beside = await self._exchange.search(calls[SCHEDULES], window, deadline)
        own: list[Schedule] = await self._exchange.map_all(calls[SCHEDULES], beside)

        def finish(records: dict[str, Any], pause: Pause) -> Inventory:
            slots = merge_slots(records[SLOTS], pause)
            schedules = _schedules(window, chain(own, records[SCHEDULES]), pause)
            return Inventory(schedules=schedules, slots=slots, stops=stops_of(slots, pause))

        verbs = {SLOTS: None, SCHEDULES: beside}
        wanted = Wanted(verbs=verbs, finish=finish, stops=lambda found: _named(found.stops), known=self._told)
        found = await read_slots(self._exchange, window, deadline, wanted)
        self._told = _named(found.stops)
        return found

    async def schedules(self, window: Window, deadline: Deadline) -> list[Schedule]:
        """The sessions of the window. A site may map Schedules one to one: these give the records then, and the Slots none."""
        call = self._exchange.calls[SCHEDULES]
        beside = await self._exchange.search(call, window, deadline)
        own: list[Schedule] = await self._exchange.map_all(call, beside)

        def finish(records: dict[str, Any], pause: Pause) -> list[Schedule]:
            return _schedules(window, chain(own, records[SCHEDULES]), pause)

        wanted = Wanted(verbs={SCHEDULES: beside}, finish=finish, stops=_stopped)
        return await read_slots(self._exchange, window, deadline, wanted)

    async def slots(self, window: Window, of: set[str], deadline: Deadline) -> list[Slot]:
        """The segments of these schedules, of all where none is named."""

        def finish(records: dict[str, Any], pause: Pause) -> list[Slot]:
            return merge_slots((slot for slot in records[SLOTS] if not of or slot.schedule_id in of), pause)

        wanted = Wanted(verbs={SLOTS: None}, finish=finish, stops=_stopped)
        return await read_slots(self._exchange, window, deadline, wanted)

    async def stops(self, window: Window, deadline: Deadline) -> list[ScheduleStopped]:
        """What is stopped."""

        def finish(records: dict[str, Any], pause: Pause) -> list[ScheduleStopped]:
            return stops_of(merging_slots(records[SLOTS], pause), pause)

        return await read_slots(
            self._exchange, window, deadline, Wanted(verbs={SLOTS: None}, finish=finish, stops=_named)
        )


def _schedules(window: Window, records: Iterable[Schedule], pause: Pause) -> list[Schedule]:
    return [one for one in merge_schedules(records, pause) if window.department_id in (None, one.department_id)]


def _stopped(records: Iterable[Schedule | Slot]) -> frozenset[Any]:
    return frozenset(id(record) for record in records if record.status is ScheduleStatus.STOPPED)


def _named(stops: Iterable[ScheduleStopped]) -> frozenset[Any]:
    return frozenset((stop.schedule_id, stop.date, stop.session, stop.starts_at) for stop in stops)
