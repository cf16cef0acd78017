"""A hospital of its own for each example, played step by step: what the rules of this folder stand on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, ExitStack
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from booking.report_rules import ReportRule
from booking.rules.settings import BookingRules, ReturnedSeats, WaitlistRule
from booking.settings import ReserveBy
from booking.visit_rules import VisitRule
from tests.booking.world import make_hospital
from tests.stores import Wall
from tests.visits.actions import Action, actions_of
from tests.visits.books import Books
from tests.visits.clinic import FEES_FEN, PORTALS, STAGES, Clinic, TurnedLoop
from tests.visits.his import FAULTS, READ_FAULTS
from tests.visits.reached import REACHED

Fresh = Callable[[], AbstractContextManager[tuple[str, str]]]
"""Gives the URLs of a booking store and of a message store of an example's own, gone afterwards."""

SLOTS = st.sampled_from(sorted(FEES_FEN))
PORTAL = st.sampled_from(PORTALS)
PATIENTS = st.integers(0, 2)
ANY = st.integers(0, 7)
SOME_FAULTS = st.lists(st.sampled_from(("", "", "", *FAULTS)), min_size=1, max_size=4)
AFTER: st.SearchStrategy[list[str] | None] = st.none() | st.just([""]) | SOME_FAULTS
READ = st.lists(st.sampled_from(("", "", *READ_FAULTS)), min_size=1, max_size=4)
SCENE = st.lists(st.tuples(PORTAL, SLOTS, PATIENTS, st.sampled_from(STAGES)), min_size=1, max_size=3)
"""How many bookings are under way when it begins, and how far they have come."""


_lines = WaitlistRule(accept_s=600.0)
_rules = st.sampled_from(
    [
        BookingRules(),
        BookingRules(waitlist=_lines),
        # By chance is by chance: here a seat always waits so long.
        BookingRules(waitlist=_lines, returned_seats=ReturnedSeats(least_s=300.0, most_s=300.0)),
    ]
)


def furnish(urls: tuple[str, str]) -> Clinic:
    """A hospital before the first patient comes: examples begin with copies of it."""
    clinic = Clinic(urls, make_hospital(), Wall())

    async def make() -> None:
        await clinic.open()
        await clinic.furnish()
        await clinic.close()

    with asyncio.Runner(loop_factory=TurnedLoop) as runner:
        runner.run(make())
    return clinic


def raise_if(found: list[str]) -> None:
    """Raises AssertionError for what is wrong."""
    if found:
        raise AssertionError("\n".join(found))


class Bench(RuleBasedStateMachine):
    """One example is one hospital in databases of its own."""

    furnished: ClassVar[Clinic]
    fresh: ClassVar[Fresh]
    clinic: Clinic
    actions: list[Action]
    often: set[str]
    steps: int

    @initialize(
        reserve_by=st.sampled_from([ReserveBy.LOCK, ReserveBy.BOOK, ReserveBy.QUOTA]),
        cancels=st.booleans(),
        lock_s=st.sampled_from([None, 600.0]),
        rules=_rules,
        no_show_after_h=st.sampled_from([None, 24]),
        reports=st.sampled_from(
            [ReportRule(), ReportRule(release="reviewed"), ReportRule(release="reviewed", delay_s=300)]
        ),
        scene=SCENE,
        data=st.data(),
    )
    def begin(
        self,
        reserve_by: ReserveBy,
        cancels: bool,
        lock_s: float | None,
        rules: BookingRules,
        no_show_after_h: int | None,
        reports: ReportRule,
        scene: list[tuple[str, str, int, str]],
        data: st.DataObject,
    ) -> None:
        REACHED.note("seats by", reserve_by)
        self.actions, self.steps = actions_of(type(self)), 0
        self.often = data.draw(st.sets(st.sampled_from([one.name for one in self.actions]), max_size=3), label="often")
        self.place = ExitStack()
        self.runner = asyncio.Runner(loop_factory=TurnedLoop)
        hospital = make_hospital(
            reserve_by=reserve_by, stop_cancels_at_his=cancels, portal_refunds=True, his_lock_s=lock_s, rules=rules,
            visits=VisitRule(no_show_after_h=no_show_after_h), reports=reports,
        )  # fmt: skip
        self.clinic = Clinic(self.place.enter_context(type(self).fresh()), hospital, Wall())
        self.clinic.begin_as(self.furnished)
        self.clinic.his.lock_s, self.clinic.his.quota = lock_s, reserve_by == ReserveBy.QUOTA
        self.do(self.clinic.open())
        for portal, slot, patient, stage in scene:
            self.live(self.clinic.bring(portal, slot, patient, stage))

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """Something happens: each hospital has a few things that happen more often there than elsewhere."""
        self.steps += 1
        possible = [one for one in self.actions if one.needs(self)]
        names = [one.name for one in possible for _ in range(one.weight + 8 * (one.name in self.often))]
        name = data.draw(st.sampled_from(names), label="what")
        REACHED.note("step", name)
        chosen = next(one for one in possible if one.name == name)
        chosen.does(self, **data.draw(chosen.arguments, label=name))

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def live(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.do(self.clinic.live(work))

    def send(self, *, faults: list[str], turns: int) -> None:
        """So many turns of the outbox, with these faults of the HIS."""
        self.clinic.his.faults.extend(faults)
        self.live(self.clinic.work(turns))
        self.clinic.his.faults.clear()

    def then(self, after: list[str] | None) -> None:
        """What was asked for is sent at once, with these faults; None: it waits."""
        if after is not None:
            self.send(faults=after, turns=3)

    def booking(self, number: int) -> str:
        """One of the bookings, the newest first."""
        known = list(self.clinic.bookings)
        return known[-1 - number % len(known)]

    # --- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        life, kept = self.clinic.life, self.clinic.life.commits_left
        life.commits_left = None
        found = self.do(Books(self.clinic).check())
        life.commits_left = kept
        raise_if(found)

    def teardown(self) -> None:
        if not hasattr(self, "clinic"):
            return
        try:
            self.do(self.clinic.settle())
            found = self.do(Books(self.clinic).check_rest())
            raise_if(found)
            raise_if(self.do(Books(self.clinic).check_reports()))
            self.do(self.clinic.let_the_days_pass())
            raise_if(self.do(Books(self.clinic).check_days()))
            REACHED.end()
        finally:
            self.do(self.clinic.close())
            self.runner.close()
            self.place.close()
