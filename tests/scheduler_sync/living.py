"""A hospital at work in this process: its simulator, a connector over real sockets, and all that runs for it."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy import select

import connectors.fhir
import connectors.hl7v2
import connectors.soap
from booking.records import Booking
from booking.settings import Hospital
from booking.store.engine import Store
from booking.store.tables import events, schedules, slots
from connectors.config import HospitalContext
from connectors.port import Connector, Verb
from loadtest.ports import free_port
from loadtest.simulators import fhir, hl7, hl7_cn, soap
from loadtest.simulators.hospital import Hospital as TheirHospital
from loadtest.simulators.hospital import Visit
from mappings.canonical import Patient
from scheduler_sync.runtime import HospitalRuntime
from tests.booking.world import HOSPITAL, ZONE, get, hold, make_hospital, make_payment, pay, put_patient
from tests.stores import Wall

T = TypeVar("T")
WITHIN_S = 30.0
FACTS = HospitalContext(id=HOSPITAL, zone=ZONE)
FHIR_PROFILES = Path(__file__).parents[1] / "connectors" / "fhir" / "profiles"
SOAP_SECRETS = Path(__file__).parents[1] / "connectors" / "soap" / "secrets"
PEOPLE = [
    Patient(name=name, id_type="id_card", id_number=number, phone=f"1380000111{n}")
    for n, (name, number) in enumerate(
        [("张伟", "110101199003070038"), ("李娜", "110101198507150029"), ("王芳", "110101197001010040")]
    )
]


@dataclass
class Living:
    """One hospital that runs. `simulator` is the HIS: any of the simulators, all of which have `hospital` and `board`."""

    store: Store
    wall: Wall
    hospital: Hospital
    simulator: Any
    connector: Connector
    failures: list[BaseException] = field(default_factory=list)
    ahead_ms: int = 0

    async def keep_time(self) -> None:
        """The store's clock goes as ours does, `ahead_ms` before it."""
        while True:
            self.wall.now_ms = round(time.time() * 1000) + self.ahead_ms
            await asyncio.sleep(0.002)

    def turn_to(self, instant: dt.datetime) -> None:
        """It shows this time now, and goes on."""
        now_ms = round(time.time() * 1000)
        self.ahead_ms = round(instant.timestamp() * 1000) - now_ms
        self.wall.now_ms = now_ms + self.ahead_ms

    @property
    def his(self) -> TheirHospital:
        hospital: TheirHospital = self.simulator.hospital
        return hospital

    async def tell(self, kind: str, number: str) -> None:
        """The hospital tells of what has happened there, if it does."""
        if self.simulator.board.notify is not None:
            await self.simulator.board.notify(kind, number)

    async def slot_of(self, segment_code: str) -> str:
        """Our id of a segment of theirs, once it is known here."""
        segment = self.his.segments[segment_code]
        plan = self.his.plans[segment.plan]
        start_ms = round(segment.start.timestamp() * 1000)

        async def find() -> str | None:
            async with self.store.read(HOSPITAL) as tx:
                row = await tx.first(
                    select(slots.c.id)
                    .select_from(schedules.join(slots, slots.c.schedule_id == schedules.c.id))
                    .where(slots.c.starts_at_ms == start_ms, schedules.c.practitioner_id == plan.doctor)
                )
            return None if row is None else str(row["id"])

        return await until(find)

    async def booked(self, segment_code: str, person: Patient = PEOPLE[0]) -> Booking:
        """A booking that is paid and registered."""
        slot_id = await self.slot_of(segment_code)
        patient_id = await put_patient(self.store, person, asks_his=True)
        booking = await hold(self.store, self.hospital, slot_id, patient_id)
        await self.becomes(booking, his_state="locked")
        await pay(self.store, self.hospital, booking.id, make_payment(booking.fee_fen))
        return await self.becomes(booking, state="booked")

    async def becomes(self, booking: Booking, **values: Any) -> Booking:
        """Wait until the booking has these values."""

        async def look() -> Booking | None:
            seen = await get(self.store, booking.id)
            return seen if all(getattr(seen, name) == value for name, value in values.items()) else None

        return await until(look)

    def visit_of(self, booking: Booking) -> Visit:
        """What the hospital has of a booking."""
        return next(visit for visit in self.his.visits.values() if visit.key == booking.order_no)

    async def told(self, kind: str, booking: Booking) -> list[dict[str, Any]]:
        """What the portal was told of a booking, oldest first."""
        async with self.store.read(HOSPITAL) as tx:
            rows = await tx.all(select(events.c.payload).where(events.c.type == kind).order_by(events.c.id))
        payloads: list[dict[str, Any]] = [msgspec.json.decode(row["payload"]) for row in rows]
        return [one for one in payloads if one["booking_id"] == booking.id]


async def until(look: Callable[[], Awaitable[T | None]]) -> T:
    """The first answer that is one; a bound, not a measure."""
    async with asyncio.timeout(WITHIN_S):
        while (found := await look()) is None:  # noqa: ASYNC110 - what is waited for lies in a database
            await asyncio.sleep(0.02)
    return found


@asynccontextmanager
async def living(store: Store, messages: Store, wall: Wall, his: His, **settings: Any) -> AsyncIterator[Living]:
    """The hospital, at work. The store's clock shows the real time at first: the simulators' days are counted from today."""
    wall.now_ms = round(time.time() * 1000)
    theirs = TheirHospital("L", days=2, seats=3)
    async with his(theirs) as (simulator, connector, reserve_by):
        hospital = make_hospital(**{"reserve_by": reserve_by, "his_settle_s": 0.2, "sync_every_s": 0.5, **settings})
        it = Living(store, wall, hospital, simulator, connector)
        runtime = HospitalRuntime(
            store,
            messages,
            hospital,
            {"his": connector},
            drain_s=5,
            on_failure=lambda _, error: it.failures.append(error),
        )
        ticking = asyncio.create_task(it.keep_time())
        await runtime.start()
        try:
            yield it
        finally:
            await runtime.stop()
            ticking.cancel()
        assert it.failures == []


# --- who speaks which protocol -----------------------------------------------------------------------------------------

At = AsyncIterator[tuple[Any, Connector, str]]
His = Callable[[TheirHospital], Any]
"""Opens a simulator of this hospital and makes a connector to it: both, and how seats are reserved there."""


def by_hl7v2(profile: str = "hl7v2_demo") -> His:
    """MLLP both ways."""

    @asynccontextmanager
    async def his(theirs: TheirHospital) -> At:
        kind, listen = hl7_cn if profile == "hl7v2_cn" else hl7, free_port()
        simulator = await kind.start(hospital=theirs, push_port=listen)
        options = connectors.hl7v2.Options(
            protocol="hl7v2", profile=profile, host="127.0.0.1", port=simulator.port, listen_port=listen
        )
        try:
            yield simulator, connectors.hl7v2.create(FACTS, "his", options), "book" if kind is hl7_cn else "lock"
        finally:
            await simulator.close()

    return his


def by_fhir(*, told: bool = False, **given: Any) -> His:
    """REST; `given` are options of the connector. `told`: the server has a Subscription of ours."""

    @asynccontextmanager
    async def his(theirs: TheirHospital) -> At:
        simulator, more = await fhir.start(hospital=theirs), dict(given)
        if told:
            listen = free_port()
            more |= {"listen_port": listen, "public_url": f"http://127.0.0.1:{listen}/told", "subscribe": ["backport"]}
            more |= {"notify_secret_file": str(SOAP_SECRETS / "bsoft_password")}
        options = connectors.fhir.Options(
            protocol="fhir", profile="fhir_demo@1", base_url=simulator.base_url, **{"changes_every_s": 0.2, **more}
        )
        try:
            yield simulator, connectors.fhir.create(FACTS, "his", options, profiles_dir=FHIR_PROFILES), "book"
        finally:
            await simulator.close()

    return his


def by_soap(dialect: str, *, calls: bool = False) -> His:
    """One of the dialects; `calls`: the hospital calls us too."""

    @asynccontextmanager
    async def his(theirs: TheirHospital) -> At:
        given: dict[str, Any] = {}
        if dialect == "jkt12320":
            given["secret_files"] = {
                name: str(SOAP_SECRETS / f"jkt12320_{name}") for name in ("payload_key", "sign_key")
            }
        elif dialect == "bsoft":
            given["secret_files"] = {"password": str(SOAP_SECRETS / "bsoft_password")}
        listen = free_port()
        simulator = await soap.start(
            dialect=dialect, hospital=theirs, call_url=f"http://127.0.0.1:{listen}/PubService" if calls else None
        )
        if calls:
            given |= {"listen_host": "127.0.0.1", "listen_port": listen, "allow": ["127.0.0.1"]}
        if dialect in ("dhc", "neusoft"):
            given["wsdl"] = f"{simulator.url}?wsdl"
        else:
            given["endpoint"] = simulator.url
        options = connectors.soap.Options(protocol="soap", profile=f"{dialect}@1", **given)
        connector = connectors.soap.create(FACTS, "his", options)
        lock = connector.traits(Verb.LOCK_SLOT).capability == "native"
        try:
            yield simulator, connector, "lock" if lock else "book"
        finally:
            await simulator.close()

    return his
