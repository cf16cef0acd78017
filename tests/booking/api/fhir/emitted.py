"""What every answer of the facade must be, whatever test has asked for it: valid by fhir.resources and by our own tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from fhir.resources.R4B import get_fhir_model_class

from tests.booking.api.fhir.conformance import problems_of

checked: dict[str, int] = {}
"""How many resources of each type have been checked."""


def check_emitted(status: int, headers: Mapping[str, str], body: bytes, *, has_body: bool = True) -> None:
    """Raises AssertionError, or what fhir.resources raises."""
    if not has_body or status in (204, 304):
        assert not body
        return
    if not body:
        return
    kind = headers["Content-Type"]
    if kind == "application/fhir+ndjson":
        resources = [msgspec.json.decode(line) for line in body.splitlines()]
    elif kind == "application/json":  # the manifest of $bulk-publish is no resource
        return
    else:
        assert kind == "application/fhir+json", kind
        resources = [msgspec.json.decode(body)]
    for resource in resources:
        check_resource(resource)
    if status >= 400:
        [told] = resources
        if told["resourceType"] == "Bundle":  # ITI-117, 2:3.117.4.2.2
            [told] = [entry["resource"] for entry in told["entry"]]
        assert told["resourceType"] == "OperationOutcome"


def check_resource(resource: dict[str, Any]) -> None:
    """The resource, and those that are in it."""
    kind = resource["resourceType"]
    get_fhir_model_class(kind).model_validate(resource)
    broken = problems_of(resource)
    assert not broken, (kind, broken)
    checked[kind] = checked.get(kind, 0) + 1
    for entry in resource.get("entry", ()) if kind == "Bundle" else ():
        check_resource(entry["resource"])
