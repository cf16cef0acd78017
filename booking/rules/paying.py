"""How long a seat is kept for its money: by the clinic, else by the hospital. Pure."""

from __future__ import annotations

from booking.rules.settings import BookingRules


def pay_window_ms(rules: BookingRules, usual_s: float, *, department_id: str, clinic_type: str | None) -> int:
    """From the lock on; the seat is gone at the end of it."""
    for rule in rules.pay_windows:
        if rule.fits(department_id, clinic_type):
            return round(rule.within_s * 1000)
    return int(usual_s * 1000)
