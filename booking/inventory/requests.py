"""What a portal asks for, what the store knows about it, and what it is told."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from booking.rules.facts import Past
from booking.rules.settings import NO_RULES, BookingRules
from monitoring.traces import Span


class HoldRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a portal asks for; `user_ref` None is the patient's own user. `fee_fen` is the price that the patient was shown,
    if the portal wants it checked.

    `key` is the Idempotency-Key of this API client, `digest` stands for the request that it is bound to. `span` is that of the
    request, where it is traced. `room_ms` and `rank` are what the waiting room's ticket says that came with it: the release, and
    the place. `offer` is the entry of the waitlist whose offer it accepts.
    """

    client_id: str
    user_ref: str | None
    slot_id: str
    patient_id: str
    key: str
    digest: str
    fee_fen: int | None = None
    span: Span | None = None
    room_ms: int = 0
    rank: int = -1
    offer: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """The success of a hold: the status and body of the response. `replayed`: it was given before, for the same key."""

    status: int
    body: bytes
    replayed: bool = False


class ScheduleFacts(msgspec.Struct):
    """A schedule as read under the hospital's lock. `taken` changes as a batch is decided."""

    id: str
    date: str
    department_id: str
    opens_at_ms: int | None
    stopped: bool
    fee_fen: int | None
    quota: int | None
    taken: int
    clinic_type: str | None = None
    waiting: int = 0  # people on its waitlist without an offer


class SlotFacts(msgspec.Struct):
    """A slot as read under the hospital's lock. `unreflected` and `sold` change as a batch is decided."""

    id: str
    schedule: ScheduleFacts
    starts_at_ms: int
    stopped: bool
    his_left: int
    unreflected: int
    sold: int = 0  # seats that this batch has taken


class PatientFacts(msgspec.Struct, frozen=True):
    """A patient of the asking client, and the person behind, merges followed."""

    person_id: str
    his_state: str
    reject_code: str | None = None
    user_ref: str = ""


class KeyFacts(msgspec.Struct, frozen=True):
    """What an Idempotency-Key was bound to."""

    digest: str
    status: int
    sealed_body: bytes


class LiveFacts(msgspec.Struct, frozen=True):
    """The live booking that a person has on a schedule."""

    booking_id: str
    client_id: str


class PassFacts(msgspec.Struct):
    """A person's place in the waiting room that is open. `holds` and `taken` change as a batch is decided.

    `holds` seats were held with it; `admitted_ms` None: it is not admitted. `taken`: whether this batch has held one.
    """

    rank: int
    holds: int
    admitted_ms: int | None
    taken: bool = False


class OfferFacts(msgspec.Struct):
    """An entry of the waitlist: `slot_id` is what it is offered, until `until_ms`. `state` changes as a batch is decided."""

    id: str
    client_id: str
    patient_id: str
    slot_id: str | None
    state: str
    until_ms: int | None
    version: int
    schedule_id: str


class Facts(msgspec.Struct):
    """Everything that a batch's decisions look at, read under the hospital's lock; earlier items of the batch change it.

    `patients` is keyed by (client, patient id), `keys` by (client, key), `live` by (person, schedule). `last_event` is the last
    number of an event, where the writer of the batch numbers its events itself. `old_keys`: requested ones that bind no more.
    `room_ms` is the release whose waiting room is open (0: none), and `passes` its places by person. `past` is there where the
    hospital's rules look at earlier bookings. `offers` are the entries of the waitlist that requests name.
    """

    now_ms: int
    seq: int
    slots: dict[str, SlotFacts]
    patients: dict[tuple[str, str], PatientFacts]
    keys: dict[tuple[str, str], KeyFacts]
    live: dict[tuple[str, str], LiveFacts]
    last_event: int | None = None
    old_keys: list[tuple[str, str]] = []
    room_ms: int = 0
    passes: dict[str, PassFacts] = {}
    past: Past | None = None
    offers: dict[str, OfferFacts] = {}

    @property
    def is_room_open(self) -> bool:
        """Whether holds need an admitted ticket: from the release on."""
        return 0 < self.room_ms <= self.now_ms


class RoomTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What an admitted ticket is good for: `holds` seats within `admitted_ms`. A room ends `lasts_ms` after its release."""

    hospital_id: str
    holds: int
    admitted_ms: int
    lasts_ms: int


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a hospital allows now. `offered`: it can hold seats at all. `closed_until_ms`: it takes no holds until then.

    `room` None: it has no waiting room. `zone` is that of its calendar, by which `rules` count.
    """

    mode: str
    offered: bool
    closed_until_ms: int | None = None
    room: RoomTerms | None = None
    rules: BookingRules = NO_RULES
    zone: dt.tzinfo = dt.UTC


class Granted(msgspec.Struct, frozen=True):
    """A seat was taken: `index` is the item's place in its batch. `offer`: it was set aside for this entry of the waitlist."""

    index: int
    slot: SlotFacts
    patient: PatientFacts
    fee_fen: int
    offer: OfferFacts | None = None


class Replayed(msgspec.Struct, frozen=True):
    """The key's first success again: one that is stored, or the earlier item `of` of the same batch."""

    stored: KeyFacts | None = None
    of: int | None = None


class Refused(msgspec.Struct, frozen=True):
    """A code of the API, its English detail, and facts that a portal can act on."""

    code: str
    detail: str
    extra: dict[str, Any] = {}


Decision = Granted | Replayed | Refused
