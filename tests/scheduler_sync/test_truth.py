"""What the process that works a hospital tells of its bookings, on both engines: values, after a restart, and when it is over."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from sqlalchemy import text

from booking.billing import pay_bill, put_bill, settle_payment
from booking.lifecycle import Axes, Command, CommandStatus, HisState, State, must_not_be
from booking.settings import Hospital
from booking.settling import unsettled_of
from booking.store.engine import Store
from mappings.canonical import Bill
from monitoring import metrics
from scheduler_sync.truth import RULES, Truth
from tests.booking.world import (
    CLIENT,
    HOSPITAL,
    LI,
    cancel,
    hold,
    locked,
    make_hospital,
    make_payment,
    pay,
    put_patient,
    put_slot,
    send_and_answer,
)
from tests.stores import Wall


def value(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(f"hisbridge_{name}", {"hospital": HOSPITAL, **labels})


async def test_paid_booking_is_told_until_it_is_registered(store: Store, hospital: Hospital, wall: Wall) -> None:
    truth = Truth(store, hospital)
    await truth.measure()
    assert (value("paid_unregistered"), value("paid_unregistered_oldest_seconds")) == (0, 0)
    slot_id = await put_slot(store, 5)
    first = await locked(store, hospital, slot_id, await put_patient(store))
    second = await locked(store, hospital, slot_id, await put_patient(store, LI))
    await truth.measure()
    assert value("paid_unregistered") == 0  # nobody has paid
    await pay(store, hospital, first)
    wall.turn(70)
    await pay(store, hospital, second)
    wall.turn(20)
    metrics.forget_hospital(HOSPITAL)
    assert value("paid_unregistered") is None
    await Truth(store, hospital).measure()  # as after a restart: nothing of it was remembered in the process
    assert (value("paid_unregistered"), value("paid_unregistered_oldest_seconds")) == (2, 90)
    await send_and_answer(store, hospital, first)
    await truth.measure()
    assert (value("paid_unregistered"), value("paid_unregistered_oldest_seconds")) == (1, 20)
    await send_and_answer(store, hospital, second)
    await truth.measure()
    assert (value("paid_unregistered"), value("paid_unregistered_oldest_seconds")) == (0, 0)


async def test_paid_booking_is_not_told_when_the_patient_has_cancelled(store: Store, hospital: Hospital) -> None:
    booking_id = await locked(store, hospital, await put_slot(store, 5), await put_patient(store))
    await pay(store, hospital, booking_id)
    await cancel(store, hospital, booking_id)
    await Truth(store, hospital).measure()
    assert value("paid_unregistered") == 0  # its money goes back


async def test_money_that_does_not_pay_is_not_told(store: Store, hospital: Hospital) -> None:
    """A second payment of a booked visit is refunded: nobody waits for a registration."""
    booking_id = await locked(store, hospital, await put_slot(store, 5), await put_patient(store))
    await pay(store, hospital, booking_id)
    await pay(store, hospital, booking_id)
    await Truth(store, hospital).measure()
    assert value("paid_unregistered") == 1


async def test_paid_bill_is_told_with_its_age_until_it_is_settled(store: Store, hospital: Hospital, wall: Wall) -> None:
    truth = Truth(store, hospital)
    async with store.write(HOSPITAL) as tx:
        rows = [
            await put_bill(tx, Bill(id=name, amount_fen=8800, currency="CNY", mrn="M1"), currency="CNY")
            for name in ("B1", "B2")
        ]
        await pay_bill(tx, rows[0], make_payment(8800), client_id=CLIENT, offered=True)
        await pay_bill(tx, rows[0], make_payment(8800), client_id=CLIENT, offered=True)  # goes back
    wall.turn(70)
    async with store.write(HOSPITAL) as tx:
        await pay_bill(tx, rows[1], make_payment(8800), client_id=CLIENT, offered=True)
    wall.turn(20)
    await truth.measure()
    assert (value("bills_unsettled"), value("bills_unsettled_oldest_seconds")) == (2, 90)
    async with store.read(HOSPITAL) as tx:
        mine = await unsettled_of(tx, CLIENT)
        assert [(row.bill_id, tx.now_ms - row.created_ms) for row in mine] == [
            (rows[0].id, 90_000),
            (rows[1].id, 20_000),
        ]
        assert await unsettled_of(tx, "another") == []
    async with store.write(HOSPITAL) as tx:
        await settle_payment(tx, rows[0], accepted=True, settlement=None, client_id=CLIENT, code=None)
    await truth.measure()
    assert (value("bills_unsettled"), value("bills_unsettled_oldest_seconds")) == (1, 20)
    async with store.write(HOSPITAL) as tx:
        await settle_payment(tx, rows[1], accepted=False, settlement=None, client_id=CLIENT, code="refused")
    await truth.measure()
    assert (value("bills_unsettled"), value("bills_unsettled_oldest_seconds")) == (0, 0)


@pytest.mark.parametrize("reserve_by", ["lock", "book", "quota"])
async def test_nothing_is_wrong_when_bookings_go_their_way(store: Store, reserve_by: str) -> None:
    hospital = make_hospital(reserve_by=reserve_by)
    slot_id = await put_slot(store, 5)
    booking = await hold(store, hospital, slot_id, await put_patient(store))
    await hold(store, hospital, slot_id, await put_patient(store, LI))
    if reserve_by != "quota":
        await send_and_answer(store, hospital, booking.id)
    await pay(store, hospital, booking.id)
    await Truth(store, hospital).look_through()
    assert value("seats_drift") == 0
    told = {rule: value("illegal_states", rule=rule) for rule in RULES}
    assert told == dict.fromkeys(RULES, 0.0)
    assert value("illegal_states", rule="command_has_its_row") == 0
    assert value("illegal_states", rule="paid_has_its_payment") == 0


async def spoil(store: Store, statement: str, **values: Any) -> None:
    async with store.write(HOSPITAL) as tx:
        await tx.run(text(statement).bindparams(h=HOSPITAL, **values))


async def test_drift_is_told_when_a_slot_counts_other_bookings_than_it_has(store: Store, hospital: Hospital) -> None:
    one, other = await put_slot(store, 5), await put_slot(store, 5, slot_id="2", hour=9)
    await hold(store, hospital, one, await put_patient(store))
    await spoil(store, "update slots set unreflected = 3 where hospital_id = :h and id = :s", s=one)  # two too many
    await spoil(store, "update slots set unreflected = 1 where hospital_id = :h and id = :s", s=other)  # one too many
    truth = Truth(store, hospital)
    await truth.look_through()
    assert value("seats_drift") == 3
    await spoil(store, "update slots set unreflected = 0 where hospital_id = :h and id in (:s, :t)", s=one, t=other)
    await truth.look_through()
    assert value("seats_drift") == 1  # too few: this seat may be sold twice
    await spoil(store, "update slots set unreflected = 1 where hospital_id = :h and id = :s", s=one)
    await truth.look_through()
    assert value("seats_drift") == 0


async def test_drift_of_days_that_are_over_is_not_told(store: Store, hospital: Hospital, wall: Wall) -> None:
    slot_id = await put_slot(store, 5)
    await spoil(store, "update slots set unreflected = 2 where hospital_id = :h and id = :s", s=slot_id)
    wall.turn(7 * 24 * 3600)
    await Truth(store, hospital).look_through()
    assert value("seats_drift") == 0


async def test_booking_is_told_when_its_command_is_gone(store: Store, hospital: Hospital) -> None:
    booking = await hold(store, hospital, await put_slot(store, 5), await put_patient(store))
    await spoil(store, "update outbox set status = 'dropped' where hospital_id = :h and line = :l", l=booking.line)
    truth = Truth(store, hospital)
    await truth.look_through()
    assert value("illegal_states", rule="command_has_its_row") == 1
    await spoil(store, "update outbox set status = 'queued' where hospital_id = :h and line = :l", l=booking.line)
    await truth.look_through()
    assert value("illegal_states", rule="command_has_its_row") == 0


async def test_booking_is_told_when_its_payment_is_gone(store: Store, hospital: Hospital) -> None:
    booking_id = await locked(store, hospital, await put_slot(store, 5), await put_patient(store))
    await pay(store, hospital, booking_id)
    await spoil(store, "delete from payments where hospital_id = :h and booking_id = :b", b=booking_id)
    truth = Truth(store, hospital)
    await truth.look_through()
    assert value("illegal_states", rule="paid_has_its_payment") == 1


@pytest.mark.usefixtures("spoilt")
async def test_forbidden_combination_is_told_by_its_rule_when_a_store_has_let_it_in(
    store: Store, hospital: Hospital
) -> None:
    booking = await hold(store, hospital, await put_slot(store, 5), await put_patient(store))
    async with store.write(HOSPITAL) as tx:
        if store.dialect == "sqlite":
            await tx.run(text("pragma ignore_check_constraints = on"))
        else:
            await tx.run(text("alter table bookings drop constraint ck_bookings_booked_is_registered"))
        await tx.run(
            text(
                "update bookings set state = 'booked', his_command = 'none', his_command_status = 'none', occupies = false,"
                " charged = false, expires_at_ms = null where hospital_id = :h and id = :b"
            ).bindparams(h=HOSPITAL, b=booking.id)
        )
    await Truth(store, hospital).look_through()
    assert value("illegal_states", rule="booked_is_registered") == 1
    assert value("illegal_states", rule="command_needs") == 0


def test_every_rule_is_told_when_there_is_one() -> None:
    combinations = itertools.product(State, HisState, Command, CommandStatus, ("due", "paid", "refunded"))
    broken = {rule for s, h, c, of, paid in combinations for rule in must_not_be(Axes(s, h, c, of), paid)}
    assert broken == set(RULES)
