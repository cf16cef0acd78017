"""Our client against a server that we did not write, on a real socket: sync, book, read back, register, cancel."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from connectors.fhir import FhirConnector
from connectors.port import Accepted, HisRefused, Order, Rejected
from mappings.canonical import Patient, RegistrationStatus, Session
from tests.connectors.fhir.fhir_hospital import PERSON, ZONE, connected, payment, window

START_S = 60.0


@contextlib.asynccontextmanager
async def fhirstarter(*options: str, **given: Any) -> AsyncIterator[tuple[str, FhirConnector]]:
    """The server, and a connector to it with the profile as it is shipped."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", "-m", "tests.connectors.fhir.foreign.server", *options),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "FHIR_SEQUENCE": "R4B"},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_S):
            port = json.loads(await process.stdout.readline())["port"]
        base_url = f"http://127.0.0.1:{port}"
        async with connected(base_url, profile="fhir_r4@1", **given) as connector:
            yield base_url, connector
    finally:
        process.kill()
        await process.wait()


async def kept(base_url: str) -> dict[str, dict[str, dict[str, Any]]]:
    """What the server has, by type and id."""
    async with aiohttp.ClientSession() as session, session.get(f"{base_url}/-/store") as response:
        found: dict[str, dict[str, dict[str, Any]]] = await response.json()
        return found


async def order_of(connector: FhirConnector, order_no: str = "20260105000000000001") -> Order:
    created = await connector.create_patient(PERSON)
    assert isinstance(created, Accepted)
    mrn = created.record.mrn if isinstance(created.record, Patient) else created.his_refs["patient"]
    [schedule] = await connector.fetch_schedules(window())
    [slot, *_] = await connector.fetch_slots(window(), [schedule])
    patient = msgspec.structs.replace(PERSON, mrn=mrn, his_refs={"patient": str(mrn)})
    return Order(order_no=order_no, schedule=schedule, slot=slot, patient=patient, fee_fen=700)


every_way = pytest.mark.parametrize("options", [(), ("--conditional",)], ids=["plain", "conditional"])


@every_way
async def test_foreign_server_is_synced_booked_registered_and_cancelled(options: tuple[str, ...]) -> None:
    async with fhirstarter(*options, validation="strict") as (base_url, connector):
        await connector.ping()
        assert [(d.id, d.name) for d in await connector.fetch_departments()] == [("100", "内科")]
        assert [(p.id, p.title) for p in await connector.fetch_practitioners()] == [("D1", "主任医师")]
        [schedule] = await connector.fetch_schedules(window())
        tomorrow = dt.datetime.now(ZONE).date() + dt.timedelta(days=1)
        assert (schedule.id, schedule.date, schedule.session) == ("s1", tomorrow, Session.AM)
        assert (schedule.department_id, schedule.practitioner_id) == ("100", "D1")
        slots = await connector.fetch_slots(window(), [schedule])
        assert [(slot.starts_at.strftime("%H:%M"), slot.seats_left) for slot in slots] == [
            ("08:00", 2),
            ("08:30", 2),
            ("09:00", 2),
        ]
        order = await order_of(connector)
        assert await connector.fetch_registration(order) is None
        booked = await connector.book(order)
        assert isinstance(booked, Accepted), booked
        order = msgspec.structs.replace(order, his_refs=booked.his_refs, payment=payment(700))
        found = await connector.fetch_registration(order)
        assert found is not None
        assert (found.status, found.order_no) == (RegistrationStatus.LOCKED, order.order_no)
        again = await connector.book(order)
        assert isinstance(again, Rejected)
        assert again.code == "already_exists"
        [first, *_] = await connector.fetch_slots(window(), [schedule])
        assert first.seats_left == 1
        assert isinstance(await connector.register(order), Accepted)
        has = await kept(base_url)
        [appointment] = has["Appointment"].values()
        [notice] = has["PaymentNotice"].values()
        assert appointment["status"] == "booked"
        assert notice["request"]["reference"] == f"Appointment/{appointment['id']}"
        assert notice["amount"] == {"value": 7.0, "currency": "CNY"}
        assert isinstance(await connector.cancel_registration(order), Accepted)
        [first, *_] = await connector.fetch_slots(window(), [schedule])
        assert first.seats_left == 2
        cancelled = await connector.cancel_registration(order)
        assert isinstance(cancelled, Rejected)
        assert cancelled.code == "already_done"


@every_way
async def test_no_slot_is_sold_twice_when_many_book_at_a_foreign_server(options: tuple[str, ...]) -> None:
    async with fhirstarter(*options) as (base_url, connector):
        order = await order_of(connector)
        orders = [msgspec.structs.replace(order, order_no=f"2026010500000000{number:04}") for number in range(5)]
        outcomes = await asyncio.gather(*(connector.book(one) for one in orders))
        assert sum(isinstance(outcome, Accepted) for outcome in outcomes) == 2
        assert {outcome.code for outcome in outcomes if isinstance(outcome, Rejected)} == {"full"}
        has = await kept(base_url)
        taken = [one["slot"][0]["reference"] for one in has["Appointment"].values()]
        assert sorted(taken) == ["Slot/t0", "Slot/t1"]


async def test_what_the_hospital_wrote_stays_when_we_register_at_a_foreign_server() -> None:
    async with fhirstarter() as (base_url, connector):
        order = await order_of(connector)
        booked = await connector.book(order)
        assert isinstance(booked, Accepted)
        order = msgspec.structs.replace(order, his_refs=booked.his_refs, payment=payment(700))
        [appointment] = (await kept(base_url))["Appointment"].values()

        async with aiohttp.ClientSession() as session:  # somebody at the hospital writes a comment
            headers = {"Content-Type": "application/fhir+json", "If-Match": 'W/"1"'}
            body = json.dumps({**appointment, "comment": "brings a friend"})
            url = f"{base_url}/Appointment/{appointment['id']}"
            for status in (200, 412):  # and again, upon what has changed
                async with session.put(url, data=body, headers=headers) as response:
                    assert response.status == status
        assert isinstance(await connector.register(order), Accepted)
        [appointment] = (await kept(base_url))["Appointment"].values()
        assert (appointment["status"], appointment["comment"]) == ("booked", "brings a friend")


async def test_foreign_server_refuses_what_its_models_do_not_take() -> None:
    async with fhirstarter() as (base_url, connector):
        order = await order_of(connector)
        nameless = msgspec.structs.replace(order.slot, ends_at=order.slot.starts_at, his_refs={"free": "no_such_slot"})
        outcome = await connector.book(msgspec.structs.replace(order, slot=nameless))
        assert not isinstance(outcome, Accepted)
        assert (await kept(base_url))["Appointment"] == {}
        with pytest.raises(HisRefused) as refused:  # it has no Invoices
            await connector.fetch_bills(order.patient)
        assert refused.value.code == "not_found"
