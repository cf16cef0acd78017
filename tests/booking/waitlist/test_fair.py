"""Whatever happens in whatever order: first come first served, no seat is sold twice, and nobody passes those who wait."""

from __future__ import annotations

import random

import pytest

from booking.errors import Refusal
from booking.settings import ReserveBy
from booking.store.engine import Store
from booking.waitlist.records import Entry
from tests.booking.rules.test_returned_seats import shown
from tests.booking.waitlist.lines import accept, counts, joined, leave_line, look, someone, sweep, with_line
from tests.booking.world import cancel, hold, put_patient, put_slot
from tests.stores import Wall

SEATS = 2
ACCEPT_S = 600
# Often enough sold out, and more people than seats in line.
CHOICES = [*("hold", "hold", "hold", "cancel", "cancel", "accept"), *["join"] * 4, "leave", "sweep", "time"]


class Model:
    """What must be so: who waits, in order; who is offered a seat; and the bookings that live."""

    def __init__(self) -> None:
        self.waiting: list[Entry] = []
        self.offered: list[Entry] = []
        self.live: list[str] = []

    @property
    def free(self) -> int:
        return SEATS - len(self.live) - len(self.offered)

    def sweep(self) -> None:
        while self.waiting and self.free > 0:
            self.offered.append(self.waiting.pop(0))


@pytest.mark.parametrize("seed", [0, 1, 3])  # in 2 nobody waits
async def test_line_is_served_in_order_and_no_seat_twice_when_much_happens(store: Store, wall: Wall, seed: int) -> None:
    chance, model, people = random.Random(seed), Model(), iter(range(seed * 1_000, seed * 1_000 + 1_000))
    hospital = with_line({"accept_s": ACCEPT_S}, reserve_by=ReserveBy.QUOTA)
    slot_id = await put_slot(store, SEATS)
    for _ in range(SEATS):
        model.live.append((await hold(store, hospital, slot_id, await put_patient(store, someone(next(people))))).id)
    most_waiting = 0
    for _ in range(30):
        n = next(people)
        match chance.choice(CHOICES):
            case "hold":
                patient_id = await put_patient(store, someone(n))
                if model.free > 0 and not model.waiting:
                    model.live.append((await hold(store, hospital, slot_id, patient_id)).id)
                else:
                    with pytest.raises(Refusal, match="slot_sold_out"):
                        await hold(store, hospital, slot_id, patient_id)
            case "join" if model.free > 0 and not model.waiting:
                with pytest.raises(Refusal, match="not_sold_out"):
                    await joined(store, hospital, n)
            case "join":
                model.waiting.append(await joined(store, hospital, n))
            case "leave" if model.waiting or model.offered:
                of = chance.choice([line for line in (model.waiting, model.offered) if line])
                assert await leave_line(store, hospital, of.pop(chance.randrange(len(of)))) == "cancelled"
            case "cancel" if model.live:
                await cancel(store, hospital, model.live.pop(chance.randrange(len(model.live))))
            case "accept" if model.offered:
                entry = model.offered.pop(chance.randrange(len(model.offered)))
                model.live.append((await accept(store, hospital, entry)).id)
            case "time":
                wall.turn(ACCEPT_S)
                model.offered.clear()
                await sweep(store, hospital)
                model.sweep()
            case _:
                await sweep(store, hospital)
                model.sweep()
        most_waiting = max(most_waiting, len(model.waiting))
        assert await counts(store) == (len(model.waiting), len(model.offered))
        assert await shown(store, slot_id) == {0 if model.waiting else model.free}
        for state, line in (("waiting", model.waiting), ("offered", model.offered)):
            assert {(await look(store, entry)).state for entry in line} <= {state}
    assert most_waiting > 1  # else it was no line
