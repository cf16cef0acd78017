"""Several calls of one read: a few at a time, and all of them or none, for a part of a fetch would read as deletions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, stop_after_attempt, wait_random_exponential

from connectors.port import HisReplyInvalid, HisUnavailable

T = TypeVar("T")

ATTEMPTS = 3
"""Of each call: a read of a hundred calls would hardly ever come to its end where one call in ten fails."""

QUICK_S = 5.0
"""A call that took longer to fail is not made again: its HIS hangs."""


async def together(calls: Sequence[Callable[[], Awaitable[T]]], *, at_once: int) -> list[T]:
    """Make the calls, `at_once` at a time; what they give, in their order.

    After the first that fails for good no other is begun, and its error is raised. Those that run by then are waited for: the
    HIS is busy with them whether anybody listens or not, and whoever came next would be one too many.
    """
    found: dict[int, T] = {}
    failed: list[Exception] = []
    waiting = iter(enumerate(calls))

    async def work() -> None:
        for number, call in waiting:
            try:
                found[number] = await _patiently(call)
            except Exception as error:
                failed.append(error)
            if failed:
                return

    tasks = [asyncio.create_task(work()) for _ in range(min(max(1, at_once), len(calls)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if failed:
        raise failed[0]
    return [found[number] for number in range(len(calls))]


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    async for attempt in AsyncRetrying(
        retry=_failed_quickly,
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.1, max=1.0),
        reraise=True,
    ):
        with attempt:
            return await call()
    raise AssertionError("unreachable: tenacity reraises")


def _failed_quickly(state: RetryCallState) -> bool:
    error = None if state.outcome is None else state.outcome.exception()
    took_s = state.seconds_since_start or 0.0
    return isinstance(error, HisUnavailable | HisReplyInvalid) and took_s < QUICK_S * state.attempt_number
