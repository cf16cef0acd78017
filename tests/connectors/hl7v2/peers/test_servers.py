"""Servers that nobody here wrote answer our requests."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from connectors.hl7v2 import HL7v2Connector
from connectors.port import Accepted, BillPayment, Order, Unknown
from mappings.canonical import Bill, Patient, Schedule, Session, Slot

from ..conftest import SHANGHAI, ZHANG, MakeConnector, payment
from .servers import Seen, Server

# python-hl7 0.4.5 stamps its acknowledgements with a call that Python 3.12 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")

STARTS_AT = dt.datetime(2026, 1, 6, 9, 0, tzinfo=SHANGHAI)
KNOWN = Patient(name="欧阳娜娜", id_type="id_card", id_number="110101199003070038", mrn="100")
SCHEDULE = Schedule(id="P1", date=STARTS_AT.date(), session=Session.AM, department_id="200", department_name="内科")
ENDS_AT = STARTS_AT + dt.timedelta(minutes=30)
SLOT = Slot(
    id="S1",
    schedule_id="P1",
    date=STARTS_AT.date(),
    session=Session.AM,
    starts_at=STARTS_AT,
    ends_at=ENDS_AT,
    seats_left=1,
)


def order(n: int) -> Order:
    return Order(order_no=f"{20260105000000000000 + n}", schedule=SCHEDULE, slot=SLOT, patient=KNOWN, fee_fen=2500)


def bill(n: int) -> BillPayment:
    due = Bill(id=f"B{n}", amount_fen=100, currency="CNY")
    return BillPayment(order_no=f"{n:020}", bill=due, patient=KNOWN, payment=payment(100, f"T{n}"))


def asking(make_connector: MakeConnector, server: Server, **options: object) -> HL7v2Connector:
    """Our side, patient; where the peer closes each connection it makes one for each message, as an operator would."""
    timeouts = {"book": 20.0, "settle_bill": 20.0, "find_patient": 20.0}
    options = {"timeout_s": timeouts, "persistent": not server.hangs_up, **options}
    return make_connector("hl7v2", host="127.0.0.1", port=server.port, **options)


async def test_every_verb_is_done_when_a_foreign_server_answers(make_connector: MakeConnector, server: Server) -> None:
    connector = asking(make_connector, server, connections=1)
    booked = await connector.book(order(1))
    assert isinstance(booked, Accepted)
    assert booked.his_refs["appointment"].endswith("1")
    (found,) = await connector.find_patient(ZHANG)
    assert (found.name, found.id_number, found.mrn is not None and found.mrn.endswith("100")) == (
        ZHANG.name,
        ZHANG.id_number,
        True,
    )
    assert isinstance(await connector.settle_bill(bill(1)), Accepted)
    assert await server.seen() == [
        Seen("SRM", order(1).order_no, KNOWN.name),
        Seen("QBP", "", ""),
        Seen("DFT", "T1", KNOWN.name),
    ]


async def test_each_booking_gets_its_own_answer_when_many_ask_at_once(
    make_connector: MakeConnector, server: Server
) -> None:
    connector = asking(make_connector, server, connections=4)
    outcomes = await asyncio.gather(*(connector.book(order(n)) for n in range(24)))
    assert all(isinstance(outcome, Accepted) for outcome in outcomes), outcomes
    assert sorted(seen.key for seen in await server.seen()) == [order(n).order_no for n in range(24)]


async def test_requests_go_on_when_a_foreign_server_closes_the_connection_after_each_answer(
    make_connector: MakeConnector, server: Server
) -> None:
    connector = asking(make_connector, server, connections=1, persistent=False)
    await server.behave(hang_up=True)
    outcomes = [await connector.settle_bill(bill(n)) for n in range(6)]
    assert all(isinstance(outcome, Accepted) for outcome in outcomes), outcomes
    assert [seen.key for seen in await server.seen()] == [f"T{n}" for n in range(6)]


async def test_late_answer_is_nobodys_when_a_foreign_server_is_slow(
    make_connector: MakeConnector, server: Server
) -> None:
    connector = asking(make_connector, server, connections=1, timeout_s={"settle_bill": 0.5, "book": 20.0})
    await server.behave(delay_ms=1500)
    assert isinstance(await connector.settle_bill(bill(1)), Unknown)
    await server.behave()
    booked = await connector.book(order(1))
    assert isinstance(booked, Accepted)
    await asyncio.sleep(1.5)
    assert isinstance(await connector.book(order(2)), Accepted)
    assert [seen.key for seen in await server.seen()] == ["T1", order(1).order_no, order(2).order_no]
