"""A process that can die: between two commits, in a call to the HIS, and with everything that it has in memory.

Whatever is asked of a dead process raises `Death`, which no code of ours catches: nothing more is written, and nothing more sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from sqlalchemy.exc import DBAPIError

from booking.inventory.outcomes import Batches, CommitUnknown, Violation, Work
from booking.inventory.requests import Facts, HoldRequest, KeyFacts
from booking.inventory.rows import Batch
from booking.moves import RuleBroken
from booking.rules.settings import Wanted
from booking.store.crypto import Vault
from booking.store.engine import Store, StoreUnavailable, Tx
from booking.store.turns import Of
from tests.visits.reached import REACHED

BATCH_FAULTS = ("die", "die_after", "lost_before", "lost_after", "violation", "away")
"""What can happen to a batch of holds: it dies before its commit or after; the commit's answer is lost, and nothing is stored, or
all of it; a constraint refuses it; the store is away."""


class Death(BaseException):
    """The process has died."""


class Life:
    """One life of our process. `commits_left`: it dies right after so many more; None: it lives on."""

    def __init__(self) -> None:
        self.dead = False
        self.commits_left: int | None = None
        self.batch_faults: list[str] = []  # of the next batches of holds, one each; "": none
        self.surprises: list[str] = []

    def end(self, where: str) -> Death:
        """The process dies now; raise what this returns."""
        REACHED.note("death", where)
        self.dead = True
        return Death()

    def check(self) -> None:
        """Raises Death for whoever asks something of the dead."""
        if self.dead:
            raise Death

    def committed(self) -> None:
        """Something is on the disk. Raises Death where that was the last."""
        if self.commits_left is not None:
            self.commits_left -= 1
            if self.commits_left < 0:
                raise self.end("after a commit")


class MortalStore(Store):
    """A store of one life. It notes what no rule may ever lead to: a broken rule, or a row that the store refuses."""

    def __init__(self, url: str, vault: Vault, life: Life, *, wall_ms: Callable[[], int]) -> None:
        super().__init__(url, vault, wall_ms=wall_ms)
        self.life = life

    @asynccontextmanager
    async def write(self, hospital_id: str, *, here: bool = False, of: Of = Of.OTHERS) -> AsyncIterator[Tx]:
        self.life.check()
        try:
            async with super().write(hospital_id, here=here, of=of) as tx:
                yield tx
                self.life.check()
        except (RuleBroken, DBAPIError) as e:
            self.life.surprises.append(f"{type(e).__name__}: {e}")
            raise
        self.life.committed()

    @asynccontextmanager
    async def read(self, hospital_id: str = "", *, here: bool = False, clock: bool = True) -> AsyncIterator[Tx]:
        self.life.check()
        async with super().read(hospital_id, here=here, clock=clock) as tx:
            yield tx


class MortalBatches:
    """The batches of holds of one life, each with what happens to it."""

    def __init__(self, batches: Batches, life: Life) -> None:
        self.parallel = batches.parallel
        self._batches = batches
        self._life = life

    async def start(self) -> None:
        await self._batches.start()

    async def close(self) -> None:
        await self._batches.close()

    async def recall(self, hospital_id: str, requests: Sequence[HoldRequest]) -> list[KeyFacts | None]:
        self._life.check()
        return await self._batches.recall(hospital_id, requests)

    async def transact(
        self, hospital_id: str, requests: Sequence[HoldRequest], work: Work, wanted: Wanted | None = None
    ) -> Batch:
        self._life.check()
        faults = self._life.batch_faults
        fault = faults.pop(0) if faults else ""

        def until_commit(facts: Facts) -> Batch:
            batch = work(facts)
            match fault:
                case "die":
                    raise self._life.end("in a batch of holds")
                case "lost_before":
                    raise CommitUnknown("its answer was lost, and nothing is stored")
                case "violation":
                    raise Violation("by the test")
                case "away":
                    raise StoreUnavailable("away")
            return batch

        if fault:
            REACHED.note("batch of holds", fault)
        batch = await self._batches.transact(hospital_id, requests, until_commit, wanted)
        if batch.granted:
            self._life.committed()
        if fault == "die_after":
            raise self._life.end("after a batch of holds")
        if fault == "lost_after":
            raise CommitUnknown("its answer was lost, and all of it is stored")
        return batch
