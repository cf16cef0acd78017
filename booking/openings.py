"""Where a new booking stands, by how its hospital holds seats."""

from __future__ import annotations

import msgspec

from booking.lifecycle import Axes, Command, CommandStatus, HisState, State
from booking.settings import Hospital, ReserveBy


class Standing(msgspec.Struct, frozen=True):
    """The axes of a hold that has just been granted, its instants, and the verb to be queued for it (None: none)."""

    axes: Axes
    lock_by_ms: int | None
    pay_by_ms: int | None
    expires_at_ms: int
    verb: str | None


_LOCK_VERBS = {ReserveBy.LOCK: "lock_slot", ReserveBy.BOOK: "book", ReserveBy.QUOTA: "register"}


def lock_verb(hospital: Hospital) -> str:
    """The verb by which this hospital gives us a seat; where the seats are ours, the one by which it is told."""
    return _LOCK_VERBS[hospital.reserve_by]


def first_standing(hospital: Hospital, now_ms: int, fee_fen: int, pay_window_ms: int) -> Standing:
    """A hold waits for the HIS's lock, unless the seats are ours (`quota`): then it can be paid at once.

    What costs nothing need not be paid: where the seats are ours it is registered at once.
    """
    if hospital.reserve_by != ReserveBy.QUOTA:
        lock_by_ms = now_ms + int(hospital.lock_wait_s * 1000)
        axes = Axes(State.HELD, HisState.NONE, Command.LOCK, CommandStatus.QUEUED)
        return Standing(axes, lock_by_ms, None, lock_by_ms, lock_verb(hospital))
    pay_by_ms = now_ms + pay_window_ms
    if fee_fen:
        axes = Axes(State.HELD, HisState.LOCKED, Command.NONE, CommandStatus.NONE)
        return Standing(axes, None, pay_by_ms, pay_by_ms, None)
    axes = Axes(State.HELD, HisState.LOCKED, Command.REGISTER, CommandStatus.QUEUED)
    return Standing(axes, None, pay_by_ms, pay_by_ms, lock_verb(hospital))
