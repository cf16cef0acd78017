"""One contract for every SOAP dialect: what a hospital tells, and what becomes of a read when it fails in its ways."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from connectors.port import (
    HisRefused,
    HisReplyInvalid,
    HisUnavailable,
    NotOffered,
    QueryBack,
    Rejected,
    Verb,
)
from mappings.canonical import ScheduleStatus, Session, Sex
from tests.connectors.soap.soap_hospital import PERSON, ZONE, switch, window
from tests.connectors.soap.spoken import EACH, Spoken, offers, order_of, patient_of, take

pytestmark = EACH


async def test_departments_and_practitioners_are_the_hospitals(spoken: Spoken) -> None:
    async with spoken.hospital() as (_, his):
        await his.ping()
        departments = await his.fetch_departments()
        assert {(d.id, d.name) for d in departments} == {("100", "内科"), ("200", "外科"), ("300", "口腔科")}
        doctors = {(p.id, p.name, p.title, p.department_id) for p in await his.fetch_practitioners()}
        assert doctors == {
            ("D1", "李明", "主任医师", "100"),
            ("D2", "王芳", "副主任医师", "100"),
            ("D3", "赵强", "主治医师", "200"),
            ("D4", "陈静", "主任医师", "300"),
        }


async def test_schedules_and_slots_are_the_hospitals(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        schedules = await his.fetch_schedules(window())
        tomorrow = dt.datetime.now(ZONE).date() + dt.timedelta(days=1)
        assert len({s.id for s in schedules}) == 8  # four doctors, two sessions, one day
        assert {s.date for s in schedules} == {tomorrow}
        assert {(s.department_id, s.practitioner_id, s.session) for s in schedules} == {
            (plan.dept, plan.doctor, Session(plan.session)) for plan in simulator.hospital.plans.values()
        }
        fees = {(plan.doctor, plan.session): plan.fee_fen for plan in simulator.hospital.plans.values()}
        assert {(str(s.practitioner_id), s.session.value): s.fee_fen for s in schedules} == fees
        assert {s.status for s in schedules} == {ScheduleStatus.OPEN}
        slots = await his.fetch_slots(window(), schedules)
        told = sorted((s.starts_at, s.ends_at, s.seats_left) for s in slots)
        assert told == sorted((s.start, s.end, s.left) for s in simulator.hospital.segments.values())
        assert {slot.schedule_id for slot in slots} == {s.id for s in schedules}
        assert len({slot.id for slot in slots}) == len(slots)


async def test_one_department_alone_is_told_when_the_window_names_it(spoken: Spoken) -> None:
    async with spoken.hospital() as (_, his):
        schedules = await his.fetch_schedules(msgspec.structs.replace(window(), department_id="300"))
        assert {s.department_id for s in schedules} == {"300"}
        assert len(schedules) == 2


async def test_plans_are_the_same_when_days_are_written_without_dashes(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        schedules = await his.fetch_schedules(window())
        slots = await his.fetch_slots(window(), schedules)
        switch(simulator, "*", "compact_dates")
        assert await his.fetch_schedules(window()) == schedules
        assert await his.fetch_slots(window(), schedules) == slots


async def test_seats_are_many_when_the_hospital_counts_none(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        schedules = await his.fetch_schedules(window())
        if spoken.name != "ninth":  # which counts always
            switch(simulator, "fetch_slots", "unlimited")
        slots = await his.fetch_slots(window(), schedules)
        assert {slot.seats_left for slot in slots} == ({5} if spoken.name == "ninth" else {999})
        assert len(slots) == len(simulator.hospital.segments)


async def test_stop_is_told_with_its_schedule_when_the_doctor_is_away(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        plan = simulator.hospital.plans[next(iter(simulator.hospital.plans))]
        simulator.hospital.stop(plan.code)
        if offers(his, Verb.FETCH_STOPS):
            (stop,) = await his.fetch_stops(window())
            assert (stop.schedule_id, stop.date) == (order.schedule.id, plan.day)
        stopped = {s.id for s in await his.fetch_schedules(window()) if s.status is ScheduleStatus.STOPPED}
        assert stopped in ({order.schedule.id}, set())  # or it is not listed any more
        refused = await take(his, order)
        assert isinstance(refused, Rejected)
        assert refused.code == "stopped"


async def test_patient_is_found_by_number_and_refused_by_another_name(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        assert await his.find_patient(PERSON) == []
        patient = await patient_of(his, simulator)
        (found,) = await his.find_patient(PERSON)
        assert (found.mrn, found.name) == (patient.mrn, "张伟")
        assert found.sex in (Sex.MALE, Sex.UNKNOWN, None)
        again = await his.create_patient(PERSON)
        assert isinstance(again, Rejected)
        assert again.code in ("already_exists", "not_offered")
        other = await his.create_patient(msgspec.structs.replace(PERSON, name="李四"))
        assert isinstance(other, Rejected)
        assert other.code in ("patient_mismatch", "not_offered")


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("fault", HisReplyInvalid),
        ("html", HisUnavailable),  # status 502
        ("garbage", HisReplyInvalid),
        ("diffgram", HisReplyInvalid),
        ("refuse", HisRefused),
        ("bare_text", HisRefused),
        ("lose_reply", HisUnavailable),
        ("hang", HisUnavailable),
    ],
)
async def test_read_raises_its_own_error_when_the_hospital_fails(
    spoken: Spoken, mode: str, error: type[Exception]
) -> None:
    async with spoken.hospital(timeout_s={"fetch_schedules": 0.4}) as (simulator, his):
        switch(simulator, "fetch_schedules", mode)
        with pytest.raises(error):
            await his.fetch_schedules(msgspec.structs.replace(window(), department_id="100"))


async def test_names_are_whole_when_gbk_bytes_stand_under_another_label(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        switch(simulator, "fetch_departments", "gbk")
        assert {d.name for d in await his.fetch_departments()} == {"内科", "外科", "口腔科"}


async def test_report_is_told_with_its_results(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        patient = await patient_of(his, simulator)
        if not offers(his, Verb.FETCH_REPORTS):
            with pytest.raises(NotOffered):
                await his.fetch_reports(patient)
            return
        assert await his.fetch_reports(patient) == []
        assert patient.mrn is not None
        issued = simulator.hospital.report(patient.mrn)
        (listed,) = await his.fetch_reports(patient)
        assert (listed.id, listed.name) == (issued.no, "血常规")
        whole = await his.fetch_report(patient, listed.id) if offers(his, Verb.FETCH_REPORT) else listed
        assert whole is not None
        results = [(r.name, r.value, r.unit) for r in whole.observations]
        assert results == [("白细胞", "11.2", "10*9/L"), ("血红蛋白", "142", "g/L")]


async def test_a_dialect_promises_to_look_up_only_what_it_can_read(spoken: Spoken) -> None:
    reads = {
        Verb.CREATE_PATIENT: Verb.FIND_PATIENT,
        Verb.SETTLE_BILL: Verb.FETCH_SETTLEMENT,
        Verb.REFUND: Verb.FETCH_REFUND,
    } | dict.fromkeys(
        (Verb.LOCK_SLOT, Verb.UNLOCK_SLOT, Verb.BOOK, Verb.REGISTER, Verb.CANCEL_REGISTRATION, Verb.CHECK_IN),
        Verb.FETCH_REGISTRATION,
    )
    async with spoken.hospital() as (_, his):
        for write, read in reads.items():
            if offers(his, write):
                assert (his.traits(write).query_back is not QueryBack.NONE) == offers(his, read), write


async def test_what_the_dialect_lacks_is_not_offered(spoken: Spoken) -> None:
    async with spoken.hospital() as (simulator, his):
        order = await order_of(his, simulator)
        for verb, write in (
            (Verb.LOCK_SLOT, his.lock_slot),
            (Verb.BOOK, his.book),
            (Verb.UNLOCK_SLOT, his.unlock_slot),
            (Verb.CHECK_IN, his.check_in),
        ):
            if not offers(his, verb):
                outcome = await write(order)
                assert isinstance(outcome, Rejected)
                assert outcome.code == "not_offered"
        assert not simulator.hospital.visits
