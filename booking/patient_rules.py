"""The settings of a hospital about patients, and who is a child by them. Pure."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import msgspec
from msgspec import Meta

ADULT_YEARS = 18
"""Civil Code of the PRC, art. 17: who may answer for a child."""


class PatientRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[hospital.<id>.patients]`. `per_user`: how many patients one user of a portal may bind (None: any number).

    Who is below `child_below_years` is a child: without a document of their own they are bound by a guardian's, and with
    `guardian_required` no child is bound without a guardian.
    """

    per_user: Annotated[int, Meta(ge=1, le=1_000)] | None = None
    child_below_years: Annotated[int, Meta(ge=0, le=18)] = 18
    guardian_required: bool = False


def age_years(born: dt.date, today: dt.date) -> int:
    """Whole years on that day; a birthday of 29 February is kept on 1 March. Negative for the unborn."""
    return today.year - born.year - ((today.month, today.day) < (born.month, born.day))


def is_child(rule: PatientRule, born: dt.date | None, today: dt.date) -> bool:
    """Whether they are a child at this hospital; False where nobody knows when they were born."""
    return born is not None and age_years(born, today) < rule.child_below_years
