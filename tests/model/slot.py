"""One slot, its HIS, the wire between them and what the store believes: every next step that the world may take.

Times are kept as ages in ticks of one millisecond, and only as far as they can still matter: how long ago a lock's reply came
(a fetch that begins now compares it), and on which side of a fetch's end an unlock left. A tick may happen at any moment or
not at all, so events share a millisecond as often as they can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from booking.seats import Seats
from tests.model.rules import Rule

NONE, LOCKED, GONE = "-", "L", "G"
"""What the HIS has under a booking's key: nothing, a lock, a lock that has ended."""


class What(StrEnum):
    """What can happen; of those about a booking, a step says which one."""

    TICK = "a millisecond passes"
    FETCH_BEGINS = "a fetch begins"
    FETCH_COUNTED = "the HIS counts"
    FETCH_ENDS = "the fetch ends"
    FETCH_APPLIED = "the fetch is applied"
    SALE = "the window sells a seat"
    HELD = "a seat is held"
    DROPPED = "a hold ends before its lock is sent"
    LOCK_SENT = "a lock is sent"
    ENDED_IN_FLIGHT = "a hold ends while its lock is under way"
    ENDED = "a locked hold ends, its unlock is queued"
    UNLOCK_SENT = "an unlock is sent"
    ARRIVED = "a request reaches the HIS"
    REFUSED = "the HIS refuses a request"
    GIVEN_UP = "no reply comes: the outcome is in doubt"
    TOLD = "a reply is seen"
    LOOKED = "what is in doubt is looked at"
    LAPSED = "a lock ends by itself at the HIS"


class Held(NamedTuple):
    """One booking and its place at the HIS.

    phase: F not asked for yet; Q lock queued, S sent, D lock in doubt, K confirmed; X unlock queued, U sent, E unlock in
    doubt; Z the HIS refused the unlock, a person must look; R over.
    wire: what travels between us: a request (lock, unlock) or its reply (ok, full, no, gone).
    reply_age: ticks since the lock was confirmed, -1 before. covered: the running fetch began late enough to have counted it.
    unlock, unlock_running: 0 not sent, 1 sent not later than the end of the applied (the running) fetch, 2 sent after it.
    """

    phase: str = "F"
    promised: bool = False
    his: str = NONE
    wire: str = ""
    charged: bool = False
    reply_age: int = -1
    covered: bool = False
    unlock: int = 0
    unlock_running: int = 0


class Fetch(NamedTuple):
    """A running fetch: begun, then `read` at the HIS, then `ended` when its reply is here; applied later. Ages are 0 or 1:
    whether this is still the millisecond in which it began or ended."""

    stage: str
    free: int = 0
    sold: int = 0
    begin_age: int = 0
    end_age: int = 0


class Slot(NamedTuple):
    """Where the world stands. `sold` are the window's sales, `shown` those that the applied fetch could know of.

    recent: what the HIS may still answer from its cache, as (free, sold, age). end_age: 0 while an applied fetch's end shares
    this millisecond.
    """

    free: int
    sold: int
    recent: tuple[tuple[int, int, int], ...]
    figures: Seats
    shown: int
    end_age: int
    fetch: Fetch | None
    fetches: int
    bookings: tuple[Held, ...]


class Step(NamedTuple):
    """One thing that may happen next; `who` is the number of the booking."""

    what: What
    after: Slot
    who: int = -1


@dataclass(frozen=True)
class World:
    """What may happen here. The quirks at the end break a promise on which the rule rests: the search must find out."""

    capacity: int
    bookings: int
    fetches: int
    sales: int = 0
    refuses: bool = False
    loses: bool = False
    lapses: bool = False
    cache_ticks: int = 0
    lapses_while_promised: bool = False
    accepts_unlock_of_lapsed: bool = False

    def start(self) -> Slot:
        return Slot(
            free=self.capacity,
            sold=0,
            recent=(),
            figures=Seats(self.capacity, 0),
            shown=0,
            end_age=1,
            fetch=None,
            fetches=0,
            bookings=(Held(),) * self.bookings,
        )


# --- judging ----------------------------------------------------------------------------------------------------------


def promised(slot: Slot) -> int:
    """Patients who have been told that they hold a seat."""
    return sum(b.promised for b in slot.bookings)


def demand(slot: Slot) -> int:
    """Seats that are spoken for: promised to a patient, locked at the HIS, or about to be by a request on its way."""
    return sum(
        (b.promised and b.phase in "QSDK") or b.his == LOCKED or (b.wire == "lock" and b.his == NONE)
        for b in slot.bookings
    )


def oversold(world: World, slot: Slot) -> bool:
    """Whether a hold that has just been granted gave a seat to two, or one that we had been shown as sold at the window."""
    return demand(slot) > world.capacity - slot.shown


def quiet(slot: Slot) -> bool:
    """Nothing is under way."""
    return slot.fetch is None and all(b.phase in "FKZR" and not b.wire for b in slot.bookings)


def lost(rule: Rule, world: World, slot: Slot) -> bool:
    """Everything has settled, and yet one more fetch leaves a seat unsold for ever, or the HIS keeps one for nobody."""
    if any(b.phase == "R" and b.his == LOCKED for b in slot.bookings):
        return True
    old = slot._replace(bookings=tuple(_aged(b, world) for b in slot.bookings))
    after = _applied(rule, _begun(rule, old)._replace(fetch=Fetch("ended", slot.free, slot.sold)))
    return after.figures.remaining != rule.expected_free(after)


# --- time, and the fetch ----------------------------------------------------------------------------------------------


def _aged(held: Held, world: World) -> Held:
    return held if held.reply_age < 0 else held._replace(reply_age=world.cache_ticks + 1)


def _tick(world: World, slot: Slot) -> Slot:
    oldest = world.cache_ticks + 1
    bookings = tuple(b._replace(reply_age=b.reply_age + 1) if 0 <= b.reply_age < oldest else b for b in slot.bookings)
    recent = tuple((free, sold, age + 1) for free, sold, age in slot.recent if age < world.cache_ticks)
    fetch = slot.fetch if slot.fetch is None else slot.fetch._replace(begin_age=1, end_age=1)
    return slot._replace(bookings=bookings, recent=recent, end_age=1, fetch=fetch)


def _begun(rule: Rule, slot: Slot) -> Slot:
    bookings = tuple(
        b._replace(covered=not rule.may_be_missed(b.reply_age), unlock_running=min(b.unlock, 1)) for b in slot.bookings
    )
    return slot._replace(fetch=Fetch("begun"), fetches=slot.fetches + 1, bookings=bookings)


def _applied(rule: Rule, slot: Slot) -> Slot:
    fetch = slot.fetch
    assert fetch is not None
    figures, charged = rule.recount(slot, fetch.free)
    bookings = tuple(
        b._replace(charged=c, covered=False, unlock=b.unlock_running, unlock_running=0)
        for b, c in zip(slot.bookings, charged, strict=True)
    )
    return slot._replace(figures=figures, shown=fetch.sold, end_age=fetch.end_age, fetch=None, bookings=bookings)


def _fetch_steps(rule: Rule, world: World, slot: Slot) -> Iterator[Step]:
    fetch = slot.fetch
    if fetch is None:
        if slot.fetches < world.fetches:
            yield Step(What.FETCH_BEGINS, _begun(rule, slot))
    elif fetch.stage == "begun":
        for free, sold in {(slot.free, slot.sold), *((free, sold) for free, sold, _ in slot.recent)}:
            counted = fetch._replace(stage="read", free=free, sold=sold)
            yield Step(What.FETCH_COUNTED, slot._replace(fetch=counted))
    elif fetch.stage == "read":
        yield Step(What.FETCH_ENDS, slot._replace(fetch=fetch._replace(stage="ended", end_age=0)))
    else:
        yield Step(What.FETCH_APPLIED, _applied(rule, slot))


def _at_his(world: World, slot: Slot, free: int, sold: int) -> Slot:
    """The HIS's own figures change; what it counted before may be answered for a while."""
    if not world.cache_ticks:
        return slot._replace(free=free, sold=sold)
    stale = {(f, s): age for f, s, age in slot.recent} | {(slot.free, slot.sold): 0}
    recent = tuple(sorted((f, s, age) for (f, s), age in stale.items()))
    return slot._replace(free=free, sold=sold, recent=recent)


# --- one booking ------------------------------------------------------------------------------------------------------


class To(Protocol):
    """The slot with this booking as it is now."""

    def __call__(self, new: Held, figures: Seats | None = None, at: Slot = ...) -> Slot: ...


def steps(rule: Rule, world: World, slot: Slot) -> Iterator[Step]:
    """Everything that may happen next."""
    later = _tick(world, slot)
    if later != slot:
        yield Step(What.TICK, later)
    yield from _fetch_steps(rule, world, slot)
    if slot.free and slot.sold < world.sales:
        yield Step(What.SALE, _at_his(world, slot, slot.free - 1, slot.sold + 1))
    seen: set[Held] = set()
    for n, held in enumerate(slot.bookings):
        if held not in seen:  # which of two equal bookings moves is all the same
            seen.add(held)
            yield from (Step(what, after, n) for what, after in _booking_steps(rule, world, slot, n, held))


def _booking_steps(rule: Rule, world: World, slot: Slot, n: int, held: Held) -> Iterator[tuple[What, Slot]]:
    def to(new: Held, figures: Seats | None = None, at: Slot = slot) -> Slot:
        bookings = (*slot.bookings[:n], new, *slot.bookings[n + 1 :])
        return at._replace(bookings=bookings, figures=slot.figures if figures is None else figures)

    phase, wire = held.phase, held.wire
    if phase == "F":
        figures = rule.hold(slot)
        if figures is not None:
            yield What.HELD, to(Held("Q", promised=True, charged=True), figures)
    elif phase == "Q":
        yield What.LOCK_SENT, to(held._replace(phase="S", wire="lock"))
        yield What.DROPPED, to(Held("R", his=held.his), rule.give_back_unsent(slot, held))
    elif phase == "K":
        yield What.ENDED, to(held._replace(phase="X", promised=False))
    elif phase == "X":
        yield What.UNLOCK_SENT, to(_unlock_sent(slot, held))
    if phase in "SD" and held.promised:
        yield What.ENDED_IN_FLIGHT, to(held._replace(promised=False))
    if wire in ("lock", "unlock"):
        yield from _his_steps(world, slot, held, to)
    if phase in "SU":
        doubt = held._replace(phase="D" if phase == "S" else "E")
        if world.loses:
            yield What.GIVEN_UP, to(doubt._replace(wire=""))
        if world.loses and wire in ("lock", "unlock"):
            yield What.GIVEN_UP, to(doubt)  # and the request is still on its way
        if wire not in ("lock", "unlock"):
            yield What.TOLD, to(*_told(rule, slot, held))
    if phase in "DE" and (wire == "" or rule.trusts_the_first_look):
        yield What.LOOKED, to(*_looked(rule, slot, held))
    may_lapse = not held.promised or phase == "D" or world.lapses_while_promised
    if world.lapses and held.his == LOCKED and may_lapse:
        yield What.LAPSED, to(held._replace(his=GONE), at=_at_his(world, slot, slot.free + 1, slot.sold))


def _unlock_sent(slot: Slot, held: Held) -> Held:
    """The first attempt counts: it may be the one that freed the seat."""
    if held.unlock:
        return held._replace(phase="U", wire="unlock")
    running = slot.fetch
    after_running = running is not None and running.stage == "ended" and running.end_age > 0
    return held._replace(
        phase="U", wire="unlock", unlock=2 if slot.end_age else 1, unlock_running=2 if after_running else 1
    )


def _his_steps(world: World, slot: Slot, held: Held, to: To) -> Iterator[tuple[What, Slot]]:
    """A request arrives. A reply to one that we have given up on goes nowhere."""

    def reply(word: str) -> str:
        return word if held.phase in "SU" else ""

    if held.wire == "lock" and slot.free:
        at = _at_his(world, slot, slot.free - 1, slot.sold)
        yield What.ARRIVED, to(held._replace(his=LOCKED, wire=reply("ok")), at=at)
    elif held.wire == "lock":
        yield What.ARRIVED, to(held._replace(wire=reply("full")))
    elif held.his == LOCKED:
        at = _at_his(world, slot, slot.free + 1, slot.sold)
        yield What.ARRIVED, to(held._replace(his=GONE, wire=reply("ok")), at=at)
    else:
        yield What.ARRIVED, to(held._replace(wire=reply("ok" if world.accepts_unlock_of_lapsed else "gone")))
    if world.refuses:
        yield What.REFUSED, to(held._replace(wire=reply("no")))


def _told(rule: Rule, slot: Slot, held: Held) -> tuple[Held, Seats | None]:
    """A reply: the booking as it is then, and the new figures if they change."""
    match held.phase, held.wire:
        case "S", "ok":
            return _confirmed(rule, slot, held), None
        case "S", word:
            return Held("R", his=held.his), rule.refused(slot, held, seat_gone=word == "full")
        case "U", "no":
            return held._replace(phase="Z", wire="", unlock=0, unlock_running=0), None
        case _, word:
            return Held("R", his=held.his), rule.released(slot, held, gone_already=word == "gone")


def _looked(rule: Rule, slot: Slot, held: Held) -> tuple[Held, Seats | None]:
    """A look at what is in doubt, once no request of ours can still be on its way."""
    match held.phase, held.his:
        case "D", "L":
            return _confirmed(rule, slot, held), None
        case "D", "-" if held.promised:
            return held._replace(phase="Q"), None
        case "D", _:
            return Held("R", his=held.his, wire=held.wire), rule.refused(slot, held, seat_gone=False)
        case _, "L":
            return held._replace(phase="X"), None
    return Held("R", his=held.his), rule.released(slot, held, gone_already=True)


def _confirmed(rule: Rule, slot: Slot, held: Held) -> Held:
    """The lock is ours. One that nobody wants any more is given back."""
    covered = slot.fetch is not None and not rule.may_be_missed(0, began=-slot.fetch.begin_age)
    return held._replace(phase="K" if held.promised else "X", wire="", reply_age=0, covered=covered)
