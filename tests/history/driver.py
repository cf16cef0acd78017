"""The one door to the booking engine for histories: every operation is asked for here, and written down as it was answered."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import select

from booking.bookings import expire_due
from booking.errors import Refusal
from booking.inventory.writer import Crowded, HoldWriter
from booking.settings import Hospital
from booking.store.engine import StoreUnavailable
from booking.store.tables import bookings, outbox
from mappings.canonical import Patient, RegistrationStatus, Slot
from tests.booking import world
from tests.history.clinic import Clinic
from tests.history.operations import NEVER, History, Kind, Operation, Outcome
from tests.history.recorder import RecordingStore, now_ms
from tests.scheduler_sync.peer import Desk

_numbers = itertools.count(1)


@dataclass
class Attempt:
    """One hold that a client asks for, as often as it likes: the key stays."""

    slot: str
    schedule: str
    patient: str
    key: str
    booking: str = ""


@dataclass
class Driver:
    """One round at one hospital: slots of our store, their seats at the HIS, and the history of what was done."""

    store: RecordingStore
    hospital: Hospital
    desk: Desk
    clinic: Clinic
    writers: list[HoldWriter]
    history: History
    at_his: dict[str, Slot] = field(default_factory=dict)
    schedules: dict[str, str] = field(default_factory=dict)
    oversold: list[str] = field(default_factory=list)

    # --- before the round ---------------------------------------------------------------------------------------------

    async def open_slot(self, seats: int, schedule_id: str) -> str:
        """A new slot of a schedule; our id of it."""
        his_id = f"{next(_numbers)}"
        self.clinic.free[his_id] = seats
        schedule = world.make_schedule(schedule_id)
        slot_id = await world.put_slot(self.store, seats, schedule=schedule, slot_id=his_id)
        self.at_his[slot_id] = world.make_slot(seats, schedule_id=schedule_id, slot_id=his_id)
        self.schedules[slot_id] = world.schedule_id_of(schedule)
        self.history.seats[slot_id] = seats
        return slot_id

    async def admit(self) -> str:
        """A new patient."""
        number = next(_numbers)
        who = Patient(name="张三", id_type="passport", id_number=f"E{number:08d}", phone="13800000000")
        return await world.put_patient(self.store, who)

    # --- what clients do ----------------------------------------------------------------------------------------------

    def attempt(self, slot_id: str, patient_id: str) -> Attempt:
        """A hold to be asked for under a new key."""
        return Attempt(slot_id, self.schedules[slot_id], patient_id, f"key-{next(_numbers)}")

    async def hold(self, attempt: Attempt, process: int = 0) -> None:
        """Ask one of the processes for the seat; again under the same key if it was asked for before."""
        request = world.request(attempt.slot, attempt.patient, key=attempt.key)
        async with self._recorded(
            Kind.HOLD,
            slot=attempt.slot,
            schedule=attempt.schedule,
            patient=attempt.patient,
            key=attempt.key,
            digest="d",
        ) as said:
            answer = await self.writers[process].hold(self.hospital, request)
            attempt.booking = msgspec.json.decode(answer.body)["id"]
            said |= {"booking": attempt.booking, "body": answer.body.decode()}

    async def leave(self, attempt: Attempt, process: int, patience: int) -> None:
        """Ask, and hang up after so many turns of the loop."""
        asking = asyncio.create_task(self.hold(attempt, process))
        for _ in range(patience):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    async def cancel(self, booking_id: str) -> None:
        """Ask to cancel."""
        async with self._recorded(Kind.CANCEL, booking=booking_id):
            await world.cancel(self.store, self.hospital, booking_id)

    async def pay(self, booking_id: str) -> None:
        """Report money, under a trade number of its own."""
        async with self._recorded(Kind.PAY, booking=booking_id) as said:
            row = await world.pay(self.store, self.hospital, booking_id)
            said["code"] = row.unusable or ""

    # --- what the clock and the HIS do; the store writes down what came of it --------------------------------------------

    async def turn(self, seconds: float) -> None:
        """Time passes, and the sweep expires what is due."""
        self.desk.turn(seconds)
        async with self.store.write(world.HOSPITAL) as tx:
            await expire_due(tx, self.hospital)

    async def fetch(self, slot_id: str, pause: int) -> None:
        """Fetch the seats of a slot. So many turns of the loop pass before the HIS counts, and before we apply it."""
        started_ms = await self._store_ms()
        await _turns(pause)
        slot = self.at_his[slot_id]
        slot = msgspec.structs.replace(slot, seats_left=self.clinic.free[slot.id])
        await _turns(pause)
        ended_ms = await self._store_ms()
        async with self.store.write(world.HOSPITAL) as tx:
            await world.fetch(tx, slot, started_ms=started_ms, ended_ms=ended_ms)

    async def _store_ms(self) -> int:
        async with self.store.read(world.HOSPITAL) as tx:
            return tx.now_ms

    # --- after the round ----------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Let everything that is under way come to its end: the HIS is well again, and time passes."""
        await self._decided()
        self.clinic.recover()
        await self.turn(1_000)  # past every pay window
        while await self._under_way():
            # A clock that runs on while a call is at the HIS would end the call's lease: its outcome would come too late.
            if not await self._leased():
                await self.turn(15)
            await asyncio.sleep(0.002)
        if not self.clinic.sold:
            self.oversold = [
                slot_id
                for slot_id, slot in self.at_his.items()
                if await world.remaining(self.store, slot_id) > self.clinic.free[slot.id]
            ]
        for slot_id in self.at_his:
            self.desk.turn(1)
            await self.fetch(slot_id, 0)

    async def _decided(self) -> None:
        """Until nothing waits at a writer: whoever hung up may have left a hold there. They are decided in their order."""
        for writer in self.writers:
            request = world.request("no such slot", "no such patient", key=f"key-{next(_numbers)}")
            with contextlib.suppress(Refusal, Crowded, StoreUnavailable):
                await writer.hold(self.hospital, request)

    async def _under_way(self) -> bool:
        async with self.store.read(world.HOSPITAL) as tx:
            rows = await tx.all(
                select(bookings.c.id).where(
                    bookings.c.slot_id.in_(list(self.at_his)),
                    (bookings.c.his_command != "none") | (bookings.c.state == "held"),
                )
            )
        return bool(rows)

    async def _leased(self) -> bool:
        async with self.store.read(world.HOSPITAL) as tx:
            return await tx.first(select(outbox.c.id).where(outbox.c.lease_until_ms > tx.now_ms).limit(1)) is not None

    async def disagreements(self) -> list[str]:
        """Where the HIS and we differ, once everything has settled; [] when we agree."""
        async with self.store.read(world.HOSPITAL) as tx:
            rows = await tx.all(select(bookings).where(bookings.c.slot_id.in_(list(self.at_his))))
        found = []
        for row in rows:
            at_his = self.clinic.orders.get(row["order_no"])
            registered = row["state"] == "booked"
            if at_his not in ([RegistrationStatus.REGISTERED] if registered else [None, RegistrationStatus.RELEASED]):
                found.append(f"{row['state']}/{row['his_state']} here, {at_his} there")
        for slot_id, slot in self.at_his.items():
            ours, theirs = await world.remaining(self.store, slot_id), self.clinic.free[slot.id]
            if ours != theirs:
                found.append(f"slot {slot_id}: {ours} left here, {theirs} there")
        found += [f"slot {slot_id}: more on sale than there was, before the last fetch" for slot_id in self.oversold]
        if self.clinic.full and not self.clinic.sold:
            found.append(f"{self.clinic.full} locks found no seat, and nobody else sells")
        return found

    # --- writing down -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _recorded(self, kind: Kind, **fields: Any) -> AsyncIterator[dict[str, Any]]:
        """Write down one operation of a client; a refusal is its answer, and who hangs up never hears one."""
        said: dict[str, Any] = {}
        asked_ms, outcome = now_ms(), Outcome.UNKNOWN
        try:
            yield said
            outcome = Outcome.OK
        except Refusal as refusal:
            outcome, said["code"] = Outcome.FAIL, refusal.code
        except Crowded:
            outcome, said["code"] = Outcome.FAIL, "crowded"
        except StoreUnavailable:
            pass
        finally:
            answered_ms = NEVER if outcome == Outcome.UNKNOWN else now_ms()
            self.history.operations.append(
                Operation(kind=kind, asked_ms=asked_ms, answered_ms=answered_ms, outcome=outcome, **{**fields, **said})
            )


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
