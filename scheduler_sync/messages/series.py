"""Where the numbered messages of a sender stand: the receiver's side of the sequence number protocol (HL7 v2.5.1 ch. 2.10.1).

What is kept is the number of the newest message that was taken, in the commit that stores it: neither a restart nor a refusal
loses count.

    number          is               answered with
    last + 1        the next one     itself
    any             the first one    itself
    up to last      a repeat         last + 1, as the first time where the message is known; else refused
    beyond          after a gap      last + 1, refused
    0               a question       last + 1, or -1 where there is none
    -1              a new beginning  -1
"""

from __future__ import annotations

import msgspec
from sqlalchemy import bindparam, delete, select

from booking.store.engine import Store, Tx
from booking.store.fixed import Fixed
from connectors.port import Series
from scheduler_sync.messages.tables import message_series

DAY_MS = 24 * 3600 * 1000
NONE = -1  # what is expected where no number is known


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What to do with a number. `last`: to be kept from now on, None to forget; the one before where nothing changes.

    `expected` is for the answer. `refused`: the message is not to be taken.
    """

    last: int | None
    expected: int
    refused: bool = False


def place_number(last: int | None, series: Series, *, known: bool) -> Place:
    """Judge the number of one message. `known`: the message itself is stored already."""
    number = series.number
    if number == NONE:
        return Place(last=None, expected=NONE)
    if number == 0:
        return Place(last=last, expected=NONE if last is None else last + 1)
    if last is None or number == last + 1:
        return Place(last=number, expected=number)
    repeated = number <= last and (known or series.alone)
    return Place(last=last, expected=last + 1, refused=not repeated)


KEEP_DAYS = 400
"""Of a sender that is silent: whoever comes back later begins anew."""


async def forget_series(store: Store, hospital_id: str) -> int:
    """Delete the places of senders that have been silent for KEEP_DAYS; returns how many. There are as many as senders."""
    async with store.write(hospital_id) as tx:
        before_ms = tx.now_ms - KEEP_DAYS * DAY_MS
        return await tx.run(
            delete(message_series).where(
                message_series.c.hospital_id == hospital_id, message_series.c.updated_ms < before_ms
            )
        )


async def begin_series(store: Store, hospital_id: str) -> int:
    """Forget where all senders stand: the next number of each is taken whatever it is. Returns how many senders."""
    async with store.write(hospital_id) as tx:
        return await tx.run(delete(message_series).where(message_series.c.hospital_id == hospital_id))


_LAST = Fixed(
    select(message_series.c.last_number).where(
        message_series.c.hospital_id == bindparam("of_hospital"), message_series.c.series == bindparam("of_series")
    )
)
_FORGET = Fixed(
    delete(message_series).where(
        message_series.c.hospital_id == bindparam("of_hospital"), message_series.c.series == bindparam("of_series")
    )
)


async def pass_number(tx: Tx, series: Series, *, known: bool) -> Place:
    """Judge a number by what is kept, and keep what follows. Part of the transaction that stores the message."""
    key = {"of_hospital": tx.hospital_id, "of_series": series.key}
    row = await tx.first(_LAST, key)
    last = None if row is None else int(row["last_number"])
    place = place_number(last, series, known=known)
    if place.last is None and last is not None:
        await tx.run(_FORGET, key)
    elif place.last is not None and place.last != last:
        kept = {"hospital_id": tx.hospital_id, "series": series.key}
        await tx.upsert(message_series, [{**kept, "last_number": place.last, "updated_ms": tx.now_ms}])
    return place
