"""FHIR clients that nobody here wrote, each by its own means: fhirpy, fhirclient (models and all), and npm's fhir-kit-client."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Protocol

import fhirpy
import fhirpy.base.exceptions
import requests
from fhirclient.client import FHIRClient
from fhirclient.models import appointment, bundle, patient, slot
from fhirclient.models import parameters as parameters_model
from fhirclient.server import FHIRNotFoundException, FHIRPermissionDeniedException

from tests.connectors.node import Program

Resource = dict[str, Any]
_MODELS = {"Appointment": appointment.Appointment, "Patient": patient.Patient, "Slot": slot.Slot}


class Refused(Exception):
    """The server said no: the text of what it said."""


class Client(Protocol):
    """What each of them is made to do. Raises Refused."""

    async def operation(self, name: str, parameters: Resource) -> Resource: ...

    async def search(self, kind: str, query: dict[str, str]) -> list[Resource]: ...

    async def read(self, kind: str, fhir_id: str) -> Resource: ...

    async def create(self, resource: Resource) -> Resource: ...

    async def update(self, resource: Resource) -> Resource: ...

    async def close(self) -> None: ...


class Fhirpy:
    """fhirpy's asynchronous client."""

    def __init__(self, base: str, token: str) -> None:
        self._client: Any = fhirpy.AsyncFHIRClient(base, authorization=f"Bearer {token}")

    async def operation(self, name: str, parameters: Resource) -> Resource:
        try:
            return dict(await self._client.execute(f"Appointment/${name}", data=parameters))
        except fhirpy.base.exceptions.BaseFHIRError as error:
            raise Refused(str(error)) from None

    async def search(self, kind: str, query: dict[str, str]) -> list[Resource]:
        return [json.loads(json.dumps(r)) for r in await self._client.resources(kind).search(**query).fetch_all()]

    async def read(self, kind: str, fhir_id: str) -> Resource:
        try:
            return dict(await self._client.get(kind, fhir_id))
        except fhirpy.base.exceptions.BaseFHIRError as error:
            raise Refused(str(error)) from None

    async def create(self, resource: Resource) -> Resource:
        made = self._client.resource(resource["resourceType"], **resource)
        await made.save()
        return dict(made.serialize())

    async def update(self, resource: Resource) -> Resource:
        return await self.create(resource)  # it puts what has an id

    async def close(self) -> None:
        """It opens a session for each request."""


class SmartClient:
    """fhirclient of SMART, in threads. Its models refuse whatever R4 does not allow, in what they send and in what they get."""

    def __init__(self, base: str, token: str) -> None:
        self._client = FHIRClient(settings={"app_id": "tests", "api_base": base})
        self._client.server.session.headers["Authorization"] = f"Bearer {token}"

    async def operation(self, name: str, parameters: Resource) -> Resource:
        sent = parameters_model.Parameters(parameters).as_json()
        answer = await self._asked(self._client.server.post_json, f"Appointment/${name}", sent)
        return dict(bundle.Bundle(answer.json()).as_json())

    async def search(self, kind: str, query: dict[str, str]) -> list[Resource]:
        search = _MODELS[kind].where(query)
        found = await self._asked(lambda: list(search.perform_resources_iter(self._client.server)))
        return [one.as_json() for one in found]

    async def read(self, kind: str, fhir_id: str) -> Resource:
        return dict((await self._asked(_MODELS[kind].read, fhir_id, self._client.server)).as_json())

    async def create(self, resource: Resource) -> Resource:
        return dict(await self._asked(_MODELS[resource["resourceType"]](resource).create, self._client.server))

    async def update(self, resource: Resource) -> Resource:
        return dict(await self._asked(_MODELS[resource["resourceType"]](resource).update, self._client.server))

    async def close(self) -> None:
        await asyncio.to_thread(self._client.server.session.close)

    async def _asked(self, call: Any, *given: Any) -> Any:
        try:
            return await asyncio.to_thread(call, *given)
        except (requests.HTTPError, FHIRNotFoundException, FHIRPermissionDeniedException) as error:
            raise Refused("" if error.response is None else error.response.text) from None


class FhirKit:
    """fhir-kit-client, in a process of node's."""

    def __init__(self, program: Program, base: str, token: str) -> None:
        self._program = program
        program.call("connect", base=base, token=token)

    async def operation(self, name: str, parameters: Resource) -> Resource:
        return await self._told("operation", name=name, parameters=parameters)

    async def search(self, kind: str, query: dict[str, str]) -> list[Resource]:
        found: list[Resource] = []
        page = await self._told("search", kind=kind, query=query)
        while True:
            found += [e["resource"] for e in page.get("entry", ()) if e["search"]["mode"] == "match"]
            if not any(link["relation"] == "next" for link in page["link"]):
                return found
            page = await self._told("next", bundle=page)

    async def read(self, kind: str, fhir_id: str) -> Resource:
        return await self._told("read", kind=kind, id=fhir_id)

    async def create(self, resource: Resource) -> Resource:
        return await self._told("create", resource=resource)

    async def update(self, resource: Resource) -> Resource:
        return await self._told("update", resource=resource)

    async def close(self) -> None:
        await asyncio.to_thread(self._program.end)

    async def _told(self, op: str, **given: Any) -> Resource:
        said = await asyncio.to_thread(self._program.call, op, **given)
        if "resource" not in said:
            raise Refused(json.dumps(said))
        resource: Resource = said["resource"]
        return resource
