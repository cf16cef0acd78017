"""Outpatient bills: what the HIS charged, and the money that settles it there."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import select, update

from booking.commands import queue_command, wake_topic
from booking.errors import Refusal
from booking.errors import SetAside as SetAside
from booking.insured import begin_insured, note_insured, standing_insured
from booking.money import (
    PaymentRow,
    find_payments,
    kept_payment,
    owe_refund,
    record_payment,
    reject_settlement,
    set_settlement,
)
from booking.news import tell, tell_owners
from booking.people import mrn_digests, owner_ids
from booking.records import Person
from booking.reported import is_repeat
from booking.settings import Mode
from booking.splits import Split, why_not
from booking.store.engine import Tx
from booking.store.ids import derived_id, new_order_no
from booking.store.tables import bills
from mappings.canonical import Bill, BillStatus, Payment, Settlement

BILL_CANCELLED = "bill_cancelled"  # why a refund falls due
MOST_LISTED = 200
KEPT_MS = 24 * 3600 * 1000
"""What a HIS goes on telling is written again after so long, so that it stays among what was told lately."""


class BillRow(msgspec.Struct, kw_only=True):
    """A bill as stored. `order_no` is the key that the HIS sees when it is settled."""

    hospital_id: str
    id: str
    his_id: str
    mrn_digest: str
    amount_fen: int
    currency: str
    status: str
    order_no: str
    record: Bill
    settlement: Settlement | None = None
    split: Split | None = None
    occurred_ms: int | None = None
    updated_ms: int = 0

    @property
    def line(self) -> str:
        return f"bill:{self.id}"


class _Sealed(msgspec.Struct):
    """What is sealed of a bill, and the HIS's own time of its last word."""

    bill: Bill
    occurred_ms: int | None = None


def _row(tx: Tx, row: dict[str, Any]) -> BillRow:
    row = dict(row)
    sealed = msgspec.json.decode(tx.unseal(row.pop("sealed_record"), "bills", "record"), type=_Sealed)
    row["record"], row["occurred_ms"] = sealed.bill, sealed.occurred_ms
    settlement = row.pop("sealed_settlement")
    if settlement is not None:
        row["settlement"] = msgspec.json.decode(tx.unseal(settlement, "bills", "settlement"), type=Settlement)
    split = row.pop("sealed_split")
    if split is not None:
        row["split"] = msgspec.json.decode(tx.unseal(split, "bills", "split"), type=Split)
    return msgspec.convert(row, BillRow)


async def put_bill(
    tx: Tx, bill: Bill, *, currency: str, mrn: str | None = None, occurred_ms: int | None = None
) -> BillRow:
    """Insert or update a bill as the HIS tells it. `mrn` stands in where the bill itself names no patient.

    Raises SetAside for another currency than the hospital's (never converted), for a bill without a patient, and for a number
    that is known as another patient's: their payment must not change hands. An older word (by the HIS's time) is dropped.
    A bill that we have settled does not become open again by an older word of the HIS.
    """
    if bill.currency != currency:
        raise SetAside(f"bill in {bill.currency} at a hospital whose currency is {currency}")
    owner = bill.mrn or mrn
    if owner is None:
        raise SetAside("bill without a patient")
    digest = tx.digest("mrn", owner)
    bill_id = bill_key(tx.hospital_id, bill.id)
    known = await load_bill(tx, bill_id)
    status = bill.status.value
    if known is not None:
        if not await is_same_person(tx, known.mrn_digest, digest):
            raise SetAside(f"bill {bill_id} is known as another patient's")
        if occurred_ms is None:
            occurred_ms = known.occurred_ms
        elif known.occurred_ms is not None and occurred_ms < known.occurred_ms:
            return known
        if known.status == "paid" and status == "open":
            status = "paid"
    row = BillRow(
        hospital_id=tx.hospital_id,
        id=bill_id,
        his_id=bill.id,
        mrn_digest=digest,
        amount_fen=bill.amount_fen,
        currency=bill.currency,
        status=status,
        order_no=known.order_no if known is not None else new_order_no(tx.now_ms),
        record=msgspec.structs.replace(bill, mrn=owner),
        settlement=None if known is None else known.settlement,
        split=None if known is None else known.split,
        occurred_ms=occurred_ms,
        updated_ms=tx.now_ms,
    )
    sealed = _Sealed(bill=row.record, occurred_ms=occurred_ms)
    await tx.upsert(
        bills,
        [
            {
                **{
                    c: getattr(row, c)
                    for c in row.__struct_fields__
                    if c not in ("record", "settlement", "split", "occurred_ms")
                },
                "sealed_record": tx.seal(msgspec.json.encode(sealed), "bills", "record"),
            }
        ],
    )
    if known is None or (known.status, known.amount_fen) != (row.status, row.amount_fen):
        person_id = await owner_ids(tx, row.mrn_digest)
        if person_id is not None:
            await tell_owners(tx, person_id, "bill.changed", {"bill_id": bill_id, "status": row.status})
    return row


async def is_known(tx: Tx, bill: Bill, *, mrn: str) -> bool:
    """Whether a bill as the HIS tells it now is stored, of late and as this patient's: then `put_bill` has nothing to do."""
    known = await load_bill(tx, bill_key(tx.hospital_id, bill.id))
    return (
        known is not None
        and known.mrn_digest == tx.digest("mrn", bill.mrn or mrn)
        and known.record == msgspec.structs.replace(bill, mrn=bill.mrn or mrn)
        and (known.status == bill.status.value or (known.status == "paid" and bill.status is BillStatus.OPEN))
        and known.updated_ms > tx.now_ms - KEPT_MS
    )


async def is_same_person(tx: Tx, digest: str, other: str) -> bool:
    """Whether two MRNs (by their digests) are one number, or of one person since a merge."""
    if digest == other:
        return True
    owner = await owner_ids(tx, digest)
    return owner is not None and owner == await owner_ids(tx, other)


async def hear_bill(
    tx: Tx, bill: Bill, *, currency: str, mrn: str | None = None, occurred_ms: int | None = None
) -> None:
    """`put_bill`, and what follows for the money of one that is cancelled, however the HIS has told it. Raises SetAside."""
    await return_money(tx, await put_bill(tx, bill, currency=currency, mrn=mrn, occurred_ms=occurred_ms))


def is_all_of(bill: BillRow, payment: PaymentRow, amount_fen: int) -> bool:
    """Whether so much is all that was paid for a bill: the payment, or the bill of which that was the patient's share (医保)."""
    if amount_fen == payment.amount_fen:
        return True
    split = bill.split
    return split is not None and (split.total_fen, split.self_pay_fen) == (amount_fen, payment.amount_fen)


async def return_money(tx: Tx, bill: BillRow) -> None:
    """A bill that the HIS calls cancelled after our payment was settled there: its refund falls due, once.

    Parts of it that went back before stay gone. Raises SetAside where the bill is over another amount than was paid.
    """
    if bill.status != BillStatus.CANCELLED:
        return
    payment = await kept_payment(tx, bill_id=bill.id)
    if payment is None or payment.settlement != "settled":
        return
    if not is_all_of(bill, payment, bill.amount_fen):
        raise SetAside(f"bill {bill.id} is cancelled over another amount than was paid: settle it with the hospital")
    await owe_refund(tx, payment, client_id=payment.client_id, reason=BILL_CANCELLED)


async def cancel_bill(tx: Tx, bill: BillRow) -> None:
    """The HIS has taken back the whole of a bill."""
    if bill.status == BillStatus.CANCELLED:
        return
    values = {"status": BillStatus.CANCELLED.value, "updated_ms": tx.now_ms}
    await tx.run(update(bills).where(bills.c.hospital_id == tx.hospital_id, bills.c.id == bill.id).values(**values))
    person_id = await owner_ids(tx, bill.mrn_digest)
    if person_id is not None:
        await tell_owners(tx, person_id, "bill.changed", {"bill_id": bill.id, "status": "cancelled"})


def bill_key(hospital_id: str, his_id: str) -> str:
    """Our id of a bill, from the HIS's own number."""
    return derived_id("bl_", hospital_id, his_id)


async def load_bill(tx: Tx, bill_id: str) -> BillRow | None:
    """A bill of this hospital."""
    row = await tx.first(select(bills).where(bills.c.hospital_id == tx.hospital_id, bills.c.id == bill_id))
    return None if row is None else _row(tx, row)


async def own_bill(tx: Tx, person: Person, bill_id: str) -> BillRow:
    """A bill of this person. Raises Refusal(bill_unknown), also for somebody else's."""
    bill = await load_bill(tx, bill_id)
    if bill is None or bill.mrn_digest not in await mrn_digests(tx, person):
        raise Refusal("bill_unknown", f"There is no bill {bill_id} of this patient.")
    return bill


async def bills_of(tx: Tx, person: Person) -> list[BillRow]:
    """The stored bills of a person, newest first: MOST_LISTED of them, of which what is still to be paid is never left out
    for what is over.
    """
    digests = await mrn_digests(tx, person)
    rows = await tx.all(
        select(bills)
        .where(bills.c.hospital_id == tx.hospital_id, bills.c.mrn_digest.in_(digests))
        .order_by((bills.c.status == "open").desc(), bills.c.updated_ms.desc(), bills.c.id)
        .limit(MOST_LISTED)
    )
    return [_row(tx, r) for r in sorted(rows, key=lambda row: (-row["updated_ms"], row["id"]))]


async def pay_bill(
    tx: Tx, bill: BillRow, payment: Payment, *, client_id: str, offered: bool, mode: Mode = Mode.LIVE
) -> PaymentRow:
    """Record money for a bill and queue its settlement; the same report again gives the same row.

    `offered` says whether the hospital can be told of payments, `mode` whether it may be; where it cannot or may not, the
    money is recorded and falls due as a refund. At a paused hospital the settlement waits.
    Raises Refusal(payment_conflict, payment_of_another_portal) for money that was reported for something else, or by another.
    """
    known = await find_payments(tx, payment.channel, payment.trade_no)
    if is_repeat(payment, known, {bill.id: payment.amount_fen}, client_id=client_id):
        return known[0]
    return await record_bill_payment(tx, bill, payment, client_id=client_id, offered=offered, mode=mode)


async def record_bill_payment(
    tx: Tx, bill: BillRow, payment: Payment, *, client_id: str, offered: bool, mode: Mode, piece: str = ""
) -> PaymentRow:
    """`pay_bill` for money that is known to be new; `piece` as of a PaymentRow."""
    unusable = await _why_unusable(tx, bill, payment, offered, mode)
    row = await record_payment(tx, payment, client_id=client_id, bill_id=bill.id, unusable=unusable, piece=piece)
    if unusable is None:
        await queue_command(tx, line=bill.line, verb="settle_bill", subject_id=bill.id)
        tx.ring(wake_topic(tx.hospital_id))
    return row


async def _why_unusable(tx: Tx, bill: BillRow, payment: Payment, offered: bool, mode: Mode) -> str | None:
    if await _is_being_paid(tx, bill):
        return "second_payment"
    if mode == Mode.OBSERVE:
        return "hospital_observe_only"
    if not offered:
        return "not_offered_by_hospital"
    if bill.status != BillStatus.OPEN:
        return f"bill_{bill.status}"
    return why_not(bill.split, total_fen=bill.amount_fen, paid_fen=payment.amount_fen, now_ms=tx.now_ms)


async def _is_being_paid(tx: Tx, bill: BillRow) -> bool:
    """Whether money, or the insurance alone, pays for a bill already: at the HIS, or on the way there."""
    return await kept_payment(tx, bill_id=bill.id) is not None or await standing_insured(tx, bill.id) is not None


async def check_open(tx: Tx, bill: BillRow) -> None:
    """Whether there is something to pay of a bill. Raises Refusal(already_paid, not_payable)."""
    if bill.status == BillStatus.PAID or await _is_being_paid(tx, bill):
        raise Refusal("already_paid")
    if bill.status != BillStatus.OPEN:
        raise Refusal("not_payable", f"Bill {bill.id} is {bill.status}.")


async def settle_insured(tx: Tx, bill: BillRow, *, client_id: str, offered: bool, mode: Mode = Mode.LIVE) -> None:
    """Queue the settlement of a bill of which the insurance pays all, by the split that holds; asked again it is the same one.

    `offered` and `mode` as for `pay_bill`. Raises Refusal(already_paid, not_payable, hospital_observe_only,
    not_offered_by_hospital), and patient_share_due where the patient is to pay something, or nobody has asked what.
    """
    if await standing_insured(tx, bill.id) is not None:
        return
    await check_open(tx, bill)
    if mode == Mode.OBSERVE:
        raise Refusal("hospital_observe_only")
    if not offered:
        raise Refusal("not_offered_by_hospital")
    if bill.split is None or bill.split.self_pay_fen or not bill.split.holds(bill.amount_fen, tx.now_ms):
        raise Refusal("patient_share_due")
    await begin_insured(tx, bill.id, client_id=client_id)
    await queue_command(tx, line=bill.line, verb="settle_bill", subject_id=bill.id)
    tx.ring(wake_topic(tx.hospital_id))


async def settle_payment(
    tx: Tx, bill: BillRow, *, accepted: bool, settlement: Settlement | None, client_id: str, code: str | None
) -> None:
    """The HIS's final word on a settlement. A refusal makes the refund fall due, and the bill may be paid again."""
    payment = await kept_payment(tx, bill_id=bill.id)
    if payment is None and await standing_insured(tx, bill.id) is None:
        return
    values: dict[str, Any] = {"updated_ms": tx.now_ms}
    if payment is None:
        await note_insured(tx, bill.id, "settled" if accepted else "rejected")
    elif accepted:
        await set_settlement(tx, payment, "settled")
    else:
        await reject_settlement(tx, payment)
    if accepted:
        values["status"] = "paid"
    else:
        # What a HIS has refused under one key it may go on refusing under it: the next payment gets a key of its own.
        values["order_no"] = new_order_no(tx.now_ms)
        if code == "taken":
            values["status"] = "paid"  # by another payment than ours
    if settlement is not None:
        values["sealed_settlement"] = tx.seal(msgspec.json.encode(settlement), "bills", "settlement")
    await tx.run(update(bills).where(bills.c.hospital_id == tx.hospital_id, bills.c.id == bill.id).values(**values))
    if payment is not None and not accepted:
        await owe_refund(tx, payment, client_id=client_id, reason=code or "settlement_rejected")
    told = {"bill_id": bill.id, "status": values.get("status", bill.status)}
    await tell(tx, client_id, "bill.changed", {**told, "settled": accepted})
    if told["status"] != bill.status and (person_id := await owner_ids(tx, bill.mrn_digest)) is not None:
        await tell_owners(tx, person_id, "bill.changed", told, but=client_id)  # they need not ask for money any more
    tx.ring(bill.line)
