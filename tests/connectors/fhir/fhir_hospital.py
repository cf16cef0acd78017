"""A simulated hospital and a connector to it, for the FHIR tests; and a server that answers with canned replies."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import web

from connectors.config import HospitalContext
from connectors.fhir import FhirConnector, Options, create
from connectors.port import Accepted, BillPayment, Order, Window
from loadtest.simulators import fhir
from loadtest.simulators.control import Fault
from mappings.canonical import Bill, Patient, Payment, Sex

ZONE = ZoneInfo("Asia/Shanghai")
HOSPITAL = HospitalContext(id="fhir-demo", zone=ZONE)
PERSON = Patient(
    name="张伟",
    id_number="11010519491231002X",
    phone="13800000000",
    birth_date=dt.date(1949, 12, 31),
    sex=Sex.MALE,
)
PAID_AT = dt.datetime(2026, 1, 4, 9, 30, 15, tzinfo=ZONE)
ORDER_NO = "20260105000000000001"

STATEMENT = {
    "resourceType": "CapabilityStatement",
    "fhirVersion": "4.0.1",
    "rest": [{"mode": "server", "resource": [{"type": "Appointment", "conditionalCreate": True}]}],
}
"""Of a server that honours If-None-Exist for Appointments, and says no more."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def connected(
    base_url: str, *, hospital: HospitalContext = HOSPITAL, profiles_dir: Path | None = None, **given: Any
) -> AsyncIterator[FhirConnector]:
    given.setdefault("profile", "fhir_demo@1")
    connector = create(hospital, "his", Options(protocol="fhir", base_url=base_url, **given), profiles_dir=profiles_dir)
    assert isinstance(connector, FhirConnector)
    await connector.start()
    try:
        yield connector
    finally:
        await connector.close()


@contextlib.asynccontextmanager
async def hospital(
    *, token: str | None = None, days: int = 1, seats: int = 2, release: str = "R4", **given: Any
) -> AsyncIterator[tuple[fhir.FhirSimulator, FhirConnector]]:
    """A small hospital, so that a test is quick, and a connector to it."""
    simulator = await fhir.start(days=days, seats=seats, token=token, release=release)
    try:
        async with connected(simulator.base_url, **given) as connector:
            yield simulator, connector
    finally:
        await simulator.close()


@contextlib.asynccontextmanager
async def canned(handler: Handler, *, statement: dict[str, Any] | None = STATEMENT) -> AsyncIterator[str]:
    """A server that answers everything under its [base] with `handler`; yields the base URL.

    `statement` is its CapabilityStatement; None leaves that to `handler`, too.
    """

    async def declare(request: web.Request) -> web.Response:
        return fhir_json(json.dumps(statement))

    app = web.Application()
    if statement is not None:
        app.router.add_get("/fhir/metadata", declare)
    app.router.add_route("*", "/fhir", handler)
    app.router.add_route("*", "/fhir/{tail:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/fhir"
    finally:
        await runner.cleanup()


def fhir_json(body: bytes | str, status: int = 200, **headers: str) -> web.Response:
    data = body.encode() if isinstance(body, str) else body
    return web.Response(status=status, body=data, content_type="application/fhir+json", headers=headers)


def switch(
    simulator: fhir.FhirSimulator, op: str, mode: str, *, times: int | None = None, delay_s: float = 0.3
) -> None:
    simulator.board.faults.append(Fault(op, mode, times, delay_s))


def window(days: int = 7) -> Window:
    today = dt.datetime.now(ZONE).date()
    return Window(date_from=today, date_to=today + dt.timedelta(days=days))


async def patient_of(connector: FhirConnector) -> Patient:
    created = await connector.create_patient(PERSON)
    assert isinstance(created, Accepted)
    assert isinstance(created.record, Patient)
    return msgspec.structs.replace(PERSON, mrn=created.record.mrn)


async def order_for(connector: FhirConnector, order_no: str = ORDER_NO) -> Order:
    """A patient of the hospital and its first segment."""
    patient = await patient_of(connector)
    schedules = await connector.fetch_schedules(window())
    slots = await connector.fetch_slots(window(), schedules[:1])
    return Order(
        order_no=order_no, schedule=schedules[0], slot=slots[0], patient=patient, fee_fen=schedules[0].fee_fen or 0
    )


async def booked_order(connector: FhirConnector) -> Order:
    """The same, booked unpaid, with its payment."""
    order = await order_for(connector)
    outcome = await connector.book(order)
    assert isinstance(outcome, Accepted)
    return msgspec.structs.replace(order, his_refs=outcome.his_refs, payment=payment(order.fee_fen))


def payment(amount_fen: int, trade_no: str = "4200001") -> Payment:
    return Payment(channel="WECHAT", trade_no=trade_no, amount_fen=amount_fen, paid_at=PAID_AT)


async def bill_payment(
    simulator: fhir.FhirSimulator, connector: FhirConnector, order_no: str = ORDER_NO
) -> BillPayment:
    """A bill of 35.50 and the money for it."""
    patient = await patient_of(connector)
    assert patient.mrn is not None
    simulator.hospital.charge(patient.mrn, [("血常规", 2500), ("挂号", 1050)])
    bills = await connector.fetch_bills(patient)
    bill: Bill = bills[0]
    return BillPayment(order_no=order_no, bill=bill, patient=patient, payment=payment(3550))
