"""What a dialect without a lock does beside the contract, against its simulated hospital; and what that hospital insists on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.port import Accepted, BillPayment, Capability, HisRefused, QueryBack, Rejected, Unknown, Verb
from mappings.canonical import RegistrationStatus, ReportKind
from tests.connectors.soap.soap_hospital import PERSON, payment, switch, window
from tests.connectors.soap.spoken import Spoken, order_of, patient_of, with_refs

ZOESOFT, ZYSOFT = Spoken("zoesoft", "zoesoft@1"), Spoken("zysoft", "zysoft@1")


@pytest.mark.parametrize(
    ("spoken", "wrong"),
    [
        (ZOESOFT, {"soap_action": "{namespace}/{operation}"}),
        (ZOESOFT, {"namespace": "http://tempuri.org"}),
        (ZOESOFT, {"argument": "strXML"}),
        (ZYSOFT, {"namespace": "http://tempuri.org/"}),
        (ZYSOFT, {"encoding": "utf-8", "encoding_label": "utf-8"}),
        (ZYSOFT, {"encoding_label": "gbk"}),
        (ZYSOFT, {"prolog": ""}),
    ],
    ids=lambda value: str(value),
)
async def test_hospital_refuses_an_envelope_that_is_not_its_own(spoken: Spoken, wrong: dict[str, Any]) -> None:
    async with spoken.hospital(settings=wrong) as (_, his):
        with pytest.raises(HisRefused) as refused:
            await his.ping()
        assert refused.value.code == "invalid_request"


async def test_number_that_is_collected_is_seen_and_only_the_window_takes_it_back() -> None:
    async with ZOESOFT.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        order = with_refs(order, await his.book(order))
        unpaid = await his.check_in(order)
        assert isinstance(unpaid, Rejected)
        paid = payment(order.fee_fen)
        order = with_refs(order, await his.register(msgspec.structs.replace(order, payment=paid)), payment=paid)
        collected = await his.check_in(order)
        assert isinstance(collected, Accepted)
        found = await his.fetch_registration(order)
        assert found is not None
        assert found.status is RegistrationStatus.CHECKED_IN
        again, cancelled = await his.check_in(order), await his.cancel_registration(order)
        assert isinstance(again, Rejected)
        assert isinstance(cancelled, Rejected)
        assert (again.code, cancelled.code) == ("already_done", "too_late")
        assert [visit.state for visit in simulator.hospital.visits.values()] == ["registered"]


async def test_reports_of_laboratory_and_radiology_are_told_together_and_read_each_by_its_own_trade() -> None:
    async with ZOESOFT.hospital() as (simulator, his):
        patient = await patient_of(his, simulator)
        assert patient.mrn is not None
        lab, exam = (simulator.hospital.report(patient.mrn, name) for name in ("血常规", "胸部CT"))
        told = {(r.id, r.kind, r.name) for r in await his.fetch_reports(patient)}
        assert told == {(lab.no, ReportKind.LAB, "血常规"), (exam.no, ReportKind.EXAM, "胸部CT")}
        whole = await his.fetch_report(patient, exam.no)
        assert whole is not None
        assert (whole.kind, whole.conclusion) == (ReportKind.EXAM, "未见异常密度影\n未见异常")
        assert [(a.content_type, a.url) for a in whole.attachments] == [
            ("application/pdf", f"http://127.0.0.1/pacs/{exam.no}.pdf")
        ]
        before = simulator.board.calls["fetch_report"]
        assert await his.fetch_report(patient, lab.no) is not None
        assert simulator.board.calls["fetch_report"] == before + 1  # who is found is not asked for elsewhere


async def test_another_patients_report_is_not_told() -> None:
    async with ZOESOFT.hospital() as (simulator, his):
        patient = await patient_of(his, simulator)
        report = simulator.hospital.report("somebody-else")
        assert await his.fetch_report(patient, report.no) is None


async def test_visit_that_was_opened_and_not_paid_is_paid_when_it_is_tried_again() -> None:
    async with ZYSOFT.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        order = msgspec.structs.replace(with_refs(order, await his.book(order)), payment=payment(order.fee_fen))
        switch(simulator, "register", "refuse", times=1)
        assert isinstance(await his.register(order), Rejected)
        assert isinstance(await his.register(order), Accepted)
        assert (simulator.board.calls["open_visit"], simulator.board.calls["register"]) == (2, 2)
        again = await his.register(order)
        assert isinstance(again, Rejected)
        assert again.code == "already_exists"


async def test_settlement_is_tried_again_when_only_its_question_was_lost() -> None:
    async with ZYSOFT.hospital() as (simulator, his):
        patient = await patient_of(his, simulator)
        assert patient.mrn is not None
        simulator.hospital.charge(patient.mrn, [("血常规", 2500)])
        (bill,) = await his.fetch_bills(patient)
        paying = BillPayment(order_no="9" * 20, bill=bill, patient=patient, payment=payment(2500))
        switch(simulator, "presettle_bill", "lose_reply", times=1)
        lost = await his.settle_bill(paying)
        assert isinstance(lost, Rejected)
        assert (lost.code, lost.retryable) == ("not_sent", True)
        assert isinstance(await his.settle_bill(paying), Accepted)
        assert simulator.board.calls["settle_bill"] == 1


@pytest.mark.parametrize("spoken", [ZOESOFT, ZYSOFT], ids=str)
async def test_refusal_tells_no_name_of_a_patient(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        await patient_of(his, simulator)
        with pytest.raises(HisRefused) as refused:
            await his.find_patient(msgspec.structs.replace(PERSON, name="欧阳明"))
        assert refused.value.code == "patient_mismatch"
        assert "欧阳明" not in str(refused.value)


async def test_stopped_schedule_is_gone_when_the_dialect_has_no_word_for_it() -> None:
    async with ZYSOFT.hospital() as (simulator, his):
        first = next(iter(simulator.hospital.plans))
        simulator.hospital.stop(first)
        assert len(await his.fetch_schedules(window())) == len(simulator.hospital.plans) - 1


async def test_lost_write_is_left_in_doubt_when_a_site_has_no_trade_that_finds_it(tmp_path: Path) -> None:
    (tmp_path / "blind").mkdir()
    (tmp_path / "blind" / "profile.yaml").write_text(
        "name: blind\nversion: 1\nprotocol: soap\nextends: zysoft@1\nverbs:\n  fetch_registration: {capability: off}\n"
        "  book: {query_back: none}\n  register: {query_back: none}\n  cancel_registration: {query_back: none}\n",
        "utf-8",
    )
    async with Spoken("zysoft", "blind@1", profiles_dir=tmp_path).hospital() as (simulator, his):
        writes = (Verb.BOOK, Verb.REGISTER, Verb.CANCEL_REGISTRATION)
        assert {his.traits(verb).query_back for verb in writes} == {QueryBack.NONE}
        assert his.traits(Verb.FETCH_REGISTRATION).capability is Capability.OFF
        order = await order_of(his, simulator)
        switch(simulator, "book", "lose_reply", times=1)
        assert isinstance(await his.book(order), Unknown)
        again = await his.book(order)
        assert isinstance(again, Rejected)
        assert again.code == "already_exists"
