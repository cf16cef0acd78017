"""Storing what a HIS has told live of a patient: only what is new, in short transactions.

A person who looks at a list waits for it, and so does every hold behind a write: what is known already is not written again,
and an empty list writes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from booking import people
from booking.errors import SetAside
from booking.records import Person
from booking.store.budget import Budget
from booking.store.engine import Store, Tx
from booking.store.turns import Of
from mappings.canonical import Bill, Report
from monitoring.logs import get_logger

log = get_logger("taking_over")

SHORT_S = 0.004  # of work in one transaction: patients who are made known wait in the same queue

Told = TypeVar("Told", Bill, Report)


async def take_over(
    store: Store,
    hospital_id: str,
    person: Person,
    told: Sequence[Told],
    *,
    is_known: Callable[[Tx, Told], Awaitable[bool]],
    put: Callable[[Tx, Told], Awaitable[object]],
    heavy: bool = False,
) -> None:
    """Store what is not known yet, by `put`. A record that cannot be taken over, or names another, is left out and logged.

    `heavy` records are no work for the event loop. Raises StoreUnavailable: some of them may be stored.
    """
    if not told:
        return
    last = _last_words(person, told)
    async with store.read(hospital_id) as tx:
        numbers = {r.id for r in last if not (await people.means(tx, person, r.mrn) and await is_known(tx, r))}
    # All words on a number, if one of them is new: else one that is known already would not have the last word.
    fresh = deque([r for r in last if r.id in numbers])
    while fresh:
        async with store.write(hospital_id, here=not heavy, of=Of.OTHERS if heavy else Of.BINDS) as tx:
            budget = Budget(SHORT_S)
            await _put(tx, person, fresh.popleft(), put)
            while fresh and not budget.spent:
                await _put(tx, person, fresh.popleft(), put)


def _last_words(person: Person, told: Sequence[Told]) -> list[Told]:
    """Of records with one number of one patient the last, as if each had been stored in turn."""
    last: dict[tuple[str | None, str], Told] = {}
    for record in told:
        number = (record.mrn or person.record.mrn, record.id)
        last.pop(number, None)
        last[number] = record
    return list(last.values())


async def _put(tx: Tx, person: Person, record: Told, put: Callable[[Tx, Told], Awaitable[object]]) -> None:
    try:
        if not await people.means(tx, person, record.mrn):
            raise SetAside("the list names another patient")
        await put(tx, record)
    except SetAside as e:
        kind = "bill" if isinstance(record, Bill) else "report"
        log.warning(f"{kind}_set_aside", hospital=tx.hospital_id, reason=str(e))
