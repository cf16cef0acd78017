"""One example's world: a hospital with its HIS, our process at work for it, two portals, and a clock that only the test turns.

Everything is done in the order that the test says: the outbox, the sweeps and the fetches run when they are asked to, with the
code that runs in the service. `reopen` is what a start after a crash does.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import datetime as dt
import itertools
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import select

from booking import billing
from booking.allowance import Allowance
from booking.api.holding import renderer
from booking.api.taking_over import take_over
from booking.api.views.records import ReportView
from booking.billing import bill_key, own_bill, pay_bill
from booking.bookings import cancel_booking, own_booking, pay_booking
from booking.errors import Refusal
from booking.inventory.postgres import PostgresBatches
from booking.inventory.requests import Answer, HoldRequest, Terms
from booking.inventory.sqlite import SqliteBatches
from booking.inventory.writer import HoldWriter, granted
from booking.money import find_payment, kept_payment
from booking.news import number_all
from booking.people import own_patient
from booking.refunds import ask_refund, own_refund, report_refund
from booking.settings import Hospital
from booking.steps import Step, Steps
from booking.store.engine import StoreUnavailable, Tx
from booking.store.tables import slots
from booking.waitlist.joining import join, leave
from connectors.port import HisError, Inbound, Stored, Verb
from mappings.canonical import Patient, Payment
from scheduler_sync.attendance import Attendance
from scheduler_sync.gateway import HospitalLink
from scheduler_sync.inbox import Inbox
from scheduler_sync.outbox import OutboxWorker
from scheduler_sync.pull import Puller
from scheduler_sync.sweeps import expire_holds, return_seats, serve_waitlist
from tests.booking.world import DAY, HOSPITAL, ZONE, make_payment, make_schedule, make_slot, put_patient, request
from tests.stores import Wall, make_vault
from tests.visits.his import ModelHis
from tests.visits.life import Death, Life, MortalBatches, MortalStore
from tests.visits.portal import Portal
from tests.visits.reached import REACHED
from tests.visits.reading import Reading

Asks = Callable[[], Coroutine[Any, Any, str]]
PORTALS = ("portal", "other")
STAGES = ("held", "locked", "paid", "registered", "registered", "given_back")
"""How far `bring` brings a booking; most are registered, because there most can happen to them."""
FEES_FEN = {"1": 1500, "2": 1500, "3": 0}  # by the HIS's id of a segment
SEATS = 2


def _terms(hospital: Hospital, now_ms: int) -> Terms:
    return Terms(mode=hospital.mode.value, offered=True, rules=hospital.rules, zone=hospital.zone)


def _numbers(portal: str) -> list[str]:
    """The passports of a portal's patients: two are the other's patients too."""
    return [f"E{n:08d}" for n in (1, 2, 3 + PORTALS.index(portal))]


class Unhurried(Attendance):
    """Time is the test's: nobody waits between two questions."""

    async def _pause(self, seconds: float) -> None:
        return None


class TurnedLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes with the test's clock: breakers and leases heed it."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


class Clinic:
    """The world of one example. `urls`: of the booking store and of the message store."""

    def __init__(self, urls: tuple[str, str], hospital: Hospital, wall: Wall) -> None:
        self.urls, self.hospital, self.wall = urls, hospital, wall
        self.his = ModelHis(wall, Life(), HOSPITAL)
        self.portals = {name: Portal(name) for name in PORTALS}
        self.slots: dict[str, str] = {}  # by the HIS's id
        self.schedules: dict[str, str] = {}  # by the HIS's id of its only slot
        self.patients: dict[str, list[str]] = {}
        self.bookings: dict[str, str] = {}  # and the portal that made it
        self.reads: list[tuple[str, str, str]] = []  # of reports that were given: portal, what, and which
        self.numbers = itertools.count(1)
        self.unheard: list[Asks] = []  # requests of portals whose answer has not come

    # --- our process ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """A process starts: it heals what the one before it has left."""
        self.life = self.his.life = Life()
        self.store, self.messages = (MortalStore(url, make_vault(), self.life, wall_ms=self.wall) for url in self.urls)
        self.link = HospitalLink(self.hospital, {self.his.name: self.his})
        self.worker = OutboxWorker(self.store, self.hospital, self.link)
        self.worker._in_vain = Allowance(1e9, 1_000_000_000, time.monotonic())
        self.inbox = Inbox(self.store, self.messages, self.hospital)
        self.puller = Puller(self.store, self.hospital, self.link)
        self.steps = Steps(self.store)
        of_engine = SqliteBatches if self.store.dialect == "sqlite" else PostgresBatches
        batches = MortalBatches(of_engine(self.store), self.life)
        self.writer = HoldWriter(self.store, terms=_terms, render=renderer, batches=batches)
        self.reading = Reading(self.store, self.hospital, self.link, self.writer)
        await self.writer.start()
        await self.worker._inherit()
        await self.inbox.heal()

    async def close(self) -> None:
        """The process is gone, with whatever it was doing."""
        me = asyncio.current_task()
        for _ in range(2):
            tasks = [task for task in asyncio.all_tasks() if task is not me]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, *self.writer._runners, return_exceptions=True)
        await self.writer._batches.close()
        await self.store.close()
        await self.messages.close()

    async def reopen(self) -> None:
        """Crash and start."""
        surprises = self.life.surprises
        await self.close()
        await self.open()
        self.life.surprises += surprises
        unheard, self.unheard = self.unheard, []
        for again in unheard:
            await again()

    async def live(self, work: Awaitable[Any]) -> Any:
        """What a step gives; None where the process died of it: then it is started again."""
        found = None
        with contextlib.suppress(Death):
            found = await work
        if self.life.dead:
            await self.reopen()
        return found

    def numbers_of(self, portal: str) -> list[str]:
        """The passports of a portal's patients."""
        return _numbers(portal)

    def begin_as(self, other: Clinic) -> None:
        """Where another was furnished, in copies of its databases."""
        self.his = copy.deepcopy(other.his, {id(other.wall): self.wall})
        self.slots, self.schedules = dict(other.slots), dict(other.schedules)
        self.patients = copy.deepcopy(other.patients)

    # --- before anything happens ---------------------------------------------------------------------------------------

    async def furnish(self) -> None:
        """Two segments that cost something, one that is free, and three patients at each of two portals."""
        for number, (slot_id, fee_fen) in enumerate(FEES_FEN.items()):
            schedule = make_schedule(f"S{slot_id}", fee_fen=fee_fen)
            slot = make_slot(SEATS, schedule_id=schedule.id, slot_id=slot_id, hour=8 + number)
            self.his.open_slot(schedule, slot)
        await self.puller.pull_once()
        async with self.store.read(HOSPITAL) as tx:
            rows = await tx.all(select(slots.c.id, slots.c.his_id, slots.c.schedule_id))
            self.slots = {row["his_id"]: row["id"] for row in rows}
            self.schedules = {row["his_id"]: row["schedule_id"] for row in rows}
        for portal in PORTALS:
            self.patients[portal] = [
                await put_patient(
                    self.store,
                    Patient(name="张三", id_type="passport", id_number=n, phone="13800000000"),
                    client=portal,
                    asks_his=True,
                )
                for n in _numbers(portal)
            ]
        while await self.work(4):
            pass

    # --- what portals do -----------------------------------------------------------------------------------------------

    async def hold(self, portal: str, slot_id: str, patient: int) -> str:
        """Hold a seat; why not, else "held"."""
        return await self._asked(self._a_hold(portal, slot_id, patient))

    async def hold_together(self, wanted: Sequence[tuple[str, str, int]]) -> None:
        """Several hold at the same moment: one batch has them all."""
        asks = [self._asked(self._a_hold(*one)) for one in wanted]
        for found in await asyncio.gather(*asks, return_exceptions=True):
            if isinstance(found, BaseException) and not isinstance(found, Death):
                raise found
        self.life.check()

    async def accept(self, portal: str, entry_id: str) -> str:
        """Hold what is offered to an entry of the waitlist; why not, else "held"."""
        entry = self.portals[portal].entries[entry_id]
        key = f"k{next(self.numbers)}"
        asked = request(entry["slot_id"], entry["patient_id"], client=portal, key=key)
        return await self._asked(partial(self._hold, msgspec.structs.replace(asked, offer=entry_id)))

    def _a_hold(self, portal: str, slot_id: str, patient: int) -> Asks:
        """A request under a key of its own, the same each time that it is asked."""
        key = f"k{next(self.numbers)}"
        asked = request(self.slots[slot_id], self.patients[portal][patient], client=portal, key=key)
        return partial(self._hold, asked)

    async def join(self, portal: str, slot_id: str, patient: int) -> str:
        """Wait in line for a session; why not, else "waiting"."""
        return await self._asked(partial(self._join, portal, self.schedules[slot_id], self.patients[portal][patient]))

    async def _join(self, portal: str, schedule_id: str, patient_id: str) -> str:
        try:
            async with self.store.write(HOSPITAL, here=True) as tx:
                terms = _terms(self.hospital, tx.now_ms)
                await join(
                    tx, self.hospital, terms, client_id=portal, user_ref=None, patient_id=patient_id, schedule_id=schedule_id
                )  # fmt: skip
        except Refusal as refused:
            REACHED.note("joining a line", refused.code)
            return refused.code
        REACHED.note("joining a line", "waiting")
        return "waiting"

    async def leave(self, portal: str, entry_id: str) -> None:
        """Give up a place in line."""
        async with self.store.write(HOSPITAL, here=True) as tx:
            await leave(tx, self.hospital, portal, entry_id)

    async def _hold(self, asked: HoldRequest) -> str:
        """A portal asks again as long as it is not answered."""
        while True:
            try:
                granted = await self._of_writer(asked)
            except StoreUnavailable:
                continue
            except Refusal as refused:
                REACHED.note("hold", refused.code)
                return refused.code
            break
        REACHED.note("hold", "granted again" if granted.replayed else "granted")
        booking = msgspec.json.decode(granted.body)
        self.bookings[booking["id"]] = asked.client_id
        self.portals[asked.client_id].slots.setdefault(booking["id"], booking["slot_id"])
        return "held"

    async def _of_writer(self, asked: HoldRequest) -> Answer:
        """Its answer. Raises Refusal, StoreUnavailable, Death: a dead writer answers nobody."""
        answer = self.writer.ask(self.hospital, asked)
        either: list[asyncio.Future[Any]] = [answer, *self.writer._runners]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        self.life.check()
        return granted(await answer)

    async def pay(self, booking_id: str, payment: Payment) -> str:
        """Report money for a booking; why it was refused, else "recorded"."""
        return await self._asked(partial(self._pay, booking_id, payment))

    async def _asked(self, ask: Asks) -> str:
        """What a request is answered; the portal repeats it where the answer does not come."""
        self.unheard.append(ask)
        answer = await ask()
        self.unheard.remove(ask)
        return answer

    async def _pay(self, booking_id: str, payment: Payment) -> str:
        portal = self.portals[self.bookings[booking_id]]

        async def work(tx: Tx, booking: Any) -> None:
            await pay_booking(tx, self.hospital, booking, payment)

        try:
            await self.steps.take(HOSPITAL, Step(portal.name, booking_id, work, [(payment.channel, payment.trade_no)]))
        except Refusal as refused:
            return refused.code
        portal.paid[payment.channel, payment.trade_no] = payment.amount_fen
        return "recorded"

    async def cancel(self, booking_id: str) -> str:
        """Ask to cancel a booking; why it was refused, else "asked"."""

        async def work(tx: Tx, booking: Any) -> None:
            await cancel_booking(tx, self.hospital, booking, "patient")

        try:
            await self.steps.take(HOSPITAL, Step(self.bookings[booking_id], booking_id, work))
        except Refusal as refused:
            REACHED.note("cancel", refused.code)
            return refused.code
        REACHED.note("cancel", "asked")
        return "asked"

    async def report(self, refund_id: str, word: str, portal: Portal) -> str:
        """The portal says how a refund stands; why it was refused, else "heard"."""
        try:
            async with self.store.write(HOSPITAL, here=True) as tx:
                row = await own_refund(tx, portal.name, refund_id)
                await report_refund(tx, row, word=word, refund_trade_no=None, tells_his=True)
        except Refusal as refused:
            return refused.code
        return "heard"

    async def ask_back(self, booking_id: str, amount_fen: int, part: str) -> str:
        """The portal wants a part of a fee back; why it was refused, else "due"."""
        try:
            async with self.store.write(HOSPITAL, here=True) as tx:
                booking = await own_booking(tx, self.bookings[booking_id], booking_id)
                payment = await kept_payment(tx, booking_id=booking.id)
                await ask_refund(tx, payment, amount_fen=amount_fen, reason="goodwill", part=part)
        except Refusal as refused:
            return refused.code
        return "due"

    async def read_bills(self, portal: str, patient: int) -> None:
        """A patient looks at the bills: they are asked of the HIS."""
        async with self.store.read(HOSPITAL) as tx:
            _, person = await own_patient(tx, portal, self.patients[portal][patient])
        if (mrn := person.record.mrn) is None:
            return
        try:
            told = await self.link.read(Verb.FETCH_BILLS, person.record, attempts=1)
        except HisError:
            return
        await take_over(
            self.store,
            HOSPITAL,
            person,
            told,
            is_known=partial(billing.is_known, mrn=mrn),
            put=partial(billing.put_bill, currency="CNY", mrn=mrn),
        )

    async def pay_bill(self, portal: str, patient: int, his_id: str, payment: Payment) -> str:
        """Report money for a bill; why it was refused, else "recorded"."""
        return await self._asked(partial(self._pay_bill, portal, patient, his_id, payment))

    async def _pay_bill(self, portal: str, patient: int, his_id: str, payment: Payment) -> str:
        try:
            async with self.store.write(HOSPITAL, here=True) as tx:
                _, person = await own_patient(tx, portal, self.patients[portal][patient])
                bill = await own_bill(tx, person, bill_key(HOSPITAL, his_id))
                await pay_bill(tx, bill, payment, client_id=portal, offered=True)
                client = (await find_payment(tx, payment.channel, payment.trade_no)).client_id  # type: ignore[union-attr]
        except Refusal as refused:
            return refused.code
        self.portals[client].paid[payment.channel, payment.trade_no] = payment.amount_fen
        return "recorded"

    async def bring(self, portal: str, slot_id: str, patient: int, stage: str, faults: Sequence[str] = ()) -> None:
        """A booking that is brought to a stage of `STAGES`, where it gets so far; the calls meet these faults.

        It is made for the first who may, from these on.
        """
        others = [str(1 + (int(slot_id) - 1 + n) % len(FEES_FEN)) for n in range(len(FEES_FEN))]
        for slot_id, number in itertools.product(others, range(3)):
            if await self.hold(portal, slot_id, (patient + number) % 3) == "held":
                break
        else:
            return
        if stage == "held":
            return
        self.his.faults.extend(faults)
        booking_id = list(self.bookings)[-1]
        await self.work(6)
        if stage == "locked":
            return
        if FEES_FEN[slot_id]:
            await self.pay(booking_id, make_payment(FEES_FEN[slot_id], trade_no=f"T{6 + next(self.numbers)}"))
        if stage == "paid":
            return
        await self.work(6)
        if stage == "given_back":
            await self.cancel(booking_id)
            await self.work(6)

    async def read_reports(self, portal: str, patient: int, number: int) -> None:
        """A patient looks at the list, and at one of those that are in it."""
        patient_id = self.patients[portal][patient]
        items = await self.reading.list(portal, patient_id)
        if items is None:
            return
        self.reads.append((portal, "list", " ".join(f"{item.id}:{item.version}" for item in items)))
        self.his.wrong += self.wrong_in(portal, patient, items)
        if items:
            shown = await self.reading.one(portal, patient_id, items[number % len(items)].id)
            if shown is not None:
                self.reads.append((portal, "detail", f"{shown.id}:{shown.version}"))
                self.his.wrong += self.wrong_in(portal, patient, [shown])

    def wrong_in(self, portal: str, patient: int, shown: Sequence[ReportView]) -> list[str]:
        """What of these a patient should not see: another's, too early, twice, or what nobody has said."""
        his, found = self.his, []
        mrn = his.people[_numbers(portal)[patient]].mrn
        names = [view.name for view in shown]
        if len(names) > len(set(names)):
            found.append(f"a report is listed twice: {names}")
        for view in shown:
            if his.reports[str(view.name)].mrn != mrn:
                found.append(f"{portal} was shown {view.name} of another patient")
            rule, now = self.hospital.reports, his.now()
            if rule.release == "reviewed" and view.status == "preliminary":
                found.append(f"{view.name} was shown before its review")
            waits = view.status in ("preliminary", "final") and view.issued_at is not None
            if waits and (now - view.issued_at).total_seconds() < rule.delay_s:  # type: ignore[operator]
                found.append(f"{view.name} was shown too early")
            words = his.words[str(view.name)]
            if view.observations and (view.status, view.observations[0].value) not in words:
                found.append(f"{view.name} was shown as {view.status} {view.observations[0].value}: {words}")
        return found

    # --- what our process does -----------------------------------------------------------------------------------------

    async def work(self, turns: int) -> bool:
        """So many turns of the outbox, each with its calls; whether it found anything to do."""
        busy = False
        for _ in range(turns):
            found = await self.worker._turn(claims=True)
            running = set(self.worker._running)
            if running:
                await asyncio.wait(running)
            self.life.check()
            busy = busy or found
            if not found:
                return busy
        return busy

    async def record(self) -> None:
        """Let what has come in be recorded, and nothing more be claimed."""
        while self.worker._outcomes:
            await self.worker._turn(claims=False)

    async def expire(self) -> None:
        """The clock's sweep."""
        await expire_holds(self.store, self.hospital)

    async def serve_lines(self) -> None:
        """The sweeps of the waitlist, and of seats that were held back."""
        await serve_waitlist(self.store, self.hospital)
        await return_seats(self.store, self.hospital)

    async def ask_who_came(self) -> None:
        """The HIS is asked about the visits that have begun, today's and those of the days before."""
        await Unhurried(self.store, self.hospital, self.link, asyncio.Event()).look()

    async def pull(self) -> None:
        """A fetch; one that fails is made again later."""
        self.his.catch_up()
        with contextlib.suppress(HisError):
            await self.puller.pull_once()

    async def deliver(self, *, acknowledged: bool = True) -> None:
        """The HIS sends the oldest of what it has to tell. Where the answer is lost it sends it again."""
        if not self.his.news:
            return
        told = self.his.news[0]
        answer = await self.inbox.handle(
            Inbound(
                hospital_id=HOSPITAL,
                connector=self.his.name,
                peer="127.0.0.1:1",
                message_type="SIU^S14",
                control_id=f"N{told.number}",
                dedup_key=f"N{told.number}",
                raw=b"MSH|",
                events=told.events,
            )
        )
        if isinstance(answer, Stored) and acknowledged:
            self.his.news.popleft()
        await self.inbox.apply_all()

    def turn(self, seconds: float) -> None:
        """Time passes, for everybody."""
        self.wall.turn(seconds)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, TurnedLoop)
        loop.ahead_s += seconds
        self.his.catch_up()

    def turn_to(self, *, hours: int) -> None:
        """So many hours after the begin of the day of the visits; never back."""
        begin = dt.datetime.combine(DAY, dt.time(0), ZONE)
        to_ms = round((begin + dt.timedelta(hours=hours)).timestamp() * 1000)
        self.turn(max(0, to_ms - self.wall()) / 1000)

    @property
    def is_day(self) -> bool:
        """Whether the day of the visits has come."""
        return dt.datetime.fromtimestamp(self.wall() / 1000, ZONE).date() >= DAY

    # --- until nothing moves -------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """The HIS is well, everybody does what is theirs to do, and time passes, until nothing moves any more."""
        self.his.faults.clear()
        self.life.commits_left = None
        self.life.batch_faults.clear()
        await self.pull()
        await self._calm_down()
        for _ in range(2):  # what the first shows moves others, and those show in the second
            await self.pull()
            self.turn(1)
            await self._calm_down()
        await self.pull()

    async def _calm_down(self) -> None:
        quiet = 0  # rounds without anything; pauses of the outbox are a minute at most
        for _ in range(200):
            while self.his.news:
                await self.deliver()
            await self.inbox.apply_all()
            await self.expire()
            await self.serve_lines()
            moved = await self.work(50)
            await self.record()
            moved = await self._execute_refunds() or moved
            quiet = 0 if moved or self.his.news or self.his.late else quiet + 1
            self.turn(1000 if quiet == 3 else 31)  # past every window once nothing moves by itself
            if quiet > 6:
                return
        raise AssertionError("it never comes to rest")

    async def let_the_days_pass(self) -> None:
        """The patients are seen, nobody tells of it, and we ask: on the day, and two days later."""
        self.his.see_patients()
        for hours in (12, 60):
            self.turn_to(hours=hours)
            for _ in range(2):
                await self.ask_who_came()
            await self.serve_lines()

    async def _execute_refunds(self) -> bool:
        done = False
        await number_all(self.store)
        for portal in self.portals.values():
            await portal.read(self.store)
            for refund_id in portal.due():
                portal.give_back(refund_id)
                portal.timed_out.discard(refund_id)
                assert await self.report(refund_id, "refunded", portal) == "heard"
                done = True
        return done
