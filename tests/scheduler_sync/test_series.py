"""Numbered messages: the receiver's side of the sequence number protocol, kept where the messages are stored."""

from __future__ import annotations

import datetime as dt
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from booking.settings import Hospital
from booking.store.engine import Store, StoreUnavailable
from connectors.port import InboundAnswer, Refused, Series, Stored
from scheduler_sync.inbox import Inbox
from scheduler_sync.messages import journal
from scheduler_sync.messages.presenting import describe, open_message
from scheduler_sync.messages.search import Wanted, find_messages, load_message
from scheduler_sync.messages.series import KEEP_DAYS, Place, begin_series, forget_series, place_number
from scheduler_sync.messages.store import list_messages
from tests.booking.world import HOSPITAL
from tests.scheduler_sync.test_inbox import hear, message, patient, states
from tests.stores import Wall

DAY_S = 24 * 3600.0


def at(number: int, *, alone: bool = False, key: str = "adt") -> Series:
    return Series(key=key, number=number, alone=alone)


# HL7 v2.5.1 ch. 2.10.1: b) 2 and 3, c) 1, d) 1, e).
@pytest.mark.parametrize(
    ("last", "series", "known", "place"),
    [
        (None, at(7), False, Place(last=7, expected=7)),
        (7, at(8), False, Place(last=8, expected=8)),
        (7, at(8), True, Place(last=8, expected=8)),
        (7, at(7), True, Place(last=7, expected=8)),
        (7, at(3), True, Place(last=7, expected=8)),
        (7, at(7), False, Place(last=7, expected=8, refused=True)),
        (7, at(9), False, Place(last=7, expected=8, refused=True)),
        (7, at(9), True, Place(last=7, expected=8, refused=True)),
        (7, at(0), False, Place(last=7, expected=8)),
        (None, at(0), False, Place(last=None, expected=-1)),
        (7, at(-1), False, Place(last=None, expected=-1)),
        (7, at(8, alone=True), False, Place(last=8, expected=8)),
        (7, at(6, alone=True), False, Place(last=7, expected=8)),
        (7, at(9, alone=True), False, Place(last=7, expected=8, refused=True)),
    ],
)
def test_number_is_judged_as_the_standard_has_it(last: int | None, series: Series, known: bool, place: Place) -> None:
    assert place_number(last, series, known=known) == place


@given(st.lists(st.integers(-1, 6), max_size=30))
def test_no_number_is_taken_out_of_order_whatever_comes(numbers: list[int]) -> None:
    last: int | None = None
    for number in numbers:
        place = place_number(last, at(number), known=False)
        if number > 0 and not place.refused:
            assert last is None or number == last + 1
            assert place.last == number
        elif number != -1:
            assert place.last == last
        last = place.last


async def tell(inbox: Inbox, number: int, *, content: str | None = None, alone: bool = False) -> InboundAnswer:
    key = content or f"k{number}"
    events = () if alone else (patient(f"张{key}"),)
    return await hear(inbox, message(*events, key=key, control_id=key, series=at(number, alone=alone or number <= 0)))


async def test_series_is_followed_over_a_restart_and_a_refusal(
    inbox: Inbox, store: Store, messages: Store, hospital: Hospital
) -> None:
    assert await tell(inbox, 0) == Stored(expected=-1)
    assert await tell(inbox, 41) == Stored(expected=41)
    assert await tell(inbox, 42) == Stored(expected=42)
    gap = await tell(inbox, 44)
    assert isinstance(gap, Refused)
    assert (gap.retryable, gap.out_of_series, gap.expected) == (True, True, 43)
    await inbox.close()
    again = Inbox(store, messages, hospital)
    assert await tell(again, 0) == Stored(expected=43)
    assert await tell(again, 42) == Stored(duplicate=True, expected=43)
    assert await tell(again, 43) == Stored(expected=43)
    # A number that was used for something else is not taken: the sender has lost count.
    other = await tell(again, 43, content="other")
    assert isinstance(other, Refused)
    assert other.expected == 44
    assert [m.control_id for m in reversed(await list_messages(messages, HOSPITAL))] == ["k41", "k42", "k43"]
    await again.close()


async def test_series_begins_anew_when_the_sender_says_so(inbox: Inbox) -> None:
    await tell(inbox, 7)
    assert await tell(inbox, -1) == Stored(expected=-1)
    assert await tell(inbox, 1) == Stored(expected=1)


async def test_message_that_is_not_taken_passes_its_number_on(inbox: Inbox, messages: Store) -> None:
    await tell(inbox, 7)
    assert await tell(inbox, 8, alone=True) == Stored(expected=8)
    assert await tell(inbox, 9) == Stored(expected=9)
    assert len(await list_messages(messages, HOSPITAL)) == 2


async def test_senders_do_not_share_a_series(inbox: Inbox) -> None:
    await tell(inbox, 7)
    other = message(patient(), key="x", control_id="x", series=at(100, key="lab"))
    assert await hear(inbox, other) == Stored(expected=100)


async def test_number_is_not_lost_when_the_message_could_not_be_stored(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> NoReturn:
        raise StoreUnavailable("the disk is full")

    await tell(inbox, 7)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "message_row", broken)  # behind the number, in its transaction
        answer = await inbox.handle(message(patient(), key="k8", series=at(8)))
        assert isinstance(answer, Refused)
        assert (answer.out_of_series, answer.expected) == (False, None)
    assert await tell(inbox, 8) == Stored(expected=8)


async def test_other_message_of_the_same_id_is_told_and_applied(inbox: Inbox, messages: Store) -> None:
    first = message(patient("张一"), key="HIS|H|M1|a", same_id_key="HIS|H|M1")
    second = message(patient("张二"), key="HIS|H|M1|b", same_id_key="HIS|H|M1")
    assert await hear(inbox, first) == Stored()
    assert await hear(inbox, first) == Stored(duplicate=True)
    assert await hear(inbox, second) == Stored(same_id=True)
    assert await hear(inbox, message(patient("张三"), key="HIS|H|M2|c", same_id_key="HIS|H|M2")) == Stored()
    assert await states(messages) == [("applied", None)] * 3


async def test_other_message_of_the_same_id_is_set_aside_where_the_site_wants_that(
    inbox: Inbox, messages: Store
) -> None:
    first = message(patient("张一"), key="HIS|H|M1|a", same_id_key="HIS|H|M1", same_id_apart=True)
    second = message(patient("张二"), key="HIS|H|M1|b", same_id_key="HIS|H|M1", same_id_apart=True)
    assert await hear(inbox, first) == Stored()
    assert await hear(inbox, second) == Stored(same_id=True, quarantined=True)
    assert await hear(inbox, second) == Stored(duplicate=True, quarantined=True)
    assert await hear(inbox, first) == Stored(duplicate=True)
    why = "the sender has used this control id for another message"
    assert await states(messages) == [("applied", None), ("quarantined", why)]
    (apart,) = (await find_messages(messages, HOSPITAL, Wanted(state="quarantined"))).found
    whole = await load_message(messages, HOSPITAL, apart.id)
    assert whole is not None
    opened = open_message(messages.vault, whole)
    told = describe(apart, opened, vault=messages.vault, zone=dt.UTC, charset="UNICODE UTF-8", masked=True)
    (advice,) = [line for line in told if line.startswith("next:")]
    assert f"replay {HOSPITAL} {apart.id}" in advice
    assert "profile" not in advice  # nothing is wrong with what it says


async def test_next_number_is_taken_whatever_it_is_when_a_person_has_begun_anew(inbox: Inbox, messages: Store) -> None:
    await tell(inbox, 7)
    assert isinstance(await tell(inbox, 3), Refused)
    assert await begin_series(messages, HOSPITAL) == 1
    assert await begin_series(messages, HOSPITAL) == 0
    assert await tell(inbox, 3) == Stored(expected=3)


async def test_place_of_a_silent_sender_is_forgotten_after_its_days(inbox: Inbox, messages: Store, wall: Wall) -> None:
    await tell(inbox, 7)
    wall.turn(KEEP_DAYS * DAY_S)
    assert await forget_series(messages, HOSPITAL) == 0
    assert await tell(inbox, 0) == Stored(expected=8)
    wall.turn(DAY_S)
    assert await forget_series(messages, HOSPITAL) == 1
    assert await forget_series(messages, HOSPITAL) == 0
    assert await tell(inbox, 0) == Stored(expected=-1)
