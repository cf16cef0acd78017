"""What must hold after every step, and what must hold besides when nothing moves any more."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import msgspec
from sqlalchemy import select

from booking.api.present import booking_view, payment_view, refund_view
from booking.ledger import balances, imbalances
from booking.lifecycle import VISIT_STATES, must_not_be
from booking.money import PaymentRow
from booking.news import number_all
from booking.records import Booking, booking_from_row
from booking.store.tables import bookings, events, outbox, payments, refunds, slots
from mappings.canonical import RegistrationStatus
from tests.booking.world import HOSPITAL
from tests.visits.clinic import Clinic
from tests.visits.his import SEEN

BOOKING_SHOWS = ("version", "state", "his_state", "payment_state", "order_no", "patient_id")
PAYMENT_SHOWS = ("channel", "trade_no", "amount_fen", "settlement", "unusable")
REFUND_SHOWS = (
    "status", "amount_fen", "channel", "trade_no", "reason", "booking_id", "bill_id", "refund_trade_no", "his", "his_code",
)  # fmt: skip
GONE = (None, RegistrationStatus.RELEASED)


class Books:
    """The state of the store at one moment."""

    def __init__(self, clinic: Clinic) -> None:
        self.clinic = clinic
        self.bookings: list[Booking] = []
        self.payments: list[PaymentRow] = []
        self.refunds: list[dict[str, Any]] = []
        self.found: list[str] = []

    async def read(self) -> None:
        """One state of everything."""
        async with self.clinic.store.read(HOSPITAL, here=True) as tx:
            self.bookings = [booking_from_row(tx, row) for row in await tx.all(select(bookings))]
            self.payments = [msgspec.convert(row, PaymentRow) for row in await tx.all(select(payments))]
            self.refunds = await tx.all(select(refunds))
            self.slots = await tx.all(select(slots.c.id, slots.c.his_id, slots.c.his_left, slots.c.unreflected))
            self.balances = await balances(tx)
            self.seqs = [row["seq"] for row in await tx.all(select(events.c.seq).order_by(events.c.seq))]
            self.open_commands = await tx.all(select(outbox).where(outbox.c.status.not_in(("done", "dropped"))))

    def say(self, holds: bool, what: str) -> None:
        if not holds:
            self.found.append(what)

    # --- after every step ----------------------------------------------------------------------------------------------

    async def check(self) -> list[str]:
        """What is wrong; [] when nothing is."""
        await number_all(self.clinic.store)
        await self.read()
        self.found += self.clinic.life.surprises + self.clinic.his.wrong
        self._check_money()
        self._check_ledger()
        self.found += [f"ledger: {one}" async for one in imbalances(self.clinic.store, HOSPITAL)]
        self._check_registrations()
        await self._check_news()
        return self.found

    def _check_money(self) -> None:
        """Money in = settled + waiting + refund due + refunded, of each payment and in all; and all money in is recorded."""
        reported = {name: fen for portal in self.clinic.portals.values() for name, fen in portal.paid.items()}
        recorded = {(p.channel, p.trade_no): p.amount_fen for p in self.payments}
        self.say(reported == recorded, f"reported {reported}, recorded {recorded}")
        of: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for refund in self.refunds:
            of[refund["channel"], refund["trade_no"]].append(refund)
        for p in self.payments:
            name = (p.channel, p.trade_no)
            gone = sum(r["amount_fen"] for r in of[name] if r["status"] == "refunded")
            due = sum(r["amount_fen"] for r in of[name] if r["status"] != "refunded")
            left = p.amount_fen - gone - due
            stays = p.kept and p.settlement in ("settled", "pending", "unknown")
            self.say(left >= 0, f"{name}: {-left} fen more go back than came")
            self.say(p.returned_fen == gone + due, f"{name}: returned {p.returned_fen}, refunds {gone + due}")
            self.say(
                stays or left == 0, f"{name}: {left} fen are neither settled, nor wait, nor go back ({p.settlement})"
            )
        for portal in self.clinic.portals.values():
            moved = Counter[tuple[str, str]]()
            for refund_id, fen in portal.given_back.items():
                refund = portal.refunds[refund_id]
                moved[refund["channel"], refund["trade_no"]] += fen
            for name, fen in moved.items():
                self.say(fen <= portal.paid[name], f"{name}: {fen} fen were given back of {portal.paid[name]}")
            for row in self.refunds:
                if row["id"] in portal.timed_out:
                    self.say(row["status"] == "refund_unknown", f"a refund that timed out is {row['status']}")

    def _check_ledger(self) -> None:
        """The sums by account, from our own reading of payments and refunds."""
        held: Counter[str] = Counter()
        for p in self.payments:
            held["merchant_clearing"] += p.amount_fen
            held["his_settlement" if p.settlement == "settled" else "receipts"] += p.amount_fen - p.returned_fen
        for r in self.refunds:
            if r["status"] == "refunded":
                held["merchant_clearing"] -= r["amount_fen"]
            else:
                held["refunds_payable"] += r["amount_fen"]
        told: Counter[str] = Counter()
        for balance in self.balances:
            told[balance.account] += balance.amount_fen
        self.say(+told == +held, f"the ledger has {dict(told)}, the rows {dict(held)}")
        owed = sum(fen for account, fen in told.items() if account != "merchant_clearing")
        self.say(owed == told["merchant_clearing"], "the ledger's sums do not balance")

    def _check_registrations(self) -> None:
        """Nothing is booked without a registration, and no row is what the rules forbid."""
        for b in self.bookings:
            self.found += must_not_be(b.axes, b.payment_state)
            if b.state in VISIT_STATES:
                visit = self.clinic.his.visits.get(b.order_no)
                self.say(
                    visit is not None and visit.was_registered, f"{b.state} without a registration at the HIS: {visit}"
                )

    # --- the events ----------------------------------------------------------------------------------------------------

    async def _check_news(self) -> None:
        """The events alone rebuild what the API shows, for each portal; and nothing is missing between their numbers."""
        seen: list[int] = []
        for portal in self.clinic.portals.values():
            await portal.read(self.clinic.store)
            self.found += portal.wrong
            seen += portal.seqs
            self._compare(portal)
        self.say(sorted(seen) == self.seqs, f"events {self.seqs} were numbered, and {sorted(seen)} were read")
        self.say(self.seqs == list(range(1, len(self.seqs) + 1)), f"a gap: {self.seqs}")

    def _compare(self, portal: Any) -> None:
        zone, now_ms = self.clinic.hospital.zone, self.clinic.wall()
        of = [b for b in self.bookings if b.client_id == portal.name]
        shown = {b.id: _of(msgspec.to_builtins(booking_view(b, now_ms, zone)), BOOKING_SHOWS) for b in of}
        told = {i: _of(data, BOOKING_SHOWS) for i, data in portal.bookings.items()}
        self._same(f"{portal.name}: bookings", shown, told)
        paid = [p for p in self.payments if p.client_id == portal.name]
        shown_paid = {
            (p.channel, p.trade_no): _of(msgspec.to_builtins(payment_view(p, zone)), PAYMENT_SHOWS) for p in paid
        }
        self._same(
            f"{portal.name}: payments", shown_paid, {n: _of(d, PAYMENT_SHOWS) for n, d in portal.payments.items()}
        )
        owed = [r for r in self.refunds if r["client_id"] == portal.name]
        shown_owed = {r["id"]: _of(msgspec.to_builtins(refund_view(r, zone)), REFUND_SHOWS) for r in owed}
        self._same(f"{portal.name}: refunds", shown_owed, {i: _of(d, REFUND_SHOWS) for i, d in portal.refunds.items()})

    def _same(self, what: str, shown: dict[Any, Any], told: dict[Any, Any]) -> None:
        for name in sorted({*shown, *told}, key=str):
            a, b = shown.get(name), told.get(name)
            self.say(a == b, f"{what}: shown {a}, by the events {b}")

    # --- when nothing moves any more -----------------------------------------------------------------------------------

    async def check_rest(self) -> list[str]:
        """What is wrong when the HIS is well and has been asked everything; [] when nothing is."""
        await self.check()
        his = self.clinic.his
        stuck = {c["line"].removeprefix("booking:") for c in self.open_commands}
        self.say(all(c["status"] == "dead" for c in self.open_commands), f"commands: {self.open_commands}")
        for b in self.bookings:
            visit = his.visits.get(b.order_no)
            status = None if visit is None else visit.status
            if b.needs_attention or b.id in stuck:
                # A person is asked, and only where the HIS would not, or something moved.
                self.say(
                    b.order_no in his.unwilling or (b.reason or "").startswith("moved_"),
                    f"nobody's fault, and a person is asked: {b.state}/{b.his_state} {b.reason}, {status} there, {b.id in stuck}",
                )
                continue
            if b.state in VISIT_STATES:
                self.say(status not in (*GONE, RegistrationStatus.LOCKED), f"{b.state} here, {status} there")
            else:
                self.say(b.state not in ("held", "cancelling"), f"still {b.state}")
                # Who was there already when the session was stopped is the hospital's to look after.
                came = visit is not None and visit.status in SEEN and visit.slot_id in his.ever_stopped
                self.say(came or status in GONE, f"{b.state} here, {status} there")
        ours = {b.order_no for b in self.bookings}
        for order_no, visit in his.visits.items():
            self.say(order_no in ours or not visit.takes_seat, f"nobody's visit at the HIS: {visit}")
        for slot in self.slots:
            self.say(his.left(slot["his_id"]) >= 0, f"slot {slot['his_id']}: oversold")
            if slot["his_id"] in his.stopped:
                continue
            left = slot["his_left"] - slot["unreflected"]
            self.say(
                left == his.left(slot["his_id"]),
                f"slot {slot['his_id']}: {left} here, {his.left(slot['his_id'])} there",
            )
        for p in self.payments:
            self.say(p.left_fen == 0 or p.settlement == "settled", f"money that waits for ever: {p}")
        for row in self.refunds:
            self.say(row["status"] == "refunded", f"a refund that is {row['status']} for ever")
        self._check_money_at_his()
        return self.found

    def _check_money_at_his(self) -> None:
        """What stays with the hospital pays for a visit that stands, or a bill, and the HIS has booked that very money."""
        his = self.clinic.his
        of = {b.id: b for b in self.bookings}
        staying = [p for p in self.payments if p.left_fen > 0]
        for p in staying:
            if p.booking_id is not None:
                b = of[p.booking_id]
                visit = his.visits.get(b.order_no)
                asked = b.needs_attention or (visit is not None and visit.at_window)
                self.say(asked or b.state in VISIT_STATES, f"{p.left_fen} fen stay for a visit that is {b.state}")
                self.say(
                    asked or (visit is not None and visit.trade_no == p.trade_no), f"{p.trade_no} is not at the HIS"
                )
        booked_there = {c.trade_no for c in his.charges.values() if c.paid_by not in (None, "window")}
        for p in self.payments:
            if p.bill_id is not None:
                settled = p.settlement == "settled"
                self.say(
                    settled == (p.trade_no in booked_there), f"bill: {p.settlement} here, at the HIS {booked_there}"
                )


def _of(data: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: data.get(name) for name in names}
