"""A patient's way through the portal: look, look again, hold, give up or pay, cancel, come back. Runs in a greenlet of its own.

Every request is meant for an instant: the arrival, or a time to think after the last answer. Its latency counts from there,
so that what a slow answer delays is not left out of the figures.
"""

from __future__ import annotations

import datetime as dt
import random
import time
import uuid
from collections.abc import Callable

import gevent
import msgspec

from loadtest.crowd.plan import PORTAL, Behaviour, Plan, Target
from loadtest.crowd.samples import (
    HOLD,
    JOIN,
    LIST_EMPTY,
    LIST_NOT_RELEASED,
    LIVE,
    READ,
    STATUS,
    STEP,
    TURNED_AWAY_ADMITTED,
    Kept,
    Samples,
)
from loadtest.crowd.wire import Answer, Wire

MOST_REPEATS = 2  # of a request that was put off or failed


class Slot(msgspec.Struct):
    id: str
    status: str
    remaining: int


class SlotList(msgspec.Struct):
    items: list[Slot]


class Booking(msgspec.Struct):
    id: str
    order_no: str
    state: str
    his_state: str
    payment_state: str
    payable: bool
    fee_fen: int


class Ticket(msgspec.Struct):
    ticket: str
    state: str
    poll_after_s: float
    closed_because: str | None = None


class Told(msgspec.Struct):
    ticket: str = ""


class Problem(msgspec.Struct):
    code: str = ""
    extra: Told = msgspec.field(default_factory=Told)


_slots = msgspec.json.Decoder(SlotList)
_booking = msgspec.json.Decoder(Booking)
_ticket = msgspec.json.Decoder(Ticket)
_problem = msgspec.json.Decoder(Problem)

Seen = Callable[[str, float, int], None]
"""Told of each request: its kind, its latency in seconds, its status. Locust's statistics."""


Noted = Callable[[Answer, Problem], str]
"""What is noted of an answer in place of its problem code."""


class Left(Exception):
    """The patient has gone."""


class World:
    """What all journeys of a crowd share."""

    def __init__(self, plan: Plan, samples: Samples, seen: Seen) -> None:
        self.plan = plan
        self.samples = samples
        self.wire = Wire("127.0.0.1", plan.port, most=plan.most_connections, time_out_s=plan.time_out_s)
        self.started_at = plan.opens_at + plan.starts_s
        self._offset_s = time.time() - time.monotonic() - self.started_at
        self.hospitals = {target.id: n for n, target in enumerate(plan.targets)}
        self.journeys = 0
        self._seen = seen
        self._next_patient = dict.fromkeys(self.hospitals, 0)

    def now_s(self) -> float:
        """Seconds since the crowd's start."""
        return time.monotonic() + self._offset_s

    @property
    def opens_s(self) -> float:
        return -self.plan.starts_s

    @property
    def gives_up_s(self) -> float:
        return self.plan.give_up_s - self.plan.starts_s

    def wait_until(self, at_s: float) -> None:
        if (wait_s := at_s - self.now_s()) > 0:
            gevent.sleep(wait_s)

    def patient_of(self, target: Target) -> str:
        """The next patient of a hospital's portal; after the last one the first comes again."""
        number = self._next_patient[target.id]
        self._next_patient[target.id] = number + 1
        return target.patients[number % len(target.patients)]

    def ask(
        self,
        name: str,
        request_class: int,
        request: bytes,
        at_s: float,
        *,
        hospital: str,
        client: int,
        journey: int,
        noted: Noted | None = None,
    ) -> tuple[Answer, str, float]:
        """One request that was meant for `at_s`: the answer, its problem code, and when it had come. Leaves a sample."""
        self.wait_until(at_s)
        started_s = self.now_s()
        answer = self.wire.ask(request)
        ended_s = self.now_s()
        problem = Problem()
        if answer.status >= 400:
            try:
                problem = _problem.decode(answer.body)
            except msgspec.DecodeError:
                problem.code = "unreadable"
        code = problem.code if noted is None else noted(answer, problem)
        samples = self.samples
        row = (
            at_s, started_s, ended_s, answer.status, request_class, samples.code(code) if code else 0,
            self.hospitals[hospital], client, journey,
        )  # fmt: skip
        samples.rows.append(row)
        self._seen(name, ended_s - at_s, answer.status)
        return answer, code, ended_s


class Requests:
    """The bytes of requests to one hospital under one key."""

    def __init__(self, key: str, hospital: str) -> None:
        self._of = f"/v1/hospitals/{hospital}"
        self._fields = f"HTTP/1.1\r\nHost: portal.example\r\nAuthorization: Bearer {key}\r\nAccept: */*\r\n"

    def slots(self, department: str, day: str) -> bytes:
        return self._get(f"/slots?department_id={department}&from={day}&to={day}")

    def booking(self, booking_id: str) -> bytes:
        return self._get(f"/bookings/{booking_id}")

    def hold(self, slot: str, patient: str, user: str, ticket: str = "") -> bytes:
        body: dict[str, object] = {"user_ref": user, "slot_id": slot, "patient_id": patient}
        return self._post("/bookings", body, f"Waiting-Room-Ticket: {ticket}\r\n" if ticket else "")

    def join(self, patient: str, user: str) -> bytes:
        return self._post("/waiting-room/tickets", {"user_ref": user, "patient_id": patient})

    def standing(self, ticket: str) -> bytes:
        return self._get(f"/waiting-room/tickets/{ticket}")

    def bills(self, patient: str) -> bytes:
        return self._get(f"/patients/{patient}/bills")

    def cancel(self, booking_id: str) -> bytes:
        return self._post(f"/bookings/{booking_id}/cancel", {"reason": "plans changed"})

    def pay(self, booking_id: str, trade_no: str, amount_fen: int) -> bytes:
        paid_at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        body = {"channel": "wechat", "trade_no": trade_no, "amount_fen": amount_fen, "paid_at": paid_at}
        return self._post(f"/bookings/{booking_id}/payments", body)

    def _get(self, path: str) -> bytes:
        return f"GET {self._of}{path} {self._fields}\r\n".encode()

    def _post(self, path: str, body: dict[str, object], fields: str = "") -> bytes:
        data = msgspec.json.encode(body)
        fields += f"Idempotency-Key: {uuid.uuid4()}\r\nContent-Type: application/json\r\n"
        return f"POST {self._of}{path} {self._fields}{fields}Content-Length: {len(data)}\r\n\r\n".encode() + data


class Journey:
    """One visit of one patient."""

    def __init__(self, world: World, target: Target, chance: random.Random) -> None:
        world.journeys += 1
        self._world = world
        self._target = target
        self._number = world.journeys
        self._chance = chance
        self._requests = Requests(world.plan.key, target.id)
        self._ticket = ""
        self._patient = (
            ""  # once there is one to hold a seat for: who comes back comes for the same, whose the ticket is
        )
        self._department = target.departments[int(chance.random() ** 2 * len(target.departments))]

    @property
    def _behaviour(self) -> Behaviour:
        return self._world.plan.behaviour

    def go(self, at_s: float) -> None:
        """From the arrival to the end."""
        try:
            if self._chance.random() < self._behaviour.asks_his:
                patient = self._world.patient_of(self._target)
                _, _, at_s = self._ask("bills", LIVE, self._requests.bills(patient), at_s)
            at_s, found = self._look(at_s)
            at_s, found = self._until_open(at_s, found)
            booking = self._try(at_s, found)
            if booking is None and self._chance.random() < self._behaviour.comes_back:
                at_s = self._world.now_s() + self._between(self._behaviour.back_after_s)
                booking = self._try(*self._look(at_s))
            if booking is not None:
                self._decide(booking)
        except Left:
            pass

    # --- before a seat is held --------------------------------------------------------------------------------------

    def _look(self, at_s: float) -> tuple[float, list[Slot]]:
        found: list[Slot] = []

        def noted(answer: Answer, problem: Problem) -> str:
            if answer.status != 200:
                return problem.code
            found[:] = _slots.decode(answer.body).items
            if not found:
                return LIST_EMPTY
            return LIST_NOT_RELEASED if all(slot.status == "not_released" for slot in found) else ""

        request = self._requests.slots(self._department, self._target.day)
        answer, _, ended_s = self._ask("look", READ, request, at_s, noted)
        if answer.status != 200:
            raise Left
        return ended_s, found

    def _until_open(self, at_s: float, found: list[Slot]) -> tuple[float, list[Slot]]:
        """Look again and again until the list is open: those who came early."""
        while found and all(slot.status == "not_released" for slot in found):
            opens_s = self._world.opens_s
            next_s = at_s + self._between(self._behaviour.refresh_s)
            if at_s < opens_s <= next_s or next_s < opens_s < next_s + 1.0:
                next_s = opens_s + self._chance.expovariate(1 / self._behaviour.reaction_s)
            at_s, found = self._look(next_s)
        return at_s, found

    def _try(self, at_s: float, found: list[Slot]) -> Kept | None:
        """Choose a seat and ask for it, a few times."""
        self._patient = self._patient or self._world.patient_of(self._target)
        for attempt in range(self._behaviour.attempts):
            seats = [slot for slot in found if slot.status == "open" and slot.remaining > 0]
            if not seats and (not found or self._chance.random() >= self._behaviour.stale_try):
                return None
            slot = self._chance.choice(seats or found)
            at_s += self._between(self._behaviour.think_s)
            answer, code, at_s = self._hold(slot.id, self._patient, at_s)
            if answer.status == 201:
                return self._keep(answer, slot.id, at_s)
            if not seats or code in ("duplicate_booking", "limit_reached"):
                return None
            if attempt + 1 < self._behaviour.attempts:
                at_s, found = self._look(at_s + self._between(self._behaviour.think_s))
        return None

    def _hold(self, slot_id: str, patient: str, at_s: float) -> tuple[Answer, str, float]:
        """Ask for a seat; where the hospital has a waiting room, through it."""
        user = f"user-{self._number}"
        answer, code, at_s = self._ask_to_hold(slot_id, patient, user, at_s)
        if code == "waiting_room":
            at_s = self._wait_for_admission(patient, user, at_s)
            answer, code, at_s = self._ask_to_hold(slot_id, patient, user, at_s)
        if code == "slot_sold_out":
            self._world.samples.sold_out[self._target.id, slot_id] = at_s
        return answer, code, at_s

    def _ask_to_hold(self, slot_id: str, patient: str, user: str, at_s: float) -> tuple[Answer, str, float]:
        def noted(answer: Answer, problem: Problem) -> str:
            admitted = bool(self._ticket) and problem.extra.ticket not in ("expired", "used")
            return TURNED_AWAY_ADMITTED if problem.code == "waiting_room" and admitted else problem.code

        return self._ask("hold", HOLD, self._requests.hold(slot_id, patient, user, self._ticket), at_s, noted)

    def _wait_for_admission(self, patient: str, user: str, at_s: float) -> float:
        """Join, and ask as often as one is told to, until admitted or until the room has closed."""
        answer, _, at_s = self._ask("join", JOIN, self._requests.join(patient, user), at_s)
        while answer.status in (200, 201):
            ticket = _ticket.decode(answer.body)
            self._ticket = ticket.ticket if ticket.state == "admitted" else ""
            if ticket.state in ("admitted", "expired") or ticket.closed_because is not None:
                return at_s
            request = self._requests.standing(ticket.ticket)
            answer, _, at_s = self._ask("standing", STATUS, request, at_s + ticket.poll_after_s)
        return at_s

    def _keep(self, answer: Answer, slot_id: str, at_s: float) -> Kept:
        held = _booking.decode(answer.body)
        kept = Kept(
            id=held.id, order_no=held.order_no, hospital=self._target.id, slot_id=slot_id, fee_fen=held.fee_fen,
            held_s=at_s,
        )  # fmt: skip
        self._world.samples.bookings.append(kept)
        return kept

    # --- with a seat held -------------------------------------------------------------------------------------------

    def _decide(self, kept: Kept) -> None:
        lot = self._chance.random()
        if lot < self._behaviour.vanishes:
            return
        if lot < self._behaviour.vanishes + self._behaviour.gives_up:
            self._cancel(kept)
            return
        booking = self._until(kept, lambda b: b.payable or b.state != "held")
        if booking is None or not booking.payable:
            return
        trade_no = uuid.uuid4().hex
        request = self._requests.pay(kept.id, trade_no, booking.fee_fen)
        answer, _, ended_s = self._ask(
            "pay", STEP, request, self._world.now_s() + self._between(self._behaviour.think_s)
        )
        if answer.status not in (200, 202):
            return
        kept.paid = {"trade_no": trade_no, "amount_fen": booking.fee_fen, "acknowledged_s": ended_s}
        done = self._until(kept, lambda b: b.state != "held")
        if done is not None and done.state == "booked" and self._chance.random() < self._behaviour.cancels_paid:
            self._cancel(kept)

    def _cancel(self, kept: Kept) -> None:
        at_s = self._world.now_s() + self._between(self._behaviour.think_s)
        answer, _, ended_s = self._ask("cancel", STEP, self._requests.cancel(kept.id), at_s)
        if answer.status in (200, 202):
            kept.cancel = {"acknowledged_s": ended_s}

    def _until(self, kept: Kept, done: Callable[[Booking], bool]) -> Booking | None:
        """Ask for the booking now and then; None when patience has run out."""
        since_s = at_s = self._world.now_s()
        while True:
            at_s += self._between(self._behaviour.poll_s)
            if at_s - since_s > self._behaviour.patience_s:
                return None
            answer, _, at_s = self._ask("booking", STATUS, self._requests.booking(kept.id), at_s)
            if answer.status == 200 and done(booking := _booking.decode(answer.body)):
                return booking

    # --- small things -----------------------------------------------------------------------------------------------

    def _ask(
        self, name: str, request_class: int, request: bytes, at_s: float, noted: Noted | None = None
    ) -> tuple[Answer, str, float]:
        """Ask; what is put off (429, 503) or lost is asked again, the same request, after the time that was named."""
        for repeat in range(MOST_REPEATS + 1):
            if at_s > self._world.gives_up_s:
                raise Left
            answer, code, ended_s = self._world.ask(
                name,
                request_class,
                request,
                at_s,
                hospital=self._target.id,
                client=PORTAL,
                journey=self._number,
                noted=noted,
            )
            if answer.status not in (0, 429, 503) or code == "waiting_room" or repeat == MOST_REPEATS:
                break
            at_s = ended_s + max(1.0, float(answer.field(b"retry-after") or 0)) * self._chance.uniform(1.0, 1.5)
        return answer, code, ended_s

    def _between(self, bounds: tuple[float, float]) -> float:
        return self._chance.uniform(*bounds)
