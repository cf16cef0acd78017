"""What the hospital does by itself: windows, stops, moves, merges, and what it tells of them."""

from __future__ import annotations

from hypothesis import strategies as st

from mappings.canonical import NewPlace, RegistrationChanged, RegistrationStatus, ScheduleStopped, StopScope
from tests.visits.actions import action
from tests.visits.his import LOCKED, REGISTERED, RELEASED, SEEN
from tests.visits.machine import ANY, PATIENTS, SLOTS, Bench

CHECKED_IN, FULFILLED, NO_SHOW = SEEN
BEFORE = {
    RELEASED: (LOCKED, REGISTERED),
    REGISTERED: (LOCKED,),
    CHECKED_IN: (REGISTERED, NO_SHOW),
    FULFILLED: (REGISTERED, CHECKED_IN, NO_SHOW),
    NO_SHOW: (REGISTERED, CHECKED_IN),
}
"""From where a visit may become what."""


def _any_visit(self: Bench) -> bool:
    return bool(self.clinic.his.visits)


class Hospital(Bench):
    """The HIS, and whoever works with it."""

    @action(weight=1, slot=SLOTS)
    def sell_at_window(self, slot: str) -> None:
        self.clinic.his.sell(slot)

    @action(weight=6, needs=lambda self: bool(self.clinic.his.news), acknowledged=st.booleans())
    def deliver(self, acknowledged: bool) -> None:
        self.live(self.clinic.deliver(acknowledged=acknowledged))

    @action(
        weight=4,
        needs=_any_visit,
        number=ANY,
        becomes=st.sampled_from([RELEASED, REGISTERED, *SEEN]),
        tells=st.booleans(),
    )
    def his_decides(self, number: int, becomes: RegistrationStatus, tells: bool) -> None:
        """At the window, or in the clinic. Who came it does not always tell."""
        visits = list(self.clinic.his.visits.values())
        visit = visits[-1 - number % len(visits)]
        if visit.status not in BEFORE[becomes]:
            return
        if becomes == REGISTERED:  # with its money
            visit.at_window = visit.was_registered = True
        visit.status = becomes
        if tells or becomes not in SEEN:
            told = self.clinic.his.registration(visit)
            self.clinic.his.tell(RegistrationChanged(registration=told, occurred_at=self.clinic.his.now()))

    @action(weight=5, slot=SLOTS, cancels=st.booleans(), told=st.sampled_from(["segment", "schedule", "no"]))
    def stop(self, slot: str, cancels: bool, told: str) -> None:
        """停诊; where nobody tells us, a fetch shows it."""
        his = self.clinic.his
        his.stop(slot, cancels=cancels or not self.clinic.hospital.stop_cancels_at_his)
        of = his.slots[slot]
        if told != "no":
            his.tell(
                ScheduleStopped(
                    scope=StopScope(told), schedule_id=of.schedule_id, date=of.date, starts_at=of.starts_at,
                    orders_cancelled=cancels, occurred_at=his.now(),
                )
            )  # fmt: skip

    @action(weight=2, needs=lambda self: bool(self.clinic.his.stopped), slot=SLOTS)
    def open_again(self, slot: str) -> None:
        """Only once we have heard of the stop: one that comes after the reopening stops what was booked since."""
        told = [event for news in self.clinic.his.news for event in news.events]
        if not any(isinstance(event, ScheduleStopped) for event in told):
            self.clinic.his.stopped.discard(slot)

    @action(weight=3, needs=_any_visit, number=ANY)
    def move(self, number: int) -> None:
        """改诊: the HIS moves one visit to the other segment, where it has a seat."""
        his = self.clinic.his
        visits = list(his.visits.values())
        visit = visits[-1 - number % len(visits)]
        to = {"1": "2", "2": "1"}.get(visit.slot_id)
        if to is None or visit.status not in (LOCKED, REGISTERED) or his.left(to) <= 0 or to in his.stopped:
            return
        visit.slot_id, of = to, his.slots[to]
        place = NewPlace(
            schedule_id=of.schedule_id, date=of.date, session=of.session, starts_at=of.starts_at, slot_id=of.id
        )
        his.tell(ScheduleStopped(scope=StopScope.ORDER, order_no=visit.order_no, moved_to=place, occurred_at=his.now()))

    @action(weight=1, slot=SLOTS, doctor=st.sampled_from(["P1", "P2"]))
    def stand_in(self, slot: str, doctor: str) -> None:
        """替诊."""
        his, of = self.clinic.his, self.clinic.his.slots[slot]
        his.tell(
            ScheduleStopped(
                scope=StopScope.SEGMENT, schedule_id=of.schedule_id, date=of.date, starts_at=of.starts_at,
                moved_to=NewPlace(practitioner_id=doctor, practitioner_name=doctor), occurred_at=his.now(),
            )
        )  # fmt: skip

    @action(weight=1, a=PATIENTS, b=PATIENTS)
    def merge(self, a: int, b: int) -> None:
        people = list(self.clinic.his.people.values())
        surviving, retired = people[a].mrn, people[b].mrn
        if surviving != retired and surviving is not None and retired is not None:
            self.clinic.his.merge(surviving, retired)

    @action(weight=1, loses_locks=st.booleans())
    def his_restarts(self, loses_locks: bool) -> None:
        """What it had not done yet is lost; some systems keep locks in memory."""
        his = self.clinic.his
        his.late.clear()
        for visit in his.visits.values():
            if loses_locks and visit.status == LOCKED:
                visit.status = RELEASED
