"""How long work in a thread leaves the interpreter alone, so that the event loop beside it is served.

A thread that computes and a loop share one interpreter. The loop gives it away at each statement of a database and gets it back
only when the thread's time is over (`sys.setswitchinterval`), so that a reply of a thousand slots, read in a thread, stops a
busy loop almost for as long as it is read. A thread sees nothing of that: it is never kept waiting. What it can see is how
much the rest of the process computes while it rests.
"""

from __future__ import annotations

import time
from collections.abc import Callable

WORK_S = 0.002
"""How long a thread computes before it rests."""

LEAST_REST = 0.25
"""Of its work: as long as it takes to see that nobody wants the interpreter."""

MOST_REST = 6.0
"""Of its work, beside threads that compute all the time."""


def courtesy(
    *,
    now_s: Callable[[], float] = time.perf_counter,
    mine_s: Callable[[], float] = time.thread_time,
    all_s: Callable[[], float] = time.process_time,
    rest: Callable[[float], None] = time.sleep,
) -> Callable[[], None]:
    """A function that a thread calls after each small piece of its work; it takes a rest there when one is due.

    To be made in that thread. `mine_s` and `all_s` are the computing times of the thread and of its process.
    """
    began = (now_s(), mine_s(), all_s())
    busy = 1.0  # how much of the time that the thread left to others they used; at first nobody knows

    def pause() -> None:
        nonlocal began, busy
        took_s = now_s() - began[0]
        if took_s < WORK_S:
            return
        rest(WORK_S * max(LEAST_REST, MOST_REST * busy))
        ended = (now_s(), mine_s(), all_s())
        whole_s, own_s, process_s = (after - before for after, before in zip(ended, began, strict=True))
        busy = min(1.0, max(0.0, (process_s - own_s) / max(whole_s - own_s, 1e-6)))
        began = ended

    return pause
