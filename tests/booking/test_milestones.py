"""What the objectives measure of bookings and reports, on both engines: once, when it is committed, by the right instants."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from booking.bookings import expire_due
from booking.lifecycle import Axes, Command, CommandStatus, HisState, State
from booking.milestones import why_failed
from booking.moves import load_booking
from booking.reporting import put_report
from booking.settings import Hospital
from booking.store.engine import Store
from mappings.canonical import Report, ReportKind, ReportStatus
from monitoring import metrics
from tests.booking.world import (
    HOSPITAL,
    answer,
    cancel,
    hold,
    make_hospital,
    pay,
    put_patient,
    put_slot,
    send,
    send_and_answer,
)
from tests.stores import BEGIN_MS, Wall

WAITING = Axes(State.HELD, HisState.NONE, Command.LOCK, CommandStatus.SENT)
LOCKED = Axes(State.HELD, HisState.LOCKED, Command.NONE)
REASONS = ("never_locked", "seat_gone", "refused", "not_registered")


class Counts:
    """What has been counted since the test began: counters cannot be set back."""

    def __init__(self) -> None:
        self._before = self._read()

    def _read(self) -> dict[str, float]:
        samples = [(f"hisbridge_holds_failed_total.{r}", {"reason": r}) for r in REASONS]
        for name in ("lock", "registration", "report_delay"):
            samples += [(f"hisbridge_{name}_seconds_{part}", {}) for part in ("count", "sum")]
        of = {"hospital": HOSPITAL}
        return {n: metrics.REGISTRY.get_sample_value(n.split(".")[0], of | more) or 0.0 for n, more in samples}

    def since(self, name: str) -> float:
        key = next(k for k in self._before if k.endswith(name))
        return round(self._read()[key] - self._before[key], 6)

    def histogram(self, name: str) -> tuple[float, float]:
        """Count and sum."""
        return self.since(f"hisbridge_{name}_seconds_count"), self.since(f"hisbridge_{name}_seconds_sum")

    @property
    def failed(self) -> dict[str, float]:
        return {r: n for r in REASONS if (n := self.since(f"total.{r}"))}


@pytest.fixture
def counts() -> Counts:
    return Counts()


async def expire(store: Store, hospital: Hospital) -> None:
    async with store.write(HOSPITAL) as tx:
        assert await expire_due(tx, hospital) == 1


async def test_lock_and_registration_are_measured_without_the_patient_s_own_time(
    store: Store, hospital: Hospital, wall: Wall, counts: Counts
) -> None:
    """7 s to the lock, 100 s until the patient pays, 4 s to the registration: 7 and 11."""
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    wall.turn(7)
    await send_and_answer(store, hospital, booking.id)
    wall.turn(100)
    await pay(store, hospital, booking.id)
    wall.turn(4)
    await send_and_answer(store, hospital, booking.id)
    assert counts.histogram("lock") == (1, 7)
    assert counts.histogram("registration") == (1, 11)
    assert counts.failed == {}


async def test_registration_is_measured_from_the_lock_when_money_came_before_it(
    store: Store, hospital: Hospital, wall: Wall, counts: Counts
) -> None:
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    wall.turn(2)
    await pay(store, hospital, booking.id)
    wall.turn(6)
    await send_and_answer(store, hospital, booking.id)
    wall.turn(3)
    await send_and_answer(store, hospital, booking.id)
    assert counts.histogram("registration") == (1, 11)  # 8 s to the lock, 3 s after it


async def test_registration_is_measured_from_the_money_when_the_seats_are_ours(
    store: Store, wall: Wall, counts: Counts
) -> None:
    hospital = make_hospital(reserve_by="quota")
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    wall.turn(100)
    await pay(store, hospital, booking.id)
    wall.turn(5)
    await send_and_answer(store, hospital, booking.id)
    assert counts.histogram("registration") == (1, 5)
    assert counts.histogram("lock") == (0, 0)  # nobody was asked


async def test_lock_is_measured_anew_when_late_money_takes_a_booking_up(
    store: Store, hospital: Hospital, wall: Wall, counts: Counts
) -> None:
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    wall.turn(1)
    await send_and_answer(store, hospital, booking.id)
    wall.turn(900)
    await expire(store, hospital)
    await send_and_answer(store, hospital, booking.id)  # given back
    await pay(store, hospital, booking.id)
    wall.turn(9)
    await send_and_answer(store, hospital, booking.id)
    assert counts.histogram("lock") == (2, 10)  # 1 s and 9 s, not 1 s and 910 s
    assert counts.failed == {}  # nobody had paid in time: that was the patient's own end


@pytest.mark.parametrize("sent", [False, True])
async def test_hold_has_failed_by_our_fault_when_it_expires_without_a_lock(
    store: Store, hospital: Hospital, wall: Wall, counts: Counts, sent: bool
) -> None:
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    if sent:
        await send(store, booking.id)
    wall.turn(hospital.lock_wait_s)
    await expire(store, hospital)
    assert counts.failed == {"never_locked": 1}
    if sent:
        await answer(store, hospital, booking.id)  # the late lock is given back: it was no hold's any more
        assert counts.histogram("lock") == (0, 0)
    assert counts.failed == {"never_locked": 1}


@pytest.mark.parametrize(
    ("code", "reason"),
    [("full", "seat_gone"), ("taken", "seat_gone"), ("patient_mismatch", "refused"), ("lock_expired", "never_locked")],
)
async def test_refused_lock_is_counted_by_whose_fault_it_was(
    store: Store, hospital: Hospital, counts: Counts, code: str, reason: str
) -> None:
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    await send_and_answer(store, hospital, booking.id, code)
    assert counts.failed == {reason: 1}


async def test_refused_registration_is_counted_apart(store: Store, hospital: Hospital, counts: Counts) -> None:
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    await send_and_answer(store, hospital, booking.id)
    await pay(store, hospital, booking.id)
    await send_and_answer(store, hospital, booking.id, "refused")
    assert counts.failed == {"not_registered": 1}
    assert counts.histogram("registration") == (0, 0)


async def test_nothing_has_failed_when_the_patient_cancels(store: Store, hospital: Hospital, counts: Counts) -> None:
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    await cancel(store, hospital, booking.id)
    assert counts.failed == {}


def test_end_is_ours_only_when_the_patient_had_no_say() -> None:
    assert why_failed(LOCKED, State.EXPIRED, "not_paid_in_time") is None
    assert why_failed(WAITING, State.CANCELLED, "patient") is None
    assert why_failed(WAITING, State.STOPPED, "schedule_stopped") is None
    assert why_failed(msgspec.structs.replace(WAITING, state=State.EXPIRED), State.REJECTED, "full") is None


async def test_nothing_is_counted_when_the_transaction_is_rolled_back(
    store: Store, hospital: Hospital, wall: Wall, counts: Counts
) -> None:
    booking = await hold(store, hospital, await put_slot(store), await put_patient(store))
    wall.turn(hospital.lock_wait_s)

    async def fail() -> None:
        async with store.write(HOSPITAL) as tx:
            await expire_due(tx, hospital)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert counts.failed == {}
    async with store.read(HOSPITAL) as tx:
        seen = await load_booking(tx, booking.id)
    assert seen is not None
    assert seen.state == "held"
    await expire(store, hospital)
    assert counts.failed == {"never_locked": 1}


# --- reports -------------------------------------------------------------------------------------------------------

ISSUED = dt.datetime.fromtimestamp(BEGIN_MS / 1000, dt.UTC)
REPORT = Report(id="R1", kind=ReportKind.LAB, status=ReportStatus.FINAL, mrn="M1", issued_at=ISSUED)


async def put(store: Store, report: Report, *, occurred_ms: int | None = None, told: bool = True) -> None:
    async with store.write(HOSPITAL) as tx:
        await put_report(tx, report, occurred_ms=occurred_ms, told=told)


async def test_report_s_delay_is_from_its_issue_when_the_his_pushes_it(
    store: Store, wall: Wall, counts: Counts
) -> None:
    wall.turn(90)
    await put(store, REPORT, occurred_ms=BEGIN_MS + 80_000)
    assert counts.histogram("report_delay") == (1, 90)
    wall.turn(1000)
    await put(store, REPORT, occurred_ms=BEGIN_MS + 80_000)  # once more, and nothing in it is new
    assert counts.histogram("report_delay") == (1, 90)


async def test_report_s_delay_is_from_the_message_when_it_does_not_say_when_it_was_issued(
    store: Store, wall: Wall, counts: Counts
) -> None:
    wall.turn(90)
    await put(store, msgspec.structs.replace(REPORT, issued_at=None), occurred_ms=BEGIN_MS + 80_000)
    assert counts.histogram("report_delay") == (1, 10)
    await put(store, msgspec.structs.replace(REPORT, id="R2", issued_at=None))
    assert counts.histogram("report_delay") == (1, 10)  # nothing is known of it


async def test_report_that_was_asked_for_is_not_measured(store: Store, wall: Wall, counts: Counts) -> None:
    wall.turn(24 * 3600)
    await put(store, REPORT, told=False)
    assert counts.histogram("report_delay") == (0, 0)


async def test_report_is_not_early_when_the_his_s_clock_is_ahead(store: Store, wall: Wall, counts: Counts) -> None:
    wall.turn(-30)
    await put(store, REPORT)
    assert counts.histogram("report_delay") == (1, 0)
