"""The whole visit at once: portals, patients, the HIS, the clock and crashes, in whatever order Hypothesis thinks of.

After every step: money in = settled + waiting + refund due + refunded, in the rows and in the ledger; nothing is booked without a
registration at the HIS; the events alone rebuild what the API shows. When nothing moves any more, the HIS and we agree on visits,
seats and money, and a person is asked only about what the HIS would not do.

A few hospitals in `make test`; `make visits` plays a thousand. Seen to be caught, each put into the product by hand: a lost reply
that counts as a refusal, or as done; what a crash has left sent again without asking; a lock that came too late and is not given
back; no refund after a confirmed release; a refund that timed out called failed; an event left out; a number left out between
events; a settlement that is not in the ledger.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from booking.news import number_events
from booking.settings import ReserveBy
from mappings.canonical import (
    BillStatus,
    NewPlace,
    RefundAsked,
    RegistrationChanged,
    RegistrationStatus,
    ScheduleStopped,
    StopScope,
)
from tests.booking.world import make_hospital, make_payment
from tests.postgres import PostgresServer
from tests.stores import Wall
from tests.visits.books import Books
from tests.visits.clinic import FEES_FEN, PORTALS, Clinic, TurnedLoop
from tests.visits.his import FAULTS, LOCKED, REGISTERED, RELEASED, SEEN

# `make visits` asks for more: VISITS is how many examples, each of at most STEPS steps.
EXAMPLES, STEPS = int(os.environ.get("VISITS", "14")), int(os.environ.get("STEPS", "30"))
MEMORY = Path("/dev/shm")  # a disk that forgets: a crash here is one of the process, not of the machine
_slots = st.sampled_from(sorted(FEES_FEN))
_portals = st.sampled_from(PORTALS)
_patients = st.integers(0, 2)
_any = st.integers(0, 7)
_amounts_fen = st.sampled_from([1500, 1500, 1500, 1499, 1])
_lock_s = st.sampled_from([None, 600.0])
_faults = st.lists(st.sampled_from(("", *FAULTS)), max_size=4)
_after = st.none() | _faults


Fresh = Callable[[], AbstractContextManager[tuple[str, str]]]
"""Gives the URLs of a booking store and of a message store of an example's own, gone afterwards."""


@contextmanager
def on_sqlite(folder: Path) -> Iterator[tuple[str, str]]:
    """Copies of the two databases of a folder."""
    to = Path(tempfile.mkdtemp(prefix="visits", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        store, messages = (f"sqlite:///{shutil.copy(folder / name, to / name)}" for name in ("store.db", "messages.db"))
        yield store, messages
    finally:
        shutil.rmtree(to)


@contextmanager
def on_postgresql(server: PostgresServer, names: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """Databases made from two others."""
    made = [server.create_database(template=name) for name in names]
    try:
        yield server.url(made[0]), server.url(made[1])
    finally:
        for name in made:
            server.drop_database(name)


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


class WholeVisit(RuleBasedStateMachine):
    """One example is one hospital in databases of its own."""

    furnished: ClassVar[Clinic]
    fresh: ClassVar[Fresh]

    @initialize(
        reserve_by=st.sampled_from([ReserveBy.LOCK, ReserveBy.BOOK]),
        cancels=st.booleans(),
        lock_s=st.sampled_from([None, 600.0]),
    )
    def begin(self, reserve_by: ReserveBy, cancels: bool, lock_s: float | None) -> None:
        self.place = ExitStack()
        self.runner = asyncio.Runner(loop_factory=TurnedLoop)
        hospital = make_hospital(
            reserve_by=reserve_by, stop_cancels_at_his=cancels, portal_refunds=True, his_lock_s=lock_s
        )
        self.clinic = Clinic(self.place.enter_context(type(self).fresh()), hospital, Wall())
        self.clinic.begin_as(self.furnished)
        self.clinic.his.lock_s = lock_s
        self.do(self.clinic.open())

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def live(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.do(self.clinic.live(work))

    def booking(self, number: int) -> str | None:
        """One of the bookings, the newest first."""
        known = list(self.clinic.bookings)
        return known[-1 - number % len(known)] if known else None

    # --- portals and patients ----------------------------------------------------------------------------------------

    def then(self, after: list[str] | None) -> None:
        """What was asked for is sent at once, with these faults; None: it waits."""
        if after is not None:
            self.work(faults=after, turns=3)

    @rule(portal=_portals, slot=_slots, patient=_patients, after=_after)
    def hold(self, portal: str, slot: str, patient: int, after: list[str] | None) -> None:
        self.live(self.clinic.hold(portal, slot, patient))
        self.then(after)

    @rule(number=_any, amount_fen=_amounts_fen, trade=st.integers(1, 6), after=_after)
    def pay(self, number: int, amount_fen: int, trade: int, after: list[str] | None) -> None:
        if (booking_id := self.booking(number)) is not None:
            self.live(self.clinic.pay(booking_id, make_payment(amount_fen, trade_no=f"T{trade}")))
            self.then(after)

    @rule(portal=_portals, slot=_slots, patient=_patients, faults=_faults)
    def book(self, portal: str, slot: str, patient: int, faults: list[str]) -> None:
        """What usually happens, so that what is rare happens to visits that are well under way."""

        async def book() -> None:
            if await self.clinic.hold(portal, slot, patient) != "held":
                return
            await self.clinic.work(6)
            booking_id = list(self.clinic.bookings)[-1]
            if FEES_FEN[slot]:
                trade_no = f"T{6 + next(self.clinic.numbers)}"
                await self.clinic.pay(booking_id, make_payment(FEES_FEN[slot], trade_no=trade_no))
            self.clinic.his.faults.extend(faults)
            await self.clinic.work(6)

        self.live(book())
        self.clinic.his.faults.clear()

    @rule(number=_any, after=_after)
    def cancel(self, number: int, after: list[str] | None) -> None:
        if (booking_id := self.booking(number)) is not None:
            self.live(self.clinic.cancel(booking_id))
            self.then(after)

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

    @rule(limit=st.integers(1, 3))
    def number(self, limit: int) -> None:
        self.live(number_events(self.clinic.store, limit=limit))

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

    @rule(slot=_slots, cancels=st.booleans(), told=st.sampled_from(["segment", "schedule", "no"]))
    def stop(self, slot: str, cancels: bool, told: str) -> None:
        """停诊; where nobody tells us, a fetch shows it."""
        his = self.clinic.his
        his.stop(slot, cancels=cancels or not self.clinic.hospital.stop_cancels_at_his)
        of = his.slots[slot]
        if told != "no":
            his.tell(
                ScheduleStopped(
                    scope=StopScope(told), schedule_id=of.schedule_id, date=of.date, starts_at=of.starts_at,
                    orders_cancelled=cancels, occurred_at=his.now(),
                )
            )  # fmt: skip

    @rule(slot=_slots)
    def open_again(self, slot: str) -> None:
        self.clinic.his.stopped.discard(slot)

    @rule(number=_any)
    def move(self, number: int) -> None:
        """改诊: the HIS moves one visit to the other segment, where it has a seat."""
        his = self.clinic.his
        visits = list(his.visits.values())
        if not visits:
            return
        visit = visits[-1 - number % len(visits)]
        to = {"1": "2", "2": "1"}.get(visit.slot_id)
        if to is None or visit.status not in (LOCKED, REGISTERED) or his.left(to) <= 0 or to in his.stopped:
            return
        visit.slot_id, of = to, his.slots[to]
        place = NewPlace(
            schedule_id=of.schedule_id, date=of.date, session=of.session, starts_at=of.starts_at, slot_id=of.id
        )
        his.tell(ScheduleStopped(scope=StopScope.ORDER, order_no=visit.order_no, moved_to=place, occurred_at=his.now()))

    @rule(slot=_slots, doctor=st.sampled_from(["P1", "P2"]))
    def stand_in(self, slot: str, doctor: str) -> None:
        """替诊."""
        his, of = self.clinic.his, self.clinic.his.slots[slot]
        his.tell(
            ScheduleStopped(
                scope=StopScope.SEGMENT, schedule_id=of.schedule_id, date=of.date, starts_at=of.starts_at,
                moved_to=NewPlace(practitioner_id=doctor, practitioner_name=doctor), occurred_at=his.now(),
            )
        )  # fmt: skip

    @rule(a=_patients, b=_patients)
    def merge(self, a: int, b: int) -> None:
        people = list(self.clinic.his.people.values())
        surviving, retired = people[a].mrn, people[b].mrn
        if surviving != retired and surviving is not None and retired is not None:
            self.clinic.his.merge(surviving, retired)

    @rule(loses_locks=st.booleans())
    def his_restarts(self, loses_locks: bool) -> None:
        """What it had not done yet is lost; some systems keep locks in memory."""
        his = self.clinic.his
        his.late.clear()
        for visit in his.visits.values():
            if loses_locks and visit.status == LOCKED:
                visit.status = RELEASED

    # --- bills ---------------------------------------------------------------------------------------------------------

    @rule(patient=_any, amount_fen=st.sampled_from([8800, 100]))
    def charge(self, patient: int, amount_fen: int) -> None:
        his = self.clinic.his
        people = list(his.people.values())
        his.charge(f"B{len(his.charges) + 1}", str(people[patient % len(people)].mrn), amount_fen)

    @rule(portal=_portals, patient=_patients)
    def read_bills(self, portal: str, patient: int) -> None:
        self.live(self.clinic.read_bills(portal, patient))

    @rule(
        portal=_portals,
        patient=_patients,
        number=_any,
        amount_fen=st.sampled_from([8800, 8800, 100]),
        trade=st.integers(1, 6),
    )
    def pay_bill(self, portal: str, patient: int, number: int, amount_fen: int, trade: int) -> None:
        known = list(self.clinic.his.charges)
        if known:
            bill_id = known[-1 - number % len(known)]
            self.live(self.clinic.pay_bill(portal, patient, bill_id, make_payment(amount_fen, trade_no=f"T{trade}")))

    @rule(number=_any, status=st.sampled_from([BillStatus.PAID, BillStatus.CANCELLED]))
    def his_puts_bill(self, number: int, status: BillStatus) -> None:
        known = list(self.clinic.his.charges)
        if not known:
            return
        charge = self.clinic.his.charges[known[-1 - number % len(known)]]
        if charge.bill.status == BillStatus.OPEN or (charge.bill.status, status) == (
            BillStatus.PAID,
            BillStatus.CANCELLED,
        ):
            self.clinic.his.put_bill(charge.bill.id, status)

    @rule(number=_any, amount_fen=st.sampled_from([None, 800, 8800, 9999]), call=st.integers(1, 2))
    def his_takes_back(self, number: int, amount_fen: int | None, call: int) -> None:
        known = list(self.clinic.his.charges)
        if known:
            bill_id = known[-1 - number % len(known)]
            self.clinic.his.tell(
                RefundAsked(
                    bill_id=bill_id, amount_fen=amount_fen, his_refund_no=f"F{call}", occurred_at=self.clinic.his.now()
                )
            )

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
        it.timed_out.discard(refund_id)
        if self.live(self.clinic.report(refund_id, word, it)) == "heard" and word == "unknown":
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
            found = self.do(Books(self.clinic).check_rest())
            assert found == []
        finally:
            self.do(self.clinic.close())
            self.runner.close()
            self.place.close()


def play(urls: tuple[str, str], fresh: Fresh, examples: int) -> None:
    """So many hospitals, each in databases like those that are furnished at `urls`."""
    WholeVisit.furnished, WholeVisit.fresh = furnish(urls), staticmethod(fresh)
    run_state_machine_as_test(
        WholeVisit,
        settings=settings(suppress_health_check=list(HealthCheck), stateful_step_count=STEPS, max_examples=examples),
    )


@pytest.mark.timeout(7200)
def test_no_fen_and_no_visit_goes_astray_when_everything_happens(sqlite_originals: Path, tmp_path: Path) -> None:
    store, messages = (
        f"sqlite:///{shutil.copy(sqlite_originals / n, tmp_path / n)}" for n in ("store.db", "messages.db")
    )
    play((store, messages), lambda: on_sqlite(tmp_path), EXAMPLES)


@pytest.mark.timeout(7200)
def test_none_does_when_the_store_is_postgresql(
    postgres_server: PostgresServer, postgres_originals: dict[str, str]
) -> None:
    names = [postgres_server.create_database(template=postgres_originals[kind]) for kind in ("store", "messages")]
    urls = (postgres_server.url(names[0]), postgres_server.url(names[1]))
    play(urls, lambda: on_postgresql(postgres_server, (names[0], names[1])), max(2, EXAMPLES // 8))
    for name in names:
        postgres_server.drop_database(name)
