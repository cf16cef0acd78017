"""The operations of IHE ITI Scheduling as routes."""

from __future__ import annotations

from typing import Any

from booking.api.context import Context
from booking.api.fhir.finding import Finding
from booking.api.fhir.parameters import ParametersIn
from booking.api.fhir.scheduling import Scheduling
from booking.api.fhir.serving import FHIR_BODIES, fhir_route
from booking.api.routing import RequestClass, Route
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
    find, hold, book = ("Appointment/$find", "Appointment/$hold", "Appointment/$book")
    return [
        *fhir_route("GET", find, finding.asked, scopes=("booking",), request_class=RequestClass.READ),
        *fhir_route("POST", find, finding.posted, request_class=RequestClass.READ, **posted),
        *fhir_route("POST", hold, scheduling.hold, at_once=scheduling.hold_at_once, **takes),
        *fhir_route("POST", book, scheduling.book, at_once=scheduling.book_at_once, **takes),
    ]
