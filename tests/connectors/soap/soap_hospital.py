"""A simulated hospital and a connector to it, for the SOAP tests; and a peer that answers with canned bytes."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any
from zoneinfo import ZoneInfo

from aiohttp import web

from connectors.config import HospitalContext
from connectors.port import Accepted, BillPayment, Order, Window
from connectors.soap import Options, SoapConnector, create
from loadtest.simulators import soap
from loadtest.simulators.control import Fault
from mappings.canonical import Bill, Patient, Payment, Schedule, Session, Sex, Slot

ZONE = ZoneInfo("Asia/Shanghai")
HOSPITAL = HospitalContext(id="soap-demo", zone=ZONE)
PERSON = Patient(name="张伟", id_type="id_card", id_number="11010119900307123X", phone="13800000000", sex=Sex.MALE)
PAID_AT = dt.datetime(2026, 1, 4, 9, 30, 15, tzinfo=ZONE)


def options(**given: Any) -> Options:
    return Options(**({"protocol": "soap", "profile": "dhc@1"} | given))


@contextlib.asynccontextmanager
async def connected(**given: Any) -> AsyncIterator[SoapConnector]:
    connector = create(HOSPITAL, "his", options(**given))
    await connector.start()
    try:
        yield connector
    finally:
        await connector.close()


@contextlib.asynccontextmanager
async def hospital(*, lock_s: float = 600.0, **given: Any) -> AsyncIterator[tuple[soap.SoapSimulator, SoapConnector]]:
    """A hospital and a connector that has read its WSDL."""
    simulator = await soap.start(days=1, lock_s=lock_s)
    try:
        async with connected(wsdl=simulator.url + "?wsdl", **given) as connector:
            yield simulator, connector
    finally:
        await simulator.close()


def switch(
    simulator: soap.SoapSimulator, op: str, mode: str, *, times: int | None = None, delay_s: float = 0.3
) -> None:
    simulator.board.faults.append(Fault(op, mode, times, delay_s))


def window() -> Window:
    today = dt.datetime.now(ZONE).date()
    return Window(date_from=today, date_to=today + dt.timedelta(days=7))


async def order_for(connector: SoapConnector, order_no: str = "20260105000000000001") -> Order:
    """A patient of the hospital and its first slot."""
    created = await connector.create_patient(PERSON)
    assert isinstance(created, Accepted)
    assert isinstance(created.record, Patient)
    schedules = await connector.fetch_schedules(window())
    slots = await connector.fetch_slots(window(), schedules[:1])
    patient = Patient(name=PERSON.name, mrn=created.record.mrn, id_number=PERSON.id_number)
    return Order(
        order_no=order_no, schedule=schedules[0], slot=slots[0], patient=patient, fee_fen=schedules[0].fee_fen or 0
    )


def payment(amount_fen: int, trade_no: str = "4200001") -> Payment:
    return Payment(channel="WECHAT", trade_no=trade_no, amount_fen=amount_fen, paid_at=PAID_AT)


def golden_order(**given: Any) -> Order:
    """One booking whose every value is written out here."""
    day = dt.date(2026, 1, 5)
    fields: dict[str, Any] = {
        "order_no": "20260105000000000001",
        "schedule": Schedule(id="100||7", date=day, session=Session.AM, department_id="100", practitioner_id="D1"),
        "slot": Slot(
            id="100||7@08:00",
            schedule_id="100||7",
            date=day,
            session=Session.AM,
            starts_at=dt.datetime(2026, 1, 5, 8, tzinfo=ZONE),
            ends_at=dt.datetime(2026, 1, 5, 8, 30, tzinfo=ZONE),
            seats_left=3,
            his_refs={"begin_time": "08:00", "end_time": "08:30"},
        ),
        "patient": Patient(name="张伟", mrn="0000012345"),
        "fee_fen": 700,
    }
    return Order(**(fields | given))


def golden_bill_payment() -> BillPayment:
    return BillPayment(
        order_no="20260105000000000009",
        bill=Bill(id="R100", amount_fen=12050, currency="CNY", his_refs={"adm": "77"}),
        patient=Patient(name="张伟", mrn="0000012345"),
        payment=payment(12050),
        his_refs={"invoice_no_str": "INV9"},
    )


class CannedPeer:
    """Answers every POST with the next of `replies` (the last one again and again) and keeps the requests."""

    def __init__(self, *replies: web.Response | str | bytes) -> None:
        self.replies = list(replies)
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append((dict(request.headers), await request.read()))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, web.Response):
            return web.Response(body=reply.body, status=reply.status, headers=dict(reply.headers))
        if isinstance(reply, str):
            reply = enveloped(reply).encode()
        return web.Response(body=reply, content_type="text/xml", charset="utf-8")


def enveloped(inner: str) -> str:
    escaped = inner.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return (
        '<?xml version="1.0" encoding="UTF-8"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
        f'<OpResponse xmlns="http://tempuri.org"><OpResult>{escaped}</OpResult></OpResponse></s:Body></s:Envelope>'
    )


@contextlib.asynccontextmanager
async def canned(*replies: web.Response | str | bytes, **given: Any) -> AsyncIterator[tuple[CannedPeer, SoapConnector]]:
    """A connector, without a WSDL, to a peer that says only this."""
    peer = CannedPeer(*replies)
    app = web.Application()
    app.router.add_post("/", peer.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    peer.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        async with connected(endpoint=peer.url, **given) as connector:
            yield peer, connector
    finally:
        await runner.cleanup()
