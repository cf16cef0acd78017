"""Where the axe may fall. Whoever lives through a visit says where it is; the axe waits for the moment that it is meant for."""

from __future__ import annotations

import asyncio
from enum import StrEnum


class Moment(StrEnum):
    """`-ing`: asked, and not answered yet."""

    PAYING = "paying"
    PAID = "paid"
    REGISTERING = "registering"  # at the hospital: the money is on its way, its reply not read
    CANCELLING = "cancelling"
    REFUND_REPORTING = "refund_reporting"
    REFUND_TELLING = "refund_telling"  # at the hospital
    BILL_PAYING = "bill_paying"
    BILL_SETTLING = "bill_settling"  # at the hospital
    OFFERED = "offered"
    ACCEPTING = "accepting"
    ACCEPTED = "accepted"
    DOCUMENT = "document"  # a long one is under way to the store
    PUSHED = "pushed"  # a webhook is delivered and not noted
    COMPARING = "comparing"  # the books of a day


AT_HIS = {
    Moment.REGISTERING: ("soap-demo", "register"),
    Moment.REFUND_TELLING: ("fhir-demo", "refund"),
    Moment.BILL_SETTLING: ("fhir-demo", "settle_bill"),
}
"""Moments that only the hospital sees: where, and in which operation."""


class Moments:
    """Rings when one is there."""

    def __init__(self) -> None:
        self._rung: dict[Moment, asyncio.Event] = {moment: asyncio.Event() for moment in Moment}

    def now(self, moment: Moment) -> None:
        """It is there."""
        self._rung[moment].set()
        self._rung[moment] = asyncio.Event()

    async def wait(self, moment: Moment, within_s: float) -> bool:
        """Until it is there again; False when it does not come."""
        try:
            async with asyncio.timeout(within_s):
                await self._rung[moment].wait()
        except TimeoutError:
            return False
        return True
