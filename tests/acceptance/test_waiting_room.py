"""The waiting room of a release in the real service: killed in the middle of it, and with two API processes."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.acceptance.installation import Answer, Installation, lay_out, made_up_person, run_process, until
from tests.acceptance.processes import laid_out
from tests.booking.waiting_room.test_ranks import correlation
from tests.postgres import PostgresServer

HOSPITAL = "soap-demo"
ROOM = f"/v1/hospitals/{HOSPITAL}/waiting-room"
ZONE = ZoneInfo("Asia/Shanghai")
PEOPLE, LATE = 50, 5
SEATS_A_SLOT = 75
HEAD_START_S = 45.0
RULES: dict[str, Any] = {
    "his_concurrency": 4,
    "his_queue_deadline_s": 60,
    "lock_wait_s": 120,
    "sync_every_s": 30,
    "horizon_days": 1,
}
WAITING_ROOM = {"opens_before_s": 600, "rate_per_s": 10, "most_per_s": 10, "admitted_s": 300, "quiet_s": 600}


def next_release() -> dt.datetime:
    """The next whole minute that leaves time to prepare."""
    soon = dt.datetime.now(ZONE) + dt.timedelta(seconds=HEAD_START_S)
    return soon.replace(second=0, microsecond=0) + dt.timedelta(minutes=1)


def rules(opens: dt.datetime) -> dict[str, Any]:
    return {**RULES, "release": {"time": f"{opens:%H:%M}", "days_ahead": 1}, "waiting_room": WAITING_ROOM}


async def hold(site: Installation, slot_id: str, patient_id: str, ticket: str | None = None) -> Answer:
    return await site.portal().call(
        "POST",
        f"/v1/hospitals/{HOSPITAL}/bookings",
        {"user_ref": "u", "slot_id": slot_id, "patient_id": patient_id},
        key=uuid.uuid4().hex,
        headers={} if ticket is None else {"Waiting-Room-Ticket": ticket},
    )


async def register(site: Installation, numbers: range) -> list[str]:
    few = asyncio.Semaphore(8)

    async def one(number: int) -> str:
        async with few:
            return await site.patient(HOSPITAL, made_up_person(number))

    return await asyncio.gather(*(one(number) for number in numbers))


async def join(site: Installation, patients: Sequence[str]) -> list[str]:
    """Their tickets; they join one after the other."""
    tickets = []
    for patient in patients:
        answer = await site.portal().call("POST", f"{ROOM}/tickets", {"user_ref": "u", "patient_id": patient})
        assert answer.status in (200, 201), answer.data
        tickets.append(str(answer.body["ticket"]))
    return tickets


async def look(site: Installation, tickets: Sequence[str]) -> list[dict[str, Any]]:
    return await asyncio.gather(*(site.portal().get(f"{ROOM}/tickets/{ticket}") for ticket in tickets))


async def released_slot(site: Installation) -> str:
    async def slots() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await site.portal().get(f"/v1/hospitals/{HOSPITAL}/slots"))["items"]
        return items

    seen = await until(slots, lambda items: {s["status"] for s in items} == {"not_released"}, what="slots to wait for")
    return str(seen[0]["id"])


async def opened(site: Installation, opens: dt.datetime) -> None:
    """The release has been, and every process has had a second to hear of all there is."""
    await asyncio.sleep(max(0.0, opens.timestamp() + 1 - time.time()))
    await until(lambda: site.portal().get(ROOM), lambda room: room["state"] == "open", what="the room is open")


async def is_fair(site: Installation, tickets: Sequence[str], late: Sequence[str], *, processes: int = 1) -> None:
    """The places of those who wait are no order of joining, and the late ones are behind, as they came.

    Two processes may each know of a step that the other has not heard of yet. Of one process all places are different, unless
    a step of the admission fell between two of the looks: then all are looked at once more.
    """

    async def places() -> list[int]:
        return [int(place["position"]) for place in await look(site, tickets) if place["state"] == "waiting"]

    line = await until(places, lambda seen: processes > 1 or len(set(seen)) == len(seen), what="different places")
    after = await look(site, late)
    assert len(line) > 20, "too many were let in before one could look"
    # Of 20 the deviation of Spearman's correlation is 1/4.4; of more it is less.
    assert abs(correlation([place * PEOPLE + n for n, place in enumerate(line)])) < 0.95
    behind = [int(place["position"]) for place in after]
    # Two seconds may lie between two looks: two steps of 10 at most.
    assert all(later >= earlier + 1 - 20 for earlier, later in pairwise(behind))
    assert min(behind) >= len(line) - 1 - 20


async def nobody_passes(site: Installation, slot_id: str, patients: Sequence[str], tickets: Sequence[str]) -> None:
    """Without a ticket, with somebody else's, with a forged one, at all processes at once: never a seat."""
    others = [*tickets[1:], tickets[0]]
    attempts = [hold(site, slot_id, patient) for patient in patients]
    attempts += [hold(site, slot_id, patient, ticket) for patient, ticket in zip(patients, others, strict=True)]
    attempts += [
        hold(site, slot_id, patient, ticket[:-4] + "0000") for patient, ticket in zip(patients, tickets, strict=True)
    ]
    answers = await asyncio.gather(*attempts)
    assert Counter((a.status, a.code) for a in answers) == {(429, "waiting_room"): 3 * len(patients)}
    assert all(f'<{ROOM}/tickets>; rel="create-form"' in a.headers["Link"] for a in answers)
    assert all(int(a.headers["Retry-After"]) > 0 for a in answers)


async def all_are_let_in(site: Installation, slot_id: str, patients: Sequence[str], tickets: Sequence[str]) -> None:
    """Everybody's turn comes, and with it a seat."""
    await until(
        lambda: look(site, tickets),
        lambda seen: {place["state"] for place in seen} == {"admitted"},
        what="everybody is admitted",
    )
    answers = await asyncio.gather(
        *(hold(site, slot_id, patient, ticket) for patient, ticket in zip(patients, tickets, strict=True))
    )
    assert {answer.status for answer in answers} == {201}, [answer.data for answer in answers if answer.status != 201]


@pytest.mark.timeout(400)  # it waits for a whole minute to come
async def test_line_stands_when_the_service_is_killed_before_the_release_and_in_it(tmp_path: Path) -> None:
    opens = next_release()
    async with lay_out(tmp_path, hospital=rules(opens), seats=SEATS_A_SLOT) as site:
        async with run_process(site) as process:
            patients = await register(site, range(1, PEOPLE + LATE + 1))
            early, late = patients[:PEOPLE], patients[PEOPLE:]
            slot_id = await released_slot(site)
            await until(lambda: site.portal().get(ROOM), lambda room: room["state"] == "gathering", what="gathering")
            tickets = await join(site, early)
            assert {(t["state"], t["position"]) for t in await look(site, tickets)} == {("gathering", None)}
            assert (await hold(site, slot_id, early[0])).code == "slot_not_released"
            await process.kill()
        assert time.time() < opens.timestamp(), "there was too little time to prepare"
        async with run_process(site) as process:
            assert await join(site, early) == tickets
            await opened(site, opens)
            late_tickets = await join(site, late)
            await is_fair(site, tickets, late_tickets)
            await process.kill()
        async with run_process(site):
            assert await join(site, early) == tickets
            await nobody_passes(site, slot_id, patients, [*tickets, *late_tickets])
            await all_are_let_in(site, slot_id, patients, [*tickets, *late_tickets])
            assert await site.metric("hisbridge_waiting_room_refused_total", hospital=HOSPITAL) == 3 * len(patients)


@pytest.mark.timeout(400)  # it waits for a whole minute to come
async def test_line_is_one_when_two_processes_serve_it(tmp_path: Path, postgres_server: PostgresServer) -> None:
    opens = next_release()
    async with (
        laid_out(tmp_path, postgres_server, hospital=rules(opens), seats=SEATS_A_SLOT) as site,
        run_process(site),
    ):
        patients = await register(site, range(1, PEOPLE + LATE + 1))
        early, late = patients[:PEOPLE], patients[PEOPLE:]
        slot_id = await released_slot(site)
        await until(lambda: site.portal().get(ROOM), lambda room: room["state"] == "gathering", what="gathering")
        tickets = await join(site, early)
        assert time.time() < opens.timestamp(), "there was too little time to prepare"
        await opened(site, opens)
        late_tickets = await join(site, late)
        await is_fair(site, tickets, late_tickets, processes=2)
        await nobody_passes(site, slot_id, patients, [*tickets, *late_tickets])
        await all_are_let_in(site, slot_id, patients, [*tickets, *late_tickets])
        assert await site.metric("hisbridge_waiting_room_joined_total", hospital=HOSPITAL) == len(patients)
        assert await site.metric("hisbridge_waiting_room_admitted_total", hospital=HOSPITAL) == len(patients)
        # Two processes tell the same of one room.
        assert await site.metric("hisbridge_waiting_room_open", hospital=HOSPITAL) == 2
