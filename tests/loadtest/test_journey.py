"""A patient's way through the portal, against a desk that answers as the product does."""

from __future__ import annotations

import json
import random
from typing import Any, cast

from loadtest.crowd.journey import Journey, Noted, Problem, World
from loadtest.crowd.plan import Behaviour, Plan, Target
from loadtest.crowd.samples import TURNED_AWAY_ADMITTED, Samples
from loadtest.crowd.shape import Shape
from loadtest.crowd.wire import Answer

SHAPE = Shape(quiet_per_s=0, ramp_from_s=-1, ramp_per_s=0, spike_per_s=1, after_per_s=1, decay_s=1)
TARGET = Target(id="h1", share=1.0, day="2031-03-04", departments=("D1",), patients=("p1", "p2", "p3"))


class FullHouse:
    """What a journey wants of its `World`: a hospital with a waiting room, which admits at once, and no seat left."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.plan = Plan(
            port=1,
            key="k",
            targets=(TARGET,),
            opens_at=0.0,
            starts_s=0.0,
            ends_s=9.0,
            give_up_s=99.0,
            shape=SHAPE,
            behaviour=behaviour,
        )
        self.samples, self.journeys, self.opens_s, self.gives_up_s = Samples(), 0, 0.0, 99.0
        self.noted: list[tuple[str, str]] = []
        self._patients = iter(TARGET.patients)

    def now_s(self) -> float:
        return 1.0

    def patient_of(self, _: Target) -> str:
        return next(self._patients)

    def ask(
        self, name: str, _: int, request: bytes, at_s: float, *, noted: Noted | None = None, **__: Any
    ) -> tuple[Answer, str, float]:
        status, body = self._answer(name, *request.decode().split("\r\n\r\n"))
        problem = Problem(code=body.get("code", ""))
        answer = Answer(status, body=json.dumps(body).encode())
        code = problem.code if noted is None else noted(answer, problem)
        self.noted.append((name, code))
        return answer, code, at_s

    def _answer(self, name: str, head: str, data: str) -> tuple[int, dict[str, Any]]:
        if name == "look":
            return 200, {"items": [{"id": "s1", "status": "sold_out", "remaining": 0}]}
        told = json.loads(data)
        if name == "join":
            return 201, {"ticket": f"ticket-of-{told['patient_id']}", "state": "admitted", "poll_after_s": 1.0}
        assert name == "hold"
        is_admitted = f"Waiting-Room-Ticket: ticket-of-{told['patient_id']}\r\n" in f"{head}\r\n"
        return (409, {"code": "slot_sold_out"}) if is_admitted else (429, {"code": "waiting_room"})


def test_ticket_is_good_for_who_comes_back_when_there_was_no_seat() -> None:
    house = FullHouse(Behaviour(attempts=1, stale_try=1.0, comes_back=1.0, asks_his=0.0))
    Journey(cast(World, house), TARGET, random.Random(1)).go(0.0)
    assert TURNED_AWAY_ADMITTED not in dict(house.noted).values()
    assert house.noted == [
        ("look", ""),
        ("hold", "waiting_room"),
        ("join", ""),
        ("hold", "slot_sold_out"),
        ("look", ""),
        ("hold", "slot_sold_out"),
    ]
