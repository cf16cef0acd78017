"""How long a transaction may go on taking work: holds wait behind it (DESIGN section 4: at most 20 ms each)."""

from __future__ import annotations

import time

WORK_S = 0.012  # taken up to here; what was begun is finished, and the commit comes on top


class Budget:
    """The working time of one transaction, from its making on. Whoever finds it spent commits, and goes on in another one."""

    def __init__(self, seconds: float = WORK_S) -> None:
        self._ends = time.perf_counter() + seconds

    @property
    def spent(self) -> bool:
        return time.perf_counter() >= self._ends
