"""All routes of the facade. They are not in the OpenAPI document: the CapabilityStatement tells of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from booking.api.auth import ApiClient
from booking.api.context import Context
from booking.api.fhir.capability import capability_routes
from booking.api.fhir.operation_routes import operation_routes
from booking.api.fhir.patient_creates import patient_create_routes
from booking.api.fhir.reads import read_routes
from booking.api.fhir.searches import search_routes
from booking.api.routing import Route
from booking.feed import ChangeFeed


def fhir_routes(context: Context, *, version: str = "0") -> list[Route]:
    """The whole of `/fhir/R4`; `version` is the program's, for its CapabilityStatement."""
    feed = context.feed or ChangeFeed(context.store, context.hospitals)
    routes = [
        *search_routes(context),
        *read_routes(context),
        *operation_routes(context, feed),
        *patient_create_routes(context),
    ]
    return [*routes, *capability_routes(context, routes, version)]


def only_hospital(hospital_ids: Iterable[str]) -> Callable[[ApiClient], str | None]:
    """The hospital of a key that may use one of these only; None for any other key."""
    known = tuple(hospital_ids)
    remembered: dict[frozenset[str] | None, str | None] = {}

    def of(client: ApiClient) -> str | None:
        if client.hospitals not in remembered:
            if len(remembered) >= 1_000:
                remembered.clear()
            usable = [hospital_id for hospital_id in known if client.may_use(hospital_id)]
            remembered[client.hospitals] = usable[0] if len(usable) == 1 else None
        return remembered[client.hospitals]

    return of
