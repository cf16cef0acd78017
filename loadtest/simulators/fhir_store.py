"""What the simulated FHIR server does: searches, conditional creates and versioned updates over the hospital.

Synchronous throughout, so that every request is one linear step of the hospital.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from loadtest.simulators import fhir_resources as make
from loadtest.simulators.fhir_resources import Json, fen
from loadtest.simulators.hospital import Hospital, Refusal, Segment, Visit

# HTTP status, IssueType and the server's own detail code for each way in which the hospital says no.
_REFUSALS = {
    "full": (409, "conflict", "full"),
    "taken": (409, "conflict", "slot-taken"),
    "exists": (409, "duplicate", "exists"),
    "unknown": (404, "not-found", "unknown"),
    "gone": (410, "deleted", "gone"),
    "stopped": (422, "business-rule", "stopped"),
    "state": (422, "business-rule", "state"),
    "mismatch": (422, "business-rule", "mismatch"),
    "several": (412, "multiple-matches", "several"),
    "version": (412, "conflict", "version"),
    "bad": (400, "invalid", "bad"),
}
Params = list[tuple[str, str]]


def refusal(code: str, text: str) -> tuple[int, Json]:
    """(HTTP status, OperationOutcome) of a refusal."""
    status, kind, detail = _REFUSALS.get(code, (422, "business-rule", "refused"))
    return status, make.issue(kind, detail, text)


@dataclass
class Kept:
    """A resource that the server keeps as it was posted."""

    resource: Json
    version: int = 1
    updated: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))
    told: str | None = None  # a status of the hospital's own, as "arrived"

    def touch(self) -> None:
        """It has changed."""
        self.version += 1
        self.updated = dt.datetime.now(dt.UTC)


@dataclass
class Found:
    """A search's answer: matches are paged, each brings the resources that `include` gives for it."""

    matches: list[Json]
    include: Callable[[Json], Iterable[Json]] = field(default=lambda _match: ())


class Store:
    """The server's state beside the hospital's: Appointments as posted, who sits on which Slot, payments told."""

    def __init__(self, hospital: Hospital) -> None:
        self.hospital = hospital
        self.appointments: dict[str, Kept] = {}
        self.payments: dict[str, dict[str, Kept]] = {"PaymentNotice": {}, "PaymentReconciliation": {}}
        self.seats: dict[str, str] = {}
        self.blocked: dict[str, str] = {}  # what clients have written of Slots, beyond what visits say
        self.balances = True
        self.gone: set[str] = set()  # what was deleted, as Type/id

    # reading -------------------------------------------------------------------------------------------------------

    def read(self, kind: str, key: str) -> Json:
        """One resource. Raises Refusal `unknown`, and `gone` for one that was deleted."""
        if f"{kind}/{key}" in self.gone:
            raise Refusal("gone", "it was deleted")
        makers: dict[str, Callable[[], Json]] = {
            "Appointment": lambda: self._appointment(key),
            "Patient": lambda: make.patient(self.hospital.people[key]),
            "Invoice": lambda: make.invoice(self.hospital.charges[key]),
            "PaymentNotice": lambda: self._payment("PaymentNotice", key),
            "PaymentReconciliation": lambda: self._payment("PaymentReconciliation", key),
        }
        try:
            return makers[kind]()
        except KeyError as error:
            raise Refusal("unknown", f"no such {kind}") from error

    def search(self, kind: str, params: Params) -> Found:
        """Everything that fits. Raises Refusal `bad` for a parameter that the server does not have."""
        searches: dict[str, Callable[[Params], Found]] = {
            "HealthcareService": self._departments,
            "PractitionerRole": self._roles,
            "Schedule": self._schedules,
            "Slot": self._slots,
            "Patient": self._patients,
            "Appointment": self._appointments,
            "Invoice": self._invoices,
            "ChargeItem": self._charge_items,
            "PaymentNotice": lambda params: self._payments("PaymentNotice", params),
            "PaymentReconciliation": lambda params: self._payments("PaymentReconciliation", params),
            "DiagnosticReport": self._reports,
        }
        if kind not in searches:
            raise Refusal("unknown", f"no search for {kind}")
        return searches[kind]([(name, value) for name, value in params if name not in ("_count", "_offset")])

    def _departments(self, params: Params) -> Found:
        _only(params, "active", "_include")
        return Found([make.healthcare_service(*item) for item in self.hospital.departments.items()])

    def _roles(self, params: Params) -> Found:
        _only(params, "active", "_include")
        by_role = {f"role-{doctor.code}": doctor for doctor in self.hospital.doctors.values()}
        return Found(
            [make.practitioner_role(doctor) for doctor in by_role.values()],
            lambda role: [make.practitioner(by_role[role["id"]])],
        )

    def _schedules(self, params: Params) -> Found:
        _only(params, "date", "_include")
        found = []
        for doctor in self.hospital.doctors.values():
            resource = make.schedule(self.hospital, doctor)
            starts, ends = (dt.datetime.fromisoformat(resource["planningHorizon"][key]) for key in ("start", "end"))
            # search.html#date: a period fits `ge` when its end, and `lt` when its start does
            if all(_fits(ends if value[:2] == "ge" else starts, value) for name, value in params if name == "date"):
                found.append(resource)
        return Found(found, self._actors)

    def _actors(self, schedule: Json) -> list[Json]:
        doctor = self.hospital.doctors[schedule["id"].removeprefix("sch-")]
        return [
            make.practitioner(doctor),
            make.healthcare_service(doctor.dept, self.hospital.departments[doctor.dept]),
        ]

    def _slots(self, params: Params) -> Found:
        _only(params, "start", "schedule", "status")
        starts = [value for name, value in params if name == "start"]
        rest = {name: value for name, value in params if name != "start"}
        found = []
        for segment in self.hospital.segments.values():
            plan = self.hospital.plans[segment.plan]
            if rest.get("schedule") not in (None, f"Schedule/{make.schedule_id(plan)}"):
                continue
            if not all(_fits(segment.start, value) for value in starts):
                continue
            for seat, status in enumerate(self.statuses(segment)):
                if rest.get("status") in (None, status):
                    found.append(make.slot(plan, segment, seat, status))
        return Found(found)

    def statuses(self, segment: Segment) -> list[str]:
        """The status of each seat; visits that nobody booked here sit on the first free ones."""
        count = max(segment.capacity, 0)
        if self.hospital.stops(segment):
            return ["busy-unavailable"] * count
        statuses = ["free"] * count
        for seat in range(count):
            visit = self._sitting(make.slot_id(segment, seat))
            if visit is not None:
                statuses[seat] = "busy-tentative" if visit.state == "locked" else "busy"
        others = segment.taken - sum(status != "free" for status in statuses)
        for seat in range(count):
            if others > 0 and statuses[seat] == "free":
                statuses[seat] = "busy"
                others -= 1
        for seat in range(count) if self.blocked else ():
            if statuses[seat] == "free":
                statuses[seat] = self.blocked.get(make.slot_id(segment, seat), "free")
        return statuses

    def _sitting(self, slot_id: str) -> Visit | None:
        visit = self.hospital.visits.get(self.seats.get(slot_id, ""))
        return visit if visit is not None and visit.state != "released" else None

    def _patients(self, params: Params) -> Found:
        _only(params, "identifier")
        wanted = [value.rpartition("|") for name, value in params if name == "identifier"]
        people = [
            person
            for person in self.hospital.people.values()
            if all(value == (person.mrn if system == make.NUMBERS else person.id_number) for system, _, value in wanted)
        ]
        return Found([make.patient(person) for person in people])

    def _appointments(self, params: Params) -> Found:
        _only(params, "identifier", "_lastUpdated", "_id", "date")
        days = [value for name, value in params if name == "date"]
        ids = next((value.split(",") for name, value in params if name == "_id"), None)
        times = [value for name, value in params if name == "_lastUpdated"]
        return Found(
            [
                self._appointment(no)
                for no, kept in self.appointments.items()
                if _identified(kept, params)
                and (ids is None or no in ids)
                and all(_fits_day(kept.resource["start"][:10], value) for value in days)
                and all(_fits(kept.updated, value) for value in times)
            ]
        )

    def change(self, no: str, *, status: str | None = None, start: dt.datetime | None = None) -> None:
        """What a person at the hospital does to an Appointment: cancels it, moves it, writes down who came."""
        kept = self.appointments[no]
        if status == "cancelled":
            self.hospital.release(no)
        elif status is not None:
            kept.told = status
        if start is not None:
            kept.resource = {**kept.resource, "start": start.isoformat()}
        kept.touch()

    def follow(self, no: str) -> None:
        """An Appointment as the hospital's own books have it now: moved to another segment, or with another doctor."""
        kept, visit = self.appointments[no], self.hospital.visits[no]
        segment = self.hospital.segments[visit.segment]
        doctor = self.hospital.doctor_of(segment)
        held_by = {"reference": f"Practitioner/{doctor.code}", "display": doctor.name}
        kept.resource = {
            **kept.resource,
            "start": segment.start.isoformat(),
            "end": segment.end.isoformat(),
            "slot": [{"reference": f"Slot/{make.slot_id(segment, 0)}"}],
            "participant": [
                {**one, "actor": held_by} if one["actor"]["reference"].startswith("Practitioner/") else one
                for one in kept.resource["participant"]
            ],
        }
        kept.touch()

    def delete(self, no: str) -> None:
        """It is there no more, and no search says so."""
        del self.appointments[no]
        self.gone.add(f"Appointment/{no}")
        self.hospital.release(no)

    def _appointment(self, no: str) -> Json:
        kept = self.appointments[no]
        made = make.appointment(kept.resource, self.hospital.visits[no], kept.version)
        made["meta"]["lastUpdated"] = kept.updated.isoformat(timespec="milliseconds")
        return made if kept.told is None else made | {"status": kept.told}

    def _invoices(self, params: Params) -> Found:
        _only(params, "status", "subject", "_include")
        wanted = dict(params)
        found = [make.invoice(charge) for charge in self.hospital.charges.values()]
        return Found(
            [
                item
                for item in found
                if wanted.get("status") in (None, item["status"])
                and wanted.get("subject") in (None, item["subject"]["reference"])
            ]
        )

    def _charge_items(self, params: Params) -> Found:
        _only(params, "subject")
        wanted = dict(params).get("subject")
        charges = [item for item in self.hospital.charges.values() if wanted in (None, f"Patient/{item.mrn}")]
        return Found([item for charge in charges for item in make.charge_items(charge)])

    def _payments(self, kind: str, params: Params) -> Found:
        _only(params, "identifier", "created")
        days = [value for name, value in params if name == "created"]
        return Found(
            [
                self._payment(kind, key)
                for key, kept in self.payments[kind].items()
                if _identified(kept, params)
                and all(_fits(dt.datetime.fromisoformat(kept.resource["created"]), value) for value in days)
            ]
        )

    def _payment(self, kind: str, key: str) -> Json:
        kept = self.payments[kind][key]
        return {**kept.resource, "id": key, "meta": {"versionId": str(kept.version)}}

    def _reports(self, params: Params) -> Found:
        _only(params, "patient", "identifier", "_id", "_include")
        wanted = dict(params)
        reports = {
            f"dr-{report.no}": report
            for report in self.hospital.reports.values()
            if wanted.get("patient") in (None, f"Patient/{report.mrn}")
            and wanted.get("identifier", report.no).rpartition("|")[2] == report.no
            and wanted.get("_id") in (None, f"dr-{report.no}")
        }
        return Found(
            [make.diagnostic_report(report) for report in reports.values()],
            lambda found: make.observations(reports[found["id"]]),
        )

    # writing -------------------------------------------------------------------------------------------------------

    def create(self, kind: str, body: Json, if_none_exist: str) -> tuple[int, Json]:
        """(201, new) or (200, the one that fits the condition). Raises Refusal."""
        if if_none_exist:
            there = self.search(kind, parse_qsl(if_none_exist)).matches
            if len(there) > 1:
                raise Refusal("several", "several fit the condition")
            if there:
                return 200, there[0]
        if kind == "Patient":
            return 201, self._create_patient(body)
        if kind == "Appointment":
            return 201, self._create_appointment(body)
        if kind in self.payments:
            return 201, self._create_payment(kind, body)
        raise Refusal("bad", f"{kind} cannot be created here")

    def double(self, kind: str, body: Json) -> None:
        """Make one more than was asked for, where there is room: an Appointment takes another seat of its segment."""
        if kind == "Appointment":
            segment, taken = self.seat(body["slot"][0]["reference"].removeprefix("Slot/"))
            free = [seat for seat, status in enumerate(self.statuses(segment)) if status == "free" and seat != taken]
            if not free:
                return
            body = {**body, "slot": [{"reference": f"Slot/{make.slot_id(segment, free[0])}"}]}
        self.create(kind, body, "")

    def _create_patient(self, body: Json) -> Json:
        number = next((i["value"] for i in body.get("identifier", ()) if i.get("system") == make.ID_SYSTEM), "")
        phone = next((t["value"] for t in body.get("telecom", ()) if t.get("system") == "phone"), "")
        name = body["name"][0].get("text", "")
        if not number or not name:
            raise Refusal("bad", "name and number are needed")
        person = self.hospital.create_person(name, number, phone, body.get("gender", ""), body.get("birthDate", ""))
        return make.patient(person)

    def _create_appointment(self, body: Json) -> Json:
        if body.get("status") != "pending":
            raise Refusal("state", "a new appointment is pending here")
        wanted = body["slot"][0]["reference"].removeprefix("Slot/")
        segment, seat = self.seat(wanted)
        if self.hospital.stops(segment):
            raise Refusal("stopped", "schedule stopped")
        if self.statuses(segment)[seat] != "free":
            raise Refusal("taken" if segment.left > 0 else "full", "the slot is not free")
        mrn = target(body["participant"], "Patient")
        key = next((i["value"] for i in body.get("identifier", ()) if i.get("system") == make.ORDER_SYSTEM), "")
        if self.hospital.visit_by_key(key) is not None:
            key = f"{key}#{len(self.appointments)}"  # a second one under the same identifier: nobody asked for a condition
        visit = self.hospital.take(key, mrn, segment.code)
        self.seats[wanted] = visit.no
        self.appointments[visit.no] = Kept(body)
        return self._appointment(visit.no)

    def seat(self, slot_id: str) -> tuple[Segment, int]:
        for segment in self.hospital.segments.values():
            for seat in range(segment.capacity):
                if make.slot_id(segment, seat) == slot_id:
                    return segment, seat
        raise Refusal("unknown", "no such slot")

    def _create_payment(self, kind: str, body: Json) -> Json:
        key = self.hospital.number("N" if kind == "PaymentNotice" else "Y")
        if kind == "PaymentNotice":
            self._notice(body)
        elif make.is_refund(body):
            detail = body["detail"][0]
            no = (detail.get("request") or detail["target"])["reference"].rpartition("/")[2]  # R5: target
            number, trade_no = body["identifier"][0]["value"], detail["predecessor"]["value"]
            self.hospital.give_back(no, fen(body["paymentAmount"]), number, trade_no)
        self.payments[kind][key] = Kept(body)
        return self._payment(kind, key)

    def _notice(self, body: Json) -> None:
        """A notice about an Appointment must be over its fee; one about an Invoice balances it."""
        kind, _, no = body["request"]["reference"].partition("/")
        amount = fen(body["amount"])
        if kind == "Appointment":
            visit = self.hospital.visits.get(no)
            if visit is None:
                raise Refusal("unknown", "no such appointment")
            if visit.fee_fen != amount:
                raise Refusal("mismatch", "amount differs")
            return
        reconciliation = self.payments["PaymentReconciliation"].get(body["payment"]["reference"].rpartition("/")[2])
        if reconciliation is None:
            raise Refusal("unknown", "no such payment")
        if self.balances:
            self.hospital.settle(no, amount, reconciliation.resource["paymentIdentifier"]["value"])

    def update(self, kind: str, key: str, body: Json, if_match: str) -> Json:
        """The resource as it now is. Raises Refusal, `version` when If-Match names another one."""
        kept = self.appointments.get(key) if kind == "Appointment" else self.payments.get(kind, {}).get(key)
        if kept is None:
            raise Refusal("unknown", f"no such {kind}")
        if if_match and if_match != f'W/"{kept.version}"':
            raise Refusal("version", "another version is current")
        if kind == "Appointment":
            self._turn(self.hospital.visits[key], str(body.get("status")))
        kept.resource = body
        kept.touch()
        return self.read(kind, key)

    def _turn(self, visit: Visit, status: str) -> None:
        if status == make.APPOINTMENT_STATUS[visit.state]:
            return
        if status == "cancelled":
            self.hospital.release(visit.no)
        elif status == "booked":
            told = [kept.resource for kept in self.payments["PaymentNotice"].values()]
            paid = [
                item
                for item in told
                if item["request"]["reference"] == f"Appointment/{visit.no}" and item["status"] == "active"
            ]
            if not paid and visit.fee_fen:
                raise Refusal("state", "not paid")
            amount, trade_no = 0, ""
            if paid:
                amount, trade_no = fen(paid[0]["amount"]), _trade_no(paid[0])
            self.hospital.pay(visit.no, amount, trade_no)
        else:
            raise Refusal("state", "no such change of status")


def _trade_no(notice: Json) -> str:
    """R4 demands a `payment`; R5 does not, and the number may then stand among the notice's own."""
    numbers = [notice["payment"]["identifier"]] if "payment" in notice else notice["identifier"]
    return next(str(item["value"]) for item in numbers if item.get("system") == make.TRADE_SYSTEM)


def _only(params: Params, *names: str) -> None:
    for name, _ in params:
        if name not in names:
            raise Refusal("bad", f"no search parameter {name}")


def _fits(moment: dt.datetime, value: str) -> bool:
    prefix, text = (value[:2], value[2:]) if value[:1].isalpha() else ("eq", value)
    other = dt.datetime.fromisoformat(text)
    return {"ge": moment >= other, "lt": moment < other, "eq": moment == other}[prefix]


def _fits_day(day: str, value: str) -> bool:
    return day >= value[2:] if value[:2] == "ge" else day < value[2:]


def _identified(kept: Kept, params: Params) -> bool:
    wanted = [value for name, value in params if name == "identifier"]
    own = {f"{item.get('system', '')}|{item.get('value', '')}" for item in kept.resource.get("identifier", ())}
    return all(value in own for value in wanted)


def target(participants: list[Json], kind: str) -> str:
    for participant in participants:
        reference = str(participant.get("actor", {}).get("reference", ""))
        if reference.startswith(f"{kind}/"):
            return reference.removeprefix(f"{kind}/")
    raise Refusal("bad", f"no {kind} takes part")
