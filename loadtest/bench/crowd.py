"""What the crowd asks: the requests of a run, and one answer of the product for the bare baseline to give again."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loadtest.bench.fill.layout import SCHEDULES_A_DAY, SLOTS_A_SCHEDULE
from loadtest.bench.installation import Installation
from loadtest.bench.load import Requests, get_request, post_request, write_requests

WARM_REQUESTS = 500
MOST_A_SECOND = 25_000  # so many requests a second of a run are made ready
NOT_REPEATED = frozenset({"content-length", "date", "connection", "server"})  # every server's own


@dataclass(frozen=True)
class Ask:
    """One kind of request: a warm-up, the requests that are measured, and one more that is in neither.

    `wanted` is the status that every answer must have; `route` the template of the path; `makes` what an answer with the status
    `grants` is one of.
    """

    method: str
    route: str
    wanted: int
    warm: Requests
    measured: Requests
    sample: bytes
    makes: Literal["bookings", "tickets"] = "bookings"
    grants: int = 201


def ask_for_slots(installation: Installation, folder: Path, *, days: int) -> Ask:
    """GET a department's day of 30 slots, `days` different ones in turn."""
    layout, route = installation.layout, "/v1/hospitals/{hospital_id}/slots"
    path = route.format(hospital_id=layout.hospital_id)
    gets = [
        get_request(f"{path}?department_id={department}&from={day}&to={day}", key=installation.key)
        for department, day in layout.days_to_read(days)
    ]
    requests = write_requests(folder / "get.http", gets, repeat=True)
    return Ask("GET", route, 200, requests, requests, gets[0])


def ask_for_fhir_slots(installation: Installation, folder: Path) -> Ask:
    """GET the same day of 30 slots from the FHIR facade."""
    layout, route = installation.layout, "/fhir/R4/Slot"
    gets = [
        get_request(f"{route}?start={day}&service-type={department}", key=installation.key)
        for department, day in layout.days_to_read(1)
    ]
    requests = write_requests(folder / "get.http", gets, repeat=True)
    return Ask("GET", route, 200, requests, requests, gets[0])


def ask_for_fhir_bookings(installation: Installation, folder: Path, *, seconds: float) -> Ask:
    """POST `$book` for the same seats and patients as `ask_for_seats`, as a portal of FHIR does it: without a key."""
    layout, route = installation.layout, "/fhir/R4/Appointment/$book"
    count = min(round(seconds * MOST_A_SECOND) + WARM_REQUESTS + 1, layout.crowd * SCHEDULES_A_DAY)
    posts = (
        post_request(route, json.dumps(_book(slot_id, layout.patient_id(patient))).encode(), key=installation.key)
        for _, patient, slot_id in _seats(installation, count, layout.crowd_day)
    )
    sample = next(posts)
    warm = write_requests(folder / "warm.http", itertools.islice(posts, min(WARM_REQUESTS, count // 4)))
    return Ask("POST", route, 200, warm, write_requests(folder / "post.http", posts), sample, grants=200)


def _book(slot_id: str, patient_id: str) -> dict[str, Any]:
    references = {
        "appointment-reference": f"Appointment/{slot_id.replace('_', '-', 1)}",
        "patient-reference": f"Patient/{patient_id}",
    }
    parameters = [{"name": name, "valueReference": {"reference": told}} for name, told in references.items()]
    return {"resourceType": "Parameters", "parameter": parameters}


def ask_for_seats(installation: Installation, folder: Path, *, seconds: float, sold_out: bool = False) -> Ask:
    """POST bookings, each under a key of its own; a patient asks once for each schedule of the crowd's department-day."""
    layout, route = installation.layout, "/v1/hospitals/{hospital_id}/bookings"
    wanted = round(seconds * MOST_A_SECOND) + WARM_REQUESTS + 1
    count = wanted if sold_out else min(wanted, layout.crowd * SCHEDULES_A_DAY)
    posts = _posts(installation, route, count, layout.sold_out_day if sold_out else layout.crowd_day)
    sample = next(posts)
    warm = write_requests(folder / "warm.http", (next(posts) for _ in range(min(WARM_REQUESTS, count // 4))))
    return Ask("POST", route, 409 if sold_out else 201, warm, write_requests(folder / "post.http", posts), sample)


def ask_for_places(installation: Installation, folder: Path, *, seconds: float) -> Ask:
    """POST tickets of the waiting room; a patient asks once."""
    layout, route = installation.layout, "/v1/hospitals/{hospital_id}/waiting-room/tickets"
    path, count = route.format(hospital_id=layout.hospital_id), layout.crowd
    posts = (
        post_request(path, json.dumps(body).encode(), key=installation.key)
        for body in (
            {"user_ref": f"user-{number:08d}", "patient_id": layout.patient_id(number)}
            for number in range(min(count, round(seconds * MOST_A_SECOND) + WARM_REQUESTS + 1))
        )
    )
    sample = next(posts)
    warm = write_requests(folder / "warm.http", itertools.islice(posts, min(WARM_REQUESTS, count // 4)))
    return Ask("POST", route, 201, warm, write_requests(folder / "post.http", posts), sample, makes="tickets")


def bookings(installation: Installation, count: int) -> Iterator[bytes]:
    """So many POSTs of the crowd, each of which gets a seat."""
    return _posts(installation, "/v1/hospitals/{hospital_id}/bookings", count, installation.layout.crowd_day)


def _seats(installation: Installation, count: int, department_day: int) -> Iterator[tuple[int, int, str]]:
    """So many seats: the number of the request, that of its patient, and the slot. A patient asks once for each schedule."""
    layout = installation.layout
    slots = [layout.slot_id(s) for s in layout.slots_of(department_day)]
    for number in range(count):
        schedule = number // layout.crowd % SCHEDULES_A_DAY
        yield number, number % layout.crowd, slots[schedule * SLOTS_A_SCHEDULE + number % SLOTS_A_SCHEDULE]


def _posts(installation: Installation, route: str, count: int, department_day: int) -> Iterator[bytes]:
    layout, path = installation.layout, route.format(hospital_id=installation.layout.hospital_id)
    for number, patient, slot_id in _seats(installation, count, department_day):
        body = {
            "user_ref": f"user-{number:08d}",
            "slot_id": slot_id,
            "patient_id": layout.patient_id(patient),
            "fee_fen": layout.fee_fen,
        }
        key = f"0b5e55ed-{number >> 16:04x}-4000-8000-{number:012x}"
        yield post_request(path, json.dumps(body).encode(), key=installation.key, idempotency_key=key)


async def answer_to(request: bytes, port: int) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one answer, read from the bare connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in head[1:] if line)
        headers = {name: value.strip() for name, _, value in pairs}
        length = next(int(value) for name, value in headers.items() if name.lower() == "content-length")
        return int(head[0].split()[1]), headers, await reader.readexactly(length)
    finally:
        writer.close()
        await writer.wait_closed()


async def sample_answer(ask: Ask, port: int) -> dict[str, Any]:
    """The answer to the sample, as `baselines.bare` takes it. Raises ValueError if it is not the one wanted."""
    status, headers, body = await answer_to(ask.sample, port)
    if status != ask.wanted:
        raise ValueError(f"the sample was answered {status}, not {ask.wanted}: {body[:300].decode(errors='replace')}")
    kept = {name: value for name, value in headers.items() if name.lower() not in NOT_REPEATED}
    return {"method": ask.method, "path": ask.route, "status": status, "headers": kept, "body": body.decode()}
