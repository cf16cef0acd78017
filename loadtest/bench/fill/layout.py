"""What a filled store contains: which days, departments, slots and people, all derived from a few numbers.

Nothing here touches a database. Every id follows from its number, so that the load knows what to ask for without looking.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple
from zoneinfo import ZoneInfo

ZONE = ZoneInfo("Asia/Shanghai")
SLOTS_A_DAY = 30  # of one department: three practitioners, ten segments each
SCHEDULES_A_DAY = 3
SLOTS_A_SCHEDULE = SLOTS_A_DAY // SCHEDULES_A_DAY
DAYS_AHEAD = 6
LEAST_DEPARTMENTS = 3  # one for the crowd, one that is sold out, the rest to be read
MOST_DEPARTMENTS = 180
LEAST_SLOTS = (DAYS_AHEAD + 2) * LEAST_DEPARTMENTS * SLOTS_A_DAY
DAY_MS = 24 * 3600 * 1000
_MASK = (1 << 64) - 1


def uuid7(ms: int, number: int) -> str:
    """A UUIDv7 (RFC 9562, 5.7) of an instant whose random part follows from `number`: unique for a number and an instant."""
    mixed, low = _mixed(number)
    text = f"{ms:012x}7{mixed & 0xFFF:03x}{(low & 0x3FFFFFFFFFFFFFFF) | 0x8000000000000000:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def derived_id(prefix: str, number: int) -> str:
    """`prefix` and 26 characters without order, like the product's digests: another for every number."""
    mixed, low = _mixed(number)
    return f"{prefix}{low:016x}{mixed & 0xFFFFFFFFFF:010x}"


def _mixed(number: int) -> tuple[int, int]:
    """Two words without order; each alone is another for every number (multiplication by odd numbers, xor-shift)."""
    mixed = (number * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03) & _MASK
    mixed ^= mixed >> 32
    return mixed, (mixed * 0xD6E8FEB86659FD93) & _MASK


def at_ms(day: dt.date, hour: int, minute: int = 0) -> int:
    """A local time of the hospital in milliseconds since the epoch."""
    return round(dt.datetime.combine(day, dt.time(hour, minute), ZONE).timestamp() * 1000)


class Visit(NamedTuple):
    """One booking that is in the store before anybody measures. `kind`: held, booked, fulfilled, no_show, expired."""

    number: int
    slot: int
    person: int
    kind: str
    created_ms: int

    @property
    def id(self) -> str:
        return uuid7(self.created_ms, self.number)

    @property
    def live(self) -> bool:
        return self.kind in ("held", "booked")

    @property
    def occupies(self) -> bool:
        """Everything but what was given back may hold a seat at the HIS."""
        return self.kind != "expired"

    @property
    def charged(self) -> bool:
        """The last fetch has shown the HIS's side of every booking but those that are still being made."""
        return self.kind == "held"

    @property
    def paid(self) -> bool:
        return self.kind in ("booked", "fulfilled", "no_show")


@dataclass(frozen=True)
class Layout:
    """A hospital of `slots` slots and `bookings` bookings, one in twenty of them live, as of `now_ms`.

    Slots are numbered by department-day (30 each), department-days from the last day ahead backwards. Tomorrow's first
    department is kept for the crowd, with more seats than it can take, its second is sold out. `crowd` patients are there to
    book; nobody of them has a booking in the crowd's department. Raises ValueError for fewer than `LEAST_SLOTS`.
    """

    slots: int
    bookings: int
    crowd: int
    now_ms: int
    hospital_id: str = "bench"
    client_id: str = "bench-portal"
    fee_fen: int = 5000
    department_days: int = field(init=False)
    departments: int = field(init=False)

    def __post_init__(self) -> None:
        if self.slots < LEAST_SLOTS:
            raise ValueError(f"at least {LEAST_SLOTS} slots, or there are not days enough")
        if self.bookings < 0 or self.crowd < 1:
            raise ValueError("bookings cannot be negative, and somebody must be there to book")
        days = -(-self.slots // SLOTS_A_DAY)
        object.__setattr__(self, "department_days", days)
        object.__setattr__(self, "departments", max(LEAST_DEPARTMENTS, min(MOST_DEPARTMENTS, days // 12)))

    @cached_property
    def today(self) -> dt.date:
        return dt.datetime.fromtimestamp(self.now_ms / 1000, ZONE).date()

    @property
    def live(self) -> int:
        """How many bookings are live: 50,000 of a million."""
        return self.bookings // 20

    @property
    def persons(self) -> int:
        return max(self.crowd, self.live, 1)

    # --- days and departments ------------------------------------------------------------------------------------

    def day(self, department_day: int) -> dt.date:
        return self.today + dt.timedelta(days=DAYS_AHEAD - department_day // self.departments)

    @cached_property
    def _mornings_ms(self) -> list[int]:
        """08:00 of each day, the last day ahead first."""
        return [at_ms(self.day(d), 8) for d in range(0, self.department_days, self.departments)]

    def department(self, department_day: int) -> int:
        return department_day % self.departments

    def department_id(self, department: int) -> str:
        return f"D{department:03d}"

    @property
    def crowd_day(self) -> int:
        """The department-day at which the crowd books: tomorrow's first."""
        return (DAYS_AHEAD - 1) * self.departments

    @property
    def sold_out_day(self) -> int:
        return self.crowd_day + 1

    def days_to_read(self, most: int) -> list[tuple[str, str]]:
        """Up to `most` ordinary department-days ahead, tomorrow's first: (department id, date)."""
        ahead = range(DAYS_AHEAD * self.departments - 1, -1, -1)
        found = [d for d in ahead if d not in (self.crowd_day, self.sold_out_day)][:most]
        return [(self.department_id(self.department(d)), self.day(d).isoformat()) for d in found]

    # --- slots and schedules -------------------------------------------------------------------------------------

    def slot_id(self, slot: int) -> str:
        return derived_id("sl_", slot)

    def schedule_id(self, schedule: int) -> str:
        return derived_id("sc_", schedule)

    def slots_of(self, department_day: int) -> range:
        return range(department_day * SLOTS_A_DAY, min(self.slots, (department_day + 1) * SLOTS_A_DAY))

    def starts_ms(self, slot: int) -> int:
        """08:00 and every quarter of an hour after."""
        morning_ms = self._mornings_ms[slot // SLOTS_A_DAY // self.departments]
        return morning_ms + slot % SLOTS_A_SCHEDULE * 15 * 60_000

    # --- people --------------------------------------------------------------------------------------------------

    def person_id(self, person: int) -> str:
        return self._person_ids[person]

    def patient_id(self, person: int) -> str:
        return self._patient_ids[person]

    @cached_property
    def _person_ids(self) -> list[str]:
        return [uuid7(self.now_ms - 400 * DAY_MS + n, n) for n in range(self.persons)]

    @cached_property
    def _patient_ids(self) -> list[str]:
        return [uuid7(self.now_ms - 399 * DAY_MS + n, n) for n in range(self.persons)]

    # --- bookings ------------------------------------------------------------------------------------------------

    def visits(self) -> Iterator[Visit]:
        """Every booking, the live ones last."""
        yield from self.history()
        yield from self.live_visits()

    def history(self) -> Iterator[Visit]:
        """Bookings of the days before today, oldest first.

        Every slot of the past has one if there are enough of them: slots that nobody booked are forgotten after a while.
        """
        past = range(self.slots - 1, (DAYS_AHEAD + 1) * self.departments * SLOTS_A_DAY - 1, -1)
        persons = self.persons
        for number in range(self.bookings - self.live):
            slot = past[number % len(past)]
            yield Visit(number, slot, number % persons, _ended(number), self.starts_ms(slot) - DAY_MS)

    def live_visits(self) -> Iterator[Visit]:
        """Bookings of the last 24 hours for the days ahead, one per person, none of them at the crowd's department-day."""
        ahead = self._ahead()
        for count in range(self.live):
            number, kind = self.bookings - self.live + count, "held" if count % 10 == 0 else "booked"
            created_ms = self.now_ms - DAY_MS + 60_000 + count * (DAY_MS - 120_000) // self.live
            yield Visit(number, ahead[count % len(ahead)], count, kind, created_ms)

    def _ahead(self) -> list[int]:
        days = range(DAYS_AHEAD * self.departments)
        return [s for d in days if d not in (self.crowd_day, self.sold_out_day) for s in self.slots_of(d)]


def _ended(number: int) -> str:
    """How a booking of the past ended."""
    return "no_show" if number % 20 == 7 else "expired" if number % 10 == 3 else "fulfilled"
