"""A store that writes down what its transactions did to seats and bookings, whoever ran them.

Holds go through the raw connection of the batch and are written down by those who ask for them; everything else (outcomes of
commands, expiries, fetches, payments, cancellations) writes through `Store.write`, and is seen here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from sqlalchemy import select

from booking.store.crypto import Vault
from booking.store.engine import Store, Tx
from booking.store.tables import bookings, slots
from booking.store.turns import Of
from tests.history.operations import History, Kind, Operation, Outcome


def now_ms() -> float:
    """The clock of histories."""
    return time.monotonic() * 1000


class _Seen(NamedTuple):
    slot: str
    schedule: str
    patient: str
    state: str
    live: bool


class RecordingStore(Store):
    """`history` is what is being written down now, of the slots that it names."""

    def __init__(self, url: str, vault: Vault, *, wall_ms: Callable[[], int]) -> None:
        super().__init__(url, vault, wall_ms=wall_ms)
        self.history = History({})

    @asynccontextmanager
    async def write(self, hospital_id: str, *, here: bool = False, of: Of = Of.OTHERS) -> AsyncIterator[Tx]:
        asked_ms = now_ms()
        async with super().write(hospital_id, here=here, of=of) as tx:
            left_before, seen_before = await self._look(tx)
            yield tx
            left_after, seen_after = await self._look(tx)
        answered_ms = now_ms()
        moved = {slot: left - left_before.get(slot, left) for slot, left in left_after.items()}
        for booking, seen in seen_after.items():
            before = seen_before.get(booking)
            if before is None or before == seen:
                continue
            kind, ended, resumed = _what(before, seen)
            delta = 0
            if resumed and moved.get(seen.slot, 0) < 0:
                delta, moved[seen.slot] = -1, moved[seen.slot] + 1
            self.history.operations.append(
                Operation(
                    kind=kind, asked_ms=asked_ms, answered_ms=answered_ms, outcome=Outcome.OK, booking=booking, delta=delta,
                    slot=seen.slot, schedule=seen.schedule, patient=seen.patient, ended=ended, resumed=resumed,
                )
            )  # fmt: skip
        for slot, delta in moved.items():
            if delta:
                self.history.operations.append(
                    Operation(
                        kind=Kind.CHANGE, asked_ms=asked_ms, answered_ms=answered_ms, outcome=Outcome.OK, slot=slot, delta=delta
                    )
                )  # fmt: skip

    async def _look(self, tx: Tx) -> tuple[dict[str, int], dict[str, _Seen]]:
        """By slot what is left, below 0 too; by booking where it stands."""
        named = list(self.history.seats)
        if not named:
            return {}, {}
        left = await tx.all(select(slots.c.id, slots.c.his_left, slots.c.unreflected).where(slots.c.id.in_(named)))
        found = await tx.all(select(bookings).where(bookings.c.slot_id.in_(named)))
        return (
            {row["id"]: row["his_left"] - row["unreflected"] for row in left},
            {
                row["id"]: _Seen(row["slot_id"], row["schedule_id"], row["patient_id"], row["state"], row["live"])
                for row in found
            },
        )


def _what(before: _Seen, after: _Seen) -> tuple[Kind, bool, bool]:
    """What has happened to a booking: as which kind it is checked, and whether it has ended or was taken up again."""
    ended, resumed = before.live and not after.live, after.live and not before.live
    if after.state == "expired" and before.state == "held":
        return Kind.EXPIRE, ended, resumed
    if after.state in ("rejected", "stopped") and ended:
        return Kind.OVER, ended, resumed
    return Kind.CHANGE, ended, resumed
