"""Numbers as people read them."""

from __future__ import annotations

from fractions import Fraction

INSUFFICIENT = "insufficient"


def percent(share: Fraction | None) -> str:
    """With three digits, cut and not rounded: 99.8999 % is not 99.9 %."""
    if share is None:
        return INSUFFICIENT
    thousandths = share * 100_000 // 1
    return f"{thousandths // 1000}.{thousandths % 1000:03d} %"


def objective(share: Fraction) -> str:
    """As it was set: 99.9 %."""
    return f"{float(share * 100):g} %"


def points(difference: Fraction | None) -> str:
    """Percentage points, signed where it is a difference."""
    return "-" if difference is None else f"{float(difference * 100):.3f} points"


def milliseconds(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def yuan(fen: int) -> str:
    """Fen as yuan: integers alone."""
    sign, fen = ("-", -fen) if fen < 0 else ("", fen)
    return f"{sign}{fen // 100:,}.{fen % 100:02d}"


def quantile_name(share: float) -> str:
    """0.999 is p99.9."""
    return f"p{share * 100:g}"
