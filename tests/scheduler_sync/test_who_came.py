"""Check-in and no-show back from hospitals of every protocol, over real sockets: asked for, pushed, by changes."""

from __future__ import annotations

import msgspec
import pytest

from booking.errors import Refusal
from booking.records import Booking
from booking.rules.settings import BookingRules
from booking.store.engine import Store
from booking.visit_rules import VisitRule
from connectors.fhir import FhirConnector
from loadtest.simulators.fhir import FhirSimulator
from tests.booking.world import hold, put_patient
from tests.scheduler_sync.living import PEOPLE, His, Living, by_fhir, by_hl7v2, by_soap, living, until
from tests.stores import Wall

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)  # the protocols do not know of a store
STATES = {"arrived": "checked_in", "seen": "fulfilled", "missed": "no_show"}
FHIR = {"arrived": "arrived", "seen": "fulfilled", "missed": "noshow"}
MISSED = msgspec.convert(
    {"blocks": [{"after": "no_shows", "count": 1, "within": "1 day", "lasts": "3 months"}]}, BookingRules
)


async def note(at: Living, booking: Booking, how: str, *, tells: bool) -> None:
    """Somebody at the hospital writes down who came, and the hospital `tells` of it, or waits until it is asked."""
    no = at.visit_of(booking).no
    if isinstance(at.simulator, FhirSimulator):
        at.simulator.store.change(no, status=FHIR[how])
        if tells and isinstance(at.connector, FhirConnector) and at.connector.changes_every_s == 0:

            async def taken() -> bool | None:
                return 200 in await at.simulator.subscriptions.tell(f"Appointment/{no}") or None

            await until(taken)
        return
    at.his.attend(no, how)
    if tells:
        await at.tell("attend", no)


IN_TURN = ("missed", "arrived", "seen")
ASKED, TOLD = VisitRule(ask_every_s=0.2), VisitRule(ask_every_s=0)
CASES = [
    pytest.param(by_hl7v2(), TOLD, IN_TURN, id="hl7v2 pushes SIU"),
    pytest.param(by_hl7v2("hl7v2_cn"), TOLD, IN_TURN, id="hl7v2_cn pushes SIU"),
    pytest.param(by_hl7v2("hl7v2_cn"), ASKED, IN_TURN, id="hl7v2_cn is asked"),
    pytest.param(by_fhir(), TOLD, IN_TURN, id="fhir by changes"),
    pytest.param(by_fhir(told=True, changes_every_s=0), TOLD, IN_TURN, id="fhir by a Subscription"),
    pytest.param(by_fhir(changes_every_s=0), ASKED, IN_TURN, id="fhir is asked"),
    pytest.param(
        by_soap("jkt12320", calls=True), TOLD, ("arrived",), id="jkt12320 calls"
    ),  # it has no call for a no-show
    pytest.param(by_soap("jkt12320"), ASKED, IN_TURN, id="jkt12320 is asked"),
    pytest.param(by_soap("dhc"), ASKED, IN_TURN, id="dhc is asked"),
    pytest.param(by_soap("neusoft"), ASKED, IN_TURN, id="neusoft is asked"),
    pytest.param(by_soap("zoesoft"), ASKED, IN_TURN, id="zoesoft is asked"),
    pytest.param(by_soap("bsoft"), ASKED, IN_TURN, id="bsoft is asked"),
    pytest.param(by_soap("pipe"), ASKED, IN_TURN, id="pipe is asked"),
    pytest.param(by_soap("zysoft"), ASKED, ("missed", "seen"), id="zysoft is asked"),
]


@pytest.mark.parametrize(("his", "asks", "hows"), CASES)
async def test_booking_event_and_rule_follow_who_came_when_the_hospital_says_so(
    store: Store, messages: Store, wall: Wall, his: His, asks: VisitRule, hows: tuple[str, ...]
) -> None:
    async with living(store, messages, wall, his, rules=MISSED, visits=asks) as at:
        [first, *_, last] = [code for code, one in at.his.segments.items() if at.his.plans[one.plan].doctor == "D1"]
        booking = await at.booked(first)
        at.turn_to(at.his.segments[first].start)
        for how in hows:
            await note(at, booking, how, tells=not asks.ask_every_s)
            await at.becomes(booking, state=STATES[how])
            assert await is_blocked(at, last) == (how == "missed")
        told = [one["state"] for one in await at.told("booking.changed", booking)]
        assert told[-len(hows) :] == [STATES[how] for how in hows]


async def is_blocked(at: Living, segment: str) -> bool:
    """Whether the patient is refused another booking because they missed this one; where not, they have it."""
    patient_id = await put_patient(at.store, PEOPLE[0], asks_his=True)
    try:
        await hold(at.store, at.hospital, await at.slot_of(segment), patient_id)
    except Refusal as refusal:
        return refusal.code == "patient_blocked"
    return False
