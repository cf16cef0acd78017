"""What a search that is large enough comes to: what of it was never reached is said at its end."""

from __future__ import annotations

from tests.visits.his import FAULTS, READ_FAULTS
from tests.visits.life import BATCH_FAULTS

WRITES = (
    "create_patient", "lock_slot", "book", "unlock_slot", "register", "cancel_registration", "settle_bill", "refund",
)  # fmt: skip
READS = (
    "fetch_schedules", "fetch_slots", "fetch_stops", "fetch_departments", "fetch_practitioners", "find_patient",
    "fetch_registration", "fetch_bills", "fetch_settlement", "fetch_refund", "fetch_reports", "fetch_report",
)  # fmt: skip

WANTED: dict[str, tuple[str, ...]] = {
    **{verb: ("well", *FAULTS) for verb in WRITES if verb != "create_patient"},  # those are made before the first step
    **{verb: ("well", *READ_FAULTS) for verb in READS if verb != "find_patient"},
    "batch of holds": BATCH_FAULTS,
    "death": (
        "after a commit", "in a batch of holds", "after a batch of holds", "before a write of the HIS",
        "after a write of the HIS", "in a read of the HIS",
    ),
    "seats by": ("lock", "book", "quota"),
    "hold": ("granted", "granted again", "slot_sold_out", "duplicate_booking", "schedule_stopped", "offer_over"),
    "booking": (
        "- > held/none", "- > held/locked", "held/none > held/locked", "held/none > rejected/rejected",
        "held/none > expired/none", "held/none > cancelled/none", "held/none > cancelling/none", "held/none > stopped/none",
        "held/locked > booked/registered", "held/locked > expired/locked", "held/locked > cancelling/locked",
        "held/locked > rejected/locked", "held/locked > cancelled/released", "held/locked > stopped/locked",
        "booked/registered > cancelling/registered", "booked/registered > cancelled/released",
        "booked/registered > stopped/registered", "booked/registered > stopped/released",
        "booked/registered > checked_in/registered", "booked/registered > fulfilled/registered",
        "booked/registered > no_show/registered", "checked_in/registered > stopped/released",
        "no_show/registered > checked_in/registered", "no_show/registered > fulfilled/registered",
        "cancelling/locked > cancelled/released", "cancelling/registered > booked/registered",
        "cancelling/registered > cancelled/released", "cancelling/registered > stopped/registered",
        "expired/none > expired/locked", "expired/locked > expired/released", "expired/released > held/none",
        "expired/locked > held/locked", "stopped/registered > stopped/released", "stopped/none > stopped/locked",
        "stopped/locked > stopped/released",
    ),
    "moved": ("moved", "substituted"),
    "payment": ("- > none", "- > pending", "pending > settled", "pending > rejected"),
    "payment of a bill": ("- > none", "- > pending", "pending > settled", "pending > rejected"),
    "bill": ("- > open", "open > paid", "open > cancelled", "paid > cancelled"),
    "refund": (
        "- > refund_due", "refund_due > refunding", "refund_due > refund_unknown", "refund_due > refund_failed",
        "refund_due > refunded", "refunding > refunded", "refund_unknown > refunded", "refund_failed > refunded",
    ),
    "refund because": (
        "patient", "schedule_stopped", "second_payment", "wrong_amount", "goodwill", "his", "bill_cancelled",
        "taken_back_by_his",
    ),
    "waitlist": (
        "- > waiting", "waiting > offered", "waiting > cancelled", "waiting > cleared", "offered > accepted",
        "offered > lapsed", "offered > cancelled", "offered > waiting", "offered > cleared",
    ),
    "waitlist because": ("evening_before", "schedule_stopped", "seat_gone"),
    "report told": ("- > preliminary", "- > final", "preliminary > final", "final > corrected"),
    "report": ("preliminary, live", "final, live", "corrected, live", "final, stored"),
}  # fmt: skip
