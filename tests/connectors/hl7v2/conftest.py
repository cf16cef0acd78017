"""Fixtures: a simulated hospital and the connector that talks to it, over real sockets."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from zoneinfo import ZoneInfo

import pytest

from connectors.config import HospitalContext
from connectors.hl7v2 import HL7v2Connector, Options, create
from connectors.port import Accepted, Order, Window
from loadtest.simulators import hl7
from loadtest.simulators.hl7 import HL7Simulator
from mappings.canonical import Patient, Payment

SHANGHAI = ZoneInfo("Asia/Shanghai")
HOSPITAL = HospitalContext(id="hl7-demo", zone=SHANGHAI, currency="CNY")
ZHANG = Patient(name="张伟", id_type="id_card", id_number="11010519491231002X", phone="13800000000")
PAID_AT = dt.datetime(2026, 1, 5, 8, 0, tzinfo=SHANGHAI)

MakeConnector = Callable[..., HL7v2Connector]
MakeOrder = Callable[[str], Awaitable[Order]]


@pytest.fixture
async def simulator() -> AsyncIterator[HL7Simulator]:
    running = await hl7.start()
    yield running
    await running.close()


@pytest.fixture
async def make_connector() -> AsyncIterator[MakeConnector]:
    made: list[HL7v2Connector] = []

    def make(profile: str = "hl7v2_demo", **options: object) -> HL7v2Connector:
        connector = create(HOSPITAL, "hl7", Options(protocol="hl7v2", profile=profile, **options))  # type: ignore[arg-type]
        made.append(connector)
        return connector

    yield make
    for connector in made:
        await connector.close()


@pytest.fixture
def connector(simulator: HL7Simulator, make_connector: MakeConnector) -> HL7v2Connector:
    quick = dict.fromkeys(
        ("lock_slot", "register", "unlock_slot", "cancel_registration", "settle_bill", "create_patient"), 0.5
    )
    return make_connector(host="127.0.0.1", port=simulator.port, timeout_s={**quick, "fetch_registration": 0.5})


def window(simulator: HL7Simulator, department_id: str | None = None) -> Window:
    """All days of the simulated hospital."""
    days = sorted(plan.day for plan in simulator.hospital.plans.values())
    return Window(date_from=days[0], date_to=days[-1], department_id=department_id)


@pytest.fixture
def make_order(simulator: HL7Simulator, connector: HL7v2Connector) -> MakeOrder:
    """An order for the first open slot, by a patient whom the hospital knows."""

    async def make(order_no: str) -> Order:
        created = await connector.create_patient(ZHANG)
        if isinstance(created, Accepted):
            assert isinstance(created.record, Patient)
            patient = created.record
        else:
            patient = (await connector.find_patient(ZHANG))[0]
        schedules = await connector.fetch_schedules(window(simulator))
        slots = await connector.fetch_slots(window(simulator), schedules)
        slot = slots[0]
        schedule = next(one for one in schedules if one.id == slot.schedule_id)
        return Order(order_no=order_no, schedule=schedule, slot=slot, patient=patient, fee_fen=schedule.fee_fen or 0)

    return make


def payment(fen: int, trade_no: str = "4200000001") -> Payment:
    return Payment(channel="WECHAT", trade_no=trade_no, amount_fen=fen, paid_at=PAID_AT)
