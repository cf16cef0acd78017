"""The operations of IHE ITI Scheduling and of SMART Scheduling Links as routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from booking.api.context import Context
from booking.api.fhir.bulk_publish import BulkPublish
from booking.api.fhir.finding import Finding
from booking.api.fhir.outcomes import FHIR_ROOT
from booking.api.fhir.parameters import AppointmentIn, ParametersIn
from booking.api.fhir.scheduling import Scheduling
from booking.api.fhir.serving import FHIR_BODIES, OF_HOSPITAL, fhir_route
from booking.api.routing import Handler, RequestClass, Route
from booking.api.waiting import TICKET_FIELD
from booking.feed import ChangeFeed


def operation_routes(context: Context, feed: ChangeFeed) -> list[Route]:
    """`$find`, by GET as well because it changes nothing; `$hold` and `$book` by POST alone (R4 operations.html#executing)."""
    finding, scheduling = Finding(context, feed), Scheduling(context)
    posted: dict[str, Any] = {"request": ParametersIn, "accepts": FHIR_BODIES, "scopes": ("booking",)}
    takes: dict[str, Any] = {
        **posted,
        "request_class": RequestClass.HOLD,
        "heeds_wait": True,
        "headers": {TICKET_FIELD: "The patient's ticket, while the hospital's waiting room is open."},
    }
    bulk = BulkPublish(context, feed)
    find, hold, book = ("Appointment/$find", "Appointment/$hold", "Appointment/$book")
    return [
        *fhir_route("GET", find, finding.asked, scopes=("booking",), request_class=RequestClass.READ),
        *fhir_route("POST", find, finding.posted, request_class=RequestClass.READ, **posted),
        *fhir_route("POST", hold, scheduling.hold, at_once=scheduling.hold_at_once, **takes),
        *fhir_route("POST", book, scheduling.book, at_once=scheduling.book_at_once, **takes),
        *fhir_route(
            "PUT",
            "Appointment/{id}",
            scheduling.update,
            request=AppointmentIn,
            accepts=FHIR_BODIES,
            scopes=("booking",),
            request_class=RequestClass.STEP,
        ),
        *_published("$bulk-publish", bulk.manifest, bulk.is_public),
        *_published("$bulk-publish/{file}", bulk.file, bulk.is_public),
    ]


def _published(path: str, handler: Handler, is_public: Callable[[str], bool]) -> list[Route]:
    """Static files: whatever format is asked for, they are what they are (SMART Scheduling Links, `Accept` Headers)."""
    options: dict[str, Any] = {
        "tag": "fhir",
        "summary": path,
        "name": path,
        "query": str,
        "scopes": ("booking",),
        "request_class": RequestClass.BULK,
        "tagged": True,
    }
    return [
        Route("GET", f"{OF_HOSPITAL}/{path}", handler, public=is_public, **options),
        Route("GET", f"{FHIR_ROOT}/{path}", handler, hospital_of_key=True, **options),
    ]
