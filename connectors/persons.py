"""Which of the persons that a HIS found can be the one that was asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mappings.canonical import Patient

_OF_18 = re.compile(r"[0-9]{6}19[0-9]{9}[0-9X]")


def without_others(found: Sequence[Patient], wanted: Patient) -> list[Patient]:
    """Those who may be `wanted`, in order: who has another number of identity is somebody else, whatever the name.

    A search for candidates (QBP^Q22), or a server that ignores a parameter it does not know, also brings the others.
    """
    number = _plain(wanted.id_number)
    return [one for one in found if not number or _plain(one.id_number) in ("", number)]


def _plain(number: str | None) -> str:
    """A number as it can be compared; "" for none, or for one that the HIS masks.

    An identity number of 18 digits (GB 11643-1999) also counts as the one of 15 that old records have: without the century
    and the check digit.
    """
    plain = "".join((number or "").split()).upper()
    if "*" in plain:
        return ""
    return plain[:6] + plain[8:17] if _OF_18.fullmatch(plain) else plain
