"""The profiles that pass the contract suite, and a hospital that is spoken to by one of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from connectors.fhir import FhirConnector, Options, create
from connectors.port import Accepted, Capability, Order, Outcome, Verb
from loadtest.simulators import fhir
from mappings.canonical import Patient
from tests.connectors.fhir.fhir_hospital import HOSPITAL, PERSON, window

PROFILES = Path(__file__).with_name("profiles")
"""Profiles of the simulated hospital: what is its own, upon the shipped ones."""


@dataclass(frozen=True)
class Spoken:
    """One profile, and what its server has. `has_key`: a seat that is taken carries our number."""

    profile: str
    offers: tuple[str, ...] = ()
    release: str = "R4"
    has_key: bool = True

    @contextlib.asynccontextmanager
    async def hospital(
        self, *, seats: int = 5, offers: tuple[str, ...] | None = None, **given: Any
    ) -> AsyncIterator[tuple[fhir.FhirSimulator, FhirConnector]]:
        """A hospital of one day, and a connector to it."""
        has = self.offers if offers is None else offers
        simulator = await fhir.start(days=1, seats=seats, release=self.release, offers=has)
        options = Options(protocol="fhir", profile=self.profile, base_url=simulator.base_url, **given)
        his = create(HOSPITAL, "his", options, profiles_dir=PROFILES)
        assert isinstance(his, FhirConnector)
        await his.start()
        try:
            yield simulator, his
        finally:
            await his.close()
            await simulator.close()

    def __str__(self) -> str:
        return "-".join([self.profile, *(["find"] if "find" in self.offers else [])])


SPOKEN = [
    Spoken("fhir_demo"),
    Spoken("demo_r5", release="R5"),
    Spoken("demo_lock", offers=("transaction",)),
    Spoken("demo_ihe", offers=("hold", "book"), has_key=False),
    Spoken("demo_ihe", offers=("find", "hold", "book"), has_key=False),
]


def offers(his: FhirConnector, verb: Verb) -> bool:
    """Whether the profile has a way to do it."""
    return his.traits(verb).capability is Capability.NATIVE


def taking(his: FhirConnector) -> Verb:
    """How a seat is taken: locked where the profile knows that, else booked."""
    return Verb.LOCK_SLOT if offers(his, Verb.LOCK_SLOT) else Verb.BOOK


async def take(his: FhirConnector, order: Order) -> Outcome:
    """Take a seat."""
    return await (his.lock_slot(order) if taking(his) is Verb.LOCK_SLOT else his.book(order))


def giving_back(his: FhirConnector) -> Verb:
    """How a seat that is not paid is given back."""
    return Verb.UNLOCK_SLOT if offers(his, Verb.UNLOCK_SLOT) else Verb.CANCEL_REGISTRATION


async def give_back(his: FhirConnector, order: Order) -> Outcome:
    """Give a seat back that is not paid."""
    return await (his.unlock_slot(order) if offers(his, Verb.UNLOCK_SLOT) else his.cancel_registration(order))


async def patient_of(his: FhirConnector) -> Patient:
    """A patient whom the hospital knows."""
    created = await his.create_patient(PERSON)
    assert isinstance(created, Accepted)
    assert isinstance(created.record, Patient)
    return msgspec.structs.replace(PERSON, mrn=created.record.mrn)


async def order_of(his: FhirConnector, order_no: str = "20260105000000000001") -> Order:
    """A patient of the hospital and its first slot."""
    schedules = await his.fetch_schedules(window())
    [slot, *_] = await his.fetch_slots(window(), schedules)
    schedule = next(one for one in schedules if (one.id, one.date) == (slot.schedule_id, slot.date))
    return Order(
        order_no=order_no,
        schedule=schedule,
        slot=slot,
        patient=await patient_of(his),
        fee_fen=schedule.fee_fen or 0,
    )


def with_refs(order: Order, outcome: Outcome, **changes: Any) -> Order:
    """The order as the product keeps it after a write was accepted."""
    assert isinstance(outcome, Accepted), outcome
    return msgspec.structs.replace(order, his_refs=order.his_refs | outcome.his_refs, **changes)
