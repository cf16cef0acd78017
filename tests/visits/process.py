"""What our process does, and how it ends."""

from __future__ import annotations

from hypothesis import strategies as st

from booking.news import number_events
from tests.visits.actions import action
from tests.visits.machine import READ, SOME_FAULTS, Bench

LATE = 18  # steps: nothing is sold any more once the day has come


class Process(Bench):
    """Its turns, its sweeps, its crashes; and time."""

    @action(weight=6, faults=SOME_FAULTS, turns=st.integers(1, 6))
    def work(self, faults: list[str], turns: int) -> None:
        self.send(faults=faults, turns=turns)

    @action(weight=4, seconds=st.sampled_from([1, 7, 31, 61, 400, 901]))
    def turn(self, seconds: int) -> None:
        async def turn() -> None:
            self.clinic.turn(seconds)

        self.do(turn())

    @action(weight=2)
    def expire(self) -> None:
        self.live(self.clinic.expire())

    @action(weight=4, faults=READ)
    def pull(self, faults: list[str]) -> None:
        self.clinic.his.faults.extend(faults)
        self.live(self.clinic.pull())
        self.clinic.his.faults.clear()

    @action(weight=1, limit=st.integers(1, 3))
    def number(self, limit: int) -> None:
        self.live(number_events(self.clinic.store, limit=limit))

    @action(weight=2, commits=st.integers(0, 4))
    def doom(self, commits: int) -> None:
        self.clinic.life.commits_left = commits

    @action(weight=1)
    def crash(self) -> None:
        self.do(self.clinic.reopen())

    @action(weight=2, needs=lambda self: self.steps > LATE)
    def come_to_the_day(self) -> None:
        """The visits begin: nothing is sold any more, and it is asked who came."""

        async def turn() -> None:
            self.clinic.turn_to(hours=9)

        self.do(turn())

    @action(weight=8, needs=lambda self: self.clinic.is_day, faults=READ)
    def ask_who_came(self, faults: list[str]) -> None:
        self.clinic.his.faults.extend(faults)
        self.live(self.clinic.ask_who_came())
        self.clinic.his.faults.clear()

    @action(weight=3, needs=lambda self: self.clinic.hospital.rules.waitlist is not None)
    def serve_lines(self) -> None:
        self.live(self.clinic.serve_lines())
