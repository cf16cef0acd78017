"""The CapabilityStatement at `metadata`, made of the routes that answer and of the tables that search."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from booking.api.context import Context
from booking.api.fhir.outcomes import FHIR_JSON, FHIR_ROOT
from booking.api.fhir.search.tables import KINDS, Kind
from booking.api.fhir.serving import base_of, fhir_route
from booking.api.listing import Listing
from booking.api.problems import ApiProblem
from booking.api.routing import Call, Ready, RequestClass, Route

FHIR_VERSION = "4.0.1"
_IHE = "https://profiles.ihe.net/ITI/Scheduling/OperationDefinition"
DEFINITIONS = {
    "find": f"{_IHE}/appointment-find",
    "hold": f"{_IHE}/appointment-hold",
    "book": f"{_IHE}/appointment-book",
    "bulk-publish": "http://fhir-registry.smarthealthit.org/OperationDefinition/scheduling-links-bulk-publish",
}
"""Where each operation is defined: IHE ITI Scheduling 1.0.1 and SMART Scheduling Links."""
PROFILES = {"Appointment": ["https://profiles.ihe.net/ITI/Scheduling/StructureDefinition/ihe-sched-appt"]}
"""Profiles that every resource of a type is true to."""
_INTERACTIONS = {
    ("GET", "{id}"): "read",
    ("GET", "{id}/_history/{version}"): "vread",
    ("GET", ""): "search-type",
    ("POST", ""): "create",
    ("PUT", "{id}"): "update",
    ("PATCH", "{id}"): "patch",
    ("DELETE", "{id}"): "delete",
}


class Capability:
    """What these routes can do. `version` is the program's."""

    def __init__(self, context: Context, routes: Sequence[Route], version: str) -> None:
        self._context = context
        paths = [(route.method, route.path.removeprefix(f"{FHIR_ROOT}/")) for route in routes]
        self._paths = [(method, path) for method, path in paths if not path.startswith("hospitals/")]
        self._version = version
        self._date = dt.datetime.now(dt.UTC).date().isoformat()
        self._statement = lru_cache(maxsize=256)(self._state)

    async def metadata(self, call: Call[str, None]) -> Ready:
        """Public (http.html#capabilities). Of a hospital that does not exist there is none."""
        hospital_id = call.path.get("hospital_id")
        if hospital_id is not None and hospital_id not in self._context.hospitals:
            raise ApiProblem("hospital_unknown")
        return self._statement(base_of(call, self._context.public_url)).reply(call.request.headers)

    def _state(self, base: str) -> Listing:
        return Listing(msgspec.json.encode(self.statement(base)), FHIR_JSON)

    def statement(self, base: str) -> dict[str, Any]:
        """The resource, for one base."""
        rest: dict[str, Any] = {
            "mode": "server",
            "security": {
                "cors": False,
                "description": "Authorization: Bearer with an API key of the hospital's IT; scopes and rates as in /v1.",
            },
            "resource": [self._resource(kind) for kind in KINDS.values()],
        }
        system = self._operations("")
        return {
            "resourceType": "CapabilityStatement",
            "name": "HisbridgeFacade",
            "title": "hisbridge: booking at a hospital",
            "version": self._version,
            "status": "active",
            "date": self._date,
            "kind": "instance",
            "software": {"name": "hisbridge", "version": self._version},
            "implementation": {"description": "Slots, appointments and reports of one hospital", "url": base},
            "fhirVersion": FHIR_VERSION,
            "format": [FHIR_JSON, "json"],
            "rest": [{**rest, "operation": system} if system else rest],
        }

    def _resource(self, kind: Kind) -> dict[str, Any]:
        told: dict[str, Any] = {
            "type": kind.name,
            "interaction": [{"code": code} for code in self._interactions(kind.name)],
            "versioning": "versioned",
            "readHistory": False,  # vread is of the version that is there now
            "updateCreate": False,
            "conditionalCreate": False,
            "conditionalRead": "not-match",
            "referencePolicy": ["literal"],
        }
        if kind.name in PROFILES:
            told["supportedProfile"] = PROFILES[kind.name]
        if kind.sorts:
            told["documentation"] = f"`_sort`: {', '.join(kind.sorts)}; other orders are ignored."
        if kind.includes:
            told["searchInclude"] = sorted(kind.includes)
        # A chained parameter (`schedule.actor`) is none of its own (search.html#chaining).
        told["searchParam"] = [
            {"name": p.name, "type": p.type, "documentation": p.doc}
            for p in kind.parameters.values()
            if "." not in p.name
        ]
        operations = self._operations(kind.name)
        return {**told, "operation": operations} if operations else told

    def _interactions(self, kind: str) -> list[str]:
        found = [
            _INTERACTIONS.get((method, path.removeprefix(kind).removeprefix("/")))
            for method, path in self._paths
            if path.partition("/")[0] == kind
        ]
        return sorted({code for code in found if code is not None})

    def _operations(self, kind: str) -> list[dict[str, str]]:
        """The operations of a type, or ("") of the whole."""
        prefix = f"{kind}/$" if kind else "$"
        names = sorted({path.removeprefix(prefix) for _, path in self._paths if path.startswith(prefix)})
        return [{"name": name, "definition": DEFINITIONS[name]} for name in names if name in DEFINITIONS]


def capability_routes(context: Context, routes: Sequence[Route], version: str) -> list[Route]:
    """`metadata`, of these routes."""
    capability = Capability(context, routes, version)
    return fhir_route("GET", "metadata", capability.metadata, scopes=None, request_class=RequestClass.READ, tagged=True)
