"""Those who live through visits: patients who pay and cancel, who owe, who wait in line, and a cashier who gives money back."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.acceptance.installation import Clinic, money
from tests.torture.visits.asking import Asker
from tests.torture.visits.moments import Moment

LOOKS = 40  # at a booking that does not get on: then its patient does something else


def fresh(whims: random.Random) -> str:
    """A number that is this seed's own."""
    return uuid.UUID(int=whims.getrandbits(128)).hex


@dataclass
class Person:
    """What they all have. `enough` ends their wishes; what was begun is brought to an answer."""

    asker: Asker
    of: str  # /v1/hospitals/<id>
    patient_id: str
    whims: random.Random
    enough: asyncio.Event

    async def hold(self, slot_id: str, entry_id: str | None = None) -> dict[str, Any] | None:
        """A booking, or None where it is refused."""
        body = {"user_ref": "axe", "slot_id": slot_id, "patient_id": self.patient_id}
        key, during, answered = fresh(self.whims), None, None
        if entry_id is not None:
            body["waitlist_entry_id"] = entry_id
            during, answered = Moment.ACCEPTING, Moment.ACCEPTED
        answer = await self.asker.ask("POST", f"{self.of}/bookings", body, key=key, during=during, answered=answered)
        if answer.status != 201:
            self.asker.told.done[f"hold {answer.code}"] += 1
            return None
        self.asker.told.held[key] = answer.body["id"]
        if entry_id is not None:
            self.asker.told.accepted[entry_id] = answer.body["id"]
        return answer.body

    async def pay(self, booking: Mapping[str, Any]) -> None:
        """Report the fee, whatever becomes of it."""
        paid = money(booking["fee_fen"], fresh(self.whims))
        self.asker.told.paid[paid["trade_no"]] = paid["amount_fen"]
        path = f"{self.of}/bookings/{booking['id']}/payments"
        answer = await self.asker.ask("POST", path, paid, during=Moment.PAYING, answered=Moment.PAID)
        assert answer.status == 202, answer.data

    async def cancel(self, booking: Mapping[str, Any]) -> None:
        path = f"{self.of}/bookings/{booking['id']}/cancel"
        await self.asker.ask("POST", path, {"reason": "plans changed"}, during=Moment.CANCELLING)

    async def until(self, booking: Mapping[str, Any], *states: str, payable: bool = False) -> dict[str, Any]:
        """The booking once it is in one of these states (or wants its money), or as it is when it does not get there."""
        for _ in range(LOOKS):
            seen = await self.asker.get(
                f"{self.of}/bookings/{booking['id']}", wait_s=1, since_version=booking["version"]
            )
            if seen["state"] in states or (payable and seen["payable"]) or self.enough.is_set():
                return seen
            booking = seen
        return dict(booking)

    async def ask_back(self, path: str, amount_fen: int) -> None:
        """A part of what was paid is to go back."""
        body = {"amount_fen": amount_fen, "reason": "partly done"}
        answer = await self.asker.ask("POST", f"{path}/refunds", body, key=fresh(self.whims))
        self.asker.told.done[f"ask back {answer.status}"] += 1


OVER = ("cancelled", "expired", "rejected", "stopped")


@dataclass
class Patient(Person):
    """Holds, pays, and keeps or cancels, again and again."""

    slots: Sequence[str] = ()

    async def live(self) -> None:
        while not self.enough.is_set():
            booking = await self.hold(self.whims.choice(self.slots))
            if booking is not None:
                await self._go(booking)
            await asyncio.sleep(self.whims.uniform(0.01, 0.1))

    async def _go(self, booking: dict[str, Any]) -> None:
        wish = self.whims.choice(("keep", "return", "return", "part", "part", "both", "both", "cancel"))
        if wish != "both":
            booking = await self.until(booking, *OVER, payable=True)
        if wish == "cancel":
            await self.cancel(booking)
        elif wish == "both":
            await asyncio.gather(self.pay(booking), self.cancel(booking))
        else:
            await self.pay(booking)
            booking = await self.until(booking, "booked", *OVER)
            if wish == "part" and booking["fee_fen"]:
                await self.ask_back(f"{self.of}/bookings/{booking['id']}", self.whims.randint(1, booking["fee_fen"]))
            if wish in ("return", "part"):
                await self.cancel(booking)
        self.asker.told.done[f"visit {wish}"] += 1
        if wish != "keep":
            await self.until(booking, *OVER)


@dataclass
class Leaver(Person):
    """Has one of the seats that others wait for, and gives it up when somebody does."""

    slot_id: str = ""
    booking: dict[str, Any] | None = None

    async def take(self) -> None:
        """Before the others come."""
        self.booking = await self.hold(self.slot_id)
        assert self.booking is not None, "a seat that nobody has"
        await self.pay(await self.until(self.booking, payable=True))

    async def live(self) -> None:
        assert self.booking is not None
        while not self.asker.told.done["joined"] and not self.enough.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await asyncio.sleep(self.whims.uniform(0, 2))
        await self.cancel(self.booking)


@dataclass
class Debtor(Person):
    """Is billed, pays, and wants some of it back."""

    clinic: Clinic | None = None
    mrn: str = ""

    async def live(self) -> None:
        bills = f"{self.of}/patients/{self.patient_id}/bills"
        while not self.enough.is_set():
            assert self.clinic is not None
            await self.clinic.do("/bill", {"mrn": self.mrn, "items": [{"name": "CT", "amount_fen": 8800}]})
            for bill in (await self.asker.get(bills))["items"]:
                if bill["status"] == "open" and not bill["payments"]:
                    await self._pay(f"{bills}/{bill['id']}", bill["amount_fen"])

    async def _pay(self, path: str, amount_fen: int) -> None:
        paid = money(amount_fen, fresh(self.whims))
        self.asker.told.paid[paid["trade_no"]] = amount_fen
        answer = await self.asker.ask("POST", f"{path}/payments", paid, during=Moment.BILL_PAYING)
        assert answer.status == 202, answer.data
        for _ in range(LOOKS):
            if (await self.asker.get(path))["settlement"] != "pending" or self.enough.is_set():
                break
            await asyncio.sleep(0.1)
        for _ in range(self.whims.randint(0, 3)):
            await self.ask_back(path, self.whims.randint(1, amount_fen))


@dataclass
class Waiting(Person):
    """Stands in line for a session that is sold out, and takes what is offered."""

    schedule_id: str = ""

    async def live(self) -> None:
        while not self.enough.is_set():
            body = {"user_ref": "axe", "schedule_id": self.schedule_id, "patient_id": self.patient_id}
            answer = await self.asker.ask("POST", f"{self.of}/waitlist", body, key=fresh(self.whims))
            if answer.status == 201:
                self.asker.told.done["joined"] += 1
                await self._wait(answer.body["id"])
            else:
                self.asker.told.done[f"join {answer.code}"] += 1
            await asyncio.sleep(self.whims.uniform(0.05, 0.3))

    async def _wait(self, entry_id: str) -> None:
        entry = f"{self.of}/waitlist/{entry_id}"
        while not self.enough.is_set():
            seen = await self.asker.get(entry)
            if seen["state"] == "offered":
                self.asker.moments.now(Moment.OFFERED)
                booking = await self.hold(seen["offer"]["slot_id"], entry_id)
                if booking is not None:
                    return await self._visit(booking)
            elif seen["state"] != "waiting":
                return None
            await asyncio.sleep(0.1)
        await self.asker.ask("DELETE", entry)
        return None

    async def _visit(self, booking: dict[str, Any]) -> None:
        """The seat comes back to the line soon."""
        if self.whims.random() < 0.7:
            await self.pay(await self.until(booking, *OVER, payable=True))
        await self.cancel(booking)
        await self.until(booking, *OVER)


@dataclass
class Cashier:
    """Gives back what is due, each refund once, and says so until somebody has heard it."""

    asker: Asker
    of: str
    whims: random.Random

    async def live(self, enough: asyncio.Event) -> None:
        while not enough.is_set():
            await self.work()
            await asyncio.sleep(0.2)

    async def work(self) -> int:
        """One look; how much there was to do."""
        due = [r for r in (await self.asker.get(f"{self.of}/open-refunds"))["items"] if r["status"] != "refunded"]
        for refund in due:
            result = f"{self.of}/refunds/{refund['id']}/result"
            if refund["id"] not in self.asker.told.moved:
                if self.whims.random() < 0.3:
                    await self.asker.ask("POST", result, {"status": "unknown"})
                self.asker.told.moved[refund["id"]] = refund["amount_fen"]
            said = {"status": "refunded", "refund_trade_no": f"R-{refund['id']}"}
            answer = await self.asker.ask("POST", result, said, during=Moment.REFUND_REPORTING)
            assert answer.status == 200, answer.data
        return len(due)
