"""Bills, and money that goes back."""

from __future__ import annotations

from hypothesis import strategies as st

from mappings.canonical import BillStatus, RefundAsked
from tests.booking.world import make_payment
from tests.visits.actions import action
from tests.visits.machine import AFTER, ANY, PATIENTS, PORTAL, READ, Bench


def _any_bill(self: Bench) -> bool:
    return bool(self.clinic.his.charges)


def _any_refund(self: Bench) -> bool:
    return any(portal.refunds for portal in self.clinic.portals.values())


class Cash(Bench):
    """Bills and refunds."""

    def bill(self, number: int) -> str:
        """The HIS's number of one of the bills, the newest first."""
        known = list(self.clinic.his.charges)
        return known[-1 - number % len(known)]

    @action(weight=2, patient=ANY, amount_fen=st.sampled_from([8800, 100]))
    def charge(self, patient: int, amount_fen: int) -> None:
        his = self.clinic.his
        people = list(his.people.values())
        his.charge(f"B{len(his.charges) + 1}", str(people[patient % len(people)].mrn), amount_fen)

    @action(weight=2, portal=PORTAL, patient=PATIENTS, faults=READ)
    def read_bills(self, portal: str, patient: int, faults: list[str]) -> None:
        self.clinic.his.faults.extend(faults)
        self.live(self.clinic.read_bills(portal, patient))
        self.clinic.his.faults.clear()

    @action(
        weight=2,
        needs=_any_bill,
        portal=PORTAL,
        patient=PATIENTS,
        number=ANY,
        amount_fen=st.sampled_from([8800, 8800, 100]),
        trade=st.integers(1, 6),
    )
    def pay_bill(self, portal: str, patient: int, number: int, amount_fen: int, trade: int) -> None:
        """Whoever's it is, and whatever it costs."""
        bill_id = self.bill(number)
        self.live(self.clinic.pay_bill(portal, patient, bill_id, make_payment(amount_fen, trade_no=f"T{trade}")))

    @action(weight=4, needs=_any_bill, number=ANY, after=AFTER)
    def settle_bill(self, number: int, after: list[str] | None) -> None:
        """As it usually goes: the patient looks at the bills, and pays all of their own."""
        clinic, bill_id = self.clinic, self.bill(number)
        bill = clinic.his.charges[bill_id].bill
        for portal, patient in ((portal, n) for portal in clinic.portals for n in range(3)):
            if clinic.his.people[clinic.numbers_of(portal)[patient]].mrn == bill.mrn:
                payment = make_payment(bill.amount_fen, trade_no=f"T{6 + next(clinic.numbers)}")
                self.live(clinic.read_bills(portal, patient))
                self.live(clinic.pay_bill(portal, patient, bill_id, payment))
                break
        self.then(after)

    @action(weight=2, needs=_any_bill, number=ANY, status=st.sampled_from([BillStatus.PAID, BillStatus.CANCELLED]))
    def his_puts_bill(self, number: int, status: BillStatus) -> None:
        charge = self.clinic.his.charges[self.bill(number)]
        if charge.bill.status == BillStatus.OPEN or (charge.bill.status, status) == (
            BillStatus.PAID,
            BillStatus.CANCELLED,
        ):
            self.clinic.his.put_bill(charge.bill.id, status)

    @action(
        weight=2,
        needs=_any_bill,
        number=ANY,
        amount_fen=st.sampled_from([None, 800, 8800, 9999]),
        call=st.integers(1, 2),
    )
    def his_takes_back(self, number: int, amount_fen: int | None, call: int) -> None:
        told = RefundAsked(
            bill_id=self.bill(number),
            amount_fen=amount_fen,
            his_refund_no=f"F{call}",
            occurred_at=self.clinic.his.now(),
        )
        self.clinic.his.tell(told)

    # --- refunds -----------------------------------------------------------------------------------------------------

    @action(
        weight=5,
        needs=_any_refund,
        portal=PORTAL,
        number=ANY,
        word=st.sampled_from(["refunding", "refunded", "unknown", "failed"]),
        after=AFTER,
    )
    def report(self, portal: str, number: int, word: str, after: list[str] | None) -> None:
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
        self.then(after)

    @action(
        weight=2,
        needs=lambda self: bool(self.clinic.bookings),
        number=ANY,
        amount_fen=st.sampled_from([1, 700, 1500]),
        part=st.sampled_from(["a", "b"]),
    )
    def ask_back(self, number: int, amount_fen: int, part: str) -> None:
        self.live(self.clinic.ask_back(self.booking(number), amount_fen, part))
