"""Bookings: made, read, waited for, cancelled."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import msgspec
from msgspec import Meta

from booking.api.views.base import Body, Id, Query, Text, View
from booking.api.views.money import PaymentView, RefundView


class NewBooking(Body, frozen=True):
    """Hold a seat. `fee_fen` is the price that the patient saw: another one now is refused with `price_changed`.

    `waitlist_entry_id` accepts the offer of that entry of the waitlist: `slot_id` and `patient_id` are those of the entry.
    """

    user_ref: Text
    slot_id: Id
    patient_id: Id
    fee_fen: Annotated[int, Meta(ge=0)] | None = None
    # Unset is left out of what an Idempotency-Key is bound to: keys of an older program stay good.
    waitlist_entry_id: Id | msgspec.UnsetType = msgspec.UNSET


class VisitView(View, frozen=True):
    """Where and with whom a booking is now, after every move (改诊) and substitution (替诊)."""

    starts_at: dt.datetime
    ends_at: dt.datetime
    department_id: str
    department_name: str | None
    practitioner_id: str | None
    practitioner_name: str | None
    location: str | None


class BookingView(View, frozen=True):
    """A booking. `state` is what the patient may be told, `his_state` what the hospital has confirmed.

    `payable` says whether money makes sense now, until `pay_by`. `order_no` is what the hospital sees. `moved_at`: when the
    hospital last moved it, or gave it another practitioner. `visit` comes with `GET .../bookings/{booking_id}`.
    """

    id: str
    order_no: str
    version: int
    state: str
    his_state: str
    his_command: str
    his_command_status: str
    payment_state: str
    fee_fen: int
    payable: bool
    slot_id: str
    schedule_id: str
    patient_id: str
    user_ref: str
    created_at: dt.datetime
    updated_at: dt.datetime
    expires_at: dt.datetime | None = None
    pay_by: dt.datetime | None = None
    reason: str | None = None
    needs_attention: bool = False
    queue_no: str | None = None
    encounter_no: str | None = None
    check_in_place: str | None = None
    check_in_until: dt.datetime | None = None
    moved_at: dt.datetime | None = None
    visit: VisitView | None = None
    payments: list[PaymentView] = []
    refunds: list[RefundView] = []


class BookingQuery(Query, frozen=True):
    """Which bookings."""

    patient_id: str | None = None
    user_ref: str | None = None
    state: str | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: str | None = None


class BookingList(View, frozen=True):
    """Bookings, newest first, without payments and refunds."""

    items: list[BookingView]
    next: str | None = None


class WaitQuery(Query, frozen=True):
    """Wait up to `wait_s` seconds for a version above `since_version` (default: for the next change)."""

    wait_s: Annotated[float, Meta(ge=0, le=60)] = 0
    since_version: Annotated[int, Meta(ge=0)] | None = None


class Cancel(Body, frozen=True):
    """Why the patient cancels."""

    reason: Text
