"""One patient's walk through one hospital, step by step, over HTTP only."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from loadtest.demo.client import Portal, StepFailed, until

STEPS = (
    "departments",
    "slots",
    "patient",
    "hold",
    "locked",
    "paid",
    "registered",
    "bill",
    "医保",
    "report",
    "cancelled",
    "停诊",
    "候补",
    "到诊",
    "books",
)

CHANNEL = "demo-pay"
# A made-up resident of a made-up birthday; the check character is right (GB 11643).
PATIENT = {
    "user_ref": "demo-user",
    "name": "张伟",
    "id_type": "id_card",
    "id_number": "110101199003070038",
    "phone": "13800000000",
}
WAITING = {
    "user_ref": "demo-user-2",
    "name": "苏晚晴",
    "id_type": "id_card",
    "id_number": "110101199205150028",
    "phone": "13800000001",
}


class Walk:
    """Yields what each step of STEPS has to show. Raises StepFailed."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, key: str, hospital_id: str, control: str) -> None:
        self.hospital_id = hospital_id
        self._portal = Portal(session, base_url, key, hospital_id)
        self._session = session
        self._control = control
        self._used: set[str] = set()
        self._patient_id = ""
        self._moved: list[tuple[str, dict[str, Any]]] = []
        """The money that the portal has moved: the day, and the line of the merchant's bill."""

    async def run(self) -> AsyncIterator[str]:
        """Every step in order."""
        yield await self._departments()
        yield await self._slots()
        yield await self._patient()
        booking = await self._hold()
        yield f"{booking['order_no'][-6:]}"
        booking = await self._locked(booking)
        yield "seat is ours"
        booking = await self._pay(booking)
        yield f"¥{booking['fee_fen'] / 100:.2f}"
        booking = await self._registered(booking)
        yield f"no. {booking['queue_no'] or '-'}"
        yield await self._bill()
        yield await self._insured_bill()
        yield await self._report()
        yield await self._cancel(booking)
        yield await self._stopped()
        waited = await self._waitlist()
        yield f"offered, no. {waited['queue_no'] or '-'}"
        yield await self._attended(waited)
        yield await self._books()

    async def _departments(self) -> str:
        found = await until(
            lambda: self._items("/departments"), lambda items: len(items) > 0, what="departments of the hospital"
        )
        return f"{len(found)}"

    async def _slots(self) -> str:
        found = await until(
            self._open_slots,
            lambda items: len({s["schedule_id"] for s in items}) >= 2,
            what="open slots in two schedules",
        )
        return f"{len(found)} open"

    async def _patient(self) -> str:
        linked = await self._linked(PATIENT)
        self._patient_id = linked["id"]
        return str(linked["name"])

    async def _linked(self, person: dict[str, str]) -> dict[str, Any]:
        made = await self._portal.post("/patients", person)
        linked: dict[str, Any] = await until(
            lambda: self._portal.get(f"/patients/{made['id']}"),
            lambda p: p["his_state"] != "pending",
            what="the patient known to the hospital",
        )
        if linked["his_state"] != "linked":
            raise StepFailed(f"the hospital refused the patient: {linked['reject_code']}")
        return linked

    async def _hold(self, *, last: bool = False) -> dict[str, Any]:
        """A seat of a session that this walk has not used: of the first, or the `last`."""
        slots = [s for s in await self._open_slots() if s["schedule_id"] not in self._used]
        if not slots:
            raise StepFailed("no open slot is left")
        slot = slots[-1 if last else 0]
        self._used.add(slot["schedule_id"])
        return await self._portal.post(
            "/bookings", {"user_ref": "demo-user", "slot_id": slot["id"], "patient_id": self._patient_id}
        )

    async def _locked(self, booking: dict[str, Any]) -> dict[str, Any]:
        return await self._becomes(
            booking, lambda b: b["his_state"] == "locked" and b["payable"], "the lock at the HIS"
        )

    async def _pay(self, booking: dict[str, Any]) -> dict[str, Any]:
        paid = await self._portal.post(f"/bookings/{booking['id']}/payments", self._money(booking["fee_fen"]))
        if paid["payment_state"] != "paid":
            raise StepFailed(f"paid, but the booking shows {paid['payment_state']}")
        return paid

    async def _registered(self, booking: dict[str, Any]) -> dict[str, Any]:
        return await self._becomes(
            booking, lambda b: b["state"] == "booked" and b["his_state"] == "registered", "the registration at the HIS"
        )

    async def _bill(self) -> str:
        bill = await self._open_bill("血常规", 2500)
        await self._settle(bill, bill["amount_fen"])
        return f"¥{bill['amount_fen'] / 100:.2f} settled"

    async def _insured_bill(self) -> str:
        """The patient pays what the insurance leaves, where the hospital calculates that before they pay."""
        if not await self._offers("presettle_bill"):
            return "not offered"
        bill = await self._open_bill("胸部CT", 30_000, fund_fen=18_000, account_fen=5_000)
        split = await self._portal.post(f"/patients/{self._patient_id}/bills/{bill['id']}/presettlement", {})
        told = [split[name] for name in ("total_fen", "fund_fen", "account_fen", "self_pay_fen")]
        if told != [30_000, 18_000, 5_000, 7_000]:
            raise StepFailed(f"the insurance's split is {told}")
        await self._settle(bill, split["self_pay_fen"])
        return f"¥{split['self_pay_fen'] / 100:.2f} of ¥{split['total_fen'] / 100:.0f}"

    async def _offers(self, verb: str) -> bool:
        capabilities = (await self._portal.hospital())["capabilities"]
        return bool(capabilities[verb] != "off")

    async def _open_bill(self, item: str, amount_fen: int, **insured: int) -> dict[str, Any]:
        """A bill that the hospital issues now. `insured`: what of it the insurance pays."""
        bill = {"mrn": await self._mrn(), "items": [{"name": item, "amount_fen": amount_fen}], **insured}
        await self._do("/bill", bill)
        found: list[dict[str, Any]] = await until(
            lambda: self._items(f"/patients/{self._patient_id}/bills"),
            lambda items: any(b["status"] == "open" for b in items),
            what="the bill",
        )
        return next(b for b in found if b["status"] == "open")

    async def _settle(self, bill: dict[str, Any], amount_fen: int) -> None:
        of = f"/patients/{self._patient_id}/bills/{bill['id']}"
        await self._portal.post(f"{of}/payments", self._money(amount_fen))
        await until(lambda: self._portal.get(of), lambda b: b["settlement"] == "settled", what="the settlement")

    async def _report(self) -> str:
        no = (await self._do("/report", {"mrn": await self._mrn()}))["no"]
        of = f"/patients/{self._patient_id}/reports"
        found = await until(lambda: self._items(of), lambda items: len(items) > 0, what="the report")
        report = await self._portal.get(f"{of}/{found[0]['id']}")
        flags = [o["flag"] for o in report["observations"] if o["flag"] not in (None, "N")]
        await self._do("/correct", {"no": no})
        await until(
            lambda: self._items(of),
            lambda items: any(one["status"] == "corrected" for one in items),
            what="the correction of the report",
        )
        told = [version["status"] for version in await self._items(f"{of}/{report['id']}/versions")]
        if told != ["corrected", "final"]:
            raise StepFailed(f"the report's versions are {told}")
        return (f"{flags[0]}, " if flags else "") + "corrected"

    async def _cancel(self, booking: dict[str, Any]) -> str:
        await self._portal.post(f"/bookings/{booking['id']}/cancel", {"reason": "plans changed"})
        over = await self._becomes(
            booking, lambda b: b["state"] == "cancelled" and b["payment_state"] == "refund_due", "the cancellation"
        )
        return await self._refund(over)

    async def _stopped(self) -> str:
        booking = await self._registered(await self._pay(await self._locked(await self._hold())))
        await self._do("/stop", {"plan": (await self._visit(booking))["segment"].rpartition("||")[0]})
        over = await self._becomes(
            booking, lambda b: b["state"] == "stopped" and b["payment_state"] == "refund_due", "the stop"
        )
        return await self._refund(over)

    async def _waitlist(self) -> dict[str, Any]:
        """Another patient waits for a session that is sold out, and gets the seat that the first one gives up."""
        held = await self._locked(await self._hold(last=True))
        schedule_id = held["schedule_id"]
        await self._do("/window", {"plan": (await self._visit(held))["segment"].rpartition("||")[0]})
        waiting = await self._linked(WAITING)
        await until(
            lambda: self._items("/slots"),
            lambda items: all(s["remaining"] == 0 for s in items if s["schedule_id"] == schedule_id),
            what="the session sold out",
        )
        entry = await self._portal.post("/waitlist", {"patient_id": waiting["id"], "schedule_id": schedule_id})
        if (entry["state"], entry["position"]) != ("waiting", 1):
            raise StepFailed(f"the first in line is {entry['state']}, at {entry['position']}")
        await self._portal.post(f"/bookings/{held['id']}/cancel", {"reason": "plans changed"})
        offered = await until(
            lambda: self._portal.get(f"/waitlist/{entry['id']}"), lambda e: e["state"] == "offered", what="the offer"
        )
        accepted = {"slot_id": offered["offer"]["slot_id"], "waitlist_entry_id": entry["id"]}
        booking = await self._portal.post(
            "/bookings", {"user_ref": WAITING["user_ref"], "patient_id": waiting["id"], **accepted}
        )
        return await self._registered(await self._pay(await self._locked(booking)))

    async def _attended(self, booking: dict[str, Any]) -> str:
        """The hospital writes down that the patient has come, and then that the doctor has seen them."""
        no = (await self._visit(booking))["no"]
        for how, state in (("arrived", "checked_in"), ("seen", "fulfilled")):
            await self._do("/attend", {"no": no, "how": how})
            await self._becomes(booking, lambda b, state=state: b["state"] == state, f"that the patient has {how}")
        return "arrived, seen"

    async def _refund(self, booking: dict[str, Any]) -> str:
        """The portal moves the money back, and says so."""
        (refund,) = booking["refunds"]
        done = {"status": "refunded", "refund_trade_no": uuid.uuid4().hex}
        await self._portal.post(f"/refunds/{refund['id']}/result", done)
        await self._becomes(booking, lambda b: b["payment_state"] == "refunded", "the refund")
        self._note("refund", refund["trade_no"], refund["amount_fen"])
        return f"refunded ¥{refund['amount_fen'] / 100:.2f}"

    async def _books(self) -> str:
        """The merchant's bill of the day has what this patient paid and got back, and one payment that nobody knows."""
        planted = {
            "kind": "payment",
            "channel": CHANNEL,
            "trade_no": f"planted-{uuid.uuid4().hex[:8]}",
            "amount_fen": 100,
        }
        lines = [line for date, line in self._moved if date == self._today()]
        await self._portal.put(f"/merchant-bills/{self._today()}", {"lines": [*lines, planted]})
        books = await self._portal.get(f"/reconciliations/{self._today()}")
        found = [(one["kind"], one["trade_no"]) for one in books["differences"]]
        if found != [("long", planted["trade_no"])]:
            raise StepFailed(f"one difference was planted, found were {found}")
        return f"{len(lines) + 1} lines, 1 long"

    # --- small things ---------------------------------------------------------------------------------------------

    async def _becomes(self, booking: dict[str, Any], done: Any, what: str) -> dict[str, Any]:
        async def look() -> dict[str, Any]:
            return await self._portal.get(f"/bookings/{booking['id']}")

        seen: dict[str, Any] = await until(look, lambda b: bool(done(b)), what=what)
        return seen

    async def _items(self, path: str) -> list[dict[str, Any]]:
        return list((await self._portal.get(path))["items"])

    async def _open_slots(self) -> list[dict[str, Any]]:
        return [s for s in await self._items("/slots") if s["status"] == "open"]

    async def _state(self) -> dict[str, Any]:
        async with self._session.get(f"{self._control}/state") as response:
            state: dict[str, Any] = await response.json()
            return state

    async def _visit(self, booking: dict[str, Any]) -> dict[str, Any]:
        """The booking as the hospital has it."""
        visits = (await self._state())["visits"]
        found = next((v for v in visits if v["key"] == booking["order_no"]), None)
        if found is None:
            raise StepFailed("the hospital does not know the booking")
        return dict(found)

    async def _mrn(self) -> str:
        people = (await self._state())["people"]
        return str(next(p["mrn"] for p in people if p["name"] == PATIENT["name"]))

    async def _do(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self._session.post(f"{self._control}{path}", json=body) as response:
            if response.status != 200:
                raise StepFailed(f"the simulator refused {path}: {response.status}")
            answer: dict[str, Any] = await response.json()
            return answer

    def _money(self, amount_fen: int) -> dict[str, Any]:
        paid_at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        trade_no = uuid.uuid4().hex
        self._note("payment", trade_no, amount_fen)
        return {"channel": CHANNEL, "trade_no": trade_no, "amount_fen": amount_fen, "paid_at": paid_at}

    def _note(self, kind: str, trade_no: str, amount_fen: int) -> None:
        line = {"kind": kind, "channel": CHANNEL, "trade_no": trade_no, "amount_fen": amount_fen}
        self._moved.append((self._today(), line))

    def _today(self) -> str:
        """The hospitals' day: they are in China, which has one time."""
        return dt.datetime.now(dt.timezone(dt.timedelta(hours=8))).date().isoformat()
