"""A refund told to simulated hospitals, each in its own dialect: over real sockets, with the faults of a bad day.

The visit was stopped, and the hospital says that it gave the order back itself; in its books the fee is still there.
"""

from __future__ import annotations

import time

import msgspec
import pytest

from booking.catalog import slot_key
from booking.fetches import apply_slots, put_schedules
from booking.money import refunds_of
from booking.people import add_patient
from booking.refunds import load_refund, report_refund
from booking.settings import Hospital, ReserveBy
from booking.stops import apply_stop
from booking.store.engine import Store
from connectors.port import Order, Verb
from loadtest.simulators.hospital import Visit
from loadtest.simulators.soap import SoapSimulator
from mappings.canonical import ScheduleStopped, StopScope
from tests.booking.world import CLIENT, HOSPITAL, get, hold, make_payment, pay
from tests.connectors.soap.soap_hospital import switch
from tests.connectors.soap.spoken import SPOKEN, Spoken, order_of, taking
from tests.scheduler_sync.peer import Desk, desk, until
from tests.stores import Wall

TELLING = [one for one in SPOKEN if one.name in ("dhc", "bsoft", "neusoft", "jkt12320", "pipe")]


def visit_of(simulator: SoapSimulator, order_no: str) -> Visit:
    return next(visit for visit in simulator.hospital.visits.values() if visit.key == order_no)


async def open_slot(store: Store, order: Order) -> tuple[str, str]:
    """The slot and the patient that this order is for, known to us; their ids."""
    async with store.write(HOSPITAL) as tx:
        await put_schedules(tx, [order.schedule])
        await apply_slots(tx, [order.slot], started_ms=tx.now_ms, ended_ms=tx.now_ms, his_cache_ms=0)
        patient_id, _ = await add_patient(
            tx, client_id=CLIENT, user_ref="u1", record=order.patient, links_by_command=False
        )
    return slot_key(HOSPITAL, order.slot), patient_id


async def stopped(at: Desk, slot_id: str, patient_id: str) -> tuple[str, str]:
    """A booking that the hospital has registered, paid, and says to have given back; its refund and its order number."""

    async def until_there(his_state: str) -> None:
        async def check() -> bool:
            return (await get(at.store, booking.id)).his_state == his_state

        await until(check)

    booking = await hold(at.store, at.hospital, slot_id, patient_id)
    await until_there("locked")
    await pay(at.store, at.hospital, booking.id, make_payment(booking.fee_fen))
    await until_there("registered")
    order_no = (await get(at.store, booking.id)).order_no
    async with at.store.write(HOSPITAL) as tx:
        told = ScheduleStopped(scope=StopScope.ORDER, order_no=order_no, orders_cancelled=True)
        await apply_stop(tx, at.hospital, told)
        [row] = await refunds_of(tx, booking_id=booking.id)
        await report_refund(tx, row, word="refunded", refund_trade_no="R1", tells_his=True)
    return str(row["id"]), order_no


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)  # the dialects do not know of a store
@pytest.mark.parametrize("spoken", TELLING, ids=str)
async def test_hospital_books_a_refund_once_when_its_answers_fail(
    store: Store, wall: Wall, hospital: Hospital, spoken: Spoken
) -> None:
    wall.now_ms = round(time.time() * 1000)  # the simulator's slots are of today
    async with spoken.hospital() as (simulator, his):
        wanted = await order_of(his, simulator)
        slot_id, patient_id = await open_slot(store, wanted)
        by = ReserveBy.LOCK if taking(his) is Verb.LOCK_SLOT else ReserveBy.BOOK
        hospital = msgspec.structs.replace(hospital, reserve_by=by)
        async with desk(store, hospital, his, wall) as at:  # type: ignore[arg-type]
            for number, mode in enumerate((None, "lose_reply", "late_commit", "already_exists"), 1):
                if mode is not None:
                    switch(simulator, "refund", mode, times=1)
                refund_id, order_no = await stopped(at, slot_id, patient_id)
                at.turn(0)

                async def given_back(order_no: str = order_no) -> bool:
                    return visit_of(simulator, order_no).state == "released"

                await until(given_back)
                if mode in ("lose_reply", "late_commit"):
                    await at.until_row(f"refund:{refund_id}", status="unknown")
                    at.turn(31)
                await at.until_row(f"refund:{refund_id}", status="done")
                async with store.read(HOSPITAL) as tx:
                    row = await load_refund(tx, refund_id)
                assert row is not None
                assert (row["his"], simulator.board.calls["refund"]) == ("told", number), mode
