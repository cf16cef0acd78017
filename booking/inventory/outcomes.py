"""How a batch's transaction can end other than well, and what both engines offer the writer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from booking.inventory.requests import Facts, HoldRequest, KeyFacts
from booking.inventory.rows import Batch
from booking.rules.settings import Wanted

Work = Callable[[Facts], Batch]
"""Decides a batch from its facts: pure but for ids and nonces."""


class Violation(Exception):
    """A constraint of the store refused the batch: everything was rolled back. `text` names the constraint."""


class CommitUnknown(Exception):
    """The answer to the commit was lost: the batch is stored as a whole, or not at all."""


class Batches(Protocol):
    """The transactions of batches on one engine."""

    parallel: int
    """How many transactions may run side by side, each of another hospital."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def transact(
        self, hospital_id: str, requests: Sequence[HoldRequest], work: Work, wanted: Wanted | None = None
    ) -> Batch:
        """One transaction under the hospital's lock: gather, and what the rules want beside it, `work`, write, commit.

        Raises StoreUnavailable (nothing was committed), Violation, CommitUnknown.
        """
        ...

    async def recall(self, hospital_id: str, requests: Sequence[HoldRequest]) -> list[KeyFacts | None]:
        """What the requests' keys are bound to now, read under the hospital's lock: whatever ran before has ended.

        Raises StoreUnavailable.
        """
        ...
