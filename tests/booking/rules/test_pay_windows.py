"""The time to pay by clinic: the table of which one counts, and its last millisecond, on both engines."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from booking.bookings import expire_due, payable
from booking.rules.paying import pay_window_ms
from booking.rules.settings import BookingRules
from booking.settings import Hospital
from booking.store.engine import Store
from tests.booking.world import (
    HOSPITAL,
    get,
    hold,
    make_hospital,
    make_payment,
    make_schedule,
    pay,
    put_patient,
    put_slot,
    send_and_answer,
)
from tests.stores import Wall

USUAL_S, EXPERT_S, DENTAL_S = 900, 300.0, 1_800
RULES: dict[str, Any] = {
    "pay_windows": [
        {"clinic_types": ["专家"], "within_s": EXPERT_S},
        {"departments": ["0301"], "within_s": DENTAL_S},
        {"departments": ["0302"], "clinic_types": ["普通"], "within_s": 60.5},
    ]
}
# department, clinic type, milliseconds
TABLE: list[tuple[str, str | None, int]] = [
    ("0101", "专家", 300_000),
    ("0101", "普通", 900_000),
    ("0101", None, 900_000),
    ("0301", "普通", 1_800_000),
    ("0301", None, 1_800_000),
    ("0301", "专家", 300_000),  # the first that fits
    ("0302", "普通", 60_500),
    ("0302", None, 900_000),
    ("0302", "专家", 300_000),
]


def rules(given: dict[str, Any] = RULES) -> BookingRules:
    return msgspec.convert(given, BookingRules)


@pytest.mark.parametrize(("department_id", "clinic_type", "window_ms"), TABLE)
def test_first_window_that_fits_the_clinic_counts(department_id: str, clinic_type: str | None, window_ms: int) -> None:
    assert pay_window_ms(rules(), USUAL_S, department_id=department_id, clinic_type=clinic_type) == window_ms
    assert pay_window_ms(rules({}), USUAL_S, department_id=department_id, clinic_type=clinic_type) == 900_000


async def payable_hold(store: Store, hospital: Hospital, clinic_type: str, patient_id: str) -> str:
    slot_id = await put_slot(store, 5, schedule=make_schedule(f"S-{clinic_type}", clinic_type=clinic_type))
    booking = await hold(store, hospital, slot_id, patient_id)
    if hospital.reserve_by != "quota":
        await send_and_answer(store, hospital, booking.id)
    return booking.id


@pytest.mark.parametrize("reserve_by", ["lock", "book", "quota"])
@pytest.mark.parametrize(("clinic_type", "window_ms"), [("专家", 300_000), ("普通", 900_000)])
@pytest.mark.parametrize("late_ms", [-1, 0])
async def test_seat_is_kept_until_the_last_millisecond_of_its_clinics_window(
    store: Store, wall: Wall, reserve_by: str, clinic_type: str, window_ms: int, late_ms: int
) -> None:
    hospital = make_hospital(reserve_by=reserve_by, pay_window_s=USUAL_S, rules=rules())
    begun_ms = wall.now_ms
    booking_id = await payable_hold(store, hospital, clinic_type, await put_patient(store))
    assert (await get(store, booking_id)).pay_by_ms == begun_ms + window_ms
    wall.now_ms = begun_ms + window_ms + late_ms
    booking = await get(store, booking_id)
    assert payable(booking, wall.now_ms, kept=False) is (late_ms < 0)
    async with store.write(HOSPITAL) as tx:
        assert await expire_due(tx, hospital) == (late_ms >= 0)
    assert (await get(store, booking_id)).state == ("held" if late_ms < 0 else "expired")


async def test_money_pays_when_it_comes_in_the_last_millisecond(store: Store, wall: Wall) -> None:
    hospital = make_hospital(reserve_by="lock", pay_window_s=USUAL_S, rules=rules())
    begun_ms = wall.now_ms
    booking_id = await payable_hold(store, hospital, "专家", await put_patient(store))
    wall.now_ms = begun_ms + 300_000 - 1
    paid = await pay(store, hospital, booking_id, make_payment())
    assert (paid.kept, (await get(store, booking_id)).state) == (True, "held")


async def test_his_own_lock_time_ends_a_longer_window(store: Store, wall: Wall) -> None:
    hospital = make_hospital(reserve_by="lock", pay_window_s=USUAL_S, his_lock_s=600, rules=rules())
    patient_id = await put_patient(store)
    begun_ms = wall.now_ms
    expert = await get(store, await payable_hold(store, hospital, "专家", patient_id))
    assert expert.pay_by_ms == begun_ms + 300_000
    longer = make_hospital(
        reserve_by="lock",
        pay_window_s=USUAL_S,
        his_lock_s=600,
        rules=rules({"pay_windows": [{"clinic_types": ["普通"], "within_s": 7_200}]}),
    )
    plain = await get(store, await payable_hold(store, longer, "普通", patient_id))
    assert plain.pay_by_ms is not None
    assert plain.pay_by_ms < begun_ms + 600_000
