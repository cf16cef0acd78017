"""The dialects that pass the contract suite, and a hospital that speaks one of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.port import Accepted, Capability, Order, Outcome, Verb
from connectors.soap import Options, SoapConnector, create
from loadtest.simulators import soap
from loadtest.simulators.soap_dialects import DIALECTS
from loadtest.simulators.soap_dialects.speaking import Dialect
from mappings.canonical import Patient
from tests.connectors.soap.ninth_his import Ninth
from tests.connectors.soap.soap_hospital import HOSPITAL, PERSON, window

SECRETS = Path(__file__).with_name("secrets")
"""Invented keys and passwords of the simulated hospitals."""


@dataclass(frozen=True)
class Spoken:
    """One dialect: the simulator's name for it, and the profile that speaks it.

    `profiles_dir`: where the profile is, and `simulator`: who speaks it, for one that is not shipped.
    `options`: of the connector, beside its address.
    """

    name: str
    profile: str
    by_wsdl: bool = False
    profiles_dir: Path | None = None
    simulator: type[Dialect] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def hospital(self, **given: Any) -> AsyncIterator[tuple[soap.SoapSimulator, SoapConnector]]:
        """A hospital and a connector to it."""
        simulator = await soap.start(dialect=self.simulator or self.name, days=1)
        address = {"wsdl": f"{simulator.url}?wsdl"} if self.by_wsdl else {"endpoint": simulator.url}
        options = Options(protocol="soap", profile=self.profile, **(address | self.options | given))
        his = create(HOSPITAL, "his", options, profiles_dir=self.profiles_dir)
        await his.start()
        try:
            yield simulator, his
        finally:
            await his.close()
            await simulator.close()

    def __str__(self) -> str:
        return self.name


MADE_UP = Path(__file__).with_name("made_up")
"""Profiles of dialects that do not exist."""

SPOKEN = [
    Spoken("dhc", "dhc@1", by_wsdl=True),
    Spoken("dhc_gateway", "dhc_gateway@1"),
    Spoken("dhc_esb", "dhc_esb@1"),
    Spoken("bsoft", "bsoft@1", options={"secret_files": {"password": str(SECRETS / "bsoft_password")}}),
    Spoken("zoesoft", "zoesoft@1"),
    Spoken("neusoft", "neusoft@1", by_wsdl=True),
    Spoken(
        "jkt12320",
        "jkt12320@1",
        options={"secret_files": {name: str(SECRETS / f"jkt12320_{name}") for name in ("payload_key", "sign_key")}},
    ),
    Spoken("pipe", "pipe@1"),
    Spoken("zysoft", "zysoft@1"),
    Spoken("ninth", "ninth@1", profiles_dir=MADE_UP, simulator=Ninth),
]


def _booking(name: str) -> Spoken:
    """A dialect that locks, at a site that books instead."""
    one = next(spoken for spoken in SPOKEN if spoken.name == name)
    profile = f"{name}_books"
    return replace(one, name=profile, profile=f"{profile}@1", profiles_dir=MADE_UP, simulator=DIALECTS[name])


BOOKING = [_booking(name) for name in ("dhc", "bsoft", "neusoft", "jkt12320")]
EACH = pytest.mark.parametrize("spoken", SPOKEN, ids=str)
EACH_WAY = pytest.mark.parametrize("spoken", [*SPOKEN, *BOOKING], ids=str)


def offers(his: SoapConnector, verb: Verb) -> bool:
    """Whether the dialect has a way to do it."""
    return his.traits(verb).capability is Capability.NATIVE


def taking(his: SoapConnector) -> Verb:
    """How a seat is taken: locked where the dialect knows that, else booked."""
    return Verb.LOCK_SLOT if offers(his, Verb.LOCK_SLOT) else Verb.BOOK


async def take(his: SoapConnector, order: Order) -> Outcome:
    """Take a seat."""
    return await (his.lock_slot(order) if taking(his) is Verb.LOCK_SLOT else his.book(order))


async def patient_of(his: SoapConnector, simulator: soap.SoapSimulator) -> Patient:
    """A patient whom the hospital knows."""
    if not offers(his, Verb.CREATE_PATIENT):
        mrn = simulator.hospital.create_person(PERSON.name, PERSON.id_number or "", PERSON.phone or "").mrn
        return msgspec.structs.replace(PERSON, mrn=mrn)
    created = await his.create_patient(PERSON)
    assert isinstance(created, Accepted)
    assert isinstance(created.record, Patient)
    return msgspec.structs.replace(PERSON, mrn=created.record.mrn)


async def order_of(his: SoapConnector, simulator: soap.SoapSimulator, order_no: str = "20260105000000000001") -> Order:
    """A patient of the hospital and its first slot."""
    schedules = await his.fetch_schedules(window())
    slots = await his.fetch_slots(window(), schedules)
    slot = slots[0]
    schedule = next(one for one in schedules if one.id == slot.schedule_id)
    return Order(
        order_no=order_no,
        schedule=schedule,
        slot=slot,
        patient=await patient_of(his, simulator),
        fee_fen=schedule.fee_fen or 0,
    )


def with_refs(order: Order, outcome: Outcome, **changes: Any) -> Order:
    """The order as the product keeps it after a write was accepted."""
    assert isinstance(outcome, Accepted), outcome
    return msgspec.structs.replace(order, his_refs=order.his_refs | outcome.his_refs, **changes)
