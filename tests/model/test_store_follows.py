"""The store moves as the model does: random walks of the model, taken step by step in a real store, show the same figures.

The search proves the rule as the model carries it; this ties the model to what a hold, an outcome and a fetch really write.
"""

from __future__ import annotations

import os
import random

import msgspec
import pytest
from sqlalchemy import update

from booking.bookings import CommandResult, cancel_booking, note_sent, settle_command
from booking.commands import OPEN
from booking.inventory.writer import HoldWriter
from booking.lifecycle import CommandStatus
from booking.moves import load_booking, note_command
from booking.records import Booking
from booking.seats import Seats
from booking.settings import Hospital
from booking.store.engine import Store, Tx
from booking.store.tables import outbox
from mappings.canonical import Patient
from tests.booking.world import HOSPITAL, fetch, figures, hold_writer, make_slot, put_patient, put_slot, request
from tests.model.rules import Rule
from tests.model.slot import Held, Slot, Step, What, World, steps
from tests.stores import Wall

WORLD = World(2, 14, 9, sales=1, refuses=True, loses=True, lapses=True)
STEPS = 60
SEEDS = 200 if os.environ.get("HISBRIDGE_TORTURE") == "1" else 8
_CODES = {"full": "full", "no": "not_allowed"}


class Replay:
    """A walk of the model, done in a store."""

    def __init__(self, store: Store, hospital: Hospital, wall: Wall, writer: HoldWriter, slot_id: str) -> None:
        self._store, self._hospital, self._wall, self._writer, self._slot_id = store, hospital, wall, writer, slot_id
        self._bookings: dict[int, str] = {}
        self._begun_ms = self._ended_ms = 0

    async def take(self, before: Slot, step: Step) -> None:
        """Do in the store what the model has just done. What happens at the HIS alone is not the store's business."""
        held = before.bookings[step.who]
        match step.what:
            case What.TICK:
                self._wall.turn(0.001)
            case What.FETCH_BEGINS:
                self._begun_ms = self._wall()
            case What.FETCH_ENDS:
                self._ended_ms = self._wall()
            case What.FETCH_APPLIED:
                assert before.fetch is not None
                async with self._store.write(HOSPITAL) as tx:
                    seen = make_slot(before.fetch.free)
                    await fetch(tx, seen, started_ms=self._begun_ms, ended_ms=self._ended_ms)
            case What.HELD:
                await self._hold(step.who)
            case What.DROPPED | What.ENDED_IN_FLIGHT | What.ENDED:
                async with self._store.write(HOSPITAL) as tx:
                    await cancel_booking(tx, self._hospital, await self._load(tx, step.who), "patient")
            case What.LOCK_SENT | What.UNLOCK_SENT:
                async with self._store.write(HOSPITAL) as tx:
                    await note_sent(tx, [(await self._mark(tx, step.who, "sent")).id])
            case What.GIVEN_UP:
                async with self._store.write(HOSPITAL) as tx:
                    await note_command(tx, await self._mark(tx, step.who, "unknown"), CommandStatus.UNKNOWN)
            case What.TOLD:
                done = held.wire in ("ok", "gone")
                await self._settle(step.who, None if done else _CODES[held.wire], gone_already=held.wire == "gone")
            case What.LOOKED:
                await self._look(step.who, held)

    async def _hold(self, who: int) -> None:
        patient = Patient(name="张三", id_type="passport", id_number=f"E{who:08d}", phone="13800000000")
        patient_id = await put_patient(self._store, patient)
        answer = await self._writer.hold(self._hospital, request(self._slot_id, patient_id))
        self._bookings[who] = msgspec.json.decode(answer.body)["id"]

    async def _look(self, who: int, held: Held) -> None:
        match held.phase, held.his:
            case "D", "L":
                await self._settle(who, None)
            case "E", "G":
                await self._settle(who, None, gone_already=True)
            case "D", "-" if not held.promised:
                await self._settle(who, "abandoned")
            case "D", "G":
                await self._settle(who, "released_by_his")
            case _:  # not there although it was sent: it is sent again
                async with self._store.write(HOSPITAL) as tx:
                    await note_command(tx, await self._mark(tx, who, "queued"), CommandStatus.QUEUED)

    async def _settle(self, who: int, code: str | None, *, gone_already: bool = False) -> None:
        async with self._store.write(HOSPITAL) as tx:
            booking = await self._mark(tx, who, "done")
            result = CommandResult(accepted=code is None, code=code, gone_already=gone_already)
            await settle_command(tx, self._hospital, booking, result)

    async def _load(self, tx: Tx, who: int) -> Booking:
        booking = await load_booking(tx, self._bookings[who])
        assert booking is not None
        return booking

    async def _mark(self, tx: Tx, who: int, status: str) -> Booking:
        booking = await self._load(tx, who)
        await tx.run(
            update(outbox)
            .where(outbox.c.hospital_id == HOSPITAL, outbox.c.line == booking.line, outbox.c.status.in_(OPEN))
            .values(status=status)
        )
        return booking


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_figures_are_the_models_when_its_steps_are_taken_in_a_store(
    store: Store, hospital: Hospital, wall: Wall, seed: int
) -> None:
    chosen, rule = random.Random(seed), Rule()
    slot_id = await put_slot(store, WORLD.capacity)
    wall.turn(1)
    slot, way = WORLD.start(), []
    async with hold_writer(store) as writer:
        replay = Replay(store, hospital, wall, writer, slot_id)
        for _ in range(STEPS):
            step = chosen.choice(list(steps(rule, WORLD, slot)))
            way.append((step.what, step.who))
            await replay.take(slot, step)
            slot = step.after
            assert Seats(*await figures(store, slot_id)) == slot.figures, way
