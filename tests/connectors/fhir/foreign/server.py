"""A FHIR server that we did not write: fhirstarter over a store in memory. A program of its own: `--conditional`, `--page N`.

    FHIR_SEQUENCE=R4B python -m tests.connectors.fhir.foreign.server

What is ours here is a hospital's own business: an Appointment takes its Slot, and a conflict refuses it. Routes, parsing,
validation, the CapabilityStatement and OperationOutcomes are fhirstarter's. It gives no ETag, and answers a create that returns
the resource with 200. It reads annotations as they are: they cannot be put off in this file.
"""

import argparse
import asyncio
import datetime as dt
import json
import socket
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import parse_qsl

import uvicorn
from fhir.resources.R4B.appointment import Appointment
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.healthcareservice import HealthcareService
from fhir.resources.R4B.patient import Patient
from fhir.resources.R4B.paymentnotice import PaymentNotice
from fhir.resources.R4B.practitioner import Practitioner
from fhir.resources.R4B.practitionerrole import PractitionerRole
from fhir.resources.R4B.schedule import Schedule
from fhir.resources.R4B.slot import Slot
from fhirstarter import FHIRProvider, FHIRStarter, InteractionContext, Request, Response
from fhirstarter.exceptions import (
    FHIRConflictError,
    FHIRPreconditionFailedError,
    FHIRResourceNotFoundError,
)

Json = dict[str, Any]
MODELS = (
    Appointment, HealthcareService, Patient, PaymentNotice, Practitioner, PractitionerRole, Schedule, Slot,
)  # fmt: skip
ZONE = dt.timezone(dt.timedelta(hours=8))
# What an Appointment's status makes of its Slots.
SLOT_STATUS = {"pending": "busy-tentative", "booked": "busy", "cancelled": "free"}


class Store:
    """Resources by type and id."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Json]] = {model.get_resource_type(): {} for model in MODELS}

    def put(self, resource: Json) -> Json:
        """Keep it under its id, or a new one, as the next version."""
        of_type = self.kept[resource["resourceType"]]
        key = resource.get("id") or f"n{len(of_type) + 1}"
        before = of_type.get(key, {}).get("meta", {}).get("versionId", "0")
        of_type[key] = {**resource, "id": key, "meta": {"versionId": str(int(before) + 1)}}
        return of_type[key]

    def identified(self, kind: str, token: str) -> list[Json]:
        """Those with this identifier, `system|value`."""
        return [
            one
            for one in self.kept[kind].values()
            if token in [f"{item.get('system', '')}|{item.get('value', '')}" for item in one.get("identifier", ())]
        ]

    def occupy(self, appointment: Json) -> None:
        """Turn its Slots as its status says. Raises FHIRConflictError for one that another has."""
        slots = [self.kept["Slot"][item["reference"].rpartition("/")[2]] for item in appointment.get("slot", ())]
        if "id" not in appointment and any(slot["status"] != "free" for slot in slots):
            raise FHIRConflictError("the slot is not free")
        for slot in slots:
            self.put({**slot, "status": SLOT_STATUS[appointment["status"]]})


def fill(store: Store) -> None:
    """One doctor's morning tomorrow: three times, two seats each."""
    store.put({"resourceType": "HealthcareService", "id": "100", "active": True, "name": "内科"})
    store.put({"resourceType": "Practitioner", "id": "D1", "name": [{"text": "李明"}]})
    store.put(
        {
            "resourceType": "PractitionerRole", "id": "r1", "active": True, "code": [{"text": "主任医师"}],
            "practitioner": {"reference": "Practitioner/D1", "display": "李明"},
            "healthcareService": [{"reference": "HealthcareService/100"}],
        }
    )  # fmt: skip
    actors = [
        {"reference": "Practitioner/D1", "display": "李明"},
        {"reference": "HealthcareService/100", "display": "内科"},
    ]
    store.put({"resourceType": "Schedule", "id": "s1", "actor": actors})
    tomorrow = dt.datetime.now(ZONE).date() + dt.timedelta(days=1)
    for number in range(6):
        start = dt.datetime.combine(tomorrow, dt.time(8), ZONE) + dt.timedelta(minutes=30 * (number // 2))
        end = start + dt.timedelta(minutes=30)
        store.put(
            {
                "resourceType": "Slot", "id": f"t{number}", "schedule": {"reference": "Schedule/s1"}, "status": "free",
                "start": start.isoformat(), "end": end.isoformat(),
            }
        )  # fmt: skip


def plain(resource: Any) -> Json:
    """A model as JSON has it."""
    found: Json = json.loads(resource.model_dump_json())
    return found


class Server:
    """The handlers; `page` is the most entries of a Bundle."""

    def __init__(self, store: Store, *, conditional: bool, page: int) -> None:
        self.store = store
        self.conditional = conditional
        self.page = page
        self.provider = FHIRProvider()
        for model in MODELS:
            self._serve(model)

    def _serve(self, model: Any) -> None:
        kind, store = model.get_resource_type(), self.store

        @self.provider.read(model)  # type: ignore[untyped-decorator]
        async def read(context: InteractionContext, id_: str) -> Any:
            if id_ not in store.kept[kind]:
                raise FHIRResourceNotFoundError
            return model.model_validate(store.kept[kind][id_])

        @self.provider.create(model)  # type: ignore[untyped-decorator]
        async def create(context: InteractionContext, resource: Any) -> Any:
            condition = context.request.headers.get("if-none-exist")
            token = dict(parse_qsl(condition or "")).get("identifier", "")
            there = store.identified(kind, token) if condition and self.conditional else []
            if len(there) > 1:
                raise FHIRPreconditionFailedError("several fit")
            if there:
                return model.model_validate(there[0])
            body = plain(resource)
            if kind == "Appointment":
                store.occupy(body)
            made = store.put(body)
            # By its id alone it is answered 201 with a Location; with the resource it would be 200.
            return made["id"] if self.conditional else model.model_validate(made)

        @self.provider.update(model)  # type: ignore[untyped-decorator]
        async def update(context: InteractionContext, id_: str, resource: Any) -> Any:
            current = store.kept[kind].get(id_)
            if current is None:
                raise FHIRResourceNotFoundError
            wanted = context.request.headers.get("if-match")
            if wanted is not None and wanted != f'W/"{current["meta"]["versionId"]}"':
                raise FHIRPreconditionFailedError("another version is current")
            body = plain(resource)
            if kind == "Appointment":
                store.occupy(body)
            return model.model_validate(store.put(body))

        if kind in ("Slot", "Schedule"):
            search = self._slots if kind == "Slot" else self._schedules
        else:
            search = (self._identified if kind in ("Appointment", "Patient", "PaymentNotice") else self._all)(kind)
        self.provider.search_type(model)(search)

    def _all(self, kind: str) -> Any:
        async def search(context: InteractionContext) -> Bundle:
            return self._bundle(context, list(self.store.kept[kind].values()))

        return search

    def _identified(self, kind: str) -> Any:
        async def search(context: InteractionContext, identifier: str) -> Bundle:
            return self._bundle(context, self.store.identified(kind, identifier))

        return search

    async def _schedules(self, context: InteractionContext) -> Bundle:
        included = [*self.store.kept["Practitioner"].values(), *self.store.kept["HealthcareService"].values()]
        return self._bundle(context, list(self.store.kept["Schedule"].values()), included)

    async def _slots(self, context: InteractionContext, start: list[str], schedule: str, status: str) -> Bundle:
        found = []
        for slot in self.store.kept["Slot"].values():
            at = dt.datetime.fromisoformat(slot["start"])
            if schedule not in (None, slot["schedule"]["reference"]) or status not in (None, slot["status"]):
                continue
            if all(_fits(at, value) for value in start or ()):
                found.append(slot)
        return self._bundle(context, found)

    def _bundle(self, context: InteractionContext, found: list[Json], included: list[Json] | None = None) -> Bundle:
        request = context.request
        offset = int(request.query_params.get("_offset", "0"))
        entries = [{"resource": one, "search": {"mode": "match"}} for one in found[offset : offset + self.page]]
        entries += [{"resource": one, "search": {"mode": "include"}} for one in included or ()]
        links = [{"relation": "self", "url": str(request.url)}]
        if offset + self.page < len(found):
            links.append({"relation": "next", "url": str(request.url.include_query_params(_offset=offset + self.page))})
        return Bundle.model_validate(
            {"type": "searchset", "total": len(found), "link": links, **({"entry": entries} if entries else {})}
        )

    def declare(
        self, statement: MutableMapping[str, Any], request: Request, response: Response
    ) -> MutableMapping[str, Any]:
        """fhirstarter's statement, and that creates are conditional."""
        for resource in statement["rest"][0]["resource"] if self.conditional else ():
            resource["conditionalCreate"] = True
        return statement


def _fits(at: dt.datetime, value: str) -> bool:
    other = dt.datetime.fromisoformat(value.removeprefix("ge").removeprefix("lt"))
    return at >= other if value.startswith("ge") else at < other if value.startswith("lt") else at == other


def main() -> None:
    """Serve until killed; prints the port as one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--conditional", action="store_true")
    parser.add_argument("--page", type=int, default=4)
    options = parser.parse_args()
    store = Store()
    fill(store)
    server = Server(store, conditional=options.conditional, page=options.page)
    app = FHIRStarter()
    app.add_providers(server.provider)
    app.set_capability_statement_modifier(server.declare)

    @app.get("/-/store")  # type: ignore[untyped-decorator]
    async def kept() -> dict[str, dict[str, Json]]:
        """What it has, for the test."""
        return store.kept

    listening = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": listening.getsockname()[1]}), flush=True)  # noqa: T201 - what it is asked for
    asyncio.run(uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listening]))


if __name__ == "__main__":
    main()
