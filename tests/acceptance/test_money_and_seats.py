"""Money that does not fit, money that comes twice or too late, holds that end, and the last seats of a slot."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.acceptance.installation import (
    HOSPITALS,
    Answer,
    Installation,
    made_up_person,
    money,
    postgres_store,
    run_installation,
    until,
)
from tests.postgres import PostgresServer

pytestmark = pytest.mark.asyncio(loop_scope="module")
every_hospital = pytest.mark.parametrize("hospital_id", HOSPITALS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    async with run_installation(tmp_path_factory.mktemp("money")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hasty(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    """Holds must be paid within a second."""
    async with run_installation(tmp_path_factory.mktemp("hasty"), hospital={"pay_window_s": 1}) as running:
        yield running


def due(booking: dict[str, Any]) -> list[tuple[str, int]]:
    """The refunds of a booking: why, and how much."""
    assert all(refund["status"] == "refund_due" for refund in booking["refunds"])
    return sorted((refund["reason"], refund["amount_fen"]) for refund in booking["refunds"])


# --- money ---------------------------------------------------------------------------------------------------------


@every_hospital
async def test_wrong_amount_goes_back_and_the_right_one_still_books_when_paid_short(
    site: Installation, hospital_id: str
) -> None:
    held = await site.locked(hospital_id)
    short = await site.pay(hospital_id, held, amount_fen=held["fee_fen"] - 1)
    assert (short["state"], short["payable"]) == ("held", True)
    assert due(short) == [("wrong_amount", held["fee_fen"] - 1)]
    await site.pay(hospital_id, held)
    booked = await site.becomes(hospital_id, held, state="booked", his_state="registered", payment_state="paid")
    assert due(booked) == [("wrong_amount", held["fee_fen"] - 1)]
    visits = await site.clinics[hospital_id].visits(held["order_no"])
    assert [visit["state"] for visit in visits] == ["registered"]


async def test_payment_counts_once_when_its_report_arrives_again(site: Installation) -> None:
    held = await site.locked("soap-demo")
    report = money(held["fee_fen"])
    of = f"/v1/hospitals/soap-demo/bookings/{held['id']}/payments"
    both = await asyncio.gather(*(site.portal().call("POST", of, report) for _ in range(2)))
    assert [answer.status for answer in both] == [202, 202]
    booked = await site.becomes("soap-demo", held, state="booked")
    again = await site.portal().call("POST", of, report)  # late, when the order is finished
    assert again.status == 202
    assert again.body["state"] == "booked"
    assert [(p["trade_no"], p["unusable"]) for p in booked["payments"]] == [(report["trade_no"], None)]
    assert (again.body["payments"], again.body["refunds"]) == (booked["payments"], [])


async def test_second_payment_goes_back_when_two_were_made(site: Installation) -> None:
    held = await site.locked("fhir-demo")
    await asyncio.gather(site.pay("fhir-demo", held), site.pay("fhir-demo", held))
    booked = await site.becomes("fhir-demo", held, state="booked", payment_state="paid")
    assert due(booked) == [("second_payment", held["fee_fen"])]
    assert sorted(str(p["unusable"]) for p in booked["payments"]) == ["None", "second_payment"]


async def test_report_conflicts_when_its_trade_number_paid_for_something_else(site: Installation) -> None:
    first, other = await site.locked("soap-demo"), await site.locked("soap-demo")
    report = money(first["fee_fen"])
    of = "/v1/hospitals/soap-demo/bookings/{}/payments"
    assert (await site.portal().call("POST", of.format(first["id"]), report)).status == 202
    for booking, body in ((other, report), (first, report | {"amount_fen": report["amount_fen"] + 1})):
        answer = await site.portal().call("POST", of.format(booking["id"]), body)
        assert (answer.status, answer.code) == (409, "payment_conflict")


@every_hospital
async def test_seat_is_free_and_late_money_buys_it_when_a_hold_was_not_paid_in_time(
    hasty: Installation, hospital_id: str
) -> None:
    clinic = hasty.clinics[hospital_id]
    held = await hasty.hold(hospital_id)
    over = await hasty.becomes(hospital_id, held, state="expired", his_state="released", his_command="none")
    assert (over["payment_state"], over["payable"], over["reason"]) == ("void", False, "not_paid_in_time")
    assert [visit["state"] for visit in await clinic.visits(held["order_no"])] == ["released"]
    slots = await until(
        lambda: hasty.open_slots(hospital_id),
        lambda found: next(s["remaining"] for s in found if s["id"] == held["slot_id"]) == 5,
        what="all five seats on sale again",
    )
    assert len(slots) == 32
    late = await hasty.pay(hospital_id, held)
    assert (late["state"], late["payment_state"], due(late)) == ("held", "paid", [])
    # The hospital has released the old key; it locks and registers the new one.
    booked = await hasty.becomes(hospital_id, held, state="booked")
    assert booked["order_no"] == late["order_no"] != held["order_no"]
    assert [visit["state"] for visit in await clinic.visits(held["order_no"])] == ["released"]
    assert [visit["state"] for visit in await clinic.visits(booked["order_no"])] == ["registered"]


async def test_refund_follows_the_portals_word_when_it_reports_back(site: Installation) -> None:
    booked = await site.booked("soap-demo")
    await site.cancel("soap-demo", booked)
    over = await site.becomes("soap-demo", booked, state="cancelled", payment_state="refund_due")
    of = f"/v1/hospitals/soap-demo/refunds/{over['refunds'][0]['id']}"
    timed_out = await site.portal().post(f"{of}/result", {"status": "unknown"})
    assert timed_out["status"] == "refund_unknown"
    done = await site.portal().post(f"{of}/result", {"status": "refunded", "refund_trade_no": "R-1"})
    assert (done["status"], done["refund_trade_no"]) == ("refunded", "R-1")
    undone = await site.portal().call("POST", f"{of}/result", {"status": "failed"})
    assert (undone.status, undone.code) == (409, "refund_conflict")
    assert (await site.booking("soap-demo", booked))["payment_state"] == "refunded"


# --- seats ---------------------------------------------------------------------------------------------------------


async def crowd(site: Installation, hospital_id: str, people: int) -> tuple[str, list[Answer]]:
    """So many patients ask for one slot at once; the slot and what each was told in the end.

    They register one after another: so many new patients at once are more than a busy machine takes. Whom the service tells
    to come again does so.
    """
    patients = [await site.patient(hospital_id, made_up_person()) for _ in range(people)]
    slot = next(s for s in await site.open_slots(hospital_id) if s["remaining"] == 5)

    async def ask(patient: str) -> Answer:
        body = {"user_ref": "user", "slot_id": slot["id"], "patient_id": patient}
        while True:
            answer = await site.portal().call(
                "POST", f"/v1/hospitals/{hospital_id}/bookings", body, key=f"crowd-{patient}"
            )
            if answer.status != 503:
                return answer
            await asyncio.sleep(float(answer.headers["Retry-After"]))

    return str(slot["id"]), list(await asyncio.gather(*map(ask, patients)))


async def assert_five_were_sold(site: Installation, hospital_id: str) -> None:
    slot_id, answers = await crowd(site, hospital_id, 20)
    assert Counter(answer.status for answer in answers) == {201: 5, 409: 15}
    assert {answer.code for answer in answers if answer.status == 409} == {"slot_sold_out"}
    sold = [answer.body for answer in answers if answer.status == 201]
    assert {booking["slot_id"] for booking in sold} == {slot_id}
    for booking in sold:
        await site.becomes(hospital_id, booking, his_state="locked")
    state = await site.clinics[hospital_id].state()
    orders = {booking["order_no"] for booking in sold}
    taken = [visit for visit in state["visits"] if visit["key"] in orders]
    assert [visit["state"] for visit in taken] == ["locked"] * 5
    assert len({visit["segment"] for visit in taken}) == 1
    assert state["oversold"] == 0


@every_hospital
async def test_five_are_sold_when_twenty_want_the_last_five_seats(site: Installation, hospital_id: str) -> None:
    await assert_five_were_sold(site, hospital_id)


async def test_five_are_sold_on_postgresql_when_twenty_want_the_last_five_seats(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    async with postgres_store(postgres_server) as store, run_installation(tmp_path, store=store) as site:
        await assert_five_were_sold(site, "soap-demo")


async def test_seat_is_sold_again_when_its_hold_was_cancelled(site: Installation) -> None:
    _, answers = await crowd(site, "hl7-demo", 6)
    held = next(answer.body for answer in answers if answer.status == 201)
    await site.becomes("hl7-demo", held, his_state="locked")
    await site.cancel("hl7-demo", held)
    await site.becomes("hl7-demo", held, state="cancelled", his_state="released")
    body = {"user_ref": "user", "slot_id": held["slot_id"], "patient_id": await site.patient("hl7-demo")}

    async def ask() -> int:
        return (await site.portal().call("POST", "/v1/hospitals/hl7-demo/bookings", body, key="next-one")).status

    await until(ask, lambda status: status == 201, what="the seat sold to the next patient")
    state = await site.clinics["hl7-demo"].state()
    assert state["oversold"] == 0
