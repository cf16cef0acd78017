"""医保预结算: what of a bill the insurance pays and what the patient, as the HIS has calculated it, and for how long that holds.

While a split holds, the patient's share is what is to be paid; afterwards, or when the bill has changed, it must be asked for
again.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import update

from booking.store.engine import Tx
from booking.store.tables import bills
from mappings.canonical import Bill, HisRefs, Settlement


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """`fund_fen` 统筹, `account_fen` 个人账户 (None: the HIS does not say), `self_pay_fen` 自费, together `total_fen` at most.

    `his_refs` name it at the HIS when it is settled.
    """

    total_fen: int
    self_pay_fen: int
    fund_fen: int | None = None
    account_fen: int | None = None
    made_ms: int
    valid_until_ms: int
    his_refs: HisRefs = {}

    def holds(self, total_fen: int, now_ms: int) -> bool:
        """Whether it is of a bill over so much, and not too old."""
        return self.total_fen == total_fen and now_ms < self.valid_until_ms


class SplitInvalid(ValueError):
    """What the HIS has calculated cannot be: the shares come to more than the bill, or one is negative."""


def split_of(bill: Bill, told: Settlement, *, now_ms: int, valid_s: float) -> Split:
    """What the HIS's answer means for this bill. Without a share of the patient's they pay all of it. Raises SplitInvalid."""
    fund, account = told.fund_fen, told.account_fen
    insured = (fund or 0) + (account or 0)
    own = told.amount_fen if told.amount_fen is not None else bill.amount_fen - insured
    if min(own, fund or 0, account or 0) < 0 or own + insured > bill.amount_fen:
        raise SplitInvalid("the shares do not fit the bill")
    return Split(
        total_fen=bill.amount_fen,
        self_pay_fen=own,
        fund_fen=fund,
        account_fen=account,
        made_ms=now_ms,
        valid_until_ms=now_ms + round(valid_s * 1000),
        his_refs=told.his_refs,
    )


def why_not(split: Split | None, *, total_fen: int, paid_fen: int, now_ms: int) -> str | None:
    """Why so much cannot pay for a bill over `total_fen`, None where it can. Pure."""
    if split is not None and split.holds(total_fen, now_ms):
        return None if paid_fen == split.self_pay_fen else "wrong_amount"
    if paid_fen == total_fen:
        return None
    return "split_stale" if split is not None and paid_fen == split.self_pay_fen else "wrong_amount"


async def save_split(tx: Tx, bill_id: str, split: Split) -> None:
    """Keep the newest split of a bill."""
    sealed = tx.seal(msgspec.json.encode(split), "bills", "split")
    await tx.run(
        update(bills)
        .where(bills.c.hospital_id == tx.hospital_id, bills.c.id == bill_id)
        .values(sealed_split=sealed, updated_ms=tx.now_ms)
    )
