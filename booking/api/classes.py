"""The classes of requests: what a request costs, and what it costs somebody if it is turned away."""

from __future__ import annotations

import math
from enum import StrEnum


class RequestClass(StrEnum):
    """read: answered from memory or our store. live: asks the HIS while the caller waits. hold: takes something new (a seat, a
    patient). step: a step of a booking or of money that exists. bulk: feeds, webhooks and books, which can wait.
    """

    READ = "read"
    LIVE = "live"
    HOLD = "hold"
    STEP = "step"
    BULK = "bulk"


SOLD_OUT = "sold_out"
"""What the service level calls a hold that a rule of the hospital refused: no seat was taken, so that it is quick."""

LIMIT_S = {
    RequestClass.READ: 0.3,
    RequestClass.HOLD: 1.0,
    RequestClass.STEP: 1.0,
    RequestClass.LIVE: math.inf,  # the HIS's time, not ours
    RequestClass.BULK: math.inf,
}
SOLD_OUT_LIMIT_S = 0.3
QUICK_S = min(*LIMIT_S.values(), SOLD_OUT_LIMIT_S)
"""An answer within this time is late for no class."""
