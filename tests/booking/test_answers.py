"""Making an answer: in the reader's own turn of the loop where that can be, and once for all who ask meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from booking.api.listing import Listing
from booking.api.slot_lists import SlotPage, slot_renderer
from booking.api.views.bookable import SlotQuery
from booking.feed import ChangeFeed
from booking.settings import Hospital
from booking.snapshots import Answers, Days, Made
from booking.store.engine import Store, StoreUnavailable
from tests.booking.world import DAY, HOSPITAL, hold, put_patient, put_slot

QUERY = SlotQuery(from_=DAY, to=DAY, department_id="D1")


class Line:
    """The least thing that can be an answer."""

    nbytes = 1


class Slow:
    """A recipe that ends when it is told to, on the loop."""

    here = True

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()
        self.made = Line()
        self.error: Exception | None = None

    async def compose(self) -> Made[Line]:
        self.began.set()
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return Made(self.made, known_s=time.monotonic())

    async def read(self) -> Made[Line]:
        raise AssertionError("the feed is fresh")


@asynccontextmanager
async def fed(store: Store, hospital: Hospital) -> AsyncIterator[tuple[ChangeFeed, Days]]:
    """A feed whose first poll has ended, and days over it."""
    feed = ChangeFeed(store, [HOSPITAL])
    days = Days(store, feed, render=lambda _: slot_renderer(hospital), max_bytes=1_000_000)
    await feed.start()
    try:
        await feed.catch_up(10)
        yield feed, days
    finally:
        await feed.close()


@pytest.fixture
def engine() -> str:
    return "sqlite"


async def test_list_is_made_without_another_turn_of_the_loop_when_our_own_write_has_changed_it(
    store: Store, hospital: Hospital
) -> None:
    slot_id, patient_id = await put_slot(store, 5), await put_patient(store)
    async with fed(store, hospital) as (feed, days):
        answers: Answers[Listing] = Answers(days, feed, max_bytes=1_000_000)

        def page() -> SlotPage:
            return SlotPage(store, days, feed, hospital, QUERY)

        await answers.make(HOSPITAL, QUERY, page())
        await hold(store, hospital, slot_id, patient_id)
        async with store.write(HOSPITAL, here=True) as tx:
            tx.touch(DAY.isoformat(), "D1")
        await asyncio.sleep(0)  # the ring
        assert feed.is_behind(HOSPITAL)
        # Who asks, answers: the poll that shows the write is made by the reader, and so is the list.
        with pytest.raises(StopIteration) as ended:
            answers.make(HOSPITAL, QUERY, page()).send(None)
        assert b'"remaining":4' in ended.value.value.value.reply({}).body
        assert not feed.is_behind(HOSPITAL)
        assert answers.get(HOSPITAL, QUERY) is not None


async def test_all_who_ask_are_answered_when_the_one_who_was_first_goes_away(store: Store, hospital: Hospital) -> None:
    async with fed(store, hospital) as (feed, days):
        answers: Answers[Line] = Answers(days, feed, max_bytes=1_000)
        recipe = Slow()
        first = asyncio.create_task(answers.make(HOSPITAL, "q", recipe))
        await recipe.began.wait()
        others = [asyncio.create_task(answers.make(HOSPITAL, "q", recipe)) for _ in range(3)]
        await asyncio.sleep(0)
        first.cancel()
        recipe.may_end.set()
        assert [shown.value for shown in await asyncio.gather(*others)] == 3 * [recipe.made]
        assert (await asyncio.gather(first, return_exceptions=True))[0].__class__ is asyncio.CancelledError


async def test_all_who_ask_hear_of_it_when_the_answer_cannot_be_made(store: Store, hospital: Hospital) -> None:
    async with fed(store, hospital) as (feed, days):
        answers: Answers[Line] = Answers(days, feed, max_bytes=1_000)
        recipe = Slow()
        recipe.error = StoreUnavailable("gone")
        asked = [asyncio.create_task(answers.make(HOSPITAL, "q", recipe)) for _ in range(3)]
        await recipe.began.wait()
        recipe.may_end.set()
        heard = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(error) for error in heard] == 3 * [StoreUnavailable]
        # and nothing of it is kept: the next one begins anew
        recipe.error = None
        assert (await answers.make(HOSPITAL, "q", recipe)).value is recipe.made
