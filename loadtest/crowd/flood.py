"""One client that floods: requests at a rate of its own, as fast as they are due, whatever is answered."""

from __future__ import annotations

import random

import gevent
import gevent.pool
import msgspec

from loadtest.crowd.journey import Requests, SlotList, World
from loadtest.crowd.plan import SCALPER, Flood
from loadtest.crowd.samples import HOLD, READ, Kept

HOLDS = 0.2  # of what it asks


def flood(world: World, told: Flood, chance: random.Random) -> None:
    """Ask from `from_s` to `to_s` (relative to the opening); one greenlet for each request."""
    target = next(t for t in world.plan.targets if t.id == told.hospital)
    requests, running = Requests(told.key, told.hospital), gevent.pool.Group()
    slots: list[str] = []

    def ask(at_s: float) -> None:
        hold = bool(slots) and chance.random() < HOLDS
        slot = chance.choice(slots) if hold else ""
        request = (
            requests.hold(slot, chance.choice(told.patients), "scalper")
            if hold
            else requests.slots(chance.choice(target.departments), target.day)
        )
        name, request_class = ("hold", HOLD) if hold else ("look", READ)
        answer, _, ended_s = world.ask(
            f"flood {name}", request_class, request, at_s, hospital=told.hospital, client=SCALPER, journey=0
        )
        if answer.status == 200 and not hold:
            slots[:] = [s.id for s in msgspec.json.decode(answer.body, type=SlotList).items]
        elif answer.status == 201:
            held = msgspec.json.decode(answer.body)
            world.samples.bookings.append(
                Kept(
                    id=held["id"], order_no=held["order_no"], hospital=told.hospital, slot_id=slot,
                    fee_fen=held["fee_fen"], held_s=ended_s,
                )
            )  # fmt: skip

    at_s = world.opens_s + told.from_s
    while at_s < world.opens_s + told.to_s:
        world.wait_until(at_s)
        running.spawn(ask, at_s)
        at_s += chance.expovariate(told.per_s)
    running.join(timeout=world.plan.time_out_s)
    running.kill()
