"""Waiting in line for a session that is sold out (候补)."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.visits.actions import action
from tests.visits.life import BATCH_FAULTS
from tests.visits.machine import AFTER, ANY, PATIENTS, PORTAL, SLOTS, Bench


def _has_lines(self: Bench) -> bool:
    return self.clinic.hospital.rules.waitlist is not None


def _offers(self: Bench) -> list[tuple[str, str]]:
    return _entries(self, "offered")


def _entries(self: Bench, *states: str) -> list[tuple[str, str]]:
    """Portal and id of the entries that are so, as the portals were told."""
    return [
        (portal.name, entry_id)
        for portal in self.clinic.portals.values()
        for entry_id, entry in portal.entries.items()
        if entry["state"] in states
    ]


class Lines(Bench):
    """Joining, leaving, accepting."""

    @action(weight=4, needs=_has_lines, portal=PORTAL, slot=SLOTS, patient=PATIENTS)
    def join(self, portal: str, slot: str, patient: int) -> None:
        self.live(self.clinic.join(portal, slot, patient))

    @action(weight=5, needs=_has_lines, slot=SLOTS)
    def queue_up(self, slot: str) -> None:
        """The window sells what is left, and whoever may waits."""

        async def queue_up() -> None:
            while self.clinic.his.sell(slot):
                pass
            await self.clinic.pull()
            for portal in self.clinic.portals:
                for patient in range(3):
                    await self.clinic.join(portal, slot, patient)

        self.live(queue_up())

    @action(weight=4, needs=lambda self: not self.clinic.his.quota and bool(_entries(self, "waiting")), slot=SLOTS)
    def add_seat(self, slot: str) -> None:
        """The hospital has one more; we see it. Of seats that are ours only a figure above all others would tell of one."""
        self.clinic.his.seats[slot] += 1
        self.live(self.clinic.pull())

    @action(weight=1, needs=lambda self: bool(_entries(self, "waiting", "offered")), number=ANY)
    def leave(self, number: int) -> None:
        known = _entries(self, "waiting", "offered")
        self.live(self.clinic.leave(*known[number % len(known)]))

    @action(
        weight=6,
        needs=lambda self: bool(_offers(self)),
        number=ANY,
        fault=st.sampled_from(("", "", *BATCH_FAULTS)),
        after=AFTER,
    )
    def accept(self, number: int, fault: str, after: list[str] | None) -> None:
        known = _offers(self)
        self.clinic.life.batch_faults.append(fault)
        self.live(self.clinic.accept(*known[number % len(known)]))
        self.clinic.life.batch_faults.clear()
        self.then(after)
