"""Patients of a portal's users."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from msgspec import Meta

from booking.api.views.base import PLAIN, Body, Query, Text, View
from mappings.canonical import Sex


class Card(Body, frozen=True):
    """A hospital or insurance card. `type` is `mrn` (the hospital's own patient number), `health_card`, `insurance_card`,
    `visit_card`, `e_health_code`, or the hospital's own code of at most 4 letters and digits."""

    type: Text
    number: Text


class Guardian(Body, frozen=True):
    """Who answers for a child: an adult, with a document as of `NewPatient`."""

    name: Text
    id_number: Text
    id_type: Text = "id_card"


class NewPatient(Body, frozen=True):
    """A patient of the portal's user `user_ref`. `id_type` is one of `id_card` (18 digits, GB 11643), `household_register`,
    `passport`, `military_id`, `hk_macau_permit`, `taiwan_permit`, `hmt_residence_permit`, `foreigner_permanent_id`,
    `birth_certificate`, `other`; common other names of these are understood. A child without a document leaves `id_type` and
    `id_number` out, and gives `birth_date` and `guardian`."""

    user_ref: Text
    name: Text
    phone: Annotated[str, Meta(min_length=3, max_length=30, pattern=PLAIN)]
    id_type: Text | None = None
    id_number: Annotated[str, Meta(min_length=1, max_length=40, pattern=PLAIN)] | None = None
    birth_date: dt.date | None = None
    sex: Sex | None = None
    card: Card | None = None
    guardian: Guardian | None = None


class PatientView(View, frozen=True):
    """A patient, masked. `his_state`: pending (being looked up at the hospital), linked, rejected (see `reject_code`).

    `reject_code`: `patient_mismatch` (the hospital knows name and number otherwise), `patient_ambiguous` (it has several records:
    the window must merge them), `patient_unknown` (the window must make one), or a code of the refusal.
    """

    id: str
    user_ref: str
    name: str
    id_type: str | None
    id_number: str | None
    phone: str | None
    his_state: str
    reject_code: str | None = None


class UnbindQuery(Query, frozen=True):
    """`user_ref`: whose the patient must be; another user's is unknown then."""

    user_ref: Text | None = None
