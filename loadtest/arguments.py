"""Numbers on a command line, as argparse takes them."""

from __future__ import annotations

import argparse
import math


def counted(text: str) -> int:
    """A number of rounds: at least one. Raises ArgumentTypeError."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def positive(text: str) -> float:
    """A factor or a time: above 0. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value
