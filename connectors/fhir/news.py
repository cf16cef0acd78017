"""What a changed resource means: the inbound message that it becomes, read as the verb reads it that asks for such resources.

Resources are read from the server itself, never taken from whoever says that they have changed.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from connectors.fhir.documents import Document, Json, encode_json
from connectors.fhir.exchange import Exchange
from connectors.port import Inbound
from mappings.canonical import (
    AnyEvent,
    BillIssued,
    PatientChanged,
    Registration,
    RegistrationChanged,
    RegistrationStatus,
    ReportIssued,
    ScheduleChanged,
)

Wrap = Callable[[Any, dt.datetime | None], AnyEvent]


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One type of resource: the verb whose call reads it, the event that it becomes, and what must come with it (`_include`).

    Without `wrap` it is a cue alone: many of them ask for one fetch of schedules and seats.
    """

    verb: str
    wrap: Wrap | None = None
    include: str = ""


KINDS = {
    "Appointment": Kind(
        verb="fetch_registration", wrap=lambda found, at: RegistrationChanged(registration=found, occurred_at=at)
    ),
    "DiagnosticReport": Kind(
        verb="fetch_reports",
        wrap=lambda found, at: ReportIssued(report=found, occurred_at=at),
        include="DiagnosticReport:result",
    ),
    "Invoice": Kind(verb="fetch_bills", wrap=lambda found, at: BillIssued(bill=found, occurred_at=at)),
    "Patient": Kind(verb="find_patient", wrap=lambda found, at: PatientChanged(patient=found, occurred_at=at)),
    "Schedule": Kind(verb="fetch_schedules"),
    "Slot": Kind(verb="fetch_slots"),
}
MOST_NAMED = 1000  # of the resources that one cue names


class News:
    """Makes inbound messages of one server's resources. `peer` is its address, as messages show it."""

    def __init__(self, exchange: Exchange, peer: str) -> None:
        self._exchange, self._peer = exchange, peer

    def of_resource(self, resource: Json, others: Sequence[Json] = ()) -> Inbound | None:
        """The message of one changed resource; `others` came with it. None where the profile takes none such."""
        kind = KINDS[resource["resourceType"]]
        raw = encode_json(_bundle([resource, *others]) if kind.include else resource)
        return self._inbound(resource, others, raw, self._peer)

    def cue(self, resources: Sequence[Json]) -> Inbound:
        """One message for all these Schedules or Slots: that they have changed, not what has become of them."""
        named = [f"{name_of(one)}/_history/{version_of(one)}" for one in resources]
        raw = encode_json(
            {"resourceType": "Bundle", "type": "collection", "entry": [{"fullUrl": n} for n in named[:MOST_NAMED]]}
        )
        digest = hashlib.sha256("\n".join(sorted(named)).encode()).hexdigest()
        name = str(resources[0]["resourceType"])
        return self._message(name, name, digest, raw, self._peer, events=(ScheduleChanged(),))

    def gone(self, name: str) -> Inbound | None:
        """The message of a resource that the server has deleted (410); None where that means nothing here."""
        kind, _, own = name.partition("/")
        if kind != "Appointment":
            return None
        registration = Registration(status=RegistrationStatus.RELEASED, his_id=own)
        raw = encode_json(
            {
                "resourceType": "Bundle",
                "type": "collection",
                "entry": [{"fullUrl": name, "response": {"status": "410"}}],
            }
        )
        return self._message(
            kind, name, "gone", raw, self._peer, events=(RegistrationChanged(registration=registration),)
        )

    def read_again(self, stored: Json, raw: bytes, peer: str) -> Inbound | None:
        """A stored message as the present profile maps it; None where it is none of ours."""
        if stored.get("resourceType") != "Bundle":
            return self._inbound(stored, (), raw, peer) if stored.get("resourceType") in KINDS else None
        resources = [entry["resource"] for entry in stored.get("entry", ()) if isinstance(entry.get("resource"), dict)]
        if resources and resources[0].get("resourceType") in KINDS:
            return self._inbound(resources[0], resources[1:], raw, peer)
        return None

    def _inbound(self, resource: Json, others: Sequence[Json], raw: bytes, peer: str) -> Inbound | None:
        name, kind = name_of(resource), KINDS[resource["resourceType"]]
        call = self._exchange.calls.get(kind.verb)
        if call is None or call.reply is None or kind.wrap is None:
            return None
        mapped = call.reply.read(
            Document.of([{"resource": one} for one in (resource, *others)]), self._exchange.context()
        )
        if not mapped.records and not mapped.problems:
            return None
        at = instant_of(resource)
        wrapped = tuple(kind.wrap(record, at) for record in mapped.records)
        problem = str(mapped.problems[0]) if mapped.problems else None
        return self._message(
            str(resource["resourceType"]),
            name,
            version_of(resource),
            raw,
            peer,
            events=() if problem else wrapped,
            problem=problem,
        )

    def _message(
        self,
        kind: str,
        name: str,
        version: str,
        raw: bytes,
        peer: str,
        *,
        events: tuple[AnyEvent, ...],
        problem: str | None = None,
    ) -> Inbound:
        registration = next((event.registration for event in events if isinstance(event, RegistrationChanged)), None)
        return Inbound(
            hospital_id=self._exchange.hospital.id,
            connector=self._exchange.name,
            peer=peer,
            message_type=kind,
            control_id=name,
            dedup_key=f"{self._exchange.name}|{name}|{version}",
            raw=raw,
            events=events,
            problem=problem,
            order_no=None if registration is None else registration.order_no,
            mrn=None if registration is None else registration.mrn,
        )


def name_of(resource: Json) -> str:
    """`Type/id`."""
    return f"{resource.get('resourceType')}/{resource.get('id')}"


def version_of(resource: Json) -> str:
    """What differs from one version of a resource to the next: its number, its time, or a digest of all of it."""
    meta = resource.get("meta")
    for name in ("versionId", "lastUpdated"):
        if isinstance(meta, dict) and isinstance(told := meta.get(name), str) and told:
            return told[:64]
    return hashlib.sha256(encode_json(resource)).hexdigest()


def instant_of(resource: Json) -> dt.datetime | None:
    """When the server changed it last (Meta.lastUpdated, an instant), by the server's clock."""
    meta = resource.get("meta")
    told = meta.get("lastUpdated") if isinstance(meta, dict) else None
    if not isinstance(told, str):
        return None
    try:
        found = dt.datetime.fromisoformat(told)
        return found.astimezone(dt.UTC) if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _bundle(resources: Sequence[Json]) -> Json:
    return {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": one} for one in resources]}
