"""The whole visit at once: portals, patients, the HIS, the clock and crashes, in whatever order Hypothesis thinks of.

After every step: money in = settled + waiting + refund due + refunded, in the rows and in the ledger; nothing is booked without a
registration at the HIS; the events alone rebuild what the API shows. When nothing moves any more, the HIS and we agree.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from booking.settings import ReserveBy
from mappings.canonical import RegistrationChanged, RegistrationStatus
from tests.booking.world import make_hospital, make_payment
from tests.stores import Wall
from tests.visits.books import Books
from tests.visits.clinic import FEES_FEN, PORTALS, Clinic, TurnedLoop
from tests.visits.his import FAULTS, LOCKED, REGISTERED, SEEN

MEMORY = Path("/dev/shm")  # a disk that forgets: a crash here is one of the process, not of the machine
_slots = st.sampled_from(sorted(FEES_FEN))
_portals = st.sampled_from(PORTALS)
_patients = st.integers(0, 2)
_any = st.integers(0, 7)
_faults = st.lists(st.sampled_from(("", *FAULTS)), max_size=4)


class WholeVisit(RuleBasedStateMachine):
    """One example is one hospital in databases of its own."""

    originals: ClassVar[Path]

    @initialize(reserve_by=st.sampled_from([ReserveBy.LOCK, ReserveBy.BOOK]), cancels=st.booleans())
    def begin(self, reserve_by: ReserveBy, cancels: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="visits", dir=MEMORY if MEMORY.is_dir() else None))
        urls = [
            f"sqlite:///{shutil.copy(self.originals / f'{kind}.db', self.folder / f'{kind}.db')}"
            for kind in ("store", "messages")
        ]
        self.runner = asyncio.Runner(loop_factory=TurnedLoop)
        hospital = make_hospital(reserve_by=reserve_by, stop_cancels_at_his=cancels, portal_refunds=True)
        self.clinic = Clinic((urls[0], urls[1]), hospital, Wall())
        self.do(self.clinic.open())
        self.do(self.clinic.furnish())

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def live(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.do(self.clinic.live(work))

    def booking(self, number: int) -> str | None:
        """One of the bookings, the newest first."""
        known = list(self.clinic.bookings)
        return known[-1 - number % len(known)] if known else None

    # --- portals and patients ----------------------------------------------------------------------------------------

    @rule(portal=_portals, slot=_slots, patient=_patients)
    def hold(self, portal: str, slot: str, patient: int) -> None:
        self.live(self.clinic.hold(portal, slot, patient))

    @rule(number=_any, amount_fen=st.sampled_from([1500, 1500, 1500, 1499, 1]), trade=st.integers(1, 6))
    def pay(self, number: int, amount_fen: int, trade: int) -> None:
        if (booking_id := self.booking(number)) is not None:
            self.live(self.clinic.pay(booking_id, make_payment(amount_fen, trade_no=f"T{trade}")))

    @rule(number=_any)
    def cancel(self, number: int) -> None:
        if (booking_id := self.booking(number)) is not None:
            self.live(self.clinic.cancel(booking_id))

    # --- our process -------------------------------------------------------------------------------------------------

    @rule(faults=_faults, turns=st.integers(1, 6))
    def work(self, faults: list[str], turns: int) -> None:
        self.clinic.his.faults.extend(faults)
        self.live(self.clinic.work(turns))
        self.clinic.his.faults.clear()

    @rule(seconds=st.sampled_from([1, 7, 31, 61, 400, 901]))
    def turn(self, seconds: int) -> None:
        async def turn() -> None:
            self.clinic.turn(seconds)

        self.do(turn())

    @rule()
    def expire(self) -> None:
        self.live(self.clinic.expire())

    @rule(faults=st.lists(st.sampled_from(["", "", "garbage", "refuses", "die"]), max_size=2))
    def pull(self, faults: list[str]) -> None:
        self.clinic.his.faults.extend(faults)
        self.live(self.clinic.pull())
        self.clinic.his.faults.clear()

    @rule(commits=st.integers(0, 4))
    def doom(self, commits: int) -> None:
        self.clinic.life.commits_left = commits

    @rule()
    def crash(self) -> None:
        self.do(self.clinic.reopen())

    # --- the HIS -----------------------------------------------------------------------------------------------------

    @rule(slot=_slots)
    def sell_at_window(self, slot: str) -> None:
        self.clinic.his.sell(slot)

    @rule(acknowledged=st.booleans())
    def deliver(self, acknowledged: bool) -> None:
        self.live(self.clinic.deliver(acknowledged=acknowledged))

    @rule(number=_any, becomes=st.sampled_from([RegistrationStatus.RELEASED, REGISTERED, *SEEN]))
    def his_decides(self, number: int, becomes: RegistrationStatus) -> None:
        visits = list(self.clinic.his.visits.values())
        if not visits:
            return
        visit = visits[-1 - number % len(visits)]
        if becomes == REGISTERED:  # at the window, with its money
            if visit.status != LOCKED:
                return
            visit.at_window = visit.was_registered = True
        elif becomes == RegistrationStatus.RELEASED:
            if visit.status not in (LOCKED, REGISTERED):
                return
        elif visit.status != REGISTERED:
            return
        visit.status = becomes
        told = self.clinic.his.registration(visit)
        self.clinic.his.tell(RegistrationChanged(registration=told, occurred_at=self.clinic.his.now()))

    # --- refunds -----------------------------------------------------------------------------------------------------

    @rule(portal=_portals, number=_any, word=st.sampled_from(["refunding", "refunded", "unknown", "failed"]))
    def report(self, portal: str, number: int, word: str) -> None:
        it = self.clinic.portals[portal]
        known = list(it.refunds)
        if not known:
            return
        refund_id = known[-1 - number % len(known)]
        if word == "refunded" and refund_id not in it.given_back:
            it.give_back(refund_id)
        if word == "failed" and refund_id in it.given_back:
            return
        if self.live(self.clinic.report(refund_id, word, it)) == "heard":
            it.timed_out.discard(refund_id)
            if word == "unknown":
                it.timed_out.add(refund_id)

    @rule(number=_any, amount_fen=st.sampled_from([1, 700, 1500]), part=st.sampled_from(["a", "b"]))
    def ask_back(self, number: int, amount_fen: int, part: str) -> None:
        if (booking_id := self.booking(number)) is not None:
            self.live(self.clinic.ask_back(booking_id, amount_fen, part))

    # --- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        life, kept = self.clinic.life, self.clinic.life.commits_left
        life.commits_left = None
        found = self.do(Books(self.clinic).check())
        life.commits_left = kept
        assert found == []

    def teardown(self) -> None:
        if not hasattr(self, "clinic"):
            return
        try:
            self.do(self.clinic.settle())
            assert self.do(Books(self.clinic).check_rest()) == []
        finally:
            self.do(self.clinic.close())
            self.runner.close()
            shutil.rmtree(self.folder)


def test_no_fen_and_no_visit_goes_astray_when_everything_happens(sqlite_originals: Path) -> None:
    WholeVisit.originals = sqlite_originals
    run_state_machine_as_test(
        WholeVisit, settings=settings(suppress_health_check=list(HealthCheck), stateful_step_count=30)
    )
