"""The resident identity card number (GB 11643): its check character, and the birth date and sex that it carries."""

from __future__ import annotations

import datetime as dt
import re

from mappings.canonical import Sex

ID_CARD = "id_card"
FOREIGNERS_CARD = "foreigner_permanent_id"
_SHAPE = re.compile(r"[1-9][0-9]{5}([0-9]{8})[0-9]{2}([0-9])[0-9X]")


def check_character(first17: str) -> str:
    """ISO 7064 MOD 11-2 over the first 17 digits."""
    total = sum(int(digit) * pow(2, 17 - i, 11) for i, digit in enumerate(first17))
    return "0123456789X"[(12 - total % 11) % 11]


def read_id_card(number: str) -> tuple[dt.date, Sex] | None:
    """Birth date and sex of a valid number (upper-case X), None for one that cannot be right.

    The residence permits of 2018 and the foreigners' cards of 2023 have numbers of the same structure.
    """
    match = _SHAPE.fullmatch(number)
    if match is None or check_character(number[:17]) != number[17]:
        return None
    try:
        born = dt.date(int(match[1][:4]), int(match[1][4:6]), int(match[1][6:]))
    except ValueError:
        return None
    return born, Sex.MALE if int(match[2]) % 2 else Sex.FEMALE
