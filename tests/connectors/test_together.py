"""A read of several calls: a few at a time, all or nothing, and no more at the HIS than were allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from connectors.port import HisRefused, HisReplyInvalid, HisUnavailable
from connectors.together import ATTEMPTS, QUICK_S, together
from tests.stores import Wall


class His:
    """Counts who is inside; `errors` by call are raised one after the other before it answers."""

    def __init__(self, **errors: list[Exception]) -> None:
        self.errors = errors
        self.calls: list[str] = []
        self.inside = self.most = 0

    async def ask(self, name: str, turns: int = 3) -> str:
        self.calls.append(name)
        self.inside += 1
        self.most = max(self.most, self.inside)
        for _ in range(turns):
            await asyncio.sleep(0)
        self.inside -= 1
        if errors := self.errors.get(name):
            raise errors.pop(0)
        return name.upper()

    def each(self, names: str) -> list[Callable[[], Awaitable[str]]]:
        return [partial(self.ask, name) for name in names]


def unavailable() -> HisUnavailable:
    return HisUnavailable("gone", hospital_id="h1", verb="fetch_slots")


async def test_answers_come_in_order_and_a_few_at_a_time() -> None:
    his = His()
    assert await together(his.each("abcdefgh"), at_once=3) == list("ABCDEFGH")
    assert his.most == 3


@pytest.mark.parametrize("at_once", [0, 5])
async def test_no_call_is_no_answer_and_at_least_one_is_made_at_a_time(at_once: int) -> None:
    assert await together([], at_once=at_once) == []
    assert await together(His().each("a"), at_once=at_once) == ["A"]


@pytest.mark.parametrize("error", [unavailable(), HisReplyInvalid("garbage", hospital_id="h1", verb="fetch_slots")])
async def test_one_lost_reply_does_not_begin_everything_anew(error: Exception) -> None:
    his = His(b=[error, error])
    assert await together(his.each("abc"), at_once=2) == ["A", "B", "C"]
    assert sorted(his.calls) == ["a", "b", "b", "b", "c"]


async def test_nothing_is_begun_after_a_call_that_fails_for_good() -> None:
    his = His(a=[unavailable() for _ in range(ATTEMPTS)])
    with pytest.raises(HisUnavailable):
        await together(his.each("abcdefghij" * 50), at_once=1)
    assert his.calls == ["a"] * ATTEMPTS


async def test_refusal_is_not_asked_again() -> None:
    his = His(a=[HisRefused("no", hospital_id="h1", verb="fetch_slots")])
    with pytest.raises(HisRefused):
        await together(his.each("ab"), at_once=1)
    assert his.calls == ["a"]


async def test_calls_that_run_are_waited_for_when_another_has_failed() -> None:
    his = His(a=[HisRefused("no", hospital_id="h1", verb="fetch_slots")])
    with pytest.raises(HisRefused):
        await together([partial(his.ask, "a", 1), partial(his.ask, "b", 50)], at_once=2)
    assert his.inside == 0


async def test_call_that_hangs_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, his = Wall(0), His(a=[unavailable()])
    monkeypatch.setattr("time.monotonic", lambda: wall() / 1000)

    async def hang() -> str:
        wall.turn(QUICK_S + 1)
        return await his.ask("a")

    with pytest.raises(HisUnavailable):
        await together([hang], at_once=1)
    assert his.calls == ["a"]


async def test_everything_ends_when_the_reader_goes() -> None:
    his = His()
    reader = asyncio.create_task(together([partial(his.ask, "a", 10_000)] * 4, at_once=2))
    await asyncio.sleep(0.01)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert his.calls == ["a", "a"]
