"""Every write of the port, up to the moment before it: how it is done, whether the hospital has done it, whether we see it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from connectors.port import BillPayment, Order, Outcome, RefundOrder, Verb
from connectors.soap import SoapConnector
from loadtest.simulators import soap
from mappings.canonical import Refund, RegistrationStatus
from mappings.profile import load_profile
from tests.connectors.soap.soap_hospital import PERSON, payment
from tests.connectors.soap.spoken import Spoken, offers, order_of, patient_of, take, taking, with_refs

SEEN = {
    "give back": {RegistrationStatus.RELEASED},
    "register": {RegistrationStatus.REGISTERED},
    "cancel": {RegistrationStatus.RELEASED},
    "check in": {RegistrationStatus.CHECKED_IN},
}


class Write(StrEnum):
    """`GIVE_BACK`: of a seat that is not paid; `CANCEL`: of one that is."""

    CREATE_PATIENT = "create patient"
    TAKE = "take"
    GIVE_BACK = "give back"
    REGISTER = "register"
    CANCEL = "cancel"
    CHECK_IN = "check in"
    SETTLE = "settle"
    REFUND = "refund"


@dataclass(frozen=True)
class Act:
    """`op`: what the simulator's switchboard calls it. `done`: whether the hospital has done it; `found`: whether it tells us so.

    Either is None where nobody can say.
    """

    op: str
    do: Callable[[], Awaitable[Outcome]]
    done: Callable[[], bool] | None
    found: Callable[[], Awaitable[bool]] | None


def writes_of(spoken: Spoken) -> list[Write]:
    """Those that the dialect has."""
    profile = load_profile(spoken.profile, profiles_dir=spoken.profiles_dir)
    native = {name for name, verb in profile.verbs.items() if verb.capability == "native"}
    needs = {
        Write.CREATE_PATIENT: Verb.CREATE_PATIENT,
        Write.CHECK_IN: Verb.CHECK_IN,
        Write.SETTLE: Verb.SETTLE_BILL,
        Write.REFUND: Verb.REFUND,
    }
    return [write for write in Write if write not in needs or needs[write].value in native]


async def act_of(write: Write, his: SoapConnector, simulator: soap.SoapSimulator) -> Act:
    """Everything before the write is done."""
    match write:
        case Write.CREATE_PATIENT:
            return _creating(his, simulator)
        case Write.SETTLE:
            return await _settling(his, simulator)
        case _:
            return await _visiting(write, his, simulator)


def _creating(his: SoapConnector, simulator: soap.SoapSimulator) -> Act:
    async def found() -> bool:
        return [one.name for one in await his.find_patient(PERSON)] == [PERSON.name]

    return Act(
        op=Verb.CREATE_PATIENT.value,
        do=lambda: his.create_patient(PERSON),
        done=lambda: len(simulator.hospital.people) == 1,
        found=found,
    )


async def _settling(his: SoapConnector, simulator: soap.SoapSimulator) -> Act:
    patient = await patient_of(his, simulator)
    assert patient.mrn is not None
    charge = simulator.hospital.charge(patient.mrn, [("血常规", 2500)])
    (bill,) = await his.fetch_bills(patient)
    paying = BillPayment(order_no="9" * 20, bill=bill, patient=patient, payment=payment(2500))
    if offers(his, Verb.PRESETTLE_BILL):
        paying = msgspec.structs.replace(paying, his_refs=with_refs_of(await his.presettle_bill(paying)))

    async def found() -> bool:
        return await his.fetch_settlement(paying) is not None

    return Act(
        op=Verb.SETTLE_BILL.value,
        do=lambda: his.settle_bill(paying),
        done=lambda: charge.state == "paid",
        found=found if offers(his, Verb.FETCH_SETTLEMENT) else None,
    )


async def _visiting(write: Write, his: SoapConnector, simulator: soap.SoapSimulator) -> Act:
    order = await order_of(his, simulator)
    paid = payment(order.fee_fen)
    if write is not Write.TAKE:
        order = with_refs(order, await take(his, order))
    if write is Write.REGISTER:
        order = msgspec.structs.replace(order, payment=paid)
    if write in (Write.CANCEL, Write.CHECK_IN, Write.REFUND):
        order = msgspec.structs.replace(order, payment=paid)
        order = with_refs(order, await his.register(order))
    refunding = RefundOrder(
        refund=Refund(refund_no="8" * 20, payment=paid, amount_fen=order.fee_fen, reason="停诊"),
        patient=order.patient,
        order=order,
    )
    give_back = Verb.UNLOCK_SLOT if offers(his, Verb.UNLOCK_SLOT) else Verb.CANCEL_REGISTRATION
    ways: dict[Write, tuple[Verb, Callable[[], Awaitable[Outcome]]]] = {
        Write.TAKE: (taking(his), lambda: take(his, order)),
        Write.GIVE_BACK: (
            give_back,
            lambda: (his.unlock_slot if give_back is Verb.UNLOCK_SLOT else his.cancel_registration)(order),
        ),
        Write.REGISTER: (Verb.REGISTER, lambda: his.register(order)),
        Write.CANCEL: (Verb.CANCEL_REGISTRATION, lambda: his.cancel_registration(order)),
        Write.CHECK_IN: (Verb.CHECK_IN, lambda: his.check_in(order)),
        Write.REFUND: (Verb.REFUND, lambda: his.refund(refunding)),
    }
    verb, do = ways[write]

    async def found() -> bool:
        if write is Write.REFUND:
            return await his.fetch_refund(refunding) is not None
        return await _seen(write, his, order)

    # The hospital's visits do not say who sits in front of the door.
    done = None if write is Write.CHECK_IN else lambda: _done(write, simulator)
    return Act(op=verb.value, do=do, done=done, found=found)


async def _seen(write: Write, his: SoapConnector, order: Order) -> bool:
    told = await his.fetch_registration(order)
    if write is Write.TAKE:
        return told is not None
    if told is None:
        return write in (Write.GIVE_BACK, Write.CANCEL)
    return told.status in SEEN[write]


def _done(write: Write, simulator: soap.SoapSimulator) -> bool:
    states = [visit.state for visit in simulator.hospital.visits.values()]
    return (
        states
        == {
            Write.TAKE: ["locked"],
            Write.GIVE_BACK: ["released"],
            Write.REGISTER: ["registered"],
            Write.CANCEL: ["released"],
            Write.REFUND: ["released"],
        }[write]
    )


def with_refs_of(outcome: Outcome) -> dict[str, str]:
    """What an accepted write leaves for the next one."""
    return dict(getattr(outcome, "his_refs", {}))
