"""One read of a connector, by the verb's name, with what the command line gives for it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from booking.conversion import SettingsError
from connectors.port import Connector, Order, Verb, Window
from mappings.canonical import Patient, Schedule, Session, Slot
from mappings.profile import Profile
from mappings.schema import suggest

READS = tuple(Verb)[: list(Verb).index(Verb.CREATE_PATIENT)]
_NEEDS = {
    Verb.FETCH_SETTLEMENT: "it asks for a payment that was taken: the service does it by itself",
    Verb.FETCH_REFUND: "it asks for a refund that was given: the service does it by itself",
    Verb.FETCH_ATTACHMENT: "it asks for a document that a report named: try fetch_report",
}


@dataclass
class Asked:
    """What the options say. Days are the hospital's."""

    date_from: dt.date
    date_to: dt.date
    department: str | None = None
    order_no: str | None = None
    report_id: str | None = None
    his_refs: dict[str, str] = field(default_factory=dict)
    patient: dict[str, str] = field(default_factory=dict)

    @property
    def window(self) -> Window:
        return Window(date_from=self.date_from, date_to=self.date_to, department_id=self.department)

    def person(self, verb: Verb) -> Patient:
        """Raises SettingsError where nothing says who."""
        if not self.patient:
            raise SettingsError(f"{verb} asks for a patient: give --mrn, or --id-number and --name")
        return Patient(**{"name": ""} | self.patient, his_refs=self.his_refs)  # type: ignore[arg-type]


def verb_of(text: str, profile: Profile) -> Verb:
    """A read that the profile offers. Raises SettingsError for a write, with the reason, and for what is none."""
    if text not in list(Verb):
        raise SettingsError(f"no verb {text}: {suggest(text, [one.value for one in READS])}")
    verb = Verb(text)
    if verb not in READS:
        raise SettingsError(
            f"{verb} changes something at the hospital, and `profile call` only asks. `hisbridge profile check "
            f"{profile.name}` shows its request; with a booking the service sends it, where the hospital is live"
        )
    spec = profile.verbs.get(text)
    if spec is None or spec.capability != "native":
        raise SettingsError(f"{profile.name} does not offer {verb}: it is {'off' if spec is None else spec.capability}")
    if verb in _NEEDS:
        raise SettingsError(f"{verb} cannot be called alone: {_NEEDS[verb]}")
    return verb


async def ask(his: Connector, verb: Verb, asked: Asked, zone: ZoneInfo) -> Sequence[Any]:
    """The records. Raises HisError, SettingsError."""
    match verb:
        case Verb.PING:
            await his.ping()
            return []
        case Verb.FETCH_DEPARTMENTS:
            return await his.fetch_departments()
        case Verb.FETCH_PRACTITIONERS:
            return await his.fetch_practitioners()
        case Verb.FETCH_SCHEDULES:
            return await his.fetch_schedules(asked.window)
        case Verb.FETCH_SLOTS:
            return await his.fetch_slots(asked.window, (await his.fetch_schedules(asked.window))[:1])
        case Verb.FETCH_STOPS:
            return await his.fetch_stops(asked.window)
        case Verb.FETCH_STATEMENT:
            return await his.fetch_statement(asked.date_from)
        case Verb.FETCH_REGISTRATION:
            found = await his.fetch_registration(_order(asked, zone))
            return [] if found is None else [found]
        case Verb.FETCH_REPORT:
            if asked.report_id is None:
                raise SettingsError("fetch_report asks for one report: give --report-id")
            report = await his.fetch_report(asked.person(verb), asked.report_id)
            return [] if report is None else [report]
    reads = {
        Verb.FIND_PATIENT: his.find_patient,
        Verb.FETCH_BILLS: his.fetch_bills,
        Verb.FETCH_REPORTS: his.fetch_reports,
    }
    return await reads[verb](asked.person(verb))


def _order(asked: Asked, zone: ZoneInfo) -> Order:
    """An order of which only the numbers are known. Raises SettingsError."""
    if asked.order_no is None:
        raise SettingsError(
            "fetch_registration asks for one order: give --order-no, and --his-ref for what the HIS calls it"
        )
    starts_at = dt.datetime.combine(asked.date_from, dt.time(8), zone)
    schedule = Schedule(id="", date=asked.date_from, session=Session.AM, department_id=asked.department or "")
    slot = Slot(
        id="", schedule_id="", date=asked.date_from, session=Session.AM, starts_at=starts_at, ends_at=starts_at,
        seats_left=0,
    )  # fmt: skip
    patient = Patient(**{"name": ""} | asked.patient)  # type: ignore[arg-type]
    return Order(
        order_no=asked.order_no, schedule=schedule, slot=slot, patient=patient, fee_fen=0, his_refs=asked.his_refs
    )
