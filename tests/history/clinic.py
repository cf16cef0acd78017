"""The scripted HIS of tests/scheduler_sync, with seats: it never gives more than it has, and its window sells some."""

from __future__ import annotations

from typing import Any

from connectors.port import Order, Outcome, Rejected, Verb
from mappings.canonical import RegistrationStatus
from tests.scheduler_sync.peer import Peer

_TAKEN = (RegistrationStatus.LOCKED, RegistrationStatus.REGISTERED)


class Clinic(Peer):
    """`free` seats by the HIS's id of a slot. `full` counts locks refused for want of a seat."""

    def __init__(self) -> None:
        super().__init__()
        self.free: dict[str, int] = {}
        self.sold = 0
        self.full = 0

    def recover(self) -> None:
        """Whatever was scripted and has not happened yet will not."""
        for steps in self._steps.values():
            steps.clear()

    def sell(self, slot_id: str) -> bool:
        """The window sells a seat, if there is one."""
        if self.free[slot_id] <= 0:
            return False
        self.free[slot_id] -= 1
        self.sold += 1
        return True

    def commit(self, verb: Verb, argument: Any) -> Outcome:
        if not isinstance(argument, Order):
            return super().commit(verb, argument)
        key, slot_id = argument.order_no, argument.slot.id
        before = self.orders.get(key)
        if before is None and verb == Verb.LOCK_SLOT and self.free[slot_id] <= 0:
            self.full += 1
            return Rejected(code="full")
        outcome = super().commit(verb, argument)
        after = self.orders.get(key)
        self.free[slot_id] += (before in _TAKEN) - (after in _TAKEN)
        return outcome
