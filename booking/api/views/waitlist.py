"""The waitlist (候补): joining, and what is offered."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from msgspec import Meta

from booking.api.views.base import Body, Id, Query, Text, View


class JoinWaitlist(Body, frozen=True):
    """Who wants to wait for a seat of which session (`schedule_id` of its slots). `user_ref`: the patient's own, unless given."""

    patient_id: Id
    schedule_id: Id
    user_ref: Text | None = None


class OfferView(View, frozen=True):
    """A seat that is set aside: to accept it, hold `slot_id` with `waitlist_entry_id` before `accept_by`."""

    slot_id: str
    accept_by: dt.datetime


class WaitlistEntryView(View, frozen=True):
    """A place in a session's line. `state`: waiting, offered, accepted, lapsed, cancelled or cleared.

    `position` while it waits: 1 is the next. `offer` while a seat is offered. `clears_at`: when the line is cleared. `booking_id`
    is what an accepted one has become. `reason`: why it was cleared (evening_before, schedule_stopped, schedule_moved,
    patient_unbound, already_waiting, not_offered), or waits again (seat_gone).
    """

    id: str
    version: int
    state: str
    patient_id: str
    user_ref: str
    schedule_id: str
    clears_at: dt.datetime
    created_at: dt.datetime
    updated_at: dt.datetime
    position: int | None = None
    offer: OfferView | None = None
    booking_id: str | None = None
    reason: str | None = None


class WaitlistQuery(Query, frozen=True):
    """Whose entries."""

    patient_id: Id
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: str | None = None


class WaitlistEntries(View, frozen=True):
    """Entries of a patient, the newest first."""

    items: list[WaitlistEntryView]
    next: str | None = None
