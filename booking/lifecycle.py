"""The life of a booking: three axes, one table of what may happen, one list of what must never be.

`state` is what the patient is told, `his_state` the HIS's last confirmed fact, `his_command` what is under way there.
A rule reads: at EVENT, a booking in one of STATES whose HIS side is in HIS_STATES and whose command matches COMMANDS moves to
(state, his_state, command), and these EFFECTS happen in the same transaction. What is in no rule is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec


class State(StrEnum):
    HELD = "held"
    BOOKED = "booked"
    CHECKED_IN = "checked_in"
    FULFILLED = "fulfilled"
    NO_SHOW = "no_show"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REJECTED = "rejected"
    STOPPED = "stopped"


class HisState(StrEnum):
    NONE = "none"
    LOCKED = "locked"
    REGISTERED = "registered"
    RELEASED = "released"
    REJECTED = "rejected"


class Command(StrEnum):
    NONE = "none"
    LOCK = "lock"
    REGISTER = "register"
    UNLOCK = "unlock"
    CANCEL = "cancel"


class CommandStatus(StrEnum):
    NONE = "none"
    QUEUED = "queued"
    SENT = "sent"
    UNKNOWN = "unknown"


class Event(StrEnum):
    """What can happen to a booking."""

    LOCK_ACCEPTED = "lock_accepted"
    LOCK_REJECTED = "lock_rejected"
    REGISTER_ACCEPTED = "register_accepted"
    REGISTER_REJECTED = "register_rejected"
    RELEASE_ACCEPTED = "release_accepted"
    RELEASE_REJECTED = "release_rejected"
    MONEY_USABLE = "money_usable"
    LATE_MONEY_USABLE = "late_money_usable"
    CANCEL_REQUESTED = "cancel_requested"
    EXPIRED = "expired"
    STOPPED = "stopped"
    STOPPED_AND_RELEASED = "stopped_and_released"
    HIS_RELEASED = "his_released"
    HIS_REGISTERED = "his_registered"
    HIS_CHECKED_IN = "his_checked_in"
    HIS_FULFILLED = "his_fulfilled"
    HIS_NO_SHOW = "his_no_show"
    MISSED = "missed"  # by the hospital's rule: its day is long over, and nobody has told of an arrival
    HIS_LOCKED_LATE = "his_locked_late"
    HIS_REGISTERED_LATE = "his_registered_late"


class Effect(StrEnum):
    """What a move does besides changing the axes; carried out by `booking.moves` in the same transaction."""

    START_PAY_WINDOW = "start_pay_window"  # pay_by from the lock's own time
    REGISTER_IF_PAID = "register_if_paid"  # money waits, or none is due: queue the registration
    TAKE_SEAT = "take_seat"  # a seat anew, and a key that the HIS has not seen yet
    QUEUE_LOCK = "queue_lock"
    QUEUE_REGISTER = "queue_register"
    QUEUE_UNLOCK = "queue_unlock"
    QUEUE_CANCEL = "queue_cancel"
    DROP_COMMAND = "drop_command"  # delete the queued command: it never left
    SEAT_UNSENT = "seat_unsent"  # the seat was never asked for: uncharge it
    SEAT_REFUSED = "seat_refused"  # the HIS refused it
    SEAT_RELEASED = "seat_released"  # the HIS gave it back
    REFUND_IF_PAID = "refund_if_paid"
    SETTLE = "settle"  # the kept payment is booked at the HIS
    NEEDS_ATTENTION = "needs_attention"  # a person must look


class Axes(msgspec.Struct, frozen=True):
    """Where a booking stands."""

    state: State
    his_state: HisState
    command: Command
    status: CommandStatus = CommandStatus.NONE


class Move(msgspec.Struct, frozen=True):
    """Where it goes, and what happens with it."""

    to: Axes
    effects: tuple[Effect, ...]


class IllegalMove(Exception):
    """This event is not foreseen where the booking stands."""

    def __init__(self, event: Event, axes: Axes) -> None:
        super().__init__(f"{event} is not foreseen at {axes.state}/{axes.his_state}/{axes.command}:{axes.status}")
        self.event = event
        self.axes = axes


S, H, C, E, F = State, HisState, Command, Event, Effect
_QUEUED = (CommandStatus.QUEUED,)
_FLYING = (CommandStatus.SENT, CommandStatus.UNKNOWN)
_ANY = (*_QUEUED, *_FLYING)
_SAME = "="

# The command column names a command with the statuses it may have; `None` is no command under way.
_Rule = tuple[
    Event,
    tuple[State, ...],
    tuple[HisState, ...],
    tuple[Command, tuple[CommandStatus, ...]] | None,
    tuple[str, str, str],
    tuple[Effect, ...],
]

_OVER = (S.CANCELLING, S.EXPIRED, S.STOPPED)
_ENDED = (S.CANCELLED, S.EXPIRED, S.STOPPED, S.REJECTED)

RULES: tuple[_Rule, ...] = (
    # The lock's outcome. A hold that ended while its lock was under way gives the seat back.
    (E.LOCK_ACCEPTED, (S.HELD,), (H.NONE,), (C.LOCK, _ANY), (_SAME, H.LOCKED, C.NONE), (F.START_PAY_WINDOW, F.REGISTER_IF_PAID)),
    (E.LOCK_ACCEPTED, _OVER, (H.NONE,), (C.LOCK, _ANY), (_SAME, H.LOCKED, C.UNLOCK), (F.QUEUE_UNLOCK,)),
    (E.LOCK_REJECTED, (S.HELD,), (H.NONE,), (C.LOCK, _ANY), (S.REJECTED, H.REJECTED, C.NONE), (F.SEAT_REFUSED, F.REFUND_IF_PAID)),
    (E.LOCK_REJECTED, (S.CANCELLING,), (H.NONE,), (C.LOCK, _ANY), (S.CANCELLED, H.REJECTED, C.NONE),
     (F.SEAT_REFUSED, F.REFUND_IF_PAID)),
    (E.LOCK_REJECTED, (S.EXPIRED, S.STOPPED), (H.NONE,), (C.LOCK, _ANY), (_SAME, H.REJECTED, C.NONE),
     (F.SEAT_REFUSED, F.REFUND_IF_PAID)),
    # Money. It is always recorded; it moves the booking only where a registration can follow.
    (E.MONEY_USABLE, (S.HELD,), (H.LOCKED,), None, (_SAME, _SAME, C.REGISTER), (F.QUEUE_REGISTER,)),
    (E.MONEY_USABLE, (S.HELD,), (H.NONE,), (C.LOCK, _ANY), (_SAME, _SAME, _SAME), ()),
    # Money after expiry, where all rules allow it (`booking.late_money`): a lock that is still ours is used, else a seat anew.
    (E.LATE_MONEY_USABLE, (S.EXPIRED,), (H.NONE,), (C.LOCK, _ANY), (S.HELD, _SAME, _SAME), ()),
    (E.LATE_MONEY_USABLE, (S.EXPIRED,), (H.LOCKED,), (C.UNLOCK, _QUEUED), (S.HELD, _SAME, C.REGISTER),
     (F.DROP_COMMAND, F.QUEUE_REGISTER)),
    (E.LATE_MONEY_USABLE, (S.EXPIRED,), (H.NONE, H.RELEASED), None, (S.HELD, H.NONE, C.LOCK), (F.TAKE_SEAT, F.QUEUE_LOCK)),
    # The registration's outcome. A refusal leaves a lock behind, which must go.
    (E.REGISTER_ACCEPTED, (S.HELD,), (H.LOCKED,), (C.REGISTER, _ANY), (S.BOOKED, H.REGISTERED, C.NONE), (F.SETTLE,)),
    (E.REGISTER_ACCEPTED, (S.CANCELLING, S.STOPPED), (H.LOCKED,), (C.REGISTER, _ANY), (_SAME, H.REGISTERED, C.CANCEL),
     (F.SETTLE, F.QUEUE_CANCEL)),
    (E.REGISTER_REJECTED, (S.HELD,), (H.LOCKED,), (C.REGISTER, _ANY), (S.REJECTED, _SAME, C.UNLOCK),
     (F.QUEUE_UNLOCK, F.REFUND_IF_PAID)),
    (E.REGISTER_REJECTED, (S.CANCELLING, S.STOPPED), (H.LOCKED,), (C.REGISTER, _ANY), (_SAME, _SAME, C.UNLOCK),
     (F.QUEUE_UNLOCK, F.REFUND_IF_PAID)),
    # The patient cancels. What never left is simply dropped; what is under way is waited for.
    (E.CANCEL_REQUESTED, (S.HELD,), (H.NONE,), (C.LOCK, _QUEUED), (S.CANCELLED, _SAME, C.NONE),
     (F.DROP_COMMAND, F.SEAT_UNSENT, F.REFUND_IF_PAID)),
    (E.CANCEL_REQUESTED, (S.HELD,), (H.NONE,), (C.LOCK, _FLYING), (S.CANCELLING, _SAME, _SAME), ()),
    (E.CANCEL_REQUESTED, (S.HELD,), (H.LOCKED,), None, (S.CANCELLING, _SAME, C.UNLOCK), (F.QUEUE_UNLOCK,)),
    (E.CANCEL_REQUESTED, (S.HELD,), (H.LOCKED,), (C.REGISTER, _QUEUED), (S.CANCELLING, _SAME, C.UNLOCK),
     (F.DROP_COMMAND, F.QUEUE_UNLOCK)),
    (E.CANCEL_REQUESTED, (S.HELD,), (H.LOCKED,), (C.REGISTER, _FLYING), (S.CANCELLING, _SAME, _SAME), ()),
    (E.CANCEL_REQUESTED, (S.BOOKED,), (H.REGISTERED,), None, (S.CANCELLING, _SAME, C.CANCEL), (F.QUEUE_CANCEL,)),
    # Release. Money falls due only now, when the HIS has confirmed it. A refused cancel goes back to booked.
    (E.RELEASE_ACCEPTED, (S.CANCELLING,), (H.LOCKED,), (C.UNLOCK, _ANY), (S.CANCELLED, H.RELEASED, C.NONE),
     (F.SEAT_RELEASED, F.REFUND_IF_PAID)),
    (E.RELEASE_ACCEPTED, (S.CANCELLING,), (H.REGISTERED,), (C.CANCEL, _ANY), (S.CANCELLED, H.RELEASED, C.NONE),
     (F.SEAT_RELEASED, F.REFUND_IF_PAID)),
    (E.RELEASE_ACCEPTED, _ENDED, (H.LOCKED,), (C.UNLOCK, _ANY), (_SAME, H.RELEASED, C.NONE),
     (F.SEAT_RELEASED, F.REFUND_IF_PAID)),
    (E.RELEASE_ACCEPTED, _ENDED, (H.REGISTERED,), (C.CANCEL, _ANY), (_SAME, H.RELEASED, C.NONE),
     (F.SEAT_RELEASED, F.REFUND_IF_PAID)),
    (E.RELEASE_REJECTED, (S.CANCELLING,), (H.REGISTERED,), (C.CANCEL, _ANY), (S.BOOKED, _SAME, C.NONE), ()),
    (E.RELEASE_REJECTED, _ENDED, (H.REGISTERED,), (C.CANCEL, _ANY), (_SAME, _SAME, C.NONE), (F.NEEDS_ATTENTION,)),
    (E.RELEASE_REJECTED, (S.CANCELLING,), (H.LOCKED,), (C.UNLOCK, _ANY), (S.CANCELLED, _SAME, C.NONE),
     (F.NEEDS_ATTENTION, F.REFUND_IF_PAID)),
    (E.RELEASE_REJECTED, _ENDED, (H.LOCKED,), (C.UNLOCK, _ANY), (_SAME, _SAME, C.NONE), (F.NEEDS_ATTENTION,)),
    # Nobody paid in time, or the lock took too long.
    (E.EXPIRED, (S.HELD,), (H.NONE,), (C.LOCK, _QUEUED), (S.EXPIRED, _SAME, C.NONE), (F.DROP_COMMAND, F.SEAT_UNSENT)),
    (E.EXPIRED, (S.HELD,), (H.NONE,), (C.LOCK, _FLYING), (S.EXPIRED, _SAME, _SAME), ()),
    (E.EXPIRED, (S.HELD,), (H.LOCKED,), None, (S.EXPIRED, _SAME, C.UNLOCK), (F.QUEUE_UNLOCK,)),
    # 停诊, where we must still cancel at the HIS.
    (E.STOPPED, (S.HELD, S.CANCELLING), (H.NONE,), (C.LOCK, _QUEUED), (S.STOPPED, _SAME, C.NONE),
     (F.DROP_COMMAND, F.SEAT_UNSENT, F.REFUND_IF_PAID)),
    (E.STOPPED, (S.HELD, S.CANCELLING), (H.NONE,), (C.LOCK, _FLYING), (S.STOPPED, _SAME, _SAME), (F.REFUND_IF_PAID,)),
    (E.STOPPED, (S.HELD,), (H.LOCKED,), None, (S.STOPPED, _SAME, C.UNLOCK), (F.QUEUE_UNLOCK, F.REFUND_IF_PAID)),
    (E.STOPPED, (S.HELD, S.CANCELLING), (H.LOCKED,), (C.REGISTER, _QUEUED), (S.STOPPED, _SAME, C.UNLOCK),
     (F.DROP_COMMAND, F.QUEUE_UNLOCK, F.REFUND_IF_PAID)),
    (E.STOPPED, (S.HELD, S.CANCELLING), (H.LOCKED,), (C.REGISTER, _FLYING), (S.STOPPED, _SAME, _SAME), (F.REFUND_IF_PAID,)),
    (E.STOPPED, (S.BOOKED, S.CHECKED_IN), (H.REGISTERED,), None, (S.STOPPED, _SAME, C.CANCEL),
     (F.QUEUE_CANCEL, F.REFUND_IF_PAID)),
    (E.STOPPED, (S.CANCELLING,), (H.LOCKED,), (C.UNLOCK, _ANY), (S.STOPPED, _SAME, _SAME), (F.REFUND_IF_PAID,)),
    (E.STOPPED, (S.CANCELLING,), (H.REGISTERED,), (C.CANCEL, _ANY), (S.STOPPED, _SAME, _SAME), (F.REFUND_IF_PAID,)),
    # 停诊, where the HIS has cancelled the orders itself. What is under way is still waited for.
    (E.STOPPED_AND_RELEASED, (S.HELD, S.CANCELLING), (H.NONE,), (C.LOCK, _QUEUED), (S.STOPPED, _SAME, C.NONE),
     (F.DROP_COMMAND, F.SEAT_UNSENT, F.REFUND_IF_PAID)),
    (E.STOPPED_AND_RELEASED, (S.HELD, S.CANCELLING), (H.NONE,), (C.LOCK, _FLYING), (S.STOPPED, _SAME, _SAME),
     (F.REFUND_IF_PAID,)),
    (E.STOPPED_AND_RELEASED, (S.HELD,), (H.LOCKED,), None, (S.STOPPED, H.RELEASED, C.NONE),
     (F.SEAT_RELEASED, F.REFUND_IF_PAID)),
    (E.STOPPED_AND_RELEASED, (S.HELD, S.CANCELLING), (H.LOCKED,), (C.REGISTER, _QUEUED), (S.STOPPED, H.RELEASED, C.NONE),
     (F.DROP_COMMAND, F.SEAT_RELEASED, F.REFUND_IF_PAID)),
    (E.STOPPED_AND_RELEASED, (S.HELD, S.CANCELLING), (H.LOCKED,), (C.REGISTER, _FLYING), (S.STOPPED, _SAME, _SAME),
     (F.REFUND_IF_PAID,)),
    (E.STOPPED_AND_RELEASED, (S.BOOKED, S.CHECKED_IN), (H.REGISTERED,), None, (S.STOPPED, H.RELEASED, C.NONE),
     (F.SEAT_RELEASED, F.REFUND_IF_PAID)),
    (E.STOPPED_AND_RELEASED, (S.CANCELLING,), (H.LOCKED,), (C.UNLOCK, _ANY), (S.STOPPED, _SAME, _SAME), (F.REFUND_IF_PAID,)),
    (E.STOPPED_AND_RELEASED, (S.CANCELLING,), (H.REGISTERED,), (C.CANCEL, _ANY), (S.STOPPED, _SAME, _SAME),
     (F.REFUND_IF_PAID,)),
    # News from the HIS about a booking that has nothing under way.
    (E.HIS_RELEASED, (S.HELD, S.BOOKED), (H.LOCKED, H.REGISTERED), None, (S.CANCELLED, H.RELEASED, C.NONE),
     (F.SEAT_RELEASED, F.REFUND_IF_PAID)),
    (E.HIS_RELEASED, (S.CANCELLED, S.EXPIRED, S.STOPPED, S.REJECTED), (H.LOCKED, H.REGISTERED), None,
     (_SAME, H.RELEASED, C.NONE), (F.SEAT_RELEASED,)),
    (E.HIS_REGISTERED, (S.HELD,), (H.LOCKED,), None, (S.BOOKED, H.REGISTERED, C.NONE), (F.SETTLE,)),
    (E.HIS_CHECKED_IN, (S.BOOKED,), (H.REGISTERED,), None, (S.CHECKED_IN, _SAME, _SAME), ()),
    # Checked in without our money: it was paid at the window.
    (E.HIS_CHECKED_IN, (S.HELD,), (H.LOCKED,), None, (S.CHECKED_IN, H.REGISTERED, C.NONE), (F.SETTLE,)),
    (E.HIS_FULFILLED, (S.HELD,), (H.LOCKED,), None, (S.FULFILLED, H.REGISTERED, C.NONE), (F.SETTLE,)),
    # A command that we gave up was carried out after all: give back what it holds.
    (E.HIS_LOCKED_LATE, _ENDED, (H.NONE, H.REJECTED), None, (_SAME, H.LOCKED, C.UNLOCK), (F.QUEUE_UNLOCK,)),
    (E.HIS_REGISTERED_LATE, _ENDED, (H.NONE, H.REJECTED, H.LOCKED), None, (_SAME, H.REGISTERED, C.CANCEL), (F.QUEUE_CANCEL,)),
    (E.HIS_FULFILLED, (S.BOOKED, S.CHECKED_IN), (H.REGISTERED,), None, (S.FULFILLED, _SAME, _SAME), ()),
    (E.HIS_NO_SHOW, (S.BOOKED, S.CHECKED_IN), (H.REGISTERED,), None, (S.NO_SHOW, _SAME, _SAME), ()),
    (E.MISSED, (S.BOOKED,), (H.REGISTERED,), None, (S.NO_SHOW, _SAME, _SAME), ()),
    # Who was given up has come after all: late, or was seen and entered afterwards.
    (E.HIS_CHECKED_IN, (S.NO_SHOW,), (H.REGISTERED,), None, (S.CHECKED_IN, _SAME, _SAME), ()),
    (E.HIS_FULFILLED, (S.NO_SHOW,), (H.REGISTERED,), None, (S.FULFILLED, _SAME, _SAME), ()),
)  # fmt: skip


def _expand(rules: Iterable[_Rule]) -> dict[tuple[Event, Axes], Move]:
    table: dict[tuple[Event, Axes], Move] = {}
    for event, states, his_states, command, (to_state, to_his, to_command), effects in rules:
        kind, statuses = command or (Command.NONE, (CommandStatus.NONE,))
        for state in states:
            for his_state in his_states:
                for status in statuses:
                    at = Axes(state, his_state, kind, status)
                    new_kind = kind if to_command == _SAME else Command(to_command)
                    new_status = (
                        status
                        if to_command == _SAME
                        else CommandStatus.NONE
                        if new_kind == Command.NONE
                        else CommandStatus.QUEUED
                    )
                    to = Axes(
                        state if to_state == _SAME else State(to_state),
                        his_state if to_his == _SAME else HisState(to_his),
                        new_kind,
                        new_status,
                    )
                    if (event, at) in table:
                        raise AssertionError(f"two rules for {event} at {at}")
                    table[event, at] = Move(to, effects)
    return table


TABLE = _expand(RULES)


def move(event: Event, axes: Axes) -> Move:
    """The move for an event. Raises IllegalMove."""
    found = TABLE.get((event, axes))
    if found is None:
        raise IllegalMove(event, axes)
    return found


LIVE_STATES = frozenset({State.HELD, State.BOOKED, State.CHECKED_IN, State.CANCELLING})


def occupies(axes: Axes) -> bool:
    """Whether the booking may hold a seat at the HIS, whatever the patient is told (DESIGN section 4, Seats)."""
    return axes.his_state in (HisState.LOCKED, HisState.REGISTERED) or axes.command != Command.NONE


# Where a command may be under way, and what the HIS's last word must be then.
COMMAND_NEEDS = {
    Command.LOCK: HisState.NONE,
    Command.REGISTER: HisState.LOCKED,
    Command.UNLOCK: HisState.LOCKED,
    Command.CANCEL: HisState.REGISTERED,
}
COMMAND_STATES = {
    Command.LOCK: (State.HELD, State.CANCELLING, State.EXPIRED, State.STOPPED),
    Command.REGISTER: (State.HELD, State.CANCELLING, State.STOPPED),
    Command.UNLOCK: (State.CANCELLING, *_ENDED),
    Command.CANCEL: (State.CANCELLING, *_ENDED),
}
VISIT_STATES = (State.BOOKED, State.CHECKED_IN, State.FULFILLED, State.NO_SHOW)


def must_not_be(axes: Axes, payment_state: str) -> list[str]:
    """The names of the rules that this combination breaks; [] when it may exist. The store's CHECKs have the same names."""
    state, his_state, command = axes.state, axes.his_state, axes.command
    rules = {
        "booked_is_registered": state not in VISIT_STATES or his_state == HisState.REGISTERED,
        "nothing_due_when_over": state not in (State.EXPIRED, State.REJECTED) or payment_state != "due",
        "no_expiry_with_money": state != State.EXPIRED or payment_state not in ("paid", "paid_at_window"),
        "command_status": (command == Command.NONE) == (axes.status == CommandStatus.NONE),
        "command_needs": command == Command.NONE or COMMAND_NEEDS[command] == his_state,
        "command_state": command == Command.NONE or state in COMMAND_STATES[command],
        "held_waits_or_locked": state != State.HELD or his_state == HisState.LOCKED or command == Command.LOCK,
        "cancelling_waits": state != State.CANCELLING or command != Command.NONE,
        "rejected_was_asked": state != State.REJECTED or his_state != HisState.NONE,
        "registered_owes_nothing": his_state != HisState.REGISTERED or payment_state != "due",
    }
    return [name for name, holds in rules.items() if not holds]
