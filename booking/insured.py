"""Bills of which the insurance pays all (医保, a share of 0): they are settled at the HIS without money of the patient's.

There is nothing to record in the books, and nothing to give back; what is kept is who asked, and how far the HIS has got. A
bill has one such row at most, and never beside a payment that pays for it.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import bindparam, select, update

from booking.store.engine import Tx
from booking.store.fixed import Fixed
from booking.store.tables import insured_settlements

CHANNEL = "insurance"
"""What connectors are told as the channel of the nothing that was paid."""


class InsuredRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `insured_settlements`; `settlement` as of a payment."""

    hospital_id: str
    bill_id: str
    client_id: str
    settlement: str
    asked_ms: int

    @property
    def stands(self) -> bool:
        """Whether it settles its bill, or may: then no money may."""
        return self.settlement != "rejected"


_NAMED = (
    insured_settlements.c.hospital_id == bindparam("of_hospital"),
    insured_settlements.c.bill_id == bindparam("of_bill"),
)
_FIND = Fixed(select(insured_settlements).where(*_NAMED))
_NOTE = Fixed(update(insured_settlements).where(*_NAMED).values(settlement=bindparam("new_settlement")))


async def find_insured(tx: Tx, bill_id: str) -> InsuredRow | None:
    """What was asked for a bill, the last time."""
    row = await tx.first(_FIND, {"of_hospital": tx.hospital_id, "of_bill": bill_id})
    return None if row is None else msgspec.convert(row, InsuredRow)


async def standing_insured(tx: Tx, bill_id: str) -> InsuredRow | None:
    """The same where it stands."""
    row = await find_insured(tx, bill_id)
    return row if row is not None and row.stands else None


async def begin_insured(tx: Tx, bill_id: str, *, client_id: str) -> None:
    """A portal asks for it, for the first time or after the HIS has refused."""
    row = {
        "hospital_id": tx.hospital_id,
        "bill_id": bill_id,
        "client_id": client_id,
        "settlement": "pending",
        "asked_ms": tx.now_ms,
    }
    await tx.upsert(insured_settlements, [row])


async def note_insured(tx: Tx, bill_id: str, settlement: str) -> None:
    """How far the HIS has got."""
    values = {"of_hospital": tx.hospital_id, "of_bill": bill_id, "new_settlement": settlement}
    await tx.run(_NOTE, values)
