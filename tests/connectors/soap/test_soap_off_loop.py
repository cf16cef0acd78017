"""What takes long runs beside the event loop: a large reply is read in a thread, and its many rows are mapped in one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.connectors.soap.golden.cases import WINDOW
from tests.connectors.soap.golden.dhc_doors import PLAN, done
from tests.connectors.soap.soap_hospital import canned


class Threads(ThreadPoolExecutor):
    """The threads of a loop, and the names of what was given to them."""

    def __init__(self) -> None:
        super().__init__(max_workers=2)
        self.given: list[str] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        called = getattr(fn, "args", (fn,))[0]  # asyncio.to_thread gives a partial of the context's run
        self.given.append(getattr(called, "__qualname__", type(called).__name__))
        return super().submit(fn, *args, **kwargs)


@pytest.mark.parametrize(("rows", "threads"), [(1, 0), (500, 2)])
async def test_reply_is_read_and_mapped_in_threads_when_it_is_large(rows: int, threads: int) -> None:
    one = f"<Schedule>{PLAN}</Schedule>"
    plans = "".join(one.replace("100||7", f"100||{n}") for n in range(rows))
    async with canned(done(f"<Schedules>{plans}</Schedules>")) as (_, his):
        executor = Threads()
        asyncio.get_running_loop().set_default_executor(executor)
        schedules = await his.fetch_schedules(WINDOW)
        assert len(schedules) == rows
        given = [name for name in executor.given if "getaddrinfo" not in name]
        assert len(given) == threads, given
