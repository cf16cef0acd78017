"""What must hold when nothing moves any more: the portal, the store, the books and the hospital say the same of every fen."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from booking.ledger import balances, imbalances
from booking.lifecycle import VISIT_STATES
from booking.store.engine import Store
from booking.store.tables import bookings, events, payments, refunds, schedules, slots, waitlist
from tests.acceptance.installation import Clinic
from tests.torture.visits.asking import Told
from tests.visits.portal import Portal as Rebuilt

TAKEN = ("locked", "registered")
_STAND = ("waiting", "offered")
Row = dict[str, Any]


@dataclass
class Stored:
    """One hospital's rows."""

    hospital_id: str
    owed_fen: int
    unbalanced: list[str]
    bookings: list[Row]
    payments: list[Row]
    refunds: list[Row]
    entries: list[Row]
    slots: list[Row]
    schedules: list[Row]


async def read_stored(store: Store, hospital_id: str) -> Stored:
    """Everything that is compared."""
    async with store.read(hospital_id) as tx:
        told = await balances(tx)
        rows = [
            await tx.all(select(table).where(table.c.hospital_id == hospital_id))
            for table in (bookings, payments, refunds, waitlist, slots, schedules)
        ]
    unbalanced = [str(one) async for one in imbalances(store, hospital_id)]
    owed = sum(b.amount_fen for b in told if b.account == "refunds_payable")
    return Stored(hospital_id, owed, unbalanced, *rows)


async def faults(store: Store, told: Told, clinics: dict[str, Clinic], rebuilt: Rebuilt) -> list[str]:
    """Everything that is wrong, in words; [] when nothing is."""
    everywhere = [await read_stored(store, hospital_id) for hospital_id in clinics]
    found = [*_reported(everywhere, told), *rebuilt.wrong]
    for stored in everywhere:
        clinic = clinics[stored.hospital_id]
        visits = (await clinic.state())["visits"]
        charges = (await clinic.state())["charges"]
        found += [
            f"{stored.hospital_id}: {fault}"
            for check in (
                _money(stored, told), _bookings(stored, visits), _charges(stored, charges), _lines(stored, told),
                _told(stored, rebuilt),
            )
            for fault in check
        ]  # fmt: skip
    async with store.read() as tx:
        seqs = [row["seq"] for row in await tx.all(select(events.c.seq).order_by(events.c.seq))]
    if seqs != list(range(1, len(seqs) + 1)):
        found.append(f"the events are numbered {seqs[:3]} ... {seqs[-3:]}, {len(seqs)} of them")
    if rebuilt.seqs != seqs:
        found.append(f"{len(rebuilt.seqs)} events were read of {len(seqs)}")
    return found


def _reported(everywhere: list[Stored], told: Told) -> Iterator[str]:
    """Every fen that was reported is recorded once; every fen that was given back was owed, and is known to be back."""
    recorded = Counter({p["trade_no"]: p["amount_fen"] for s in everywhere for p in s.payments})
    if dict(recorded) != told.paid:
        yield f"reported and recorded differ: {set(recorded.items()) ^ set(told.paid.items())}"
    back = {r["id"]: r["amount_fen"] for s in everywhere for r in s.refunds if r["status"] == "refunded"}
    if back != told.moved:
        yield f"given back and known to be differ: {set(back.items()) ^ set(told.moved.items())}"


def _money(stored: Stored, told: Told) -> Iterator[str]:
    yield from stored.unbalanced
    if stored.owed_fen:
        yield f"the books owe {stored.owed_fen} fen"
    gone: Counter[str] = Counter()
    for refund in stored.refunds:
        gone[refund["trade_no"]] += refund["amount_fen"]
        if refund["status"] != "refunded":
            yield f"refund {refund['id']} is {refund['status']} for ever"
        if refund["his"] in ("pending", "unknown"):
            yield f"refund {refund['id']}: the hospital's word is {refund['his']} for ever"
    for p in stored.payments:
        left = p["amount_fen"] - gone[p["trade_no"]]
        if left < 0 or p["returned_fen"] != gone[p["trade_no"]]:
            yield f"{p['trade_no']}: of {p['amount_fen']} fen {gone[p['trade_no']]} went back, noted {p['returned_fen']}"
        if left and not (p["kept"] and p["settlement"] == "settled"):
            yield f"{p['trade_no']}: {left} fen stay, and are {p['settlement']}"


def _bookings(stored: Stored, visits: list[Row]) -> Iterator[str]:
    there: defaultdict[str, list[Row]] = defaultdict(list)
    for visit in visits:
        if visit["state"] in TAKEN:
            there[visit["key"]].append(visit)
    staying = {
        p["booking_id"]: p["trade_no"]
        for p in stored.payments
        if p["kept"] and p["booking_id"] is not None and p["returned_fen"] < p["amount_fen"]
    }
    for b in stored.bookings:
        states = [visit["state"] for visit in there[b["order_no"]]]
        if b["state"] in VISIT_STATES and states != ["registered"]:
            yield f"booking {b['id']} is {b['state']}, and {states or 'nothing'} there"
        if b["state"] not in VISIT_STATES and states:
            yield f"booking {b['id']} is {b['state']}/{b['his_state']}, and {states} there"
        if b["state"] in ("held", "cancelling") or b["his_command"] != "none":
            yield f"booking {b['id']} is {b['state']}, {b['his_command']} for ever"
        trade_no = staying.get(b["id"])
        if trade_no is not None and [v["trade_no"] for v in there[b["order_no"]]] != [trade_no]:
            yield f"booking {b['id']}: {trade_no} pays for it here, {[v['trade_no'] for v in there[b['order_no']]]} there"
    known = {b["order_no"] for b in stored.bookings}
    yield from (f"order {key} is nobody's" for key, taken in there.items() if taken and key not in known)
    for (person, schedule), count in Counter(
        (b["person_id"], b["schedule_id"]) for b in stored.bookings if b["live"]
    ).items():
        if count > 1:
            yield f"person {person} has {count} live bookings on {schedule}"


def _charges(stored: Stored, charges: list[Row]) -> Iterator[str]:
    """The hospital has booked the very money that we call settled, and of it back what we have told it."""
    ours = {p["trade_no"]: p for p in stored.payments if p["bill_id"] is not None}
    settled = {trade_no for trade_no, p in ours.items() if p["settlement"] == "settled"}
    paid = {charge["trade_no"] for charge in charges if charge["state"] == "paid"}
    if settled != paid:
        yield f"bills settled here and not there: {settled - paid}; there and not here: {paid - settled}"
    back: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for refund in stored.refunds:
        if refund["trade_no"] in ours and refund["his"] == "told":
            back[refund["trade_no"]][refund["id"]] = refund["amount_fen"]
    for charge in charges:
        here = sorted(back[charge["trade_no"]].values())
        if sorted(charge["returned"].values()) != here:
            yield f"charge {charge['no']}: {here} fen went back here, {sorted(charge['returned'].values())} there"


def _lines(stored: Stored, told: Told) -> Iterator[str]:
    """No offer is two bookings, and nothing is set aside for nobody."""
    of = {b["id"]: b for b in stored.bookings}
    for entry in stored.entries:
        if entry["state"] in _STAND or entry["live"]:
            yield f"entry {entry['id']} is {entry['state']} for ever"
        if entry["state"] == "accepted" and entry["booking_id"] not in of:
            yield f"entry {entry['id']} was accepted into nothing"
        if told.accepted.get(entry["id"]) != entry["booking_id"]:
            yield f"entry {entry['id']}: {told.accepted.get(entry['id'])} was told, {entry['booking_id']} is stored"
    accepted = Counter(entry["booking_id"] for entry in stored.entries if entry["booking_id"])
    yield from (f"booking {one} accepted {count} offers" for one, count in accepted.items() if count > 1)
    for table in ("slots", "schedules"):
        for row in getattr(stored, table):
            if row["held_back"]:
                yield f"{table} {row['id']}: {row['held_back']} seats are set aside for nobody"
    yield from (f"{row['id']}: {row['waiting']} wait there" for row in stored.schedules if row["waiting"])


def _told(stored: Stored, rebuilt: Rebuilt) -> Iterator[str]:
    """The events alone rebuild what is stored."""
    for b in stored.bookings:
        seen = rebuilt.bookings.get(b["id"], {})
        names = ("version", "state", "his_state", "payment_state", "order_no")
        if any(seen.get(name) != b[name] for name in names if name in b):
            yield f"booking {b['id']} is {[b.get(n) for n in names]}, by the events {[seen.get(n) for n in names]}"
    for r in stored.refunds:
        seen = rebuilt.refunds.get(r["id"], {})
        shows = ("status", "amount_fen", "his", "refund_trade_no")
        if any(seen.get(name) != r[name] for name in shows):
            yield f"refund {r['id']} is {[r[n] for n in shows]}, by the events {[seen.get(n) for n in shows]}"
    for p in stored.payments:
        seen = rebuilt.payments.get((p["channel"], p["trade_no"]), {})
        if seen.get("settlement") != p["settlement"]:
            yield f"payment {p['trade_no']} is {p['settlement']}, by the events {seen.get('settlement')}"
