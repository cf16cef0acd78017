"""The main job, whole: the demonstration's own walk through the three hospitals, on either database."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from loadtest.demo.stage import SITE_PROFILE
from loadtest.demo.walk import STEPS, Walk
from tests.acceptance.installation import (
    HOSPITALS,
    KEY,
    OTHER_KEY,
    Installation,
    postgres_store,
    run_installation,
    until,
)
from tests.postgres import PostgresServer

OFFSETS = re.compile(r'T\d\d:\d\d:\d\d(?:\.\d+)?(Z|[+-]\d\d:\d\d)"')
"""The offset of each instant in an answer."""

AS_THE_DEMO: dict[str, Any] = {
    "hospital": {"rules": {"waitlist": {"accept_s": 600}}},
    "connector": {"fhir-demo": {"changes_every_s": 1}, "soap-demo": {"profile": "dhc_site"}},
    "profiles": {"dhc_site": SITE_PROFILE},
    "days": 3,  # the line of tomorrow's sessions is cleared in the evening
}


async def walk_everywhere(site: Installation) -> None:
    """One patient at each hospital at once; then the hospitals' own books are compared with what the portal was told."""
    assert site.session is not None

    async def steps(hospital_id: str) -> list[str]:
        control = f"http://127.0.0.1:{site.clinics[hospital_id].simulator.control_port}"
        assert site.session is not None
        return [text async for text in Walk(site.session, site.base_url, KEY, hospital_id, control).run()]

    for texts in await asyncio.gather(*(steps(hospital_id) for hospital_id in HOSPITALS)):
        assert len(texts) == len(STEPS)
    assert {offset for text in await everything_told(site) for offset in OFFSETS.findall(text)} == {"+08:00"}
    listed = (await site.portal().get("/v1/hospitals"))["items"]
    assert [(one["waitlist"], one["portal_refunds"]) for one in listed] == [(True, False)] * 3
    for hospital_id, clinic in site.clinics.items():
        bookings = (await site.portal().get(f"/v1/hospitals/{hospital_id}/bookings", user_ref="demo-user"))["items"]
        assert sorted((b["state"], b["payment_state"]) for b in bookings) == [
            ("cancelled", "refunded"),
            ("cancelled", "void"),  # the seat that another patient waited for
            ("stopped", "refunded"),
        ]
        of_waiting = await site.portal().get(f"/v1/hospitals/{hospital_id}/bookings", user_ref="demo-user-2")
        [waited] = of_waiting["items"]
        assert (waited["state"], waited["payment_state"]) == ("fulfilled", "paid")
        assert await states_told(site, waited) == ["held", "booked", "checked_in", "fulfilled"]
        state = await clinic.state()
        assert {visit["key"] for visit in state["visits"]} == {b["order_no"] for b in [*bookings, waited]}
        for booking in bookings:
            await site.becomes(hospital_id, booking, his_state="released")  # the stopped one is cancelled there as well
        visits = {visit["key"]: (visit["state"], visit["attended"]) for visit in (await clinic.state())["visits"]}
        assert visits.pop(waited["order_no"]) == ("registered", "seen")
        assert list(visits.values()) == [("released", "")] * 3
        own = [(charge["state"], charge["own_fen"]) for charge in state["charges"]]
        assert own == [("paid", 2_500), ("paid", 7_000)][: 2 if hospital_id == "soap-demo" else 1]
        assert len(state["people"]) == 2
        assert state["oversold"] == 0


async def states_told(site: Installation, booking: dict[str, Any]) -> list[str]:
    """The states of a booking in the order in which its events told them."""
    items = (await site.portal().get("/v1/events", limit=500))["items"]
    told = [
        e["data"]["state"]
        for e in items
        if (e["type"], e["data"].get("booking_id")) == ("booking.changed", booking["id"])
    ]
    return list(dict.fromkeys(told))


async def everything_told(site: Installation) -> list[str]:
    """The text of what the API shows of the walk: events, bookings, bills, reports, visits, and a refusal that has a time."""
    portal, told = site.portal(), []
    feed = await portal.get("/v1/events", limit=500)
    told.append(json.dumps(feed["items"]))
    for hospital_id in HOSPITALS:
        of = f"/v1/hospitals/{hospital_id}"
        bookings = (await portal.get(f"{of}/bookings"))["items"]
        told += [json.dumps(await portal.get(f"{of}/bookings/{one['id']}")) for one in bookings]
        for patient_id in {one["patient_id"] for one in bookings}:
            for kind in ("bills", "reports", "registrations"):
                told.append(json.dumps(await portal.get(f"{of}/patients/{patient_id}/{kind}")))
    return told


async def test_patient_is_served_at_three_hospitals_when_the_store_is_sqlite(tmp_path: Path) -> None:
    async with run_installation(tmp_path, **AS_THE_DEMO) as site:
        await walk_everywhere(site)


async def test_patient_is_served_at_three_hospitals_when_the_store_is_postgresql(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with postgres_store(postgres_server) as store, run_installation(tmp_path, store=store, **AS_THE_DEMO) as site:
        await walk_everywhere(site)


async def test_portal_hears_every_change_in_order_when_it_reads_the_feed(tmp_path: Path) -> None:
    async with run_installation(tmp_path) as site:
        booked = await site.booked("soap-demo")
        await site.cancel("soap-demo", booked)
        await site.becomes("soap-demo", booked, state="cancelled")
        told: list[str] = []
        after = 0

        async def read_on() -> list[str]:
            nonlocal after
            feed = await site.portal().get("/v1/events", after=after, limit=2)
            numbers = [event["seq"] for event in feed["items"]]
            assert numbers == sorted(set(numbers))
            assert all(number > after for number in numbers)
            for event in feed["items"]:
                if event["type"] == "booking.changed" and event["data"]["booking_id"] == booked["id"]:
                    told.append(event["data"]["state"])
            after = feed["next"]
            return told

        await until(read_on, lambda states: states[-1:] == ["cancelled"], what="the whole story in the feed")
        assert list(dict.fromkeys(told)) == ["held", "booked", "cancelling", "cancelled"]
        assert (await site.portal(OTHER_KEY).get("/v1/events"))["items"] == []


async def test_long_poll_answers_when_the_booking_changes(tmp_path: Path) -> None:
    async with run_installation(tmp_path) as site:
        held = await site.locked("soap-demo")
        of = f"/v1/hospitals/soap-demo/bookings/{held['id']}"
        waiting = asyncio.create_task(site.portal().get(of, wait_s=20, since_version=held["version"]))
        await site.pay("soap-demo", held)
        changed = await waiting
        assert changed["version"] > held["version"]
        at_once = await site.portal().get(of, wait_s=20, since_version=held["version"])
        assert at_once["version"] >= changed["version"]
