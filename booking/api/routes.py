"""All routes of the booking API, the hot ones first."""

from __future__ import annotations

from booking.api.billing_routes import billing_routes
from booking.api.booking_routes import booking_routes
from booking.api.catalog_routes import catalog_routes
from booking.api.context import Context
from booking.api.event_routes import event_routes
from booking.api.money_routes import money_routes
from booking.api.patient_routes import patient_routes
from booking.api.refund_routes import refund_routes
from booking.api.report_routes import report_routes
from booking.api.routing import Route
from booking.api.waiting_routes import waiting_routes
from booking.api.waitlist_routes import waitlist_routes


def api_routes(context: Context) -> list[Route]:
    """The whole of `/v1`."""
    return [
        *catalog_routes(context),
        *booking_routes(context),
        *waiting_routes(context),
        *waitlist_routes(context),
        *patient_routes(context),
        *billing_routes(context),
        *refund_routes(context),
        *report_routes(context),
        *event_routes(context),
        *money_routes(context),
    ]
