"""The waiting room before a release, and places in it."""

from __future__ import annotations

from booking.api.views.base import Body, Id, Instant, Text, View


class WaitingRoomView(View, frozen=True):
    """A hospital's waiting room: `closed`, `gathering` (before `opens_at`: join, the order is drawn) or `open`.

    `opened_by` is `release` or `load`; `closed_because` is `calm`, `sold_out` or `over`, of the last one while it is closed.
    """

    state: str
    opens_at: Instant | None
    opened_by: str | None
    waiting: int
    closed_because: str | None
    poll_after_s: float


class JoinWaitingRoom(Body, frozen=True):
    """Who wants to wait."""

    user_ref: Text
    patient_id: Id


class WaitView(View, frozen=True):
    """As quick and as slow as people were let in of late. `to_s` null: of late nobody was."""

    from_s: int
    to_s: int | None


class TicketView(View, frozen=True):
    """A place in the waiting room: `gathering`, `waiting`, `admitted` (hold before `admitted_until`), `expired`, or `closed` (no
    ticket is needed any more; `closed_because` says why).

    `position` people stand before it; null before the release. `estimated_wait_s` is null while nothing is measured.
    """

    ticket: str
    patient_id: str
    state: str
    opens_at: Instant | None
    position: int | None
    estimated_wait_s: WaitView | None
    poll_after_s: float
    admitted_until: Instant | None
    closed_because: str | None
