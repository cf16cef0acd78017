"""What the simulated hospital pushes arrives as canonical events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from aiohttp import ClientSession

from connectors.port import Inbound, Stored
from loadtest.simulators import hl7
from mappings.canonical import (
    AnyEvent,
    BillIssued,
    BillItem,
    DepartmentChanged,
    PractitionerChanged,
    RegistrationChanged,
    RegistrationStatus,
    ReportIssued,
    ReportKind,
    ReportStatus,
    ScheduleStopped,
    StopScope,
)

from .conftest import SHANGHAI, MakeConnector


class Inbox:
    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self.problems: list[str] = []
        self.news = asyncio.Event()

    async def __call__(self, inbound: Inbound) -> Stored:
        self.events += inbound.events
        if inbound.problem:
            self.problems.append(inbound.problem)
        self.news.set()
        return Stored()

    async def wait_for(self, enough: Callable[[list[AnyEvent]], bool]) -> None:
        async with asyncio.timeout(5):
            while not enough(self.events):
                self.news.clear()
                await self.news.wait()


async def test_pushed_news_become_events(make_connector: MakeConnector) -> None:
    inbox = Inbox()
    connector = make_connector(listen_port=0)
    await connector.serve(inbox)
    simulator = await hl7.start(push_port=connector.listen_port, push_appointments=True)
    hospital = simulator.hospital
    try:
        await inbox.wait_for(lambda events: len(events) == 7)
        departments = [event.department for event in inbox.events if isinstance(event, DepartmentChanged)]
        assert {one.id: one.name for one in departments} == hospital.departments
        doctors = [event.practitioner for event in inbox.events if isinstance(event, PractitionerChanged)]
        assert {(d.id, d.name, d.title, d.department_id) for d in doctors} == {
            (d.code, d.name, d.title, d.dept) for d in hospital.doctors.values()
        }
        inbox.events.clear()

        person = hospital.create_person("张伟", "11010519491231002X")
        plan = next(iter(hospital.plans))
        base = f"http://127.0.0.1:{simulator.control_port}"
        async with ClientSession() as http:
            items = [{"name": "血常规", "amount_fen": 1250}, {"name": "尿|常^规", "amount_fen": 805}]
            bill_no = (await (await http.post(f"{base}/bill", json={"mrn": person.mrn, "items": items})).json())["no"]
            report_no = (await (await http.post(f"{base}/report", json={"mrn": person.mrn})).json())["no"]
            (await http.post(f"{base}/stop", json={"plan": plan})).close()
            state = json.loads(await (await http.get(f"{base}/state")).text())
        assert state["charges"][0]["no"] == bill_no
        await inbox.wait_for(lambda events: len(events) == 3)
        bill, report, stop = inbox.events
        assert isinstance(bill, BillIssued)
        assert (bill.bill.id, bill.bill.mrn, bill.bill.amount_fen, bill.bill.currency) == (
            bill_no,
            person.mrn,
            2055,
            "CNY",
        )
        assert bill.bill.items == (
            BillItem(name="血常规", amount_fen=1250, quantity="1", code="ITEM1"),
            BillItem(name="尿|常^规", amount_fen=805, quantity="1", code="ITEM2"),
        )
        assert isinstance(report, ReportIssued)
        issued = hospital.reports[report_no].issued
        assert (report.report.id, report.report.mrn, report.report.name) == (report_no, person.mrn, "血常规")
        assert (report.report.status, report.report.kind) == (ReportStatus.FINAL, ReportKind.LAB)
        assert report.report.issued_at == issued
        white = report.report.observations[0]
        assert (white.name, white.value, white.unit, white.flag) == ("白细胞", "11.2", "10*9/L", "H")
        assert white.reference_range == "3.5-9.5"
        assert isinstance(stop, ScheduleStopped)
        assert (stop.scope, stop.schedule_id, stop.reason) == (StopScope.SCHEDULE, plan, "停诊")
        assert stop.occurred_at is not None
        assert stop.occurred_at.utcoffset() == stop.occurred_at.astimezone(SHANGHAI).utcoffset()
        assert inbox.problems == []

        inbox.events.clear()
        visit = hospital.take("20260105000000000001", person.mrn, list(hospital.segments)[-1])
        simulator.pusher.announce("S12", simulator._appointment(visit))
        await inbox.wait_for(lambda events: len(events) == 1)
        (changed,) = inbox.events
        assert isinstance(changed, RegistrationChanged)
        assert changed.registration.status is RegistrationStatus.LOCKED
        assert changed.registration.starts_at == hospital.segments[visit.segment].start
    finally:
        await simulator.close()


async def test_push_begins_when_our_listener_comes_up_later(make_connector: MakeConnector) -> None:
    inbox = Inbox()
    first = make_connector(listen_port=0)
    await first.serve(inbox)
    port = first.listen_port
    await first.close()
    simulator = await hl7.start(push_port=port)
    try:
        await asyncio.sleep(0.1)
        await make_connector(listen_port=port).serve(inbox)
        await inbox.wait_for(lambda events: len(events) == 7)
    finally:
        await simulator.close()
