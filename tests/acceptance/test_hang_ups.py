"""Portals that hang up in the middle of asking for a seat: nothing is lost, nothing is doubled."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

import pytest
from yarl import URL

from tests.acceptance.installation import KEY, Installation, run_installation

HOSPITAL = "soap-demo"
OF = f"/v1/hospitals/{HOSPITAL}/bookings"


def raw_hold(slot_id: str, patient_id: str, key: str) -> bytes:
    """The bytes of a request for a seat."""
    body = json.dumps({"user_ref": "u", "slot_id": slot_id, "patient_id": patient_id}).encode()
    head = (
        f"POST {OF} HTTP/1.1\r\nHost: portal\r\nAuthorization: Bearer {KEY}\r\nIdempotency-Key: {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def hang_up(site: Installation, data: bytes, after_s: float | None) -> None:
    """Send these bytes and leave: at once and rudely (None: a reset), or so much later."""
    url = URL(site.base_url)
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(data)
    await writer.drain()
    if after_s is None:
        writer.transport.abort()
    else:
        await asyncio.sleep(after_s)
        writer.close()


@pytest.mark.parametrize("after_s", [None, 0.0, 0.001, 0.004, 0.02])
async def test_repeat_gets_the_one_booking_when_the_first_caller_has_hung_up(
    tmp_path: Path, after_s: float | None
) -> None:
    async with run_installation(tmp_path) as site:
        portal = site.portal()
        slot_id = (await site.open_slots(HOSPITAL))[0]["id"]
        for _ in range(4):
            patient_id, key = await site.patient(HOSPITAL), uuid.uuid4().hex
            asked = {"user_ref": "u", "slot_id": slot_id, "patient_id": patient_id}
            await hang_up(site, raw_hold(slot_id, patient_id, key), after_s)
            again = [await portal.call("POST", OF, asked, key=key) for _ in range(2)]
            assert [answer.status for answer in again] == [201, 201]
            assert again[0].data == again[1].data
            found = (await portal.get(OF, patient_id=patient_id))["items"]
            assert [booking["id"] for booking in found] == [again[0].body["id"]]


async def test_nothing_is_booked_when_the_body_never_came_whole(tmp_path: Path) -> None:
    async with run_installation(tmp_path) as site:
        slot_id = (await site.open_slots(HOSPITAL))[0]["id"]
        patient_id = await site.patient(HOSPITAL)
        whole = raw_hold(slot_id, patient_id, uuid.uuid4().hex)
        for cut in (1, 20, len(whole) - 60):
            await hang_up(site, whole[:-cut], 0.0)
        assert (await site.portal().get(OF, patient_id=patient_id))["items"] == []
