"""The settings of a hospital's booking rules: `[hospital.<id>.rules]` and the lists below it. Pure.

What stands elsewhere: openings, how many days ahead, and closed hours in `[hospital.<id>.release]` (`booking.release`), the usual
time to pay in `pay_window_s` of the hospital.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from booking.release import TIME_OF_DAY
from booking.rules.spans import SPAN, Within, most_days

Words = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...], Meta(max_length=1_000)]
Count = Annotated[int, Meta(ge=1, le=100_000)]
Span = Annotated[str, Meta(pattern=SPAN)]

SELLABLE_DAYS = 91  # a booking is made at most so long before its visit: `horizon_days`
LONGEST_DAYS = 800  # a block that is counted over two years is the longest


class Per(StrEnum):
    """Whose bookings a limit counts: those of the patient, wherever they were made; of the portal's user who acts (`user_ref`);
    of all patients with the same phone number.
    """

    PATIENT = "patient"
    USER = "user"
    PHONE = "phone"


class By(StrEnum):
    """By which day a booking is counted: that of the visit, or that on which it was made."""

    VISIT = "visit"
    BOOKING = "booking"


class Counts(StrEnum):
    """What a limit counts: bookings, or the different patients that they are for."""

    BOOKINGS = "bookings"
    PATIENTS = "patients"


class After(StrEnum):
    """What leads to a block: visits that were not kept, or bookings that the patient has cancelled."""

    NO_SHOWS = "no_shows"
    CANCELLATIONS = "cancellations"


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Limit(_Table, frozen=True, kw_only=True):
    """`[[...rules.limits]]`: at most `most` within one day or month. `in_department`: of the department that is asked for only.

    Counted are holds and bookings, visits that were kept or missed; not what was cancelled, stopped, refused or has expired.
    """

    per: Per
    within: Within
    most: Count
    by: By = By.VISIT
    counts: Counts = Counts.BOOKINGS
    in_department: bool = False


class Block(_Table, frozen=True, kw_only=True):
    """`[[...rules.blocks]]`: `count` of them `within` a span block the patient for `lasts` from the day of the last one."""

    after: After
    count: Count
    within: Span
    lasts: Span


class Where(_Table, frozen=True, kw_only=True):
    """Which clinics a rule is about: of these departments (the HIS's codes) and these clinic types; all where none is named."""

    departments: Words = ()
    clinic_types: Words = ()

    def fits(self, department_id: str, clinic_type: str | None) -> bool:
        """Whether it is about such a clinic."""
        if self.departments and department_id not in self.departments:
            return False
        return not self.clinic_types or clinic_type in self.clinic_types


class Eligibility(Where, frozen=True, kw_only=True):
    """`[[...rules.eligibility]]`: who may book at these clinics. Ages are full years on the day of the visit, both included."""

    sex: Annotated[str, Meta(pattern="^(male|female)$")] | None = None
    min_age: Annotated[int, Meta(ge=0, le=150)] | None = None
    max_age: Annotated[int, Meta(ge=0, le=150)] | None = None


class CancelCutoff(Where, frozen=True, kw_only=True):
    """`[[...rules.cancel_cutoffs]]`: until when patients may cancel at these clinics; the first that fits a clinic counts.

    Either `before_s` seconds before the visit begins, or until the time of day `at`, `days_before` the day of the visit.
    """

    before_s: Annotated[float, Meta(ge=0, le=2_678_400)] | None = None
    at: Annotated[str, Meta(pattern=TIME_OF_DAY)] | None = None
    days_before: Annotated[int, Meta(ge=0, le=90)] = 0


class PayWindow(Where, frozen=True, kw_only=True):
    """`[[...rules.pay_windows]]`: how long a seat at these clinics is kept for its money, from its lock on; the first that fits
    a clinic counts, and `pay_window_s` of the hospital where none does. The HIS's own lock time stays the bound of either.
    """

    within_s: Annotated[float, Meta(gt=0, le=86_400)]


class Of(StrEnum):
    """Of what a channel has a share: of each session, or of each of its time segments."""

    SCHEDULE = "schedule"
    SLOT = "slot"


class ChannelQuota(Where, frozen=True, kw_only=True):
    """`[[...rules.channel_quotas]]`: these API clients together hold at most `most` seats of one schedule or slot."""

    clients: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...], Meta(min_length=1, max_length=200)
    ]
    most: Annotated[int, Meta(ge=0, le=100_000)]
    of: Of = Of.SCHEDULE


class ReturnedSeats(_Table, frozen=True, kw_only=True):
    """`[...rules.returned_seats]`: a seat that comes back is sold again after a time between these two, drawn by chance."""

    least_s: Annotated[float, Meta(ge=0, le=86_400)]
    most_s: Annotated[float, Meta(ge=0, le=86_400)]


class WaitlistRule(_Table, frozen=True, kw_only=True):
    """`[...rules.waitlist]` (候补): who finds a session sold out may wait in line for a seat that comes back.

    It is offered for `accept_s` at most; the line is cleared at `cleared_at` on the evening before the visit. A patient waits in
    at most `per_patient` lines, and at most `most` people in one.
    """

    accept_s: Annotated[float, Meta(ge=60, le=604_800)] = 86_400.0
    cleared_at: Annotated[str, Meta(pattern=TIME_OF_DAY)] = "20:00"
    per_patient: Count = 3
    most: Annotated[int, Meta(ge=1, le=1_000)] = 200


class BookingRules(_Table, frozen=True, kw_only=True):
    """`[hospital.<id>.rules]`: rules that are not there cost nothing. `wait_after_cancel_s` after a patient has cancelled, they
    may book again.
    """

    wait_after_cancel_s: Annotated[float, Meta(ge=0, le=2_678_400)] = 0.0
    limits: Annotated[tuple[Limit, ...], Meta(max_length=50)] = ()
    blocks: Annotated[tuple[Block, ...], Meta(max_length=20)] = ()
    eligibility: Annotated[tuple[Eligibility, ...], Meta(max_length=500)] = ()
    cancel_cutoffs: Annotated[tuple[CancelCutoff, ...], Meta(max_length=500)] = ()
    pay_windows: Annotated[tuple[PayWindow, ...], Meta(max_length=500)] = ()
    channel_quotas: Annotated[tuple[ChannelQuota, ...], Meta(max_length=500)] = ()
    returned_seats: ReturnedSeats | None = None
    waitlist: WaitlistRule | None = None

    @property
    def is_used(self) -> bool:
        """Whether a hold is judged by any of them."""
        return self != NO_RULES


NO_RULES = BookingRules()


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules of a hospital need to know beside the slot and the patient: whose earlier bookings, of how many days, and
    who holds the seats of the schedules.
    """

    of_persons: bool
    of_users: bool
    of_phones: bool
    of_records: bool
    of_channels: bool
    days: int


def wanted_by(rules: BookingRules) -> Wanted | None:
    """What has to be read for these rules; None: nothing."""
    per = {limit.per for limit in rules.limits}
    of_phones = Per.PHONE in per
    wanted = Wanted(
        of_persons=Per.PATIENT in per or bool(rules.blocks) or rules.wait_after_cancel_s > 0,
        of_users=Per.USER in per,
        of_phones=of_phones,
        of_records=bool(rules.eligibility) or of_phones,
        of_channels=bool(rules.channel_quotas),
        # A visit of this month was booked up to SELLABLE_DAYS before it; a missed one up to as many before its block began.
        days=SELLABLE_DAYS + max([31, *(most_days(b.within) + most_days(b.lasts) for b in rules.blocks)]),
    )
    needed = (wanted.of_persons, wanted.of_users, wanted.of_records, wanted.of_channels)
    return wanted if any(needed) else None


def booking_rule_problems(rules: BookingRules) -> Iterator[tuple[tuple[str, ...], str]]:
    """What cannot be meant: (the setting's path below `rules`, what is expected)."""
    for n, limit in enumerate(rules.limits):
        if limit.counts == Counts.PATIENTS and limit.per == Per.PATIENT:
            yield ("limits", str(n), "counts"), "expected bookings: a patient is always one patient"
    for n, block in enumerate(rules.blocks):
        if most_days(block.within) + most_days(block.lasts) > LONGEST_DAYS:
            yield ("blocks", str(n), "lasts"), f"expected at most {LONGEST_DAYS} days together with within"
    back = rules.returned_seats
    if back is not None and back.least_s > back.most_s:
        yield ("returned_seats", "least_s"), f"expected at most most_s ({back.most_s:g})"
    for n, cutoff in enumerate(rules.cancel_cutoffs):
        if (cutoff.before_s is None) == (cutoff.at is None):
            yield ("cancel_cutoffs", str(n)), "expected before_s or at, one of the two"
        elif cutoff.before_s is not None and cutoff.days_before:
            yield ("cancel_cutoffs", str(n), "days_before"), "expected it together with at only"
    for n, who in enumerate(rules.eligibility):
        place = ("eligibility", str(n))
        if who.sex is None and who.min_age is None and who.max_age is None:
            yield place, "expected sex, min_age or max_age: as it is, it says nothing"
        elif who.min_age is not None and who.max_age is not None and who.min_age > who.max_age:
            yield (*place, "min_age"), f"expected at most max_age ({who.max_age}): nobody could book"
