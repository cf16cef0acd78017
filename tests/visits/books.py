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
from booking.store.tables import (
    bills,
    bookings,
    events,
    outbox,
    payments,
    refunds,
    report_reads,
    returned_seats,
    schedules,
    slots,
    waitlist,
)
from mappings.canonical import RegistrationStatus
from tests.booking.world import HOSPITAL
from tests.visits.clinic import Clinic

BOOKING_SHOWS = ("version", "state", "his_state", "payment_state", "order_no", "patient_id")
PAYMENT_SHOWS = ("channel", "trade_no", "amount_fen", "settlement", "unusable")
REFUND_SHOWS = (
    "status", "amount_fen", "channel", "trade_no", "reason", "booking_id", "bill_id", "refund_trade_no", "his", "his_code",
)  # fmt: skip
VISIT_OF = {
    RegistrationStatus.REGISTERED: "booked",
    RegistrationStatus.CHECKED_IN: "checked_in",
    RegistrationStatus.FULFILLED: "fulfilled",
    RegistrationStatus.NO_SHOW: "no_show",
}
"""What a booking is days later, by the HIS's last word."""
ENTRY_SHOWS = ("version", "state", "schedule_id", "patient_id", "reason")
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
            self.slots = await tx.all(select(slots))
            self.schedules = await tx.all(select(schedules))
            self.bills = await tx.all(select(bills))
            self.mrns = {
                name: {
                    tx.digest("mrn", str(person.mrn))
                    for n, person in self.clinic.his.people.items()
                    if n in self.clinic.numbers_of(name)
                }
                for name in self.clinic.portals
            }
            self.entries = await tx.all(select(waitlist))
            self.returned = await tx.all(select(returned_seats))
            self.news = await tx.all(select(events).order_by(events.c.id))  # in the order of the commits
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
        self._check_seats()
        self._check_lines()
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

    def _check_seats(self) -> None:
        """What slots and schedules count is what there is: bookings, seats that are set aside, people in line."""
        charged = Counter(b.slot_id for b in self.bookings if b.occupies and b.charged)
        taken = Counter(b.schedule_id for b in self.bookings if b.occupies)
        aside: Counter[str] = Counter()
        for row in [*self.returned, *(e for e in self.entries if e["state"] == "offered")]:
            aside.update((row["slot_id"], row["schedule_id"]))
        waiting = Counter(e["schedule_id"] for e in self.entries if e["state"] == "waiting")
        for row in self.slots:
            found = (row["unreflected"], row["held_back"])
            self.say(found == (charged[row["id"]], aside[row["id"]]), f"slot {row['his_id']} counts {found}")
        for row in self.schedules:
            counts = (row["taken"], row["held_back"], row["waiting"])
            there = (taken[row["id"]], aside[row["id"]], waiting[row["id"]])
            self.say(counts == there, f"schedule {row['his_id']} counts {counts}, there are {there}")

    def _check_lines(self) -> None:
        """First come, first served; and while somebody waits, nobody else gets a seat."""
        number = {row["id"]: row["number"] for row in self.entries}
        schedule = {row["id"]: row["schedule_id"] for row in self.slots}
        waiting: dict[str, str] = {}
        told = [(row, msgspec.json.decode(row["payload"])) for row in self.news]
        accepted = {data.get("booking_id") for row, data in told if row["type"] == "waitlist.changed"}
        for row, data in told:
            if row["type"] == "waitlist.changed":
                waiting.pop(data["entry_id"], None)
                before = [i for i, of in waiting.items() if of == data["schedule_id"]]
                if data["state"] == "offered":
                    passed = [i for i in before if number[i] < number[data["entry_id"]]]
                    self.say(not passed, f"{data['entry_id']} was offered a seat before {passed}")
                elif data["state"] == "waiting":
                    waiting[data["entry_id"]] = data["schedule_id"]
            elif row["type"] == "booking.changed" and data["version"] == 1 and data["booking_id"] not in accepted:
                slot_id = self.clinic.portals[row["client_id"]].slots.get(data["booking_id"])
                self.say(
                    slot_id is None or schedule[slot_id] not in waiting.values(),
                    f"{data['booking_id']} was held while others waited for its session",
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
        for b in of:
            # Where a booking was held, the portal was answered; where it went to since, it was told while there was a visit.
            first = portal.slots.get(b.id)
            now = portal.places.get(b.id, {}).get("slot_id", first)
            self.say(
                first is None or not b.live or b.slot_id == now, f"{b.id} is at {b.slot_id}, by the events at {now}"
            )
            self.say(first is not None or bool(self.clinic.unheard), f"no portal knows of booking {b.id}")
        if not self.clinic.his.merges:
            owned = {r["id"]: r["status"] for r in self.bills if r["mrn_digest"] in self.mrns[portal.name]}
            self._same(f"{portal.name}: bills", owned, {i: d["status"] for i, d in portal.bills.items()})
        of_line = [e for e in self.entries if e["client_id"] == portal.name]
        shown_line = {e["id"]: {name: str(e[name]) for name in ENTRY_SHOWS} for e in of_line}
        told_line = {i: {name: str(d.get(name)) for name in ENTRY_SHOWS} for i, d in portal.entries.items()}
        self._same(f"{portal.name}: waitlist", shown_line, told_line)
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
                self.say(
                    b.live or b.occupies, f"a person is asked about what is over: {b.state}/{b.his_state} {b.reason}"
                )
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
                # The HIS has said that it cancelled all orders of a stopped session, and has not cancelled that of a patient who
                # was there already: we take its word, and the money goes back. What it does for them is for the hospital to see.
                excused = b.state == "stopped" and visit is not None and visit.spared
                self.say(excused or status in GONE, f"{b.state} here, {status} there")
        ours = {b.order_no for b in self.bookings}
        for order_no, visit in his.visits.items():
            self.say(order_no in ours or not visit.takes_seat, f"nobody's visit at the HIS: {visit}")
        # Where the seats are ours, one that could not follow its move counts where it is here: no figure of the HIS tells us.
        here = {b.order_no: b.slot_id for b in self.bookings if his.quota and (b.reason or "").startswith("moved_")}
        ids = {slot["id"]: slot["his_id"] for slot in self.slots}
        elsewhere: Counter[str] = Counter()
        for order_no, slot_id in here.items():
            if (visit := his.visits.get(order_no)) is not None and visit.takes_seat:
                elsewhere[visit.slot_id] += 1
                elsewhere[ids[slot_id]] -= 1
        for slot in self.slots:
            self.say(his.left(slot["his_id"]) >= 0, f"slot {slot['his_id']}: oversold")
            if slot["his_id"] in his.stopped:
                continue
            left = slot["his_left"] - slot["unreflected"]
            there = his.left(slot["his_id"]) + elsewhere[slot["his_id"]]
            self.say(left == there, f"slot {slot['his_id']}: {left} here, {there} there")
        for p in self.payments:
            self.say(p.left_fen == 0 or p.settlement == "settled", f"money that waits for ever: {p}")
        for row in self.refunds:
            self.say(row["status"] == "refunded", f"a refund that is {row['status']} for ever")
        self._check_money_at_his()
        free = {
            s["schedule_id"]: s["his_left"] - s["held_back"] - s["unreflected"]
            for s in self.slots
            if s["status"] == "open"
        }
        for entry in self.entries:
            if entry["state"] == "waiting":
                self.say(free.get(entry["schedule_id"], 0) <= 0, f"somebody waits, and a seat is free: {entry}")
        return self.found

    async def check_reports(self) -> list[str]:
        """What is wrong in the reports that patients are shown when all was told and read anew; [] when nothing is."""
        clinic, his = self.clinic, self.clinic.his
        for name, patients in clinic.patients.items():
            portal = clinic.portals[name]
            lists = [await clinic.reading.list(name, patient_id) or [] for patient_id in patients]
            await number_all(clinic.store)
            await portal.read(clinic.store)
            for number, items in enumerate(lists):
                self.found += clinic.wrong_in(name, number, items)
                mrn = his.people[clinic.numbers_of(name)[number]].mrn
                there = {i: his.words[i][-1] for i, report in his.reports.items() if report.mrn == mrn}
                if clinic.hospital.reports.release == "reviewed":
                    there = {i: word for i, word in there.items() if word[0] != "preliminary"}
                here = {}
                for item in items:
                    one = await clinic.reading.one(name, patients[number], item.id)
                    here[str(item.name)] = None if one is None else (one.status, one.observations[0].value)
                    told = portal.reports.get(item.id, {})
                    same = (told.get("version"), told.get("status")) == (item.version, item.status)
                    self.say(same or his.merges > 0, f"{item.name} is {item.status} {item.version}, told {told}")
                self.say(here == there, f"{name}: reports {here} are shown, at the HIS {there}")
        async with clinic.store.read(HOSPITAL, here=True) as tx:
            rows = await tx.all(select(report_reads).where(report_reads.c.outcome == "given"))
        recorded = Counter((row["client_id"], row["what"], row["reports"]) for row in rows)
        unrecorded = Counter(clinic.reads) - recorded
        self.say(not unrecorded, f"reports were shown, and that is not on record: {unrecorded}")
        return self.found

    async def check_days(self) -> list[str]:
        """What is wrong days after the visits, when the HIS was asked who came; [] when nothing is."""
        await self.check()
        his = self.clinic.his
        for entry in self.entries:
            self.say(not entry["live"], f"somebody waits for what is over: {entry}")
        for b in self.bookings:
            visit = his.visits.get(b.order_no)
            if b.state not in VISIT_STATES or b.needs_attention or visit is None:
                continue
            by_rule = self.clinic.hospital.visits.no_show_after_h is not None
            is_so = "no_show" if visit.status == RegistrationStatus.REGISTERED and by_rule else VISIT_OF[visit.status]
            # Who missed a visit and has taken another of the same session since stays missing.
            others = [
                o
                for o in self.bookings
                if o.id != b.id and (o.person_id, o.schedule_id) == (b.person_id, b.schedule_id)
            ]
            replaced = b.state == "no_show" and any(o.live for o in others)
            self.say(b.state == is_so or replaced, f"{b.state} here, {visit.status} there, days later")
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
