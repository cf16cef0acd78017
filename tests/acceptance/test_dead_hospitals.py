"""What one hospital's trouble does to its bookings, and what it must not do to the other hospitals.

Every test breaks one hospital and lets the other two serve patients meanwhile; at the end the hospital's own books are
counted: one booking is one visit there, whatever was lost on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.acceptance.installation import (
    HOSPITALS,
    LOCK_OP,
    Clinic,
    Installation,
    lay_out,
    run_installation,
    run_service,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTLE_S = 3
# After the first look back (about 1 s after the last byte) and well before silence is believed.
LATE_S = 2.2
# After a long outage breaker and outbox may rest for 30 s each before they try again.
LONGEST_PAUSE_S = 90.0
every_hospital = pytest.mark.parametrize("hospital_id", HOSPITALS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    async with run_installation(tmp_path_factory.mktemp("dead"), hospital={"his_settle_s": SETTLE_S}) as site:
        yield site


@pytest_asyncio.fixture(loop_scope="module")
async def site(shared: Installation) -> AsyncIterator[Installation]:
    """The shared installation; whatever the test has broken is mended after it."""
    yield shared
    for clinic in shared.clinics.values():
        await clinic.heal()
    await until(lambda: his_states(shared), lambda seen: set(seen.values()) == {"up"}, what="every hospital up again")


async def his_states(site: Installation) -> dict[str, str]:
    """What GET /v1/hospitals says of each HIS."""
    return {h["id"]: h["his_status"] for h in (await site.portal().get("/v1/hospitals"))["items"]}


class Counted:
    """How often operations of a hospital were asked for since `start`."""

    def __init__(self, clinic: Clinic, before: dict[str, int]) -> None:
        self._clinic = clinic
        self._before = before

    @classmethod
    async def start(cls, clinic: Clinic) -> Counted:
        return cls(clinic, (await clinic.state())["calls"])

    async def calls(self, op: str) -> int:
        return await self._clinic.calls(op) - self._before.get(op, 0)


def states(visits: list[dict[str, Any]]) -> list[str]:
    return [visit["state"] for visit in visits]


# --- every write in doubt ------------------------------------------------------------------------------------------


@every_hospital
@pytest.mark.parametrize(
    ("mode", "options"), [("lose_reply", {}), ("late_commit", {"delay_s": LATE_S})], ids=["reply_lost", "late_commit"]
)
async def test_booking_lives_once_when_no_write_is_answered(
    site: Installation, hospital_id: str, mode: str, options: dict[str, Any]
) -> None:
    """The HIS locks, registers and cancels, and not one reply arrives: each is found by looking, none is sent again."""
    clinic = site.clinics[hospital_id]
    counted = await Counted.start(clinic)
    others = asyncio.create_task(site.others_walk(hospital_id))

    await clinic.fault(LOCK_OP[hospital_id], mode, times=1, **options)
    held = await site.locked(hospital_id)
    assert states(await clinic.visits(held["order_no"])) == ["locked"]
    assert await counted.calls(LOCK_OP[hospital_id]) == 1

    await clinic.fault("register", mode, times=1, **options)
    await site.pay(hospital_id, held)
    booked = await site.becomes(hospital_id, held, state="booked", his_state="registered", payment_state="paid")
    assert states(await clinic.visits(held["order_no"])) == ["registered"]
    assert await counted.calls("register") == 1
    assert [p["settlement"] for p in booked["payments"]] == ["settled"]

    await clinic.fault("cancel_registration", mode, times=1, **options)
    await site.cancel(hospital_id, held)
    over = await site.becomes(hospital_id, held, state="cancelled", his_state="released", payment_state="refund_due")
    assert states(await clinic.visits(held["order_no"])) == ["released"]
    assert await counted.calls("cancel_registration") == 1
    assert [(r["status"], r["amount_fen"]) for r in over["refunds"]] == [("refund_due", held["fee_fen"])]

    looks = await counted.calls("fetch_registration")
    assert looks >= (3 if mode == "lose_reply" else 6)  # late: "not found", or as before, was heard first each time
    await others


@every_hospital
async def test_booking_lives_once_when_the_his_answers_already_exists(site: Installation, hospital_id: str) -> None:
    clinic = site.clinics[hospital_id]
    counted = await Counted.start(clinic)
    others = asyncio.create_task(site.others_walk(hospital_id))
    await clinic.fault(LOCK_OP[hospital_id], "already_exists", times=1)
    await clinic.fault("register", "already_exists", times=1)
    held = await site.locked(hospital_id)
    await site.pay(hospital_id, held)
    await site.becomes(hospital_id, held, state="booked", his_state="registered", payment_state="paid")
    assert states(await clinic.visits(held["order_no"])) == ["registered"]
    assert (await counted.calls(LOCK_OP[hospital_id]), await counted.calls("register")) == (1, 1)
    await others


@every_hospital
@pytest.mark.parametrize("mode", ["fault", "html"])
async def test_lock_is_sent_again_when_the_his_said_nothing_readable_and_has_nothing(
    site: Installation, hospital_id: str, mode: str
) -> None:
    """A SOAP fault, an OperationOutcome with 500, AE 207; an HTML page: none says that nothing was done."""
    clinic = site.clinics[hospital_id]
    counted = await Counted.start(clinic)
    others = asyncio.create_task(site.others_walk(hospital_id))
    await clinic.fault(LOCK_OP[hospital_id], mode, times=1)
    held = await site.locked(hospital_id)
    assert states(await clinic.visits(held["order_no"])) == ["locked"]
    assert await counted.calls(LOCK_OP[hospital_id]) == 2
    assert await counted.calls("fetch_registration") >= 2  # absent counts on two looks only
    await others


@every_hospital
async def test_paid_booking_is_registered_once_when_the_registration_meets_a_fault(
    site: Installation, hospital_id: str
) -> None:
    clinic = site.clinics[hospital_id]
    counted = await Counted.start(clinic)
    others = asyncio.create_task(site.others_walk(hospital_id))
    held = await site.locked(hospital_id)
    await clinic.fault("register", "fault", times=1)
    await site.pay(hospital_id, held)
    waiting = await site.becomes(hospital_id, held, his_command="register", his_command_status="unknown")
    assert (waiting["state"], waiting["payment_state"]) == ("held", "paid")
    booked = await site.becomes(hospital_id, held, state="booked", his_state="registered")
    assert booked["refunds"] == []
    assert states(await clinic.visits(held["order_no"])) == ["registered"]
    assert await counted.calls("register") == 2
    await others


@every_hospital
async def test_unsettled_lock_is_given_back_when_its_hold_expired_meanwhile(tmp_path: Path, hospital_id: str) -> None:
    """The HIS locks, the reply is lost, and it cannot be asked until the hold is over: its lock must not stay behind."""
    async with run_installation(tmp_path, hospital={"lock_wait_s": 2, "his_settle_s": 1}) as site:
        clinic = site.clinics[hospital_id]
        await site.open_slots(hospital_id)
        patient_id = await site.patient(hospital_id)
        await clinic.fault(LOCK_OP[hospital_id], "lose_reply", times=1)
        await clinic.fault("fetch_registration", "hang")
        held = await site.hold(hospital_id, patient_id=patient_id)
        await site.becomes(hospital_id, held, state="expired")
        assert states(await clinic.visits(held["order_no"])) == ["locked"]
        await clinic.heal()
        await site.becomes(hospital_id, held, state="expired", his_state="released", his_command="none")
        assert states(await clinic.visits(held["order_no"])) == ["released"]


# --- clear refusals ------------------------------------------------------------------------------------------------


@every_hospital
async def test_hold_is_rejected_when_the_his_refuses_the_lock(site: Installation, hospital_id: str) -> None:
    clinic = site.clinics[hospital_id]
    others = asyncio.create_task(site.others_walk(hospital_id))
    await clinic.fault(LOCK_OP[hospital_id], "refuse", times=1)
    held = await site.hold(hospital_id)
    over = await site.becomes(hospital_id, held, state="rejected", his_state="rejected", payment_state="void")
    assert (over["payable"], over["refunds"]) == (False, [])
    assert await clinic.visits(held["order_no"]) == []
    await others


@every_hospital
async def test_seat_and_money_go_back_when_the_his_refuses_the_registration(
    site: Installation, hospital_id: str
) -> None:
    clinic = site.clinics[hospital_id]
    others = asyncio.create_task(site.others_walk(hospital_id))
    held = await site.locked(hospital_id)
    await clinic.fault("register", "refuse", times=1)
    await site.pay(hospital_id, held)
    over = await site.becomes(hospital_id, held, state="rejected", his_state="released", payment_state="refund_due")
    assert [(r["status"], r["amount_fen"]) for r in over["refunds"]] == [("refund_due", held["fee_fen"])]
    assert [p["settlement"] for p in over["payments"]] == ["rejected"]
    assert states(await clinic.visits(held["order_no"])) == ["released"]
    await others


@every_hospital
async def test_booking_stays_booked_when_the_his_refuses_the_cancellation(site: Installation, hospital_id: str) -> None:
    clinic = site.clinics[hospital_id]
    others = asyncio.create_task(site.others_walk(hospital_id))
    booked = await site.booked(hospital_id)
    await clinic.fault("cancel_registration", "refuse", times=1)
    asked = await site.cancel(hospital_id, booked)
    assert (asked["state"], asked["payment_state"], asked["refunds"]) == ("cancelling", "paid", [])
    back = await site.becomes(hospital_id, booked, state="booked", his_command="none")
    assert (back["payment_state"], back["refunds"]) == ("paid", [])
    assert states(await clinic.visits(booked["order_no"])) == ["registered"]
    await site.cancel(hospital_id, booked)
    await site.becomes(hospital_id, booked, state="cancelled", payment_state="refund_due")
    await others


# --- a hospital that is not there ----------------------------------------------------------------------------------


@every_hospital
@pytest.mark.parametrize("trouble", ["refuses_connections", "never_answers"])
@pytest.mark.timeout(240)
async def test_hold_outlives_the_outage_when_the_his_is_away(tmp_path: Path, hospital_id: str, trouble: str) -> None:
    async with run_installation(tmp_path, hospital={"lock_wait_s": 600}) as site:
        clinic, portal, of = site.clinics[hospital_id], site.portal(), f"/v1/hospitals/{hospital_id}"
        patient_id = await site.patient(hospital_id)
        known = len(await site.open_slots(hospital_id))
        if trouble == "refuses_connections":
            await clinic.close()
        else:
            await clinic.fault("*", "hang")
        held = await site.hold(hospital_id, patient_id=patient_id)
        others = asyncio.create_task(site.others_walk(hospital_id))

        await until(lambda: his_states(site), lambda seen: seen[hospital_id] != "up", what="the outage noticed")
        assert len(await site.open_slots(hospital_id)) == known  # a failed fetch deletes nothing
        bills = await portal.call("GET", f"{of}/patients/{patient_id}/bills")
        if hospital_id == "hl7-demo":  # its bills are pushed, so that nobody need be asked
            assert bills.status == 200
        else:
            assert (bills.status, bills.code) == (503, "his_unavailable")
            assert int(bills.headers["Retry-After"]) > 0
        await others
        seen = await his_states(site)
        assert [seen[other] for other in HOSPITALS if other != hospital_id] == ["up", "up"]
        assert (await site.booking(hospital_id, held))["state"] == "held"

        if trouble == "refuses_connections":
            await clinic.reopen()
        else:
            await clinic.heal()
        locked = await site.becomes(hospital_id, held, within_s=LONGEST_PAUSE_S, his_state="locked", payable=True)
        await site.pay(hospital_id, locked)
        await site.becomes(hospital_id, held, state="booked", his_state="registered")
        assert states(await clinic.visits(held["order_no"])) == ["registered"]


@every_hospital
async def test_hold_expires_unsent_when_the_his_stays_away(tmp_path: Path, hospital_id: str) -> None:
    async with run_installation(tmp_path, hospital={"lock_wait_s": 1}) as site:
        clinic = site.clinics[hospital_id]
        patient_id = await site.patient(hospital_id)
        await site.open_slots(hospital_id)
        await clinic.close()
        held = await site.hold(hospital_id, patient_id=patient_id)
        over = await site.becomes(hospital_id, held, state="expired")
        assert (over["payment_state"], over["payments"], over["refunds"]) == ("void", [], [])

        async def seats() -> int:
            items = (await site.portal().get(f"/v1/hospitals/{hospital_id}/slots"))["items"]
            return int(next(s["remaining"] for s in items if s["id"] == held["slot_id"]))

        await until(seats, lambda left: left == 5, what="the seat on sale again")
        fetched = await clinic_fetches(site, hospital_id)
        await clinic.reopen()
        await until(lambda: clinic_fetches(site, hospital_id), lambda n: n > fetched, what="the HIS in use again")
        assert await clinic.visits(held["order_no"]) == []


async def test_service_starts_and_recovers_when_every_hospital_is_away(tmp_path: Path) -> None:
    async with lay_out(tmp_path) as site:
        for clinic in site.clinics.values():
            await clinic.close()
        async with run_service(site):
            listed = await site.portal().get("/v1/hospitals")
            assert [h["id"] for h in listed["items"]] == list(HOSPITALS)
            assert (await site.portal().get("/v1/hospitals/soap-demo/slots"))["items"] == []
            assert site.session is not None
            async with site.session.get(f"{site.admin_url}/readyz") as ready:
                assert ready.status == 200  # a HIS that is down does not make the service unready
            for clinic in site.clinics.values():
                await clinic.reopen()
            await site.others_walk("none of them")


# --- replies that lie ----------------------------------------------------------------------------------------------


async def test_chinese_is_right_and_counted_when_gbk_bytes_are_labelled_utf8(tmp_path: Path) -> None:
    async with lay_out(tmp_path) as site:
        for clinic in site.clinics.values():
            await clinic.fault("*", "gbk")
        async with run_service(site):
            name = "hisbridge_decode_fallbacks_total"
            before = {h: await site.metric(name, hospital=h, kind="gb18030") for h in HOSPITALS}
            for hospital_id in HOSPITALS:
                slots = await site.open_slots(hospital_id)
                assert {s["department_name"] for s in slots} == {"内科", "外科", "口腔科"}
                assert {s["practitioner_name"] for s in slots} == {"李明", "王芳", "赵强", "陈静"}
            await site.others_walk("none of them")
            for hospital_id in HOSPITALS:
                assert await site.metric(name, hospital=hospital_id, kind="gb18030") > before[hospital_id]


@pytest.mark.parametrize(
    ("hospital_id", "mode"), [("hl7-demo", "fault"), ("fhir-demo", "garbage"), ("soap-demo", "html")]
)
async def test_slots_stay_on_sale_when_the_sync_reads_nonsense(site: Installation, hospital_id: str, mode: str) -> None:
    clinic = site.clinics[hospital_id]
    known = {s["id"] for s in await site.open_slots(hospital_id)}
    before = await failed_fetches(site, hospital_id)
    for op in ("fetch_schedules", "fetch_slots"):
        await clinic.fault(op, mode)
    await until(lambda: failed_fetches(site, hospital_id), lambda n: n >= before + 2, what="two fetches that fail")
    await site.walk(hospital_id)
    assert {s["id"] for s in await site.open_slots(hospital_id)} >= known - await sold_out(site, hospital_id)


async def clinic_fetches(site: Installation, hospital_id: str) -> float:
    """Fetches of schedules that succeeded, alone or with all else."""
    return sum(
        [
            await site.metric("hisbridge_his_calls_total", hospital=hospital_id, verb=verb, outcome="ok")
            for verb in ("fetch_schedules", "fetch_inventory")
        ]
    )


async def failed_fetches(site: Installation, hospital_id: str) -> float:
    """Fetches of schedules, of the stops that are read before them, or of all in one, that gave nothing."""
    counts = [
        await site.metric("hisbridge_his_calls_total", hospital=hospital_id, verb=verb, outcome=outcome)
        for verb in ("fetch_schedules", "fetch_stops", "fetch_inventory")
        for outcome in ("unavailable", "reply_invalid", "refused")
    ]
    return sum(counts)


async def sold_out(site: Installation, hospital_id: str) -> set[str]:
    items = (await site.portal().get(f"/v1/hospitals/{hospital_id}/slots"))["items"]
    return {s["id"] for s in items if s["status"] == "sold_out"}


@pytest.mark.parametrize("hospital_id", ["fhir-demo", "soap-demo"])
async def test_bills_answer_a_problem_without_the_reply_when_the_his_fails(
    site: Installation, hospital_id: str
) -> None:
    clinic, unreadable, away = site.clinics[hospital_id], (502, "his_reply_invalid"), (503, "his_unavailable")
    patient_id = await site.patient(hospital_id)
    for mode, expected in (
        ("html", {unreadable, away}),  # a page with 502 is the word of a gateway before the HIS
        ("garbage", {unreadable}),
        ("fault", {unreadable, away}),  # a SOAP fault, an OperationOutcome with 500
        ("refuse", {(409, "his_refused")}),
        ("hang", {away}),
    ):
        await clinic.fault("fetch_bills", mode)
        answer = await site.portal().call("GET", f"/v1/hospitals/{hospital_id}/patients/{patient_id}/bills")
        assert answer.headers["Content-Type"].startswith("application/problem+json")
        assert (answer.status, answer.code) in expected, mode
        assert b"html>" not in answer.data
        await clinic.heal()
