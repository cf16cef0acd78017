"""What can be booked: hospitals, departments, practitioners, slots."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import msgspec
from msgspec import Meta

from booking.api.views.base import Query, View, check_years


class CampusView(View, frozen=True):
    """One site of a hospital."""

    id: str
    name: str
    address: str | None = None


class HospitalView(View, frozen=True):
    """A hospital. `capabilities` says for every verb whether it is native, pushed or off; `his_status` up, degraded, down.

    `waitlist`: a session that is sold out can be waited for (候补). `portal_refunds`: portals may give back what it has booked.
    """

    id: str
    name: str
    campuses: tuple[CampusView, ...]
    time_zone: str
    currency: str
    mode: str
    capabilities: dict[str, str]
    waitlist: bool
    portal_refunds: bool
    his_status: str


class HospitalList(View, frozen=True):
    """The hospitals that this key may use."""

    items: list[HospitalView]
    next: str | None = None


class DepartmentView(View, frozen=True):
    """A clinic."""

    id: str
    name: str
    parent_id: str | None = None
    campus: str | None = None


class DepartmentList(View, frozen=True):
    """Departments by id."""

    items: list[DepartmentView]
    next: str | None = None


class PractitionerQuery(Query, frozen=True):
    """Which practitioners."""

    department_id: str | None = None


class PractitionerView(View, frozen=True):
    """A doctor; `title` in the hospital's wording."""

    id: str
    name: str
    department_id: str | None = None
    title: str | None = None


class PractitionerList(View, frozen=True):
    """Practitioners by id."""

    items: list[PractitionerView]
    next: str | None = None


class SlotQuery(Query, frozen=True):
    """Which slots: days from `from` to `to`, both included (default: today and the hospital's horizon)."""

    from_: dt.date | None = msgspec.field(default=None, name="from")
    to: dt.date | None = None
    department_id: str | None = None
    practitioner_id: str | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 200
    cursor: str | None = None

    def __post_init__(self) -> None:
        check_years(self.from_, self.to)


class SlotView(View, frozen=True):
    """A bookable time segment. `status`: open, not_released, sold_out, stopped; `fee_fen` None: the hospital did not say."""

    id: str
    schedule_id: str
    department_id: str
    department_name: str | None
    practitioner_id: str | None
    practitioner_name: str | None
    starts_at: dt.datetime
    ends_at: dt.datetime
    session: str
    clinic_type: str | None
    fee_fen: int | None
    remaining: int
    status: str
    opens_at: dt.datetime | None


class SlotList(View, frozen=True):
    """Slots by start."""

    items: list[SlotView]
    next: str | None = None
