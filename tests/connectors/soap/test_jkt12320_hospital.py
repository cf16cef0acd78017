"""What 12320 has of its own, against the simulated hospital: orders made of locks, check-in, pages, kinds of reports."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from connectors.port import (
    Accepted,
    HisReplyInvalid,
    Inbound,
    InboundAnswer,
    Refused,
    Rejected,
    Stored,
    Unknown,
)
from loadtest.simulators.soap_dialects.jkt12320_calls import Calls
from loadtest.simulators.soap_dialects.jkt12320_seal import Keys, SignatureWrong, read_call, signed_call
from loadtest.simulators.soap_dialects.speaking import CallFailed, Unreadable
from mappings.canonical import (
    BillIssued,
    RegistrationStatus,
    ReportIssued,
    ReportKind,
    ScheduleStopped,
    Session,
    StatementKind,
    StopScope,
)
from tests.connectors.soap.soap_hospital import ZONE, payment, switch
from tests.connectors.soap.spoken import SPOKEN, order_of, patient_of, with_refs

SPOKEN_HERE = next(one for one in SPOKEN if one.name == "jkt12320")


async def test_lock_becomes_an_order_and_is_registered_by_one_verb() -> None:
    async with SPOKEN_HERE.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        order = with_refs(order, await his.lock_slot(order), payment=payment(order.fee_fen))
        (visit,) = simulator.hospital.visits.values()
        assert visit.mrn == ""  # a lock names nobody
        registered = await his.register(order)
        assert isinstance(registered, Accepted)
        assert registered.his_refs["hosp_order_id"] == visit.no
        assert (visit.mrn, visit.state) == (order.patient.mrn, "registered")
        assert [simulator.board.calls[op] for op in ("lock_slot", "book", "register")] == [1, 1, 1]


@pytest.mark.parametrize("lost", ["book", "register"])
async def test_registration_is_made_once_when_either_of_its_replies_is_lost(lost: str) -> None:
    async with SPOKEN_HERE.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        order = with_refs(order, await his.lock_slot(order), payment=payment(order.fee_fen))
        switch(simulator, lost, "lose_reply", times=1)
        assert isinstance(await his.register(order), Unknown)
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is (RegistrationStatus.LOCKED if lost == "book" else RegistrationStatus.REGISTERED)
        if lost == "book":  # the repeat is told that the order exists, and pays it
            assert isinstance(await his.register(order), Accepted)
        again = await his.register(msgspec.structs.replace(order, his_refs=found.his_refs))
        assert isinstance(again, Rejected)
        assert again.code == "already_exists"
        assert [v.state for v in simulator.hospital.visits.values()] == ["registered"]


async def test_lock_and_order_are_both_gone_when_the_payment_was_refused() -> None:
    async with SPOKEN_HERE.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        order = with_refs(order, await his.lock_slot(order), payment=payment(order.fee_fen + 1))
        refused = await his.register(order)
        assert isinstance(refused, Rejected)
        assert refused.code == "price_changed"
        given_back = await his.unlock_slot(order)
        assert isinstance(given_back, Accepted) or (
            isinstance(given_back, Rejected) and given_back.code == "already_done"
        )
        (visit,) = simulator.hospital.visits.values()
        assert visit.state == "released"
        assert simulator.hospital.segments[visit.segment].taken == 0


async def test_seat_is_booked_directly_and_paid_when_nothing_was_locked() -> None:
    async with SPOKEN_HERE.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        order = with_refs(order, await his.book(order), payment=payment(order.fee_fen))
        found = await his.fetch_registration(order)
        assert found is not None
        assert (found.status, found.mrn) == (RegistrationStatus.LOCKED, order.patient.mrn)
        assert isinstance(await his.register(order), Accepted)
        assert simulator.board.calls["book"] == 1


@pytest.mark.parametrize("lost", [False, True], ids=["told", "reply lost"])
async def test_patient_is_checked_in_once(lost: bool) -> None:
    async with SPOKEN_HERE.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        order = with_refs(order, await his.lock_slot(order), payment=payment(order.fee_fen))
        order = with_refs(order, await his.register(order))
        if lost:
            switch(simulator, "check_in", "lose_reply", times=1)
        assert isinstance(await his.check_in(order), Unknown if lost else Accepted)
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.CHECKED_IN
        again = await his.check_in(order)
        assert isinstance(again, Rejected)
        assert again.code == "already_done"
        late = await his.cancel_registration(order)
        assert isinstance(late, Rejected)
        assert late.code == "too_late"


async def test_statement_of_many_pages_is_whole() -> None:
    async with SPOKEN_HERE.hospital() as (simulator, his):
        patient = await patient_of(his, simulator)
        now = dt.datetime.now(ZONE)
        assert patient.mrn is not None
        for n in range(1, 251):
            charge = simulator.hospital.charge(patient.mrn, [("挂号费", n)])
            simulator.hospital.settle(charge.no, n, f"42{n}")
            simulator.ledger.paid_at[charge.no] = now
        lines = await his.fetch_statement(now.date())
        assert simulator.board.calls["fetch_statement"] == 3
    assert {line.kind for line in lines} == {StatementKind.PAYMENT}
    assert [line.amount_fen for line in lines] == list(range(1, 251))


@pytest.mark.parametrize(
    ("name", "kind", "asked"),
    [("血常规", ReportKind.LAB, 1), ("尿培养", ReportKind.LAB, 2), ("胸部CT", ReportKind.EXAM, 3)],
)
async def test_report_is_found_whatever_its_kind(name: str, kind: ReportKind, asked: int) -> None:
    async with SPOKEN_HERE.hospital() as (simulator, his):
        patient = await patient_of(his, simulator)
        assert patient.mrn is not None
        number = simulator.hospital.report(patient.mrn, name).no
        report = await his.fetch_report(patient, number)
        assert report is not None
        assert (report.id, report.kind, report.name) == (number, kind, name)
        assert simulator.board.calls["fetch_report"] == asked


async def test_names_are_whole_when_the_encrypted_document_is_gbk() -> None:
    async with SPOKEN_HERE.hospital() as (simulator, his):
        switch(simulator, "*", "gbk_inside")
        assert {d.name for d in await his.fetch_departments()} == {"内科", "外科", "口腔科"}


async def test_nothing_is_done_when_the_keys_differ(tmp_path_factory: pytest.TempPathFactory) -> None:
    wrong = tmp_path_factory.mktemp("keys") / "sign"
    wrong.write_text("ANOTHER-KEY")
    files = SPOKEN_HERE.options["secret_files"] | {"sign_key": str(wrong)}
    async with SPOKEN_HERE.hospital(secret_files=files) as (simulator, his):
        with pytest.raises(HisReplyInvalid, match="signature"):
            await his.fetch_departments()
        assert dict(simulator.board.calls) == {"unsigned": 1}


async def test_hospital_tells_of_stops_bills_and_reports_until_they_are_taken() -> None:
    heard: list[Inbound] = []

    async def handler(inbound: Inbound) -> InboundAnswer:
        heard.append(inbound)
        return Refused(code="store_down", text="", retryable=True) if len(heard) == 1 else Stored()

    async with SPOKEN_HERE.hospital(listen_host="127.0.0.1", listen_port=0) as (simulator, his):
        await his.serve(handler)
        hospital = simulator.hospital
        caller = Calls(hospital, f"http://127.0.0.1:{his.listen_port}/PubService", pause_s=0.01)
        plan = hospital.stop(next(iter(hospital.plans)))
        await caller.notify("stop", plan.code)
        person = hospital.create_person("张伟", "11010119900307123X")
        await caller.notify("bill", hospital.charge(person.mrn, [("血常规", 2550)]).no)
        await caller.notify("report", hospital.report(person.mrn).no)
    assert [one.message_type for one in heard] == ["5001", "5001", "7001", "7001"]
    assert heard[0].dedup_key == heard[1].dedup_key  # one call, repeated
    assert all(one.problem is None for one in heard)
    stop, bill, report = (event for one in heard[1:] for event in one.events)
    assert isinstance(stop, ScheduleStopped)
    assert (stop.scope, stop.schedule_id, stop.date) == (StopScope.SCHEDULE, plan.code, plan.day)
    assert stop.session is Session.AM
    assert isinstance(bill, BillIssued)
    assert (bill.bill.amount_fen, bill.bill.mrn) == (2550, person.mrn)
    assert isinstance(report, ReportIssued)
    assert (report.report.kind, report.report.name, report.report.mrn) == (ReportKind.LAB, "血常规", person.mrn)


async def test_hospital_is_told_that_its_call_was_not_taken_when_it_is_signed_with_another_key() -> None:
    async def handler(inbound: Inbound) -> InboundAnswer:
        raise AssertionError

    async with SPOKEN_HERE.hospital(listen_host="127.0.0.1", listen_port=0) as (simulator, his):
        await his.serve(handler)
        hospital = simulator.hospital
        caller = Calls(hospital, f"http://127.0.0.1:{his.listen_port}/PubService", attempts=2, pause_s=0.01)
        caller.keys = Keys(sign=b"another")
        with pytest.raises(CallFailed):
            await caller.notify("stop", next(iter(hospital.plans)))


def test_call_is_read_by_whom_it_is_for_and_nobody_else() -> None:
    stop = signed_call("5001", ("REQ", [("REG_ID", "R7"), ("REASON", "停诊")]))
    assert read_call(stop) == ("5001", "<REQ><REG_ID>R7</REG_ID><REASON>停诊</REASON></REQ>")
    with pytest.raises(SignatureWrong):
        read_call(stop, Keys(sign=b"another"))
    with pytest.raises(SignatureWrong):
        read_call(stop.replace("5001", "5002"))
    with pytest.raises(Unreadable):
        read_call("<ROOT><FUN_CODE>5001</FUN_CODE></ROOT>")
