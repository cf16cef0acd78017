"""A release: seats that open by the clock, a crowd that wants them, and a hospital system that notices nothing of it."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.acceptance.installation import Installation, lay_out, made_up_person, run_process, until

HOSPITAL = "soap-demo"
PLACES = 4  # his_concurrency: what the hospital's system bears at once
SEATS_A_SLOT = 75
PATIENTS = 400
ATTEMPTS = 10_000
AT_ONCE = 128
RETURNED = 20
ZONE = ZoneInfo("Asia/Shanghai")
# The clock opens a slot to within 50 ms (DESIGN section 4): whoever asks later than that is never told to come back later.
OPENED_WITHIN_S = 0.05
HEAD_START_S = 12.0


@dataclass(frozen=True)
class Attempt:
    """One request for a seat: when it was sent, what came back, and for whom."""

    sent_s: float
    code: str
    patient_id: str
    booking_id: str | None


def next_release() -> dt.datetime:
    """The next whole minute that leaves time to prepare."""
    soon = dt.datetime.now(ZONE) + dt.timedelta(seconds=HEAD_START_S)
    return soon.replace(second=0, microsecond=0) + dt.timedelta(minutes=1)


async def attempt(site: Installation, slot_id: str, patient_id: str) -> Attempt:
    sent_s = time.time()
    answer = await site.portal().call(
        "POST",
        f"/v1/hospitals/{HOSPITAL}/bookings",
        {"user_ref": "u", "slot_id": slot_id, "patient_id": patient_id},
        key=uuid.uuid4().hex,
    )
    if answer.status == 201:
        return Attempt(sent_s, "held", patient_id, str(answer.body["id"]))
    return Attempt(sent_s, answer.code, patient_id, None)


async def crowd(site: Installation, slots: Sequence[str], patients: Sequence[str], attempts: int) -> list[Attempt]:
    """So many attempts, `AT_ONCE` at a time, everybody at every slot in turn."""
    made: list[Attempt] = []
    numbers = itertools.count()

    async def one_of_them() -> None:
        while (number := next(numbers)) < attempts:
            slot_id, patient_id = slots[number % len(slots)], patients[number // len(slots) % len(patients)]
            made.append(await attempt(site, slot_id, patient_id))

    await asyncio.gather(*(one_of_them() for _ in range(AT_ONCE)))
    return made


async def register_patients(site: Installation) -> list[str]:
    """A few at a time: they came during the day before."""
    few = asyncio.Semaphore(16)

    async def register(number: int) -> str:
        async with few:
            return await site.patient(HOSPITAL, made_up_person(number))

    return await asyncio.gather(*(register(n) for n in range(1, PATIENTS + 1)))


async def slots_of_one_schedule(site: Installation) -> list[str]:
    async def look() -> list[dict[str, str]]:
        slots: list[dict[str, str]] = (await site.portal().get(f"/v1/hospitals/{HOSPITAL}/slots"))["items"]
        return slots

    def closed(seen: list[dict[str, str]]) -> bool:
        return {slot["status"] for slot in seen} == {"not_released"}

    seen = await until(look, closed, what="the first fetch has brought the rule to the slots")
    schedule_id = seen[0]["schedule_id"]
    return [slot["id"] for slot in seen if slot["schedule_id"] == schedule_id]


async def shown(site: Installation, slots: Sequence[str]) -> list[dict[str, object]]:
    items = (await site.portal().get(f"/v1/hospitals/{HOSPITAL}/slots"))["items"]
    return [slot for slot in items if slot["id"] in slots]


@pytest.mark.timeout(400)  # it waits for a whole minute to come
async def test_hospital_sees_no_more_than_its_seats_when_ten_thousand_ask_for_three_hundred(tmp_path: Path) -> None:
    rules = {
        "his_concurrency": PLACES,
        "his_queue_deadline_s": 60,
        "lock_wait_s": 120,
        "sync_every_s": 30,
        "horizon_days": 1,
    }
    async with lay_out(tmp_path, hospital=rules, seats=SEATS_A_SLOT) as site:
        async with run_process(site):
            patients = await register_patients(site)
        opens = next_release()
        with site.config.open("a", encoding="utf-8") as config:
            config.write(f'[hospital.{HOSPITAL}.release]\ntime = "{opens:%H:%M}"\ndays_ahead = 1\n')
        async with run_process(site):
            await release(site, opens, patients)


async def release(site: Installation, opens: dt.datetime, patients: Sequence[str]) -> None:
    """The crowd comes half a second early, takes everything, and comes again when something is returned."""
    slots = await slots_of_one_schedule(site)
    seats = SEATS_A_SLOT * len(slots)
    assert seats == 300
    await asyncio.sleep(opens.timestamp() - time.time() - 0.5)
    made = await crowd(site, slots, patients, ATTEMPTS)

    # By the clock, and not a moment too early.
    early = [a for a in made if a.code == "slot_not_released"]
    held = [a for a in made if a.code == "held"]
    assert early, "the crowd was to come before the opening"
    assert max(a.sent_s for a in early) <= opens.timestamp() + OPENED_WITHIN_S
    # Every seat once, one for each patient, and a clear word for everybody else.
    assert len(held) == len({a.booking_id for a in held}) == len({a.patient_id for a in held}) == seats
    others = Counter(a.code for a in made if a.code not in ("held", "slot_not_released"))
    assert set(others) <= {"slot_sold_out", "duplicate_booking"}, others
    assert await site.metric("hisbridge_holds_total", hospital=HOSPITAL, outcome="refused_from_memory") > 0

    # The hospital: a lock for each seat, never more at once than it bears.
    clinic = site.clinics[HOSPITAL]
    await until(
        lambda: count_locked(site, [str(a.booking_id) for a in held]),
        lambda n: n == seats,
        what="locked",
        within_s=120,
    )
    assert await clinic.calls("lock_slot") == seats
    assert (await clinic.state())["most_at_once"] <= PLACES

    # What is returned is sold again, once.
    back = held[:RETURNED]
    for a in back:
        await site.cancel(HOSPITAL, {"id": a.booking_id})
    await until(lambda: seats_shown(site, slots), lambda n: n == RETURNED, what="returned seats are shown", within_s=60)
    # Everybody asks for everything: those who hold a seat already are refused, whoever is left takes what there is.
    again = await crowd(site, slots, patients, len(slots) * len(patients))
    assert sum(a.code == "held" for a in again) == RETURNED, Counter(a.code for a in again)
    await until(
        lambda: count_locked(site, [str(a.booking_id) for a in again if a.booking_id]),
        lambda n: n == RETURNED,
        what="locked",
        within_s=60,
    )
    state = await clinic.state()
    assert await clinic.calls("lock_slot") <= seats + RETURNED
    assert state["most_at_once"] <= PLACES
    assert state["oversold"] == 0


async def seats_shown(site: Installation, slots: Sequence[str]) -> int:
    return sum(int(str(slot["remaining"])) for slot in await shown(site, slots))


async def count_locked(site: Installation, booking_ids: Sequence[str]) -> int:
    answers = await asyncio.gather(*(site.portal().get(f"/v1/hospitals/{HOSPITAL}/bookings/{i}") for i in booking_ids))
    return sum(a["his_state"] == "locked" for a in answers)
