"""What patients do through their portals."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.booking.world import make_payment
from tests.visits.actions import action
from tests.visits.clinic import STAGES
from tests.visits.life import BATCH_FAULTS
from tests.visits.machine import AFTER, ANY, PATIENTS, PORTAL, SLOTS, SOME_FAULTS, Bench

_amounts_fen = st.sampled_from([1500, 1500, 1500, 1499, 1])
_crowd = st.lists(st.tuples(PORTAL, SLOTS, PATIENTS), min_size=1, max_size=4)
_batch_faults = st.lists(st.sampled_from(("", *BATCH_FAULTS)), min_size=1, max_size=2)


def _any_booking(self: Bench) -> bool:
    return bool(self.clinic.bookings)


class Patients(Bench):
    """Holding, paying, cancelling."""

    @action(weight=2, portal=PORTAL, slot=SLOTS, patient=PATIENTS, after=AFTER)
    def hold(self, portal: str, slot: str, patient: int, after: list[str] | None) -> None:
        self.live(self.clinic.hold(portal, slot, patient))
        self.then(after)

    @action(weight=2, wanted=_crowd, faults=_batch_faults, after=AFTER)
    def hold_together(self, wanted: list[tuple[str, str, int]], faults: list[str], after: list[str] | None) -> None:
        """A batch of them, and what happens to it."""
        self.clinic.life.batch_faults.extend(faults)
        self.live(self.clinic.hold_together(wanted))
        self.clinic.life.batch_faults.clear()
        self.then(after)

    @action(weight=4, needs=_any_booking, number=ANY, amount_fen=_amounts_fen, trade=st.integers(1, 6), after=AFTER)
    def pay(self, number: int, amount_fen: int, trade: int, after: list[str] | None) -> None:
        self.live(self.clinic.pay(self.booking(number), make_payment(amount_fen, trade_no=f"T{trade}")))
        self.then(after)

    @action(weight=6, portal=PORTAL, slot=SLOTS, patient=PATIENTS, stage=st.sampled_from(STAGES), faults=SOME_FAULTS)
    def book(self, portal: str, slot: str, patient: int, stage: str, faults: list[str]) -> None:
        """What usually happens, so that what is rare happens to visits that are well under way."""
        self.live(self.clinic.bring(portal, slot, patient, stage, faults))
        self.clinic.his.faults.clear()

    @action(weight=4, needs=_any_booking, number=ANY, after=AFTER)
    def cancel(self, number: int, after: list[str] | None) -> None:
        self.live(self.clinic.cancel(self.booking(number)))
        self.then(after)
