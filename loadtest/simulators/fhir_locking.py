"""Seats that are locked before they are paid, as a FHIR server may offer it: transactions over Slots, and IHE's operations.

A transaction here has one change of an Appointment at most, and any number of Slots; all is checked before anything is done.
"""

from __future__ import annotations

import itertools
from typing import Any

from loadtest.simulators import fhir_resources as make
from loadtest.simulators.fhir_resources import Json
from loadtest.simulators.fhir_store import Kept, Store, target
from loadtest.simulators.hospital import Refusal

# What IHE calls "not available" (ITI-116): an OperationOutcome fatal/not-found.
_NOT_AVAILABLE = frozenset({"full", "taken", "unknown", "stopped"})
_PROPOSED = "p-"
"""Before a Slot's id: the Appointment that `$find` proposes for it."""


class Locking:
    """Slots that clients may write, and Appointments that operations hold and book."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[str, tuple[str, int]] = {}
        self._holds = itertools.count(1)

    # slots ----------------------------------------------------------------------------------------------------------------

    def slot(self, slot_id: str) -> Json:
        """One Slot with its version, which goes up whenever its status has changed."""
        segment, seat = self._store.seat(slot_id)
        status = self._store.statuses(segment)[seat]
        before, version = self._seen.get(slot_id, (status, 1))
        self._seen[slot_id] = (status, version + (before != status))
        found = make.slot(self._store.hospital.plans[segment.plan], segment, seat, status)
        return {**found, "meta": {"versionId": str(self._seen[slot_id][1])}}

    def put_slot(self, slot_id: str, body: Json, if_match: str) -> Json:
        """A status as a client wants it. Raises Refusal `version`, `state`."""
        self._check(slot_id, body, if_match)
        self._write(slot_id, str(body["status"]))
        return self.slot(slot_id)

    def _check(self, slot_id: str, body: Json, if_match: str) -> None:
        current = self.slot(slot_id)
        if if_match and if_match != f'W/"{current["meta"]["versionId"]}"':
            raise Refusal("version", "another version is current")
        if current["status"] == "busy-unavailable" or body["status"] not in ("free", "busy", "busy-tentative"):
            raise Refusal("state", "no such change of status")

    def _write(self, slot_id: str, status: str) -> None:
        """What visits say stands first; what is left is the client's own word."""
        self._store.blocked.pop(slot_id, None)
        if self.slot(slot_id)["status"] == "free" != status:
            self._store.blocked[slot_id] = status

    # transactions ---------------------------------------------------------------------------------------------------------

    def transact(self, bundle: Json, *, conditional: bool = True) -> Json:
        """Carry out all entries or none. Raises Refusal."""
        requests = [(entry["request"], entry["resource"]) for entry in bundle["entry"]]
        slots = [(r["url"].partition("/")[2], body, r) for r, body in requests if r["url"].startswith("Slot/")]
        if len(requests) - len(slots) > 1:
            raise Refusal("bad", "one Appointment at most")
        for slot_id, body, request in slots:
            self._check(slot_id, body, request.get("ifMatch", ""))
        made = [self._appoint(r, body, conditional) for r, body in requests if r["url"].startswith("Appointment")]
        for slot_id, body, _ in slots:
            self._write(slot_id, body["status"])
        told = [(200, self.slot(r["url"][5:])) if r["url"].startswith("Slot/") else made[0] for r, _ in requests]
        entries = [{"resource": resource, "response": _response(status, resource)} for status, resource in told]
        return {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}

    def _appoint(self, request: Json, body: Json, conditional: bool) -> tuple[int, Json]:
        kind, _, key = request["url"].partition("/")
        if request["method"] == "POST":
            return self._store.create(kind, body, request.get("ifNoneExist", "") if conditional else "")
        return 200, self._store.update(kind, key, body, request.get("ifMatch", ""))

    # operations -----------------------------------------------------------------------------------------------------------

    def operate(self, name: str, parameters: Json) -> Json:
        """The Bundle that `$find`, `$hold` or `$book` answers, failures included."""
        given = {one["name"]: one for one in parameters["parameter"]}
        try:
            if name == "find":
                return _searchset(self._proposals(given["start"]["valueDateTime"], given["end"]["valueDateTime"]))
            meant = given["appointment-reference"]["valueReference"]["reference"].removeprefix("Appointment/")
            if name == "hold":
                return _searchset([self._hold(meant.removeprefix(_PROPOSED))])
            return _searchset([self._book(meant, given["appointment-resource"]["resource"])])
        except Refusal as no:
            if no.code in _NOT_AVAILABLE:
                return _searchset([make.issue("not-found", no.code, no.text, severity="fatal")])
            return _searchset([make.issue("business-rule", no.code, no.text)])

    def _proposals(self, starts: str, ends: str) -> list[Json]:
        slots = self._store.search(
            "Slot", [("start", f"ge{starts}"), ("start", f"lt{ends}"), ("status", "free")]
        ).matches
        return [
            {
                "resourceType": "Appointment",
                "id": f"{_PROPOSED}{slot['id']}",
                "status": "proposed",
                "start": slot["start"],
                "end": slot["end"],
                "slot": [{"reference": f"Slot/{slot['id']}"}],
                "participant": [self._practitioner(slot["id"])],
            }
            for slot in slots
        ]

    def _practitioner(self, slot_id: str) -> Json:
        plan = self._store.hospital.plans[self._store.seat(slot_id)[0].plan]
        return {"actor": {"reference": f"Practitioner/{plan.doctor}"}, "status": "needs-action"}

    def _hold(self, slot_id: str) -> Json:
        segment, seat = self._store.seat(slot_id)
        if self._store.statuses(segment)[seat] != "free":
            raise Refusal("taken", "the slot is not free")
        visit = self._store.hospital.take(f"hold{next(self._holds)}", "", segment.code)
        held = {
            "resourceType": "Appointment",
            "status": "pending",
            "start": segment.start.isoformat(),
            "end": segment.end.isoformat(),
            "slot": [{"reference": f"Slot/{slot_id}"}],
            "participant": [self._practitioner(slot_id)],
        }
        self._store.seats[slot_id] = visit.no
        self._store.appointments[visit.no] = Kept(held)
        return self._store.read("Appointment", visit.no)

    def _book(self, meant: str, body: Json) -> Json:
        """Book, or cancel, what is held or booked."""
        if meant not in self._store.appointments:
            raise Refusal("unknown", "no such appointment")
        if body["status"] == "booked":
            key = next((i["value"] for i in body.get("identifier", ()) if i.get("system") == make.ORDER_SYSTEM), "")
            self._store.hospital.name(meant, key, target(body["participant"], "Patient"))
        return self._store.update("Appointment", meant, body, "")


def verb_of(store: Store, method: str, kind: str, key: str, body: Any) -> str | None:
    """The port's verb that a transaction or an operation carries; None for what is neither."""
    if method != "POST" or (kind and not key.startswith("$")):
        return None
    if key in ("$find", "$hold"):
        return "find" if key == "$find" else "lock_slot"
    status, appointment = _change(kind, body)
    if status == "pending":
        return "lock_slot"
    if status == "booked":
        return "register"
    visit = store.hospital.visits.get(appointment)
    return "unlock_slot" if visit is not None and visit.state == "locked" else "cancel_registration"


def _change(kind: str, body: Any) -> tuple[str, str]:
    """The status that an Appointment shall have, and its id where it is there already."""
    try:
        if kind:
            given = {one["name"]: one for one in body["parameter"]}
            meant = given["appointment-reference"]["valueReference"]["reference"]
            return given["appointment-resource"]["resource"]["status"], meant.rpartition("/")[2]
        entry = next(one for one in body["entry"] if one["request"]["url"].startswith("Appointment"))
        return entry["resource"]["status"], entry["request"]["url"].partition("/")[2]
    except (KeyError, TypeError, AttributeError, StopIteration):
        return "", ""


def _response(status: int, resource: Json) -> Json:
    version = resource["meta"]["versionId"]
    place = f"{resource['resourceType']}/{resource['id']}/_history/{version}"
    return {"status": f"{status} {'Created' if status == 201 else 'OK'}", "location": place, "etag": f'W/"{version}"'}


def _searchset(resources: list[Json]) -> Json:
    entries = []
    for resource in resources:
        mode = "outcome" if resource["resourceType"] == "OperationOutcome" else "match"
        entries.append({"resource": resource, "search": {"mode": mode}})
    return {"resourceType": "Bundle", "type": "searchset", "entry": entries}
