"""A process that can die: between two commits, in a call to the HIS, and with everything that it has in memory.

Whatever is asked of a dead process raises `Death`, which no code of ours catches: nothing more is written, and nothing more sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy.exc import DBAPIError

from booking.moves import RuleBroken
from booking.store.crypto import Vault
from booking.store.engine import Store, Tx
from booking.store.turns import Of


class Death(BaseException):
    """The process has died."""


class Life:
    """One life of our process. `commits_left`: it dies right after so many more; None: it lives on."""

    def __init__(self) -> None:
        self.dead = False
        self.commits_left: int | None = None
        self.surprises: list[str] = []

    def end(self) -> Death:
        """The process dies now; raise what this returns."""
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
                raise self.end()


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
